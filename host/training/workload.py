"""The convolutions and matrix products of a network, as shapes, and running one of them on a board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from host import ops
from host.backends import open_board
from host.board import Board
from host.nn.depthwise import depthwise_conv2d, depthwise_conv2d_input_grad, depthwise_conv2d_weight_grad
from host.nn.layers import Context, Conv2d, Linear
from host.nn.mobilenet import DepthwiseConv2d
from host.nn.models import build_model
from host.qtensor import QTensor, code_range
from host.quantise import Precision

PASSES = ("forward", "input grad", "weight grad")


@dataclass(frozen=True)
class Work:
    """One layer's products for a batch of one.

    Attributes
    ----------
    name : the layer's name in its model.
    x : shape of its input behind the batch: (C, H, W), or (K,) for a fully connected layer.
    w : shape of its weight, OIHW or (K, N).
    stride, padding : of a convolution.
    first : the layer needs no input gradient, and its input is signed.
    depthwise : a depthwise convolution, which keeps its own precision.
    """

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    first: bool = False
    depthwise: bool = False

    @property
    def passes(self) -> tuple[str, ...]:
        return tuple(p for p in PASSES if not (self.first and p == "input grad"))

    @property
    def out(self) -> tuple[int, ...]:
        """Shape of the output behind the batch."""
        if len(self.w) == 2:
            return (self.w[1],)
        sizes = zip(self.x[1:], self.w[2:], strict=True)
        return (self.w[0], *((size + 2 * self.padding - k) // self.stride + 1 for size, k in sizes))


def network(model: str, image: tuple[int, int, int], classes: int) -> list[Work]:
    """The work of a model for one image (C, H, W), in the order of the forward pass.

    The shapes are those that a forward pass of the real model meets, on the golden board.
    """
    net = build_model(model, image, classes, seed=0, edge_bits=2)
    found: list[Work] = []

    def record(name: str, layer: Conv2d | Linear):
        forward = layer.forward

        def recorded(x, context):
            shape = tuple(layer.params["weight"].shape)
            if isinstance(layer, Conv2d):
                how = (layer.stride, layer.padding, layer.first, isinstance(layer, DepthwiseConv2d))
                found.append(Work(name, tuple(x.shape[1:]), shape, *how))
            else:
                found.append(Work(name, tuple(x.shape[1:]), shape))
            return forward(x, context)

        layer.forward = recorded

    for prefix, layer in net.walk():
        if isinstance(layer, Conv2d | Linear):
            record(prefix.rstrip("."), layer)
    board = open_board("golden")
    net.forward(np.zeros((1, *image), np.float32), Context(board, Precision(2, 2), training=False))
    board.close()
    return found


def product(
    work: Work, which: str, batch: int, precision: Precision, rng: np.random.Generator
) -> Callable[[Board], object]:
    """One pass of one layer on random codes of the whole range, as a function of the board."""

    def tensor(shape: tuple[int, ...], bits: int, signed: bool) -> QTensor:
        low, high = code_range(bits, signed)
        return QTensor(rng.integers(low, high + 1, shape, dtype=np.int32), bits, signed)

    if work.depthwise:
        precision = DepthwiseConv2d.PRECISION
    fw, bw = precision.fw, precision.bw
    x = tensor((batch, *work.x), fw, work.first)
    w = tensor(work.w, fw, True)
    g = tensor((batch, *work.out), bw, True)
    how = {"stride": work.stride, "padding": work.padding}
    if len(work.w) == 2:
        operands = {"forward": (x, w), "input grad": (g, w.transpose()), "weight grad": (x.transpose(), g)}[which]
        return lambda board: ops.matmul(board, *operands)
    forward, input_grad, weight_grad = (
        (depthwise_conv2d, depthwise_conv2d_input_grad, depthwise_conv2d_weight_grad)
        if work.depthwise
        else (ops.conv2d, ops.conv2d_input_grad, ops.conv2d_weight_grad)
    )
    if which == "forward":
        return lambda board: forward(board, x, w, **how)
    if which == "input grad":
        return lambda board: input_grad(board, g, w, x.codes.shape, **how)
    return lambda board: weight_grad(board, g, x, w.codes.shape, **how)
