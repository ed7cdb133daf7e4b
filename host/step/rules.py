"""The integers of the training step: what a lane of the vector unit does to each element, and with which widths.

Everything on the device between two products is one operation, `lane`, with coefficients that the host computes
(`host.step.coefficients`):

    t = a u + c v + b                    u, v streams, a, b, c for each channel
    t = max(t, 0) or mask ? t : 0        ReLU, which gives the mask t > 0, or a stored mask
    q = clip((t + r) >> s, low, high)    r: half a step, or noise below one

and sums over each channel of its results, `statistics`. This module is the reference: golden model, torch and RTL are
compared with it. Arrays are int64 of any library of the array API standard, (N, C, H, W) where something belongs to a
channel, and give equal numbers in each. What exceeds an operand's width raises OverflowError: no lane would hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace

from host.arrays import Array, match, to_numpy
from rtl.lane import A_BITS, B_BITS, C_BITS, MOST_SHIFT, SUM_BITS, U_BITS, V_BITS
from rtl.noise import NOISE_BITS


@dataclass(frozen=True)
class Coefficients:
    """Integers of an affine operation.

    Attributes
    ----------
    a, c, b : int64, (C,) of each channel, () of all, or (N, C) of each channel of each sample.
    shift : bits that the sum is shifted right by.

    Raises
    ------
    OverflowError
        If one does not fit.
    """

    a: np.ndarray
    c: np.ndarray
    b: np.ndarray
    shift: int

    def __post_init__(self) -> None:
        for name, bits in (("a", A_BITS), ("c", C_BITS), ("b", B_BITS)):
            check(f"coefficient {name}", getattr(self, name), bits)
        if not 0 <= self.shift <= MOST_SHIFT:
            raise OverflowError(f"a shift by {self.shift} bits, must be 0 to {MOST_SHIFT}")


#: Bits of sums that leave the array as int16.
NARROW_BITS = 16


class Drain(NamedTuple):
    """How sums of the array become stream u.

    Attributes
    ----------
    shift : lowest bits that they lose.
    bits : what they are stored with then: 32, or `NARROW_BITS`, to which they are clipped.
    """

    shift: int = 0
    bits: int = 32

    @property
    def least(self) -> int:
        """Smallest power of two to whose multiples they can be rounded as if nothing had been shifted out."""
        return self.shift + 1 if self.shift else 0


class Passed(NamedTuple):
    """What a lane gives: codes, the mask of a ReLU or the one that was given, and how many results were clipped."""

    codes: Array
    mask: Array | None
    saturated: int


class Statistics(NamedTuple):
    """Exact sums over the elements q of each channel, int64 (C,): of q, of q x, and the extremes of q.

    Or of each channel of each sample, (N, C).
    """

    sums: np.ndarray
    products: np.ndarray
    low: np.ndarray
    high: np.ndarray


def lane(
    k: Coefficients,
    u: Array,
    v: Array | None = None,
    *,
    low: int,
    high: int,
    relu: bool = False,
    mask: Array | None = None,
    noise: Array | None = None,
    raised: int = 0,
) -> Passed:
    """The operation of a lane on all elements.

    Parameters
    ----------
    k : coefficients.
    u, v : streams of equal shape; without v its product is left out.
    low, high : ends of the results. A ReLU does not count as clipping.
    relu : negative sums become 0, and the mask says which were positive.
    mask : sums become 0 where it is false.
    noise : of each element, 0 to 2**16 - 1; without it results are rounded to nearest, halves up.
    raised : is added to every result before it is clipped.
    """
    xp = array_namespace(u)
    t = affine(k, u, v)
    if relu:
        mask = t > 0
    if mask is not None:
        t = xp.where(mask, t, xp.zeros_like(t))
    q = ((t + _fraction(k.shift, noise)) >> k.shift) + raised
    clipped = xp.clip(q, low, high)
    return Passed(clipped, mask, int(xp.count_nonzero(clipped != q)))


def affine(k: Coefficients, u: Array, v: Array | None = None) -> Array:
    """a u + c v + b, int64."""
    check("stream u", u, U_BITS)
    t = per_channel(k.a, u) * u + per_channel(k.b, u)
    if v is not None:
        check("stream v", v, V_BITS)
        t = t + per_channel(k.c, u) * v
    check("sum", t, SUM_BITS - 1)  # a bit is left for what rounding adds
    return t


def _fraction(shift: int, noise: Array | None) -> Array | int:
    """What is added to a sum before the bits below a step are dropped."""
    if noise is None:
        return (1 << shift) >> 1
    return noise << (shift - NOISE_BITS) if shift >= NOISE_BITS else noise >> (NOISE_BITS - shift)


def drained(sums: Array, drain: Drain) -> Array:
    """Sums of the array as stream u."""
    u = sums >> drain.shift
    if drain.bits == NARROW_BITS:
        end = 1 << (NARROW_BITS - 1)
        u = array_namespace(u).clip(u, -end, end - 1)
    check("sums of the array", u, U_BITS)
    return u


def statistics(q: Array, x: Array | int | None = None, *, each_sample: bool = False) -> Statistics:
    """Sums over each channel of q (N, C, H, W), with products q x of a second array, or squares without one."""
    xp, axes = array_namespace(q), (2, 3) if each_sample else (0, 2, 3)
    found = Statistics(
        xp.sum(q, axis=axes),
        xp.sum(q * (q if x is None else x), axis=axes),
        xp.min(q, axis=axes),
        xp.max(q, axis=axes),
    )
    found = Statistics(*(to_numpy(part) for part in found))
    check("sum of a channel", found.sums, SUM_BITS)
    check("sum of products of a channel", found.products, SUM_BITS)
    return found


def joined(parts: Sequence[Statistics], each_sample: bool) -> Statistics:
    """The statistics of successive samples: those of each one after the other, or of all."""
    if len(parts) == 1:
        return parts[0]
    sums, products, low, high = (
        np.stack(each) if not each_sample else np.concatenate(each) for each in zip(*parts, strict=True)
    )
    if each_sample:
        return Statistics(sums, products, low, high)
    return Statistics(sums.sum(axis=0), products.sum(axis=0), low.min(axis=0), high.max(axis=0))


def check(name: str, values: Array, bits: int) -> None:
    """Raise OverflowError unless all values are signed numbers of `bits` bits."""
    if 0 in values.shape:
        return
    xp, end = array_namespace(values), 1 << (bits - 1)
    for value in (int(xp.min(values)), int(xp.max(values))):
        if not -end <= value < end:
            raise OverflowError(f"{name} holds {value}, must fit {bits} signed bits")


def per_channel(k: np.ndarray, like: Array) -> Array:
    """Coefficients where `like` is, with the channels along its second axis."""
    k = match(k, like)
    if k.ndim == 0:
        return k
    samples = k.shape[0] if k.ndim == 2 else 1
    return array_namespace(like).reshape(k, (samples, -1, *[1] * (like.ndim - 2)))
