"""The four products of `host.ops` on a board with a memory: each becomes programs of the window or the flat mode.

Operands are numpy arrays without a size of zero, checked by `host.ops`; results are exact, int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from host.geometry import out_size
from host.lowering.flat import lower_dot, lower_flat
from host.lowering.program import sum_bound
from host.lowering.window import lower_window
from host.qtensor import Operand

if TYPE_CHECKING:
    from host.backends.memory import MemoryBoard


def conv2d(
    board: MemoryBoard, x: Operand, w: Operand, stride: int, padding: int, table: np.ndarray | None
) -> np.ndarray:
    """(N, M, H', W') of x (N, C, H, W) and w (M, C, kh, kw); `table` is the precision table, uint8 (N,)."""
    n, rows, kernel_size = len(x.codes), len(w.codes), w.codes.shape[2:]
    size = out_size(x.codes.shape[2:], kernel_size, stride, padding)
    if kernel_size == (3, 3) and stride in (1, 2):
        pads = (padding, padding)
        return lower_window(board.config, board.memory_bytes, x, w, stride, pads, size, table).run(board)
    matrix = w._replace(codes=w.codes.reshape(rows, -1))
    windows = _windows(x.codes, kernel_size, stride, padding, size)
    vectors = x._replace(codes=windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, -1, matrix.codes.shape[1]))
    if table is not None:
        lowered = lower_flat(board.config, board.memory_bytes, matrix, vectors, sum_bound(matrix, vectors), table)
        return lowered.run(board).reshape(n, rows, *size)
    vectors = vectors._replace(codes=vectors.codes.reshape(-1, matrix.codes.shape[1]))
    product = matmul(board, matrix, vectors._replace(codes=vectors.codes.T))
    return product.reshape(rows, n, *size).swapaxes(0, 1)


def conv2d_input_grad(
    board: MemoryBoard, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int
) -> np.ndarray:
    """`input_shape` of g (N, M, H', W') and w (M, C, kh, kw)."""
    rows, channels, *kernel_size = w.codes.shape
    n, _, height, width = input_shape
    if kernel_size == [3, 3] and stride == 1 and padding <= 2:
        turned = w._replace(codes=w.codes[:, :, ::-1, ::-1].swapaxes(0, 1))
        pads = (2 - padding, 2 - padding)
        return lower_window(board.config, board.memory_bytes, g, turned, 1, pads, (height, width)).run(board)

    if kernel_size == [3, 3] and stride == 2 and padding <= 2:
        phases = w._replace(codes=_phase_kernels(w.codes, padding))
        half = (-(-height // 2), -(-width // 2))
        product = lower_window(board.config, board.memory_bytes, g, phases, 1, (1, 1), half).run(board)
        whole = product.reshape(n, 2, 2, channels, *half).transpose(0, 3, 4, 1, 5, 2)
        return whole.reshape(n, channels, 2 * half[0], 2 * half[1])[:, :, :height, :width]

    # Any other geometry: one matrix product, whose columns the host adds up where they overlap.
    size = g.codes.shape[2:]
    matrix = w._replace(codes=w.codes.transpose(1, 2, 3, 0).reshape(-1, rows))
    vectors = g._replace(codes=g.codes.swapaxes(0, 1).reshape(rows, -1))
    columns = matmul(board, matrix, vectors).reshape(channels, *kernel_size, n, *size)
    padded = np.zeros((n, channels, height + 2 * padding, width + 2 * padding), np.int64)
    for ky, kx in np.ndindex(*kernel_size):
        rows_hit = slice(ky, ky + stride * (size[0] - 1) + 1, stride)
        columns_hit = slice(kx, kx + stride * (size[1] - 1) + 1, stride)
        padded[:, :, rows_hit, columns_hit] += columns[:, ky, kx].swapaxes(0, 1)
    return padded[:, :, padding : padding + height, padding : padding + width]


def conv2d_weight_grad(
    board: MemoryBoard, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int
) -> np.ndarray:
    """`kernel_shape` of g (N, M, H', W') and x (N, C, H, W)."""
    windows = _windows(x.codes, kernel_shape[2:], stride, padding, g.codes.shape[2:])
    a = g._replace(codes=g.codes.swapaxes(0, 1).reshape(kernel_shape[0], -1))
    b = x._replace(codes=windows.transpose(0, 2, 3, 1, 4, 5).reshape(a.codes.shape[1], -1))
    return matmul(board, a, b).reshape(tuple(kernel_shape))


def matmul(board: MemoryBoard, a: Operand, b: Operand) -> np.ndarray:
    """(M, N) of a (M, K) and b (K, N)."""
    return lower_dot(board.config, board.memory_bytes, a, b._replace(codes=b.codes.T)).run(board)


def _windows(codes: np.ndarray, kernel: Sequence[int], stride: int, padding: int, size: tuple[int, int]) -> np.ndarray:
    """View of all windows of a padded image: (N, C, H', W', kh, kw)."""
    padded = np.pad(codes, ((0, 0), (0, 0), (padding, padding), (padding, padding))) if padding else codes
    windows = sliding_window_view(padded, tuple(kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    return windows[:, :, : size[0], : size[1]]


def _phase_kernels(kernel: np.ndarray, padding: int) -> np.ndarray:
    """Kernels (4 * C, M, 3, 3) over `g` for the four phases (row parity, column parity) of a stride-2 input gradient.

    Input row 2u + r gets kernel row t from gradient row u + (r + padding - t) / 2 where that is whole. These lie
    among u - 1, u, u + 1: rows of a 3x3 window with one row of padding.
    """
    rows, channels = kernel.shape[:2]
    phases = np.zeros((2, 2, channels, rows, 3, 3), kernel.dtype)
    turned = kernel.swapaxes(0, 1)
    for ry, rx, ty, tx in np.ndindex(2, 2, 3, 3):
        down, right = ry + padding - ty, rx + padding - tx
        if down % 2 == 0 and right % 2 == 0:
            phases[ry, rx, :, :, down // 2 + 1, right // 2 + 1] = turned[:, :, ty, tx]
    return phases.reshape(4 * channels, rows, 3, 3)
