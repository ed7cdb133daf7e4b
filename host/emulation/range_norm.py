"""Range batch norm: division by a channel's range instead of its deviation (SBM, arXiv 1805.11046, section 3)."""

from __future__ import annotations

import math

from array_api_compat import array_namespace, device

from host.arrays import Array
from host.nn.float_layers import BatchNorm2d
from host.nn.layers import Context, SameShape


class RangeBatchNorm2d(SameShape):
    """(x - mean) / (C(n) * (max - min)) * gain + offset per channel of x (N, C, H, W), with C(n) = 1 / sqrt(2 ln n).

    n = N * H * W. The expected range of n normal numbers grows as sqrt(2 ln n) deviations on either side, so the result
    has a variance that hardly depends on n; the gain takes up the constant. In evaluation the running mean and the
    running C(n) * range stand in. The paper's quantisation of the norm's operands is not part of this layer. Its code
    has 0.54 * C(n) of the size of a part, the mean over 8 or 10 parts of the batch, and keeps a running inverse.

    Parameters
    ----------
    layer : the batch norm whose place it takes, with its gain, offset and momentum of the running statistics.
    """

    def __init__(self, layer: BatchNorm2d):
        super().__init__()
        self.params = layer.params
        self.buffers = {"mean": layer.buffers["mean"], "spread": layer.buffers["variance"]}

    def forward(self, x: Array, context: Context) -> Array:
        xp = array_namespace(x)
        axes = (0, 2, 3)
        if context.training:
            count = x.shape[0] * x.shape[2] * x.shape[3]
            mean = xp.mean(x, axis=axes)
            spread = (xp.max(x, axis=axes) - xp.min(x, axis=axes)) / math.sqrt(2 * math.log(max(count, 2)))
            for name, new in (("mean", mean), ("spread", spread)):
                old = self.buffers[name]
                self.buffers[name] = (1 - BatchNorm2d.MOMENTUM) * old + BatchNorm2d.MOMENTUM * new
        else:
            mean, spread = self.buffers["mean"], self.buffers["spread"]
        inverse = 1 / (spread + BatchNorm2d.EPSILON)
        normal = (x - _channels(mean)) * _channels(inverse)
        if context.training:
            self._cache = normal, inverse, _extremes(x)
        return normal * _channels(self.params["gain"]) + _channels(self.params["offset"])

    def backward(self, dy: Array, context: Context) -> Array:
        xp = array_namespace(dy)
        normal, inverse, extremes = self._cache
        axes = (0, 2, 3)
        count = dy.shape[0] * dy.shape[2] * dy.shape[3]
        self.grads["gain"] = xp.sum(dy * normal, axis=axes)
        self.grads["offset"] = xp.sum(dy, axis=axes)
        slope = _channels(inverse * self.params["gain"])
        centred = dy * slope - _channels(xp.mean(dy, axis=axes)) * slope
        # The range moves with the largest and the smallest element alone, in opposite directions.
        at_range = self.grads["gain"] * self.params["gain"] * inverse / math.sqrt(2 * math.log(max(count, 2)))
        return centred - extremes * _channels(at_range)


def _extremes(x: Array) -> Array:
    """1 at the first largest element of each channel, -1 at the first smallest, else 0."""
    xp = array_namespace(x)
    n, channels, height, width = x.shape
    flat = xp.reshape(xp.permute_dims(x, (1, 0, 2, 3)), (channels, -1))
    places = xp.arange(flat.shape[1], device=device(x))
    high, low = (xp.astype(places == find(flat, axis=1, keepdims=True), x.dtype) for find in (xp.argmax, xp.argmin))
    return xp.permute_dims(xp.reshape(high - low, (channels, n, height, width)), (1, 0, 2, 3))


def _channels(vector: Array) -> Array:
    """(C,) -> (1, C, 1, 1)."""
    return vector[None, :, None, None]
