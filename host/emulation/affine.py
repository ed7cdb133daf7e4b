"""FracTrain's own quantiser, emulated: unsigned codes and a real zero point (arXiv 2012.13113, section 3.1; its code).

real = zero + scale * code with zero = min and scale = (max - min) / (2**bits - 1). Weights have one range per output
channel, activations and gradients one per tensor, over the whole batch. Values are clamped before they are rounded;
weights and activations half to even, gradients stochastically. In evaluation activations take a running range.

The scale per output channel lies on the axis that the input gradient sums over, and a zero point adds sums of the other
operand, so that these numerics are no single integer matrix product: the board runs `host.quantise` instead, and this
is what it is compared with. All layers are rounded, as the board's are; the paper leaves the linear layer in FP32,
which `--edge-bits 16` comes close to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array
from host.emulation.emulated import Numerics, Rounded
from host.quantise import uniform

#: Smallest scale, as in the paper's code: it keeps a tensor of equal numbers from dividing by zero.
SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, eq=False)
class Affine:
    """Codes and what they mean: zero + scale * code.

    Attributes
    ----------
    codes : whole numbers from 0 to 2**bits - 1 in the floating-point dtype of what was quantised.
    scale, zero : arrays that broadcast against the codes, same dtype.
    """

    codes: Array
    scale: Array
    zero: Array

    @property
    def values(self) -> Array:
        """The real numbers."""
        return self.scale * self.codes + self.zero


def quantise_affine(x: Array, bits: int, low: Array, high: Array, *, rng: np.random.Generator | None = None) -> Affine:
    """Round `x` onto the 2**bits equally spaced numbers from `low` to `high`.

    Parameters
    ----------
    x : floating-point array of any shape, finite.
    bits : width of a code.
    low, high : ends of the range, arrays that broadcast against `x`; what lies beyond is clamped.
    rng : if given, round stochastically, from one uniform number per element in C order; if None, half to even.

    Raises
    ------
    FloatingPointError
        If `x` or its range is not finite.
    """
    xp = array_namespace(x)
    if not bool(xp.all(xp.isfinite(high - low))) or not bool(xp.all(xp.isfinite(x))):
        raise FloatingPointError("cannot quantise a tensor that holds numbers which are not finite")
    top = 2**bits - 1
    scale = xp.clip((high - low) / top, SMALLEST_SCALE, None)
    steps = (x - low) / scale
    if rng is not None:
        # Noise of [-1/2, 1/2) before rounding to the nearest is rounding up with the probability of the fraction.
        steps = steps + (uniform(rng, x) - 0.5)
    return Affine(xp.round(xp.clip(steps, 0, top)), scale, low)


def tensor_range(x: Array) -> tuple[Array, Array]:
    """Smallest and largest element, as arrays without dimensions."""
    xp = array_namespace(x)
    return xp.min(x), xp.max(x)


def channel_range(x: Array) -> tuple[Array, Array]:
    """Smallest and largest element of each slice along the first axis; they broadcast against `x`."""
    xp = array_namespace(x)
    axes = tuple(range(1, x.ndim))
    return xp.min(x, axis=axes, keepdims=True), xp.max(x, axis=axes, keepdims=True)


class AffineNumerics(Numerics):
    """FracTrain's static and PFQ path: one quantised copy of the gradient enters both backward products.

    Parameters
    ----------
    momentum : of the running range, which starts at 0: running = momentum * running + (1 - momentum) * current. 0.9 is
        that of the paper's code for PFQ.
    """

    def __init__(self, momentum: float = 0.9):
        self.momentum = momentum

    def buffers(self) -> dict[str, Array]:
        """`range`, float32 (2,): running smallest value and running width of the input."""
        return {"range": np.zeros(2, np.float32)}

    def weight(self, w: Array, bits: int) -> Rounded:
        return Rounded(quantise_affine(w, bits, *channel_range(w)).values, bits)

    def activation(self, x: Array, bits: int, buffers: dict[str, Array], training: bool) -> Rounded:
        xp = array_namespace(x)
        if training:
            low, high = self.batch_range(x)
            current = xp.astype(xp.stack([low, high - low]), buffers["range"].dtype)
            buffers["range"] = self.momentum * buffers["range"] + (1 - self.momentum) * current
        else:
            running = xp.asarray(buffers["range"], dtype=x.dtype, device=device(x))
            low, high = running[0], running[0] + running[1]
        return Rounded(quantise_affine(x, bits, low, high).values, bits)

    def batch_range(self, x: Array) -> tuple[Array, Array]:
        """Range of an activation in training."""
        return tensor_range(x)

    def gradient(self, dy: Array, bits: int, rng: np.random.Generator) -> tuple[Rounded, Rounded]:
        rounded = Rounded(quantise_affine(dy, bits, *tensor_range(dy), rng=rng).values, bits)
        return rounded, rounded
