"""Weights (M, C, kh, kw) as a tensor of passes: (block of 16 input channels, M, tap, input channel of the block)."""

from __future__ import annotations

from math import prod

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array
from host.geometry import ceil_div
from rtl.config import WORD_CHANNELS

#: Shape of a kernel (M, C, kh, kw).
Kernel = tuple[int, int, int, int]


def arranged_shape(kernel: Kernel) -> tuple[int, int, int, int]:
    rows, channels, *size = kernel
    return ceil_div(channels, WORD_CHANNELS), rows, prod(size), WORD_CHANNELS


def arrange(weight: Array) -> Array:
    """The tensor; input channels that fill the last block are 0."""
    xp = array_namespace(weight)
    blocks, rows, taps, columns = arranged_shape(tuple(weight.shape))
    channels = weight.shape[1]
    flat = xp.reshape(weight, (rows, channels, taps))
    spare = xp.zeros((rows, blocks * columns - channels, taps), dtype=weight.dtype, device=device(weight))
    whole = xp.reshape(xp.concat([flat, spare], axis=1), (rows, blocks, columns, taps))
    return xp.permute_dims(whole, (1, 0, 3, 2))


def restore(tensor: Array, kernel: Kernel) -> Array:
    """The inverse of `arrange`."""
    xp = array_namespace(tensor)
    blocks, rows, taps, columns = arranged_shape(kernel)
    whole = xp.reshape(xp.permute_dims(tensor, (1, 0, 3, 2)), (rows, blocks * columns, taps))
    return xp.reshape(whole[:, : kernel[1]], kernel)


def filling(kernel: Kernel) -> np.ndarray | None:
    """1 where the tensor of such a kernel holds a weight, int64; None if it does everywhere."""
    return arrange(np.ones(kernel, np.int64)) if kernel[1] % WORD_CHANNELS else None
