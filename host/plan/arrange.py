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
    codes: np.ndarray, before: Sequence[int], step: Sequence[int], size: Sequence[int], count: Sequence[int]
) -> np.ndarray:
    """Patches (N * patches, C, *size) of images (N, C, H, W): `count` of them below and beside each other.

    The first begins `before` rows above and columns left of the image, the others `step` behind each other. Beyond the
    image they are zero.
    """
    n, channels = codes.shape[:2]
    height, width = ((number - 1) * each + side for number, each, side in zip(count, step, size, strict=True))
    inside = codes[:, :, : max(0, height - before[0]), : max(0, width - before[1])]
    padded = np.zeros((n, channels, height, width), codes.dtype)
    padded[:, :, before[0] : before[0] + inside.shape[2], before[1] : before[1] + inside.shape[3]] = inside
    view = sliding_window_view(padded, tuple(size), axis=(2, 3))[:, :, :: step[0], :: step[1]]
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
