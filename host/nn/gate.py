"""The gate of dynamic fractional quantisation: which option each sample takes in each block.

FracTrain (arXiv 2012.13113), section 3.2, in the form of its code for ImageNet: the block's input is averaged over the
image and projected by a layer of the block's own; an LSTM that all blocks share, unrolled over the depth of the network
from a state of zeros, and a linear head turn it into a probability for each option. All of it is floating point on the
host, about a thousandth of the network's products.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from host.nn.layers import Context, Layer
from host.quantise import Array

#: Width of the projected features and of the LSTM's state, as in FracTrain's code for CIFAR.
FEATURES = 16
HIDDEN = 16


class Projection(Layer):
    """Mean over the image and a linear layer, in floating point: x (N, C, H, W) -> (N, features)."""

    controls = True

    def __init__(self, channels: int, features: int = FEATURES, *, rng: np.random.Generator):
        super().__init__()
        self.params = {"weight": _uniform(rng, channels, channels, features), "bias": _uniform(rng, channels, features)}

    def forward(self, x: Array, context: Context) -> Array:
        pooled = array_namespace(x).mean(x, axis=(2, 3))
        if context.training:
            self._pooled, self._pixels = pooled, x.shape[2] * x.shape[3]
        return pooled @ self.params["weight"] + self.params["bias"]

    def backward(self, dy: Array, context: Context) -> Array:
        """The gradient at x as (N, C, 1, 1): it is the same for all pixels of a channel."""
        xp = array_namespace(dy)
        self.grads["weight"] = xp.matrix_transpose(self._pooled) @ dy
        self.grads["bias"] = xp.sum(dy, axis=0)
        pooled = dy @ xp.matrix_transpose(self.params["weight"])
        return pooled[:, :, None, None] / self._pixels


class Gate(Layer):
    """LSTM, linear head and softmax; each `forward` is the step of the next block, features (N, F) -> (N, options).

    Before the first block of a pass comes `reset`; backward goes through the steps in reverse, and the gradients of the
    parameters, which all steps share, add up.

    With i, f, g, o the four parts of x @ input + h @ recurrent + bias: c' = s(f) * c + s(i) * tanh(g) and
    h' = s(o) * tanh(c'), where s is the logistic function; p = softmax(h' @ head + head_bias).
    """

    controls = True

    def __init__(self, options: int, features: int = FEATURES, hidden: int = HIDDEN, *, rng: np.random.Generator):
        super().__init__()
        self.hidden = hidden
        self.params = {
            "input": _uniform(rng, hidden, features, 4 * hidden),
            "recurrent": _uniform(rng, hidden, hidden, 4 * hidden),
            "bias": _uniform(rng, hidden, 4 * hidden),
            "head": _uniform(rng, hidden, hidden, options),
            "head_bias": _uniform(rng, hidden, options),
        }
        self._state: tuple[Array, Array] | None = None
        self._steps: list[tuple[Array, ...]] = []
        self._carried: tuple[Array, Array] | None = None

    def reset(self, context: Context) -> None:
        """Begin a pass: state of zeros, no steps yet. One of evaluation leaves the steps of training to backward."""
        self._state = None
        if context.training:
            self._steps, self._carried = [], None

    def forward(self, x: Array, context: Context) -> Array:
        xp, size, params = array_namespace(x), self.hidden, self.params
        if self._state is None:
            zeros = xp.zeros_like(x[:, :1] * params["bias"][None, :size])
            self._state = zeros, zeros
        h, c = self._state
        sums = x @ params["input"] + h @ params["recurrent"] + params["bias"]
        i, f, o = (_logistic(sums[:, part * size : (part + 1) * size]) for part in (0, 1, 3))
        g = xp.tanh(sums[:, 2 * size : 3 * size])
        new_c = f * c + i * g
        squashed = xp.tanh(new_c)
        new_h = o * squashed
        logits = new_h @ params["head"] + params["head_bias"]
        powers = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
        p = powers / xp.sum(powers, axis=1, keepdims=True)
        if context.training:
            self._steps.append((x, h, c, i, f, g, o, squashed, new_h, p))
        self._state = new_h, new_c
        return p

    def backward(self, dy: Array, context: Context) -> Array:
        xp, params = array_namespace(dy), self.params
        x, h, c, i, f, g, o, squashed, new_h, p = self._steps.pop()
        if self._carried is None:
            self._carried = xp.zeros_like(h), xp.zeros_like(c)
            self.grads = {name: xp.zeros_like(array) for name, array in params.items()}
        dlogits = p * (dy - xp.sum(dy * p, axis=1, keepdims=True))
        dh = self._carried[0] + dlogits @ xp.matrix_transpose(params["head"])
        dc = self._carried[1] + dh * o * (1 - squashed * squashed)
        parts = (dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * squashed * o * (1 - o))
        dsums = xp.concat(parts, axis=1)
        for name, left, right in (("input", x, dsums), ("recurrent", h, dsums), ("head", new_h, dlogits)):
            self.grads[name] = self.grads[name] + xp.matrix_transpose(left) @ right
        for name, summed in (("bias", dsums), ("head_bias", dlogits)):
            self.grads[name] = self.grads[name] + xp.sum(summed, axis=0)
        self._carried = dsums @ xp.matrix_transpose(params["recurrent"]), dc * f
        return dsums @ xp.matrix_transpose(params["input"])


def _logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + array_namespace(x).tanh(0.5 * x))


def _uniform(rng: np.random.Generator, inputs: int, *shape: int) -> np.ndarray:
    """Initial weights of a layer with so many inputs, float32, as in PyTorch, which FracTrain's gates come from."""
    bound = 1 / np.sqrt(inputs)
    return rng.uniform(-bound, bound, shape).astype(np.float32)
