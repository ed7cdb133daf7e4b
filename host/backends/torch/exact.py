"""Floating-point arithmetic of PyTorch that is exact on integers: where it is, and the settings under which it is.

A floating-point sum of integers is exact, in whatever order and grouping it is formed, as long as the terms of every
subset of it add up to a magnitude that the significand holds. So it suffices to bound that magnitude, and to keep
PyTorch from computing in narrower types or by transforms (Winograd, FFT), which leave the integers. The order in which
threads or a GPU add has no influence then: results are equal from run to run and from device to device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil

import torch
from torch import Tensor

#: Largest magnitude up to which a type holds every integer.
EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}
#: So many products in single precision may replace one in double precision, for which CPUs have no fast convolution.
MOST_DIGITS = 8


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No TF32 or BF16 for float32, no NNPACK (Winograd), no autocast, no gradients; the settings come back."""
    reduced = _reduced_precision()
    try:
        for owner, name, _ in reduced:
            setattr(owner, name, "ieee")
        with torch.no_grad(), torch.autocast(device.type, enabled=False), torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        for owner, name, value in reduced:
            setattr(owner, name, value)


def _reduced_precision() -> list[tuple[object, str, str]]:
    """The settings under which float32 is something less, as (owner, attribute, value)."""
    owners = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    values = [(owner, "fp32_precision", owner.fp32_precision) for owner in owners]
    return [setting for setting in values if setting[2] not in ("none", "ieee")]


def digit_product(product: Callable[[Tensor], Tensor], codes: Tensor, bits: int, largest: int, norm: int) -> Tensor:
    """A linear function of integers, exact.

    Parameters
    ----------
    product : the function; computes in the dtype of its argument, float32 or float64.
    codes : integers in any dtype, of `bits` bits and of magnitude `largest` at most.
    norm : the largest magnitude of a result, or of a part of one, for arguments of magnitude 1.

    Returns
    -------
    Tensor
        float32, float64 or int64, whichever is the first to hold the results.

    Raises
    ------
    OverflowError
        If a result might exceed int64.
    """
    bound = norm * largest
    if bound >= 1 << 63:
        raise OverflowError(f"a sum of products of {bits} bits may reach {bound}, beyond int64")
    for dtype, limit in EXACT.items():
        if bound <= limit:
            return product(codes.to(dtype))
        # Digits that are balanced around zero: one of w bits has a magnitude of 2**(w - 1) at most.
        width = (limit // max(norm, 1)).bit_length()
        digits = ceil((bits + 1) / width) if width > 1 else MOST_DIGITS + 1
        if dtype == torch.float64 or digits <= MOST_DIGITS:
            break
    wide = torch.float64 if bound <= EXACT[torch.float64] else torch.int64
    total, rest, shift = torch.zeros((), dtype=wide, device=codes.device), codes.to(dtype), 0
    for left in reversed(range(digits)):
        digit = rest
        if left:
            rest = torch.round(rest * 2.0**-width)
            digit = digit - rest * 2.0**width
        total = total + product(digit).to(wide) * (1 << shift)
        shift += width
    return total


def largest_sum(matrix: Tensor) -> int:
    """Largest sum of the magnitudes of a row of integers (rows, terms), of any dtype."""
    # Not in the integers' own type, whose smallest one has no positive counterpart.
    return int(matrix.double().abs().sum(dim=1).max())
