"""How large sums of products get: the one thing about data that a plan depends on.

A sum is bounded by what one operand holds times the largest code that the other may hold. That bounds every part of it,
too, in any order of additions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from host.geometry import out_size, taps
from host.operand import Operand
from rtl.config import ACC_BITS

#: Signed widths of sums that plans tell apart: results of 2, 4 and 8 bytes, and sums that no accumulator holds whole.
REACHES = (16, 32, ACC_BITS, 64)


def reach(bound: int) -> int:
    """The first of `REACHES` that holds sums of magnitude `bound`. Raises OverflowError if none does."""
    for bits in REACHES:
        if bound < 1 << bits - 1:
            return bits
    raise OverflowError(f"a sum of products may reach {bound}, beyond int64")


def result_bytes(reach: int) -> int:
    """Bytes of the narrowest result that holds such sums, or the parts of such a sum."""
    return {16: 2, 32: 4}.get(reach, 8)


def most_terms(reach: int, terms: int, largest: int) -> int:
    """How many of `terms` products, each `largest` at most and all within `reach`, an accumulator takes."""
    return terms if reach <= ACC_BITS else ((1 << ACC_BITS - 1) - 1) // largest


def conv2d_window(x: Operand, w: Operand) -> int:
    """Bound of a convolution whose kernel is stationary."""
    return _most(w.sums(1, 2, 3)) * x.largest


def conv2d_flat(x: Operand, w: Operand, stride: int, padding: int) -> int:
    """Bound of a convolution either of whose operands may be stationary."""
    kernel = w.shape[2:]
    size = out_size(x.shape[2:], kernel, stride, padding)
    images = _padded(x.sums(1), padding)
    under_windows = np.sum([images[:, rows, columns] for rows, columns in taps(kernel, size, stride)], axis=0)
    return min(conv2d_window(x, w), _most(under_windows) * w.largest)


def input_grad_window(g: Operand, w: Operand, stride: int) -> int:
    """Bound of an input gradient as a convolution with the turned kernel, most of whose taps meet zeros at stride 2."""
    each = w.sums(0)
    return max(_most(each[:, y::stride, x::stride].sum(axis=(1, 2))) for y, x in np.ndindex(stride, stride)) * g.largest


def input_grad_flat(g: Operand, w: Operand) -> int:
    """Bound of the columns of an input gradient, before they are added up."""
    return min(_most(w.sums(0)) * g.largest, _most(g.sums(1)) * w.largest)


def weight_grad(g: Operand, x: Operand, kernel: Sequence[int], stride: int, padding: int) -> int:
    """Bound of a weight gradient."""
    images = _padded(x.sums(0), padding)
    each = (images[:, rows, columns].sum(axis=(1, 2)) for rows, columns in taps(kernel, g.shape[2:], stride))
    return min(_most(g.sums(0, 2, 3)) * x.largest, max(map(_most, each)) * g.largest)


def matmul(a: Operand, b: Operand) -> int:
    """Bound of a @ b."""
    return min(_most(a.sums(1)) * b.largest, _most(b.sums(0)) * a.largest)


def _most(sums: np.ndarray) -> int:
    return int(sums.max(initial=0))


def _padded(images: np.ndarray, padding: int) -> np.ndarray:
    return np.pad(images, ((0, 0), (padding, padding), (padding, padding)))
