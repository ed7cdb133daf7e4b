"""WAGEUBN's number formats (arXiv 1909.02384): fixed point with scales that are powers of two, up to the optimiser.

A number of k bits is a multiple of d(k) = 2**(1 - k) below 1 in magnitude.
"""

from __future__ import annotations

import math

import numpy as np
from array_api_compat import array_namespace

from host.arrays import Array
from host.nn.layers import Layer
from host.nn.optim import SGD
from host.quantise import uniform

#: Widths of weight gradient, momentum, accumulator, learning rate and update. All but the momentum's stand in the
#: authors' code. A product has one bit fewer than its factors together: momentum x accumulator gives a gradient's 15,
#: learning rate x that an update's 24.
GRADIENT_BITS, MOMENTUM_BITS, ACCUMULATOR_BITS, RATE_BITS, UPDATE_BITS = 15, 3, 13, 10, 24
#: Magnitude of a weight gradient in units of d(GRADIENT_BITS): it keeps 8 bits whatever its size was. The authors' code
#: begins with this one and lowers it with the learning rate, to 32, 8 and 2.
GRADIENT_RANGE = 128


def step(bits: int) -> float:
    """d(k): distance of two numbers of k bits."""
    return 2.0 ** (1 - bits)


def direct(x: Array, bits: int) -> Array:
    """Q(x, k): the nearest multiple of d(k), not clamped."""
    return array_namespace(x).round(x / step(bits)) * step(bits)


def magnitude(x: Array) -> float:
    """R(x): the power of two nearest to the largest magnitude, on the logarithmic scale; 1 for a tensor of zeros.

    Raises FloatingPointError if the largest magnitude is not finite.
    """
    xp = array_namespace(x)
    largest = float(xp.max(xp.abs(x)))
    if not math.isfinite(largest):
        raise FloatingPointError(f"cannot quantise a tensor whose largest magnitude is {largest}")
    return 2.0 ** round(math.log2(largest)) if largest else 1.0


def shift(x: Array, bits: int) -> Array:
    """SQ(x, k): R(x) * clip(Q(x / R(x), k)), so that the scale of a tensor is a shift."""
    end = 1 - step(bits)
    scale = magnitude(x)
    return scale * array_namespace(x).clip(direct(x / scale, bits), -end, end)


def constant(x: Array, rng: np.random.Generator) -> Array:
    """CQ(x): direction and relative size of a weight gradient, at a constant magnitude, rounded stochastically.

    Whole multiples of d(GRADIENT_BITS) below GRADIENT_RANGE of them; the size of `x` is forgotten.
    """
    xp = array_namespace(x)
    steps = xp.floor(x * (GRADIENT_RANGE / magnitude(x)) + uniform(rng, x))
    return xp.clip(steps, 1 - GRADIENT_RANGE, GRADIENT_RANGE - 1) * step(GRADIENT_BITS)


class FixedPointSGD(SGD):
    """Momentum SGD in fixed point: accumulator of 13 bits, rate of 10, convolution and linear weights of 24.

    accumulator <- Q(momentum * accumulator + gradient); weight <- clip(weight - Q(rate) * accumulator). The momentum is
    rounded down to its 3 bits, 0.75 for any usual one; the authors' code has 0.25. Arrays of one dimension (batch norm,
    biases) stay in floating point with the momentum as given; the paper quantises them too. Weight decay acts on them
    alone: the size of a gradient, which it would have to be weighed against, is lost in `constant`.
    """

    def __init__(self, model: Layer, *, momentum: float = 0.9, weight_decay: float = 1e-4):
        super().__init__(model, momentum=momentum, weight_decay=weight_decay)
        self.fixed_momentum = math.floor(momentum / step(MOMENTUM_BITS)) * step(MOMENTUM_BITS)

    def step(self, lr: float, controller_lr: float | None = None) -> None:
        """Update every parameter from the gradient of the latest backward; networks of this method have no gates."""
        rate, end = round(lr / step(RATE_BITS)) * step(RATE_BITS), 1 - step(UPDATE_BITS)
        for prefix, layer in self.model.walk():
            for name, array in layer.params.items():
                old = self.velocity[prefix + name]
                if array.ndim == 1:
                    velocity = self.momentum * old + layer.grads[name] + self.weight_decay * array
                    layer.params[name] = array - lr * velocity
                else:
                    velocity = direct(self.fixed_momentum * old + layer.grads[name], ACCUMULATOR_BITS)
                    moved = direct(array - rate * velocity, UPDATE_BITS)
                    layer.params[name] = array_namespace(array).clip(moved, -end, end)
                self.velocity[prefix + name] = velocity
