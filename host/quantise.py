"""Symmetric quantisers: real value = scale * code, one scale per tensor, ranges from the tensor itself.

The numbers follow SBM and FracTrain (arXiv 2012.13113, section 3.1) with two deliberate changes that make every
product of codes an exact integer GEMM: the zero point is always 0, and the scale belongs to the whole tensor, so that
it factors out of all three convolutions, the input gradient included. Activations after ReLU are unsigned; weights,
gradients and the image are signed. Weights and activations are rounded half to even, gradients stochastically.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array, match
from host.qtensor import QTensor
from rtl.config import MAX_BITS


@dataclass(frozen=True)
class Precision:
    """The operand widths of one training step: FW-`fw` / BW-`bw`.

    Forward multiplies activations x weights at `fw` x `fw` bits. Both backward products take the output gradient at
    `bw` bits, against the weights and the activations of the forward pass at `fw` bits (FracTrain, section 3.1). Where
    samples choose their own precision they share the weights, which then have the width `weight` (section 3.3).

    Raises
    ------
    ValueError
        If a width is not an integer from 2 to 16: a signed symmetric code of 1 bit could only be 0.
    """

    fw: int
    bw: int
    weight: int | None = None

    def __post_init__(self):
        for name, bits in (("fw", self.fw), ("bw", self.bw), ("weight", self.weight_bits)):
            if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= MAX_BITS:
                raise ValueError(f"{name} is {bits!r} bits, must be an integer from 2 to {MAX_BITS}")

    @property
    def weight_bits(self) -> int:
        """Width of the weights in all three products."""
        return self.fw if self.weight is None else self.weight

    def at_least(self, bits: int) -> Precision:
        """The same precision with no operand narrower than `bits`."""
        weight = None if self.weight is None else max(self.weight, bits)
        return replace(self, fw=max(self.fw, bits), bw=max(self.bw, bits), weight=weight)

    def groups(self, samples: int) -> tuple[tuple[Precision, slice], ...]:
        """The precision of the samples of a batch, as runs of equal ones: here one for all."""
        return ((self, slice(0, samples)),)

    def __str__(self) -> str:
        return f"FW{self.fw}/BW{self.bw}" + ("" if self.weight is None else f"/W{self.weight}")


def quantise(
    x: Array, bits: int, *, signed: bool, rng: np.random.Generator | None = None, largest: float | None = None
) -> QTensor:
    """Round `x` onto the symmetric grid of `bits` bits that just spans it.

    Parameters
    ----------
    x : floating-point array of any shape, finite.
    bits : width of a code; codes lie in [-(2**(bits - 1) - 1), 2**(bits - 1) - 1] if signed, else in [0, 2**bits - 1].
    signed : whether `x` may be negative.
    rng : if given, round stochastically: up with a probability equal to the fraction, so that the expected value of
        scale * code is `x`. One uniform number is drawn per element, in C order. If None, round half to even.
    largest : magnitude that the grid spans, at least that of `x`: samples of one batch that differ in their bits share
        a range, so that only the step differs. If None, that of `x`.

    Returns
    -------
    QTensor
        Codes are whole numbers in the dtype of `x`, shape of `x`. A tensor of zeros gets codes 0 and scale 1.

    Raises
    ------
    ValueError
        If `x` is unsigned and holds a negative number, or `bits` gives no grid.
    FloatingPointError
        If `x` is not finite.
    """
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    if not 1 <= bits <= MAX_BITS or top < 1:
        raise ValueError(f"no {'signed' if signed else 'unsigned'} symmetric grid of {bits} bits")
    xp = array_namespace(x)
    high, low = float(xp.max(x)), float(xp.min(x))
    if not np.isfinite(high) or not np.isfinite(low):
        raise FloatingPointError(f"cannot quantise a tensor that holds values from {low} to {high}")
    if low < 0 and not signed:
        raise ValueError(f"an unsigned tensor holds the negative value {low}")
    scale = (max(high, -low) if largest is None else largest) / top
    # Numbers this small are zero in every respect, and their reciprocal would overflow single precision.
    if scale < float(xp.finfo(x.dtype).smallest_normal):
        return QTensor.trusted(xp.zeros_like(x), bits=bits, signed=signed, scale=1.0)
    steps = x / scale
    # The division may end one unit in the last place beyond the grid, and noise may carry that to the next code.
    codes = xp.round(steps) if rng is None else xp.clip(xp.floor(steps + uniform(rng, x)), -top if signed else 0, top)
    return QTensor.trusted(codes, bits=bits, signed=signed, scale=scale)


def uniform(rng: np.random.Generator, like: Array) -> Array:
    """Uniform random numbers of [0, 1), one for each element of `like`, in its library, dtype and device.

    They are drawn by numpy, in C order, whatever library holds `like`, so that every library sees the same numbers.
    """
    noise = rng.random(tuple(like.shape), dtype=np.float32)
    return array_namespace(like).asarray(noise, dtype=like.dtype, device=device(like))


def rescale(accumulator: Array, scale: float, like: Array) -> Array:
    """Turn exact sums of a board into real numbers: an array of `like`'s library, dtype and device.

    Of int64 sums the product is formed in double precision, so that one of more than 24 bits is rounded once and not
    twice, and so is one that is wanted in double precision. A board that gives floating-point sums gives them in a
    dtype that holds them.
    """
    xp = array_namespace(like)
    exact = match(accumulator, like)
    if xp.isdtype(exact.dtype, "integral") or like.dtype == xp.float64:
        exact = xp.astype(exact, xp.float64, copy=False)
    return xp.astype(exact * scale, like.dtype, copy=False)


def rescale_sum(parts: Sequence[tuple[Array, float]], like: Array) -> Array:
    """The sum of exact sums of a board, each with its own scale: an array of `like`'s library, dtype and device.

    The parts are combined in double precision and rounded once; a single one is `rescale`.
    """
    if len(parts) == 1:
        return rescale(*parts[0], like=like)
    xp = array_namespace(like)
    total = sum(xp.astype(match(accumulator, like), xp.float64) * scale for accumulator, scale in parts)
    return xp.astype(total, like.dtype)
