"""Symmetric quantisers: real value = scale * code, ranges from the tensor itself.

The numbers follow SBM and FracTrain (arXiv 2012.13113, section 3.1) with two deliberate changes that make every
product of codes an exact integer GEMM: the zero point is always 0, and the scale belongs to the whole tensor, or to a
run of samples of equal width, so that it factors out of all three convolutions, the input gradient included.
Activations after ReLU are unsigned; weights, gradients and the image are signed. Weights and activations are rounded
half to even, gradients stochastically.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array, match
from host.qtensor import QTensor, Run
from rtl.config import MAX_BITS

#: One width for a whole tensor, or (width, samples) of each run of samples.
Widths = int | Sequence[tuple[int, int]]
#: Real value of code 1, or float64 (N,), one for each sample.
Scale = float | np.ndarray


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

    @property
    def activations(self) -> Widths:
        """Width of the activations, as `quantise` takes it."""
        return self.fw

    @property
    def gradients(self) -> Widths:
        """Width of the gradients, as `quantise` takes it."""
        return self.bw

    def __str__(self) -> str:
        return f"FW{self.fw}/BW{self.bw}" + ("" if self.weight is None else f"/W{self.weight}")


def quantise(
    x: Array,
    bits: Widths,
    *,
    signed: bool,
    rng: np.random.Generator | None = None,
    own_ranges: bool = False,
) -> QTensor:
    """Round `x` onto the symmetric grid of `bits` bits that just spans it.

    Parameters
    ----------
    x : floating-point array of any shape, finite.
    bits : width of a code; codes lie in [-(2**(bits - 1) - 1), 2**(bits - 1) - 1] if signed, else in [0, 2**bits - 1].
        Or (width, samples) of each run of samples along the first axis.
    signed : whether `x` may be negative.
    rng : if given, round stochastically: up with a probability equal to the fraction, so that the expected value of
        scale * code is `x`. One uniform number is drawn per element, in C order. If None, round half to even.
    own_ranges : each run spans a range of its own. Else all span that of `x`, so that the step alone differs between
        samples, as in FracTrain's code for ImageNet.

    Returns
    -------
    QTensor
        Codes are whole numbers in the dtype of `x`, shape of `x`. A run of zeros gets codes 0 and scale 1.

    Raises
    ------
    ValueError
        If `x` is unsigned and holds a negative number, `bits` gives no grid, or its runs are not those of `x`.
    FloatingPointError
        If `x` is not finite.
    """
    if not isinstance(bits, Sequence):
        codes, scale = _round(x, bits, signed, _largest(x, signed), rng)
        return QTensor.trusted(codes, bits=bits, signed=signed, scale=scale)
    if (samples := sum(count for _, count in bits)) != x.shape[0]:
        raise ValueError(f"widths of {samples} samples for a batch of {x.shape[0]}")
    shared = None if own_ranges else _largest(x, signed)
    parts, runs, start = [], [], 0
    for width, count in bits:
        part = x[start : start + count, ...]
        codes, scale = _round(part, width, signed, _largest(part, signed) if shared is None else shared, rng)
        parts.append(codes)
        runs.append(Run(width, count, scale))
        start += count
    return QTensor.trusted_runs(parts[0] if len(parts) == 1 else array_namespace(x).concat(parts), runs, signed)


def _largest(x: Array, signed: bool) -> float:
    """Largest magnitude of `x`, which is finite and, unless `signed`, not negative."""
    xp = array_namespace(x)
    high, low = float(xp.max(x)), float(xp.min(x))
    if not np.isfinite(high) or not np.isfinite(low):
        raise FloatingPointError(f"cannot quantise a tensor that holds values from {low} to {high}")
    if low < 0 and not signed:
        raise ValueError(f"an unsigned tensor holds the negative value {low}")
    return max(high, -low)


def _round(x: Array, bits: int, signed: bool, largest: float, rng: np.random.Generator | None) -> tuple[Array, float]:
    """Codes of `x` on the grid that spans `largest`, and their scale."""
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    if not 1 <= bits <= MAX_BITS or top < 1:
        raise ValueError(f"no {'signed' if signed else 'unsigned'} symmetric grid of {bits} bits")
    xp = array_namespace(x)
    scale = largest / top
    # Numbers this small are zero in every respect, and their reciprocal would overflow single precision.
    if scale < float(xp.finfo(x.dtype).smallest_normal):
        return xp.zeros_like(x), 1.0
    steps = x / scale
    if rng is None:
        return xp.round(steps), scale
    # The division may end one unit in the last place beyond the grid, and noise may carry that to the next code.
    return xp.clip(xp.floor(steps + uniform(rng, x)), -top if signed else 0, top), scale


def uniform(rng: np.random.Generator, like: Array) -> Array:
    """Uniform random numbers of [0, 1), one for each element of `like`, in its library, dtype and device.

    They are drawn by numpy, in C order, whatever library holds `like`, so that every library sees the same numbers.
    """
    noise = rng.random(tuple(like.shape), dtype=np.float32)
    return array_namespace(like).asarray(noise, dtype=like.dtype, device=device(like))


def rescale(accumulator: Array, scale: Scale, like: Array) -> Array:
    """Turn exact sums of a board into real numbers: an array of `like`'s library, dtype and device.

    The product of int64 sums and `scale` is formed in double precision, so that a sum of more than 24 bits is rounded
    once and not twice, and so is one that is wanted in double precision. A board that gives floating-point sums gives
    them in a dtype that holds them.
    """
    xp = array_namespace(like)
    exact = match(accumulator, like)
    if xp.isdtype(exact.dtype, "integral") or like.dtype == xp.float64:
        exact = xp.astype(exact, xp.float64, copy=False)
    if isinstance(scale, np.ndarray):
        scale = xp.asarray(scale, dtype=exact.dtype, device=device(exact))
        scale = xp.reshape(scale, (-1, *[1] * (exact.ndim - 1)))
    return xp.astype(exact * scale, like.dtype, copy=False)


def rescale_runs(parts: Sequence[tuple[Array, Scale]], like: Array) -> Array:
    """Exact sums of successive runs of samples, each with its own scale, as one array; see `rescale`."""
    runs = [rescale(*part, like=like) for part in parts]
    return runs[0] if len(runs) == 1 else array_namespace(like).concat(runs)


def rescale_sum(parts: Sequence[tuple[Array, Scale]], like: Array) -> Array:
    """The sum of exact sums of a board, each with its own scale: an array of `like`'s library, dtype and device.

    The parts are combined in double precision and rounded once; a single one is `rescale`.
    """
    if len(parts) == 1:
        return rescale(*parts[0], like=like)
    xp = array_namespace(like)
    total = sum(xp.astype(match(accumulator, like), xp.float64) * scale for accumulator, scale in parts)
    return xp.astype(total, like.dtype)
