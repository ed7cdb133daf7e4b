"""What the host does to arrays before they are packed and after they are unpacked, written down without the arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from host.geometry import ceil_div, taps


@dataclass(frozen=True)
class Call:
    """A function of an array, with the rest of its arguments. Equal calls do the same."""

    function: Callable[..., np.ndarray]
    arguments: tuple = ()


#: Calls to make one after the other.
Calls = tuple[Call, ...]


def call(function: Callable[..., np.ndarray], *arguments) -> Calls:
    """One call."""
    return (Call(function, arguments),)


def apply(calls: Calls, array: np.ndarray) -> np.ndarray:
    """What the calls make of `array`."""
    return reduce(lambda result, each: each.function(result, *each.arguments), calls, array)


def windows(codes: np.ndarray, kernel: Sequence[int], stride: int, padding: int, size: Sequence[int]) -> np.ndarray:
    """View of all windows of padded images (N, C, H, W): (N, H', W', C, kh, kw)."""
    padded = np.pad(codes, ((0, 0), (0, 0), (padding, padding), (padding, padding))) if padding else codes
    view = sliding_window_view(padded, tuple(kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    return view[:, :, : size[0], : size[1]].transpose(0, 2, 3, 1, 4, 5)


def turned(kernel: np.ndarray) -> np.ndarray:
    """The kernel (C, M, kh, kw) that gives the input gradient of a convolution with (M, C, kh, kw)."""
    return kernel[:, :, ::-1, ::-1].swapaxes(0, 1)


def phase_kernels(kernel: np.ndarray, padding: int) -> np.ndarray:
    """Kernels (4 * C, M, 3, 3) for the four phases (row parity, column parity) of a stride-2 input gradient.

    Input row 2u + r gets kernel row t from gradient row u + (r + padding - t) / 2 where that is whole. These lie
    among u - 1, u, u + 1: rows of a 3x3 window with one row of padding.
    """
    rows, channels = kernel.shape[:2]
    phases = np.zeros((2, 2, channels, rows, 3, 3), kernel.dtype)
    swapped = kernel.swapaxes(0, 1)
    for ry, rx, ty, tx in np.ndindex(2, 2, 3, 3):
        down, right = ry + padding - ty, rx + padding - tx
        if down % 2 == 0 and right % 2 == 0:
            phases[ry, rx, :, :, down // 2 + 1, right // 2 + 1] = swapped[:, :, ty, tx]
    return phases.reshape(4 * channels, rows, 3, 3)


def join_phases(product: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Phases (N, 4 * C, h, w) of an input gradient as (N, C, *size)."""
    n, kernels, height, width = product.shape
    whole = product.reshape(n, 2, 2, kernels // 4, height, width).transpose(0, 3, 4, 1, 5, 2)
    return whole.reshape(n, kernels // 4, 2 * height, 2 * width)[:, :, : size[0], : size[1]]


def add_columns(
    columns: np.ndarray, input_shape: Sequence[int], kernel: Sequence[int], stride: int, padding: int
) -> np.ndarray:
    """Columns (C, kh * kw, N, H', W') added up where they overlap: `input_shape` (N, C, H, W)."""
    n, channels, height, width = input_shape
    padded = np.zeros((n, channels, height + 2 * padding, width + 2 * padding), columns.dtype)
    for number, (rows, across) in enumerate(taps(kernel, columns.shape[3:], stride)):
        padded[:, :, rows, across] += columns[:, number].swapaxes(0, 1)
    return padded[:, :, padding : padding + height, padding : padding + width]


def cut_patches(
    codes: np.ndarray, stride: int, padding: Sequence[int], out: Sequence[int], patch: Sequence[int]
) -> np.ndarray:
    """Patches (N * patches, C, h, w) of images (N, C, H, W), overlapping by their halo, for `patch` results each.

    `padding` rows above and columns left are part of them; `out` is the size of the whole result.
    """
    n, channels = codes.shape[:2]
    covered = [ceil_div(side, part) * part for side, part in zip(out, patch, strict=True)]
    height, width = ((side - 1) * stride + 3 for side in covered)
    inside = codes[:, :, : max(0, height - padding[0]), : max(0, width - padding[1])]
    padded = np.zeros((n, channels, height, width), codes.dtype)
    padded[:, :, padding[0] : padding[0] + inside.shape[2], padding[1] : padding[1] + inside.shape[3]] = inside
    size = tuple((side - 1) * stride + 3 for side in patch)
    view = sliding_window_view(padded, size, axis=(2, 3))[:, :, :: patch[0] * stride, :: patch[1] * stride]
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels, *size)


def join_patches(results: np.ndarray, out: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    """Results (N * patches, M, positions) as (N, M, *out)."""
    rows = results.shape[1]
    down, right = (ceil_div(side, part) for side, part in zip(out, patch, strict=True))
    grid = results.reshape(-1, down, right, rows, *patch).transpose(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, rows, down * patch[0], right * patch[1])[:, :, : out[0], : out[1]]


def middle_tap(matrix: np.ndarray) -> np.ndarray:
    """A matrix (M, K) as kernels (M, K, 3, 3) that are zero but in the middle."""
    kernel = np.zeros((*matrix.shape, 3, 3), matrix.dtype)
    kernel[:, :, 1, 1] = matrix
    return kernel
