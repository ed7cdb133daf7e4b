"""Depthwise convolutions on a board: every channel with a kernel of its own, exact, on the operations of `host.ops`.

Channels are taken 16 at a time, as a convolution with diagonal 16 x 16 kernels: 15 of 16 products are with a zero. The
array has rows of 144 lanes, and a sum of nine products fills nine of them however it is arranged, so no plan for
such rows uses more than a sixteenth, 6.3 %. On the simulated board 8 images of 32 x 16 x 16 at FW8/BW16 keep 5.6 % of
the slots busy in the forward pass, 6.0 % in the input gradient and 5.3 % in the weight gradient; an ordinary
convolution of the same shape 98, 99 and 93 %, in twice the cycles. `board.macs` and `board.bit_macs` are charged what
the operation needs and nothing for the zeros; cycles and traffic count what is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from array_api_compat import array_namespace, device

from host import ops
from host.arrays import Array
from host.board import Board
from host.nn.products import Convolution, Shape
from host.qtensor import QTensor
from rtl.config import WORD_CHANNELS


class Depthwise(Convolution):
    """x (C, H, W), w (C, 1, kh, kw) -> y (C, H', W')."""

    def forward(self, board: Board, x: QTensor, w: QTensor) -> Array:
        return depthwise_conv2d(board, x, w, self.stride, self.padding)

    def input_grad(self, board: Board, g: QTensor, w: QTensor, x: tuple[int, ...]) -> Array:
        return depthwise_conv2d_input_grad(board, g, w, x, self.stride, self.padding)

    def weight_grad(self, board: Board, g: QTensor, x: QTensor, w: Shape) -> Array:
        return depthwise_conv2d_weight_grad(board, g, x, w, self.stride, self.padding)

    def geometry(self) -> dict[str, Any]:
        return {**super().geometry(), "depthwise": True}


def depthwise_conv2d(board: Board, x: QTensor, w: QTensor, stride: int = 1, padding: int = 1) -> Array:
    """Convolution of each channel of x (N, C, H, W) with its kernel of w (C, 1, kh, kw): int64 (N, C, H', W').

    Raises
    ------
    ValueError
        If shapes disagree or a code does not fit its bits.
    OverflowError
        If a sum might exceed int64.
    """
    _check_kernel("depthwise_conv2d", w.shape, x.shape)

    def block(part: slice) -> Array:
        images, kernel = _channels(x, part), _diagonal(w, part)
        return ops.conv2d(board, images, kernel, stride, padding, groups=_groups(part))

    return _blocks(x, 1, block)


def depthwise_conv2d_input_grad(
    board: Board, g: QTensor, w: QTensor, input_shape: Sequence[int], stride: int = 1, padding: int = 1
) -> Array:
    """Gradient at x, int64 of `input_shape`, from the gradient g (N, C, H', W'). Raises as `depthwise_conv2d` does."""
    _check_kernel("depthwise_conv2d_input_grad", w.shape, g.shape)
    n, _, *size = input_shape

    def block(part: slice) -> Array:
        kernel = _diagonal(w, part)
        shape = (n, kernel.shape[1], *size)
        grad = _channels(g, part)
        return ops.conv2d_input_grad(board, grad, kernel, shape, stride, padding, groups=_groups(part))

    return _blocks(g, 1, block)


def depthwise_conv2d_weight_grad(
    board: Board, g: QTensor, x: QTensor, kernel_shape: Sequence[int], stride: int = 1, padding: int = 1
) -> Array:
    """Gradient at w, int64 of `kernel_shape`, from the gradient g (N, C, H', W'). Raises as `depthwise_conv2d` does."""
    _check_kernel("depthwise_conv2d_weight_grad", kernel_shape, x.shape)

    def block(part: slice) -> Array:
        grad, images = _channels(g, part), _channels(x, part)
        shape = (grad.shape[1], images.shape[1], *kernel_shape[2:])
        square = ops.conv2d_weight_grad(board, grad, images, shape, stride, padding, groups=_groups(part))
        xp = array_namespace(square)
        # What a channel's gradient makes with another channel's image is of no use.
        unit = xp.eye(shape[0], dtype=square.dtype, device=device(square))
        return xp.sum(square * unit[:, :, None, None], axis=1, keepdims=True)

    return _blocks(x, 0, block)


def _check_kernel(name: str, kernel: Sequence[int], images: Sequence[int]) -> None:
    if len(kernel) != 4 or len(images) != 4 or tuple(kernel[:2]) != (images[1], 1):
        raise ValueError(
            f"{name}: kernels {tuple(kernel)} do not apply to {tuple(images)}, must be (channels, 1, kh, kw)"
        )


def _blocks(tensor: QTensor, axis: int, product: Callable[[slice], Array]) -> Array:
    """The products of all blocks of channels, joined along `axis`."""
    parts = [product(part) for part in _parts(tensor.shape[1])]
    return array_namespace(parts[0]).concat(parts, axis=axis)


def _parts(channels: int) -> Iterator[slice]:
    """At least one block, so that an operation checks its operands even where there are no channels."""
    for start in range(0, max(channels, 1), WORD_CHANNELS):
        yield slice(start, min(start + WORD_CHANNELS, channels))


def _groups(part: slice) -> int:
    """Channels of a block: what lies beside the diagonal is no work."""
    return max(part.stop - part.start, 1)


def _channels(tensor: QTensor, part: slice) -> QTensor:
    return tensor.like(tensor.codes[:, part, ...])


def _diagonal(kernel: QTensor, part: slice) -> QTensor:
    """Kernels (C, 1, kh, kw) of some channels as (c, c, kh, kw), zero where the channels differ."""
    codes = kernel.codes[part, ...]
    unit = array_namespace(codes).eye(codes.shape[0], dtype=codes.dtype, device=device(codes))
    return QTensor.trusted(codes * unit[:, :, None, None], kernel.bits, kernel.signed)
