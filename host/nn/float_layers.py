"""The layers that stay in floating point on the host: batch norm, ReLU, pooling, and the loss.

FracTrain keeps them in FP32 as well (arXiv 2012.13113, section 4.1). Images are NCHW; the dtype of the input is kept.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace, device

from host.nn.layers import Context, Layer, SameShape
from host.nn.products import Product, Shape
from host.quantise import Array


class BatchNorm2d(SameShape):
    """Batch normalisation over (N, H, W), arXiv 1502.03167, with the running statistics' momentum of 0.1.

    x (N, C, H, W). The running variance is the unbiased one, as in every common framework.
    """

    EPSILON = 1e-5
    MOMENTUM = 0.1

    def __init__(self, channels: int):
        super().__init__()
        self.params = {"gain": np.ones(channels, np.float32), "offset": np.zeros(channels, np.float32)}
        self.buffers = {"mean": np.zeros(channels, np.float32), "variance": np.ones(channels, np.float32)}

    def forward(self, x: Array, context: Context) -> Array:
        xp = array_namespace(x)
        if context.training:
            count = x.shape[0] * x.shape[2] * x.shape[3]
            mean = xp.mean(x, axis=(0, 2, 3))
            centred = x - _channels(mean)
            variance = xp.mean(centred * centred, axis=(0, 2, 3))
            unbiased = variance * (count / max(count - 1, 1))
            moved = self.MOMENTUM * context.share
            for name, new in (("mean", mean), ("variance", unbiased)):
                self.buffers[name] = (1 - moved) * self.buffers[name] + moved * new
        else:
            centred, variance = x - _channels(self.buffers["mean"]), self.buffers["variance"]
        inverse = 1 / xp.sqrt(variance + self.EPSILON)
        if context.training:
            self._cache = centred, inverse
        return centred * _channels(inverse * self.params["gain"]) + _channels(self.params["offset"])

    def backward(self, dy: Array, context: Context) -> Array:
        xp = array_namespace(dy)
        centred, inverse = self._cache
        count = dy.shape[0] * dy.shape[2] * dy.shape[3]
        self.grads["gain"] = xp.sum(dy * centred, axis=(0, 2, 3)) * inverse
        self.grads["offset"] = xp.sum(dy, axis=(0, 2, 3))
        # The mean and the variance depend on x too: what they carry is the part of dy along 1 and along `centred`.
        along = _channels(self.grads["offset"] / count) + centred * _channels(self.grads["gain"] * inverse / count)
        return (dy - along) * _channels(inverse * self.params["gain"])


class ReLU(SameShape):
    """max(x, 0), any shape; its output is what makes activations unsigned."""

    def forward(self, x: Array, context: Context) -> Array:
        positive = array_namespace(x).astype(x > 0, x.dtype)
        if context.training:
            self._positive = positive
        return x * positive

    def backward(self, dy: Array, context: Context) -> Array:
        return dy * self._positive


class _WindowPool(Layer):
    """Pooling over windows of size x size that do not overlap; H and W must be multiples of the size."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        channels, height, width = shape
        return (channels, height // self.size, width // self.size), []

    def _split(self, x: Array) -> Array:
        """(N, C, H, W) -> (N, C, H / size, W / size, size * size)."""
        n, c, h, w = x.shape
        if h % self.size or w % self.size:
            raise ValueError(f"an image of {h} x {w} cannot be pooled in windows of {self.size} x {self.size}")
        xp = array_namespace(x)
        tiles = xp.reshape(x, (n, c, h // self.size, self.size, w // self.size, self.size))
        windows = xp.permute_dims(tiles, (0, 1, 2, 4, 3, 5))
        return xp.reshape(windows, (*windows.shape[:4], self.size**2))

    def _join(self, windows: Array) -> Array:
        """The inverse of `_split`."""
        xp = array_namespace(windows)
        n, c, h, w, _ = windows.shape
        tiles = xp.permute_dims(xp.reshape(windows, (n, c, h, w, self.size, self.size)), (0, 1, 2, 4, 3, 5))
        return xp.reshape(tiles, (n, c, h * self.size, w * self.size))


class AvgPool2d(_WindowPool):
    """Mean of each window."""

    def forward(self, x: Array, context: Context) -> Array:
        return array_namespace(x).mean(self._split(x), axis=-1)

    def backward(self, dy: Array, context: Context) -> Array:
        xp = array_namespace(dy)
        return self._join(xp.broadcast_to((dy / self.size**2)[..., None], (*dy.shape, self.size**2)))


class MaxPool2d(_WindowPool):
    """Largest element of each window; of equal ones the first gets the gradient."""

    def forward(self, x: Array, context: Context) -> Array:
        xp = array_namespace(x)
        windows = self._split(x)
        if context.training:
            places = xp.arange(self.size**2, device=device(x))
            self._chosen = places == xp.argmax(windows, axis=-1, keepdims=True)
        return xp.max(windows, axis=-1)

    def backward(self, dy: Array, context: Context) -> Array:
        return self._join(dy[..., None] * array_namespace(dy).astype(self._chosen, dy.dtype))


class GlobalAvgPool2d(Layer):
    """Mean over the image, (N, C, H, W) -> (N, C)."""

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        return shape[:1], []

    def forward(self, x: Array, context: Context) -> Array:
        if context.training:
            self._shape = x.shape
        return array_namespace(x).mean(x, axis=(2, 3))

    def backward(self, dy: Array, context: Context) -> Array:
        _, _, h, w = self._shape
        return array_namespace(dy).broadcast_to((dy / (h * w))[..., None, None], self._shape)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Mean cross-entropy of the softmax over the classes, and its gradient.

    Parameters
    ----------
    logits : (N, classes), floating point.
    labels : (N,), integer, 0 to classes - 1.

    Returns
    -------
    The loss, and d loss / d logits of the shape and dtype of `logits`.
    """
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    powers = xp.exp(shifted)
    total = xp.sum(powers, axis=1, keepdims=True)
    target = xp.astype(labels[:, None] == xp.arange(logits.shape[1], device=device(logits)), logits.dtype)
    loss = xp.mean(xp.log(total)[:, 0] - xp.sum(shifted * target, axis=1))
    return float(loss), (powers / total - target) / logits.shape[0]


def _channels(vector: Array) -> Array:
    """(C,) -> (1, C, 1, 1)."""
    return vector[None, :, None, None]
