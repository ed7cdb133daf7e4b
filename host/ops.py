"""Exact integer convolutions and matrix products on a board: the three products of training.

Operands are `QTensor`s of 1 to 16 bits, signed or not, of any shape. Results are exact int64 arrays: what an
accumulator cannot hold is split, and what int64 cannot hold raises OverflowError. Convolutions are cross-correlations,
as in every neural-network library; images are NCHW, kernels OIHW. An operation charges the multiply-accumulates that
it needs, those against padding included, to `board.macs` and `board.bit_macs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from host.board import Board
from host.flat import lower_dot, lower_flat
from host.program import Operand, sum_bound
from host.qtensor import QTensor, code_range
from host.window import lower_window


def conv2d(
    board: Board,
    x: QTensor,
    w: QTensor,
    stride: int = 1,
    padding: int = 1,
    sample_bits: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Convolution of x (N, C, H, W) with w (M, C, kh, kw): int64 (N, M, H', W').

    Parameters
    ----------
    sample_bits : width of each image, at most `x.bits`; its codes must fit. 0 skips the image, whose result is zero.

    Raises
    ------
    ValueError
        If shapes disagree or a code does not fit its bits.
    OverflowError
        If a sum might exceed int64.
    """
    images, kernel = _operand(x, "conv2d: x", 4), _operand(w, "conv2d: w", 4)
    n, channels = images.codes.shape[:2]
    rows, kernel_channels, *kernel_size = kernel.codes.shape
    if channels != kernel_channels:
        raise ValueError(f"conv2d: x has {channels} channels, w takes {kernel_channels}")
    out_size = _out_size(images.codes.shape[2:], kernel_size, stride, padding)
    table = None if sample_bits is None else _sample_table(images, sample_bits)
    terms = channels * prod(kernel_size)
    macs = rows * prod(out_size) * terms
    board.macs += macs * (n if table is None else int(np.count_nonzero(table)))
    board.bit_macs += macs * (n * x.bits if table is None else int(table.sum())) * w.bits
    if n * macs == 0:
        return np.zeros((n, rows, *out_size), np.int64)

    if kernel_size == [3, 3] and stride in (1, 2):
        lowered = lower_window(
            *(board.config, board.memory_bytes, images, kernel),
            *(stride, (padding, padding), out_size, table),
        )
        return lowered.run(board)
    matrix = kernel._replace(codes=kernel.codes.reshape(rows, terms))
    windows = _windows(images.codes, kernel_size, stride, padding, out_size)
    vectors = images._replace(codes=windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, -1, terms))
    if table is not None:
        lowered = lower_flat(board.config, board.memory_bytes, matrix, vectors, sum_bound(matrix, vectors), table)
        return lowered.run(board).reshape(n, rows, *out_size)
    vectors = vectors._replace(codes=vectors.codes.reshape(-1, terms))
    product = lower_dot(board.config, board.memory_bytes, matrix, vectors).run(board)
    return np.ascontiguousarray(product.reshape(rows, n, *out_size).swapaxes(0, 1))


def conv2d_input_grad(
    board: Board, g: QTensor, w: QTensor, input_shape: Sequence[int], stride: int = 1, padding: int = 1
) -> np.ndarray:
    """Gradient at the input of `conv2d`: int64 of `input_shape` (N, C, H, W).

    `g` (N, M, H', W') is the gradient at the output and `w` (M, C, kh, kw) the kernel. Raises as `conv2d` does.
    """
    grad, kernel = _operand(g, "conv2d_input_grad: g", 4), _operand(w, "conv2d_input_grad: w", 4)
    rows, channels, *kernel_size = kernel.codes.shape
    n, out_size = _check_grad("conv2d_input_grad", grad, input_shape, kernel.codes.shape, stride, padding)
    height, width = input_shape[2:]
    macs = n * prod(out_size) * kernel.codes.size
    board.macs += macs
    board.bit_macs += macs * g.bits * w.bits
    if macs == 0:
        return np.zeros(tuple(input_shape), np.int64)

    if kernel_size == [3, 3] and stride == 1 and padding <= 2:
        turned = kernel._replace(codes=kernel.codes[:, :, ::-1, ::-1].swapaxes(0, 1))
        size = (2 - padding, 2 - padding)
        return lower_window(board.config, board.memory_bytes, grad, turned, 1, size, (height, width)).run(board)

    if kernel_size == [3, 3] and stride == 2 and padding <= 2:
        phases = kernel._replace(codes=_phase_kernels(kernel.codes, padding))
        half = (-(-height // 2), -(-width // 2))
        product = lower_window(board.config, board.memory_bytes, grad, phases, 1, (1, 1), half).run(board)
        whole = product.reshape(n, 2, 2, channels, *half).transpose(0, 3, 4, 1, 5, 2)
        return np.ascontiguousarray(whole.reshape(n, channels, 2 * half[0], 2 * half[1])[:, :, :height, :width])

    # Any other geometry: one matrix product, whose columns the host adds up where they overlap.
    matrix = kernel._replace(codes=kernel.codes.transpose(1, 2, 3, 0).reshape(-1, rows))
    vectors = grad._replace(codes=grad.codes.transpose(0, 2, 3, 1).reshape(-1, rows))
    columns = lower_dot(board.config, board.memory_bytes, matrix, vectors).run(board)
    columns = columns.reshape(channels, *kernel_size, n, *out_size)
    padded = np.zeros((n, channels, height + 2 * padding, width + 2 * padding), np.int64)
    for ky, kx in np.ndindex(*kernel_size):
        rows_hit = slice(ky, ky + stride * (out_size[0] - 1) + 1, stride)
        columns_hit = slice(kx, kx + stride * (out_size[1] - 1) + 1, stride)
        padded[:, :, rows_hit, columns_hit] += columns[:, ky, kx].swapaxes(0, 1)
    return np.ascontiguousarray(padded[:, :, padding : padding + height, padding : padding + width])


def conv2d_weight_grad(
    board: Board, g: QTensor, x: QTensor, kernel_shape: Sequence[int], stride: int = 1, padding: int = 1
) -> np.ndarray:
    """Gradient at the kernel of `conv2d`: int64 of `kernel_shape` (M, C, kh, kw).

    `g` (N, M, H', W') is the gradient at the output and `x` (N, C, H, W) the input. Raises as `conv2d` does.
    """
    grad, images = _operand(g, "conv2d_weight_grad: g", 4), _operand(x, "conv2d_weight_grad: x", 4)
    n, out_size = _check_grad("conv2d_weight_grad", grad, images.codes.shape, kernel_shape, stride, padding)
    rows, channels, *kernel_size = kernel_shape
    macs = n * prod(out_size) * prod(kernel_shape)
    board.macs += macs
    board.bit_macs += macs * g.bits * x.bits
    if macs == 0:
        return np.zeros(tuple(kernel_shape), np.int64)
    windows = _windows(images.codes, kernel_size, stride, padding, out_size)
    a = grad._replace(codes=grad.codes.swapaxes(0, 1).reshape(rows, -1))
    b = images._replace(codes=windows.transpose(1, 4, 5, 0, 2, 3).reshape(channels * prod(kernel_size), -1))
    product = lower_dot(board.config, board.memory_bytes, a, b).run(board)
    return np.ascontiguousarray(product.reshape(tuple(kernel_shape)))


def matmul(board: Board, a: QTensor, b: QTensor) -> np.ndarray:
    """Product of a (M, K) and b (K, N): int64 (M, N). Raises as `conv2d` does."""
    left, right = _operand(a, "matmul: a", 2), _operand(b, "matmul: b", 2)
    (rows, terms), (inner, columns) = left.codes.shape, right.codes.shape
    if terms != inner:
        raise ValueError(f"matmul: a has {terms} columns, b has {inner} rows")
    macs = rows * terms * columns
    board.macs += macs
    board.bit_macs += macs * a.bits * b.bits
    if macs == 0:
        return np.zeros((rows, columns), np.int64)
    product = lower_dot(board.config, board.memory_bytes, left, right._replace(codes=right.codes.T)).run(board)
    return np.ascontiguousarray(product)


def _operand(tensor: QTensor, name: str, dimensions: int) -> Operand:
    """Codes of `tensor` in numpy's narrowest type. Raises ValueError, naming the operand, if they are unfit."""
    if len(tensor.shape) != dimensions:
        raise ValueError(f"{name} has shape {tensor.shape}, must have {dimensions} dimensions")
    tensor.check(name)  # again: an array may have changed since it became a tensor
    width = 8 if tensor.bits <= 8 else 16
    codes = np.asarray(tensor.codes).astype(f"{'i' if tensor.signed else 'u'}{width // 8}", copy=False)
    return Operand(codes, int(tensor.bits), bool(tensor.signed))


def _out_size(image: Sequence[int], kernel: Sequence[int], stride: int, padding: int) -> tuple[int, int]:
    """Height and width of a convolution's result; zero where the kernel does not fit the padded image."""
    if stride < 1 or padding < 0 or 0 in kernel:
        raise ValueError(f"stride {stride}, padding {padding}, kernel {tuple(kernel)}: must be at least 1, 0 and 1")
    height, width = (max(0, (size + 2 * padding - k) // stride + 1) for size, k in zip(image, kernel, strict=True))
    return height, width


def _check_grad(
    name: str, grad: Operand, input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int, padding: int
) -> tuple[int, tuple[int, int]]:
    """Batch and size of the output. Raises ValueError if the gradient has not the shape of that output."""
    if len(input_shape) != 4 or len(kernel_shape) != 4 or input_shape[1] != kernel_shape[1]:
        raise ValueError(f"{name}: no kernel {tuple(kernel_shape)} applies to an input {tuple(input_shape)}")
    out_size = _out_size(input_shape[2:], kernel_shape[2:], stride, padding)
    wanted = (input_shape[0], kernel_shape[0], *out_size)
    if grad.codes.shape != wanted:
        raise ValueError(f"{name}: g has shape {grad.codes.shape}, the output of that convolution has {wanted}")
    return input_shape[0], out_size


def _sample_table(images: Operand, sample_bits: Sequence[int] | np.ndarray) -> np.ndarray:
    """Precision table, uint8. Raises ValueError if an entry is out of range or an image does not fit its entry."""
    table = np.asarray(sample_bits)
    if table.shape != (len(images.codes),) or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"conv2d: sample_bits is {table.dtype}{table.shape}, must be {len(images.codes)} integers")
    for n, bits in enumerate(table.tolist()):
        if not 0 <= bits <= images.bits:
            raise ValueError(f"conv2d: sample_bits[{n}] is {bits}, must be 0 to {images.bits}, the bits of x")
        if bits and images.codes[n].size:
            low, high = code_range(bits, images.signed)
            for value in (int(images.codes[n].min()), int(images.codes[n].max())):
                if not low <= value <= high:
                    raise ValueError(
                        f"conv2d: x[{n}] holds the code {value}, {bits} bits for this image allow {low} to {high}"
                    )
    return table.astype(np.uint8)


def _windows(
    codes: np.ndarray, kernel: Sequence[int], stride: int, padding: int, out_size: tuple[int, int]
) -> np.ndarray:
    """View of all windows of a padded image: (N, C, H', W', kh, kw)."""
    padded = np.pad(codes, ((0, 0), (0, 0), (padding, padding), (padding, padding))) if padding else codes
    windows = sliding_window_view(padded, tuple(kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    return windows[:, :, : out_size[0], : out_size[1]]


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
