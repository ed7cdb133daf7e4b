"""Exact integer convolutions and matrix products on a board: the three products of training.

Operands are `QTensor`s of 1 to 16 bits, signed or not, of any shape, whose codes may be arrays of any library. Results
are exact: what an accumulator cannot hold is split, and what int64 cannot hold raises OverflowError. They come as int64
in the library and on the device of the first operand's codes. (A board that computes in floating point returns such
numbers, exact all the same, for codes of a floating-point type.)

Convolutions are cross-correlations, as in every neural-network library; images are NCHW, kernels OIHW. An operation
checks its operands, charges the multiply-accumulates that it needs, those against padding included, and calls the
board.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from host.arrays import Array, match
from host.board import Board
from host.geometry import check_geometry, out_size
from host.operand import Operand
from host.qtensor import QTensor


def conv2d(
    board: Board,
    x: QTensor,
    w: QTensor,
    stride: int = 1,
    padding: int = 1,
    *,
    groups: int = 1,
) -> Array:
    """Convolution of x (N, C, H, W) with w (M, C, kh, kw): int64 (N, M, H', W').

    The runs of x may differ in width; a run of 0 bits is skipped, its result is zero.

    Parameters
    ----------
    groups : equal blocks on the diagonal of a kernel that is zero elsewhere; only these are charged.

    Raises
    ------
    TypeError
        If an operand is no QTensor, or stride or padding no integer.
    ValueError
        If shapes disagree, or the runs of another operand differ in width.
    OverflowError
        If a sum might exceed int64.
    """
    images, kernel = _operand(board, x, "conv2d: x", 4, mixed=True), _operand(board, w, "conv2d: w", 4)
    n, channels = x.shape[:2]
    rows, kernel_channels, *kernel_size = w.shape
    if channels != kernel_channels:
        raise ValueError(f"conv2d: x has {channels} channels, w takes {kernel_channels}")
    check_geometry(kernel_size, stride, padding)
    size = out_size(x.shape[2:], kernel_size, stride, padding)
    per_image = rows * prod(size) * channels * prod(kernel_size)
    active = [run for run in x.runs if run.bits]
    for run in active:
        board.charge(run.samples * per_image // groups, run.bits, w.bits)
    if per_image * sum(run.samples for run in active) == 0:
        return _result(np.zeros((n, rows, *size), np.int64), x)
    return _result(board.conv2d(images, kernel, stride, padding), x)


def conv2d_input_grad(
    board: Board,
    g: QTensor,
    w: QTensor,
    input_shape: Sequence[int],
    stride: int = 1,
    padding: int = 1,
    *,
    groups: int = 1,
) -> Array:
    """Gradient at the input of `conv2d`: int64 of `input_shape` (N, C, H, W).

    `g` (N, M, H', W') is the gradient at the output and `w` (M, C, kh, kw) the kernel. The rest is as in
    `conv2d`.
    """
    grad, kernel = _operand(board, g, "conv2d_input_grad: g", 4), _operand(board, w, "conv2d_input_grad: w", 4)
    input_shape = _shape("conv2d_input_grad: input_shape", input_shape)
    products = _check_grad("conv2d_input_grad", g, input_shape, w.shape, stride, padding)
    board.charge(products // groups, g.bits, w.bits)
    if products == 0:
        return _result(np.zeros(input_shape, np.int64), g)
    return _result(board.conv2d_input_grad(grad, kernel, input_shape, stride, padding), g)


def conv2d_weight_grad(
    board: Board,
    g: QTensor,
    x: QTensor,
    kernel_shape: Sequence[int],
    stride: int = 1,
    padding: int = 1,
    *,
    groups: int = 1,
) -> Array:
    """Gradient at the kernel of `conv2d`: int64 of `kernel_shape` (M, C, kh, kw).

    `g` (N, M, H', W') is the gradient at the output and `x` (N, C, H, W) the input. The rest is as in `conv2d`.
    """
    grad, images = _operand(board, g, "conv2d_weight_grad: g", 4), _operand(board, x, "conv2d_weight_grad: x", 4)
    kernel_shape = _shape("conv2d_weight_grad: kernel_shape", kernel_shape)
    products = _check_grad("conv2d_weight_grad", g, x.shape, kernel_shape, stride, padding)
    board.charge(products // groups, g.bits, x.bits)
    if products == 0:
        return _result(np.zeros(kernel_shape, np.int64), g)
    return _result(board.conv2d_weight_grad(grad, images, kernel_shape, stride, padding), g)


def matmul(board: Board, a: QTensor, b: QTensor) -> Array:
    """Product of a (M, K) and b (K, N): int64 (M, N). Raises as `conv2d` does."""
    left, right = _operand(board, a, "matmul: a", 2), _operand(board, b, "matmul: b", 2)
    (rows, terms), (inner, columns) = a.shape, b.shape
    if terms != inner:
        raise ValueError(f"matmul: a has {terms} columns, b has {inner} rows")
    products = rows * terms * columns
    board.charge(products, a.bits, b.bits)
    if products == 0:
        return _result(np.zeros((rows, columns), np.int64), a)
    return _result(board.matmul(left, right), a)


def _operand(board: Board, tensor: QTensor, name: str, dimensions: int, *, mixed: bool = False) -> Operand:
    """Codes of `tensor` as the board takes them. Raises ValueError or TypeError, naming the operand, if it is unfit."""
    if not isinstance(tensor, QTensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, must be a QTensor")
    if len(tensor.shape) != dimensions:
        raise ValueError(f"{name} has shape {tensor.shape}, must have {dimensions} dimensions")
    if not mixed and tensor.table is not None:
        raise ValueError(f"{name} has samples of different widths; only x of conv2d may")
    return Operand(board.place(tensor.codes), tensor.bits, tensor.signed, tensor.table, tensor)


def _result(product: Array, first: QTensor) -> Array:
    """A board's product as the caller gets it; `first` is the first operand."""
    xp = array_namespace(product)
    if not xp.isdtype(product.dtype, "integral") and array_namespace(first.codes).isdtype(
        first.codes.dtype, "integral"
    ):
        product = xp.astype(product, xp.int64)
    product = match(product, like=first.codes)
    return np.ascontiguousarray(product) if is_numpy_array(product) else product


def _shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Four sizes. Raises TypeError if they are no integers and ValueError if they are not four."""
    try:
        sizes = tuple(index(size) for size in shape)
    except TypeError:
        raise TypeError(f"{name} is {shape!r}, must be four integers") from None
    if len(sizes) != 4:
        raise ValueError(f"{name} is {shape!r}, must be four integers")
    return sizes


def _check_grad(
    name: str, grad: QTensor, input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int, padding: int
) -> int:
    """Multiply-accumulates of the gradient. Raises ValueError if `grad` has not the shape of the output."""
    if input_shape[1] != kernel_shape[1]:
        raise ValueError(f"{name}: no kernel {tuple(kernel_shape)} applies to an input {tuple(input_shape)}")
    check_geometry(kernel_shape[2:], stride, padding)
    size = out_size(input_shape[2:], kernel_shape[2:], stride, padding)
    wanted = (input_shape[0], kernel_shape[0], *size)
    if grad.shape != wanted:
        raise ValueError(f"{name}: g has shape {grad.shape}, the output of that convolution has {wanted}")
    return prod(wanted) * prod(kernel_shape[1:])
