"""What the host computes at a barrier, in double precision: from statistics to the coefficients of `host.step.rules`.

A stored number is code * unit. Units of sums that leave the array are those of the product's operands, times a power
of two for each channel; all others are real numbers. Formulas: docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from host.nn.float_layers import BatchNorm2d
from host.step.rules import A_BITS, B_BITS, C_BITS, NARROW_BITS, U_BITS, Coefficients, Drain, Statistics

#: Powers of two that a stored tensor may grow from one step to the next before it is clipped.
HEADROOM = 1
#: Bits that narrow sums have at least beyond a stored number, for channels whose sums are smaller and shifted alike.
_SPREAD = 4
#: No sum is shifted further: what lies beyond has no influence on results of 25 bits.
_MOST_SHIFT = 40
#: Smallest step of a gradient behind batch norm, in steps of the one before it.
_LEAST_STEP = 2.0**-12
#: Largest power of two that fits a coefficient a.
_MOST_LEFT = A_BITS - 2


def fit(alpha: np.ndarray | float, gamma: np.ndarray | float = 0.0, beta: np.ndarray | float = 0.0) -> Coefficients:
    """The integers nearest to alpha, gamma and beta, (C,) or numbers, times the largest 2**shift for which all fit.

    Raises
    ------
    FloatingPointError
        If none do, or a factor is not finite: training has diverged.
    """
    factors = [np.asarray(factor, np.float64) for factor in (alpha, gamma, beta)]
    shift = _MOST_SHIFT
    for factor, bits in zip(factors, (A_BITS, C_BITS, B_BITS - 2), strict=True):
        end = float(np.max(np.abs(factor)))
        if not np.isfinite(end):
            raise FloatingPointError(f"a coefficient is {end}")
        if end > 0:
            shift = min(shift, bits - 1 - int(np.frexp(end)[1]))
            shift -= int(np.rint(np.ldexp(end, shift))) >> (bits - 1)  # rounded up to what does not fit
    if shift < 0:
        ends = [float(np.max(np.abs(factor))) for factor in factors]
        raise FloatingPointError(f"coefficients of u, v and 1 reach {ends}, beyond what the lane has")
    a, c, b = (np.rint(np.ldexp(factor, shift)).astype(np.int64) for factor in factors)
    return Coefficients(a, c, b, shift)


def dropped_bits(terms: int, *magnitudes: int) -> int:
    """Low bits that a sum of `terms` products of codes of such magnitudes loses on its way to stream u."""
    bound = terms * int(np.prod(magnitudes, dtype=object))
    return max(0, bound.bit_length() - (U_BITS - 1))


def narrowest(factors: tuple[int, ...], largest: np.ndarray | None, unit: float, top: int) -> Drain:
    """How sums leave the array of which numbers are stored by codes up to `top`, in multiples of `unit`.

    Parameters
    ----------
    factors : how many products a sum has, and magnitudes of their operands.
    largest : what the stored numbers are expected to reach, (C,) or one; None if nobody knows.
    """
    bound, bits = int(np.prod(factors, dtype=object)), top.bit_length() + 1
    spare = max(0, bound.bit_length() + 1 - NARROW_BITS)  # a shift by more leaves bits without use
    if not spare:
        return Drain(0, NARROW_BITS)
    if largest is None or bits + _SPREAD > NARROW_BITS:
        return Drain(dropped_bits(*factors))
    wanted = int(np.max(exponents(largest, unit, top))) + bits - NARROW_BITS
    return Drain(min(max(0, wanted), spare), NARROW_BITS)


def exponents(largest: np.ndarray | float, unit: float, top: int, least: int = 0) -> np.ndarray:
    """For each number the smallest e, `least` or more, for which top * unit * 2**e is it with its headroom; int64."""
    mantissa, power = np.frexp(np.asarray(largest, np.float64) * 2.0**HEADROOM / (top * unit))
    return np.maximum(power - (mantissa == 0.5), least).astype(np.int64)


def storing(exponent: np.ndarray, drain: Drain) -> Coefficients:
    """Coefficients that shift sums right by `exponent` (C,) in all, part of which the drain has done."""
    a = np.left_shift(np.int64(1), int(exponent.max()) - exponent)
    return Coefficients(a, 0 * a, 0 * a, int(exponent.max()) - drain.shift)


def spread_limited(exponent: np.ndarray) -> np.ndarray:
    """Exponents (C,) of which none is so far below the largest that no coefficient could shift its channel there."""
    return np.maximum(exponent, exponent.max() - _MOST_LEFT)


@dataclass(frozen=True)
class Norm:
    """Batch norm of one tensor: real values z = slope x + intercept, and what backward needs; float64 (C,).

    Attributes
    ----------
    mean, inverse : mean, and 1 / standard deviation, of x.
    slope, intercept : see above.
    """

    mean: np.ndarray
    inverse: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, variance: np.ndarray, gain: np.ndarray, offset: np.ndarray) -> Norm:
        inverse = 1 / np.sqrt(variance + BatchNorm2d.EPSILON)
        slope = inverse * gain
        return cls(mean, inverse, slope, offset - slope * mean)

    def ends(self, stats: Statistics, unit: np.ndarray) -> np.ndarray:
        """Largest z of each channel, of codes between the extremes of `stats`."""
        ends = [self.slope * (code * unit) + self.intercept for code in (stats.low, stats.high)]
        return np.maximum(*ends)


def moments(stats: Statistics, count: int, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel of `count` elements, in real values."""
    mean = stats.sums / count
    return mean * unit, np.maximum(stats.products / count - mean * mean, 0) * unit**2


def combined(parts: Sequence[Statistics], units: Sequence[Any], products: Sequence[Any]) -> Statistics:
    """The statistics of all parts (C,), in the units of the first; those of one part are taken as they are.

    Parameters
    ----------
    parts : statistics, (C,) or of each sample.
    units, products : of each part, what a code and what a product of codes stand for, () or (C,).
    """
    parts = [_of_all(part) for part in parts]
    if len(parts) == 1:
        return parts[0]
    ratios = [unit / units[0] for unit in units]
    sums, low, high = (
        [getattr(part, name) * ratio for part, ratio in zip(parts, ratios, strict=True)]
        for name in ("sums", "low", "high")
    )
    crossed = [part.products * (unit / products[0]) for part, unit in zip(parts, products, strict=True)]
    return Statistics(np.sum(sums, axis=0), np.sum(crossed, axis=0), np.min(low, axis=0), np.max(high, axis=0))


def _of_all(stats: Statistics) -> Statistics:
    """(C,) of (N, C)."""
    if stats.sums.ndim == 1:
        return stats
    return Statistics(stats.sums.sum(axis=0), stats.products.sum(axis=0), stats.low.min(axis=0), stats.high.max(axis=0))


@dataclass(frozen=True)
class NormGradient:
    """Batch norm backward: the gradients of its parameters, float64 (C,), and what `rounded` needs of all samples."""

    norm: Norm
    gain: np.ndarray
    offset: np.ndarray
    count: int

    def rounded(
        self, dz: Statistics, dz_unit: float, y: Statistics, y_unit: np.ndarray, top: int
    ) -> tuple[Coefficients, float]:
        """How the gradient at y is computed of dz and y, for samples of which these are the statistics; its unit.

        The gradient is dy = slope (dz - mean(dz) - x mean(dz x)) of the normalised x = (y - mean) inverse. Its range is
        the tight bound that the extremes of dz and x give; `top` is the code at its end.
        """
        norm = self.norm
        along_one, along_x = self.offset / self.count, self.gain / self.count
        reach = np.maximum(np.abs(dz.low * dz_unit - along_one), np.abs(dz.high * dz_unit - along_one))
        x_ends = [np.abs(code * y_unit - norm.mean) for code in (y.low, y.high)]
        bound = float(np.max(np.abs(norm.slope) * (reach + np.abs(along_x) * np.maximum(*x_ends) * norm.inverse)))
        # A gradient that is the same everywhere leaves nothing but rounding errors, far below a step of dz.
        least = dz_unit * float(np.max(np.abs(norm.slope))) * _LEAST_STEP
        scale = max(bound / top, least) or 1.0
        falling = norm.slope * along_x * norm.inverse
        beta = falling * norm.mean - norm.slope * along_one
        return fit(norm.slope * dz_unit / scale, -falling * y_unit / scale, beta / scale), scale


def norm_gradient(norm: Norm, dz: Statistics, dz_unit: float, y_unit: np.ndarray, count: int) -> NormGradient:
    """From the statistics of dz of all samples, with products dz y."""
    offset = dz.sums * dz_unit
    gain = norm.inverse * (dz.products * dz_unit * y_unit - norm.mean * offset)
    return NormGradient(norm, gain, offset, count)
