"""What a layer has a board compute: bilinear products, declared by their shapes and run by those who declare them.

A layer with a new product brings a `Kind` of its own; cost, bench and emulation read the declaration and know no kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from array_api_compat import array_namespace

from host import ops
from host.arrays import Array
from host.board import Board
from host.geometry import out_size
from host.qtensor import QTensor
from host.quantise import Precision

PASSES = ("forward", "input grad", "weight grad")

#: Shape of an array without the batch, or of a weight.
Shape = tuple[int, ...]


class Kind(ABC):
    """A product y of an input x and a weight w that is linear in both, and its gradients, exact on a board.

    Arrays come with the batch as their first axis, shapes of x and y without it. g is the gradient at y.
    """

    @abstractmethod
    def out(self, x: Shape, w: Shape) -> Shape:
        """Shape of y."""

    @abstractmethod
    def macs(self, x: Shape, w: Shape) -> int:
        """Multiply-accumulates of one sample, the same in each pass."""

    @abstractmethod
    def forward(self, board: Board, x: QTensor, w: QTensor) -> Array:
        """y, int64 (N, *out)."""

    @abstractmethod
    def input_grad(self, board: Board, g: QTensor, w: QTensor, x: tuple[int, ...]) -> Array:
        """Gradient at the input, int64 of the shape `x`, batch included."""

    @abstractmethod
    def weight_grad(self, board: Board, g: QTensor, x: QTensor, w: Shape) -> Array:
        """Gradient at the weight, int64 of the shape `w`."""

    # For emulation: the product as a convolution. A kind that is none leaves these out.

    def geometry(self) -> dict[str, Any]:
        """Arguments of `host.emulation.float_conv`'s functions."""
        raise TypeError(f"{type(self).__name__} is no convolution that could be emulated")

    def kernel(self, w: Array) -> Array:
        """The weight as kernels (M, C, kh, kw); x and y have one pixel where they have no image."""
        return w

    def weight(self, kernel: Array) -> Array:
        """The inverse of `kernel`."""
        return kernel


@dataclass(frozen=True)
class Convolution(Kind):
    """x (C, H, W), w (M, C, kh, kw) -> y (M, H', W'), see `host.ops.conv2d`."""

    stride: int = 1
    padding: int = 0

    def out(self, x: Shape, w: Shape) -> Shape:
        return (w[0], *out_size(x[1:], w[2:], self.stride, self.padding))

    def macs(self, x: Shape, w: Shape) -> int:
        return prod(self.out(x, w)) * prod(w[1:])

    def forward(self, board: Board, x: QTensor, w: QTensor) -> Array:
        return ops.conv2d(board, x, w, self.stride, self.padding)

    def input_grad(self, board: Board, g: QTensor, w: QTensor, x: tuple[int, ...]) -> Array:
        return ops.conv2d_input_grad(board, g, w, x, self.stride, self.padding)

    def weight_grad(self, board: Board, g: QTensor, x: QTensor, w: Shape) -> Array:
        return ops.conv2d_weight_grad(board, g, x, w, self.stride, self.padding)

    def geometry(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding}


@dataclass(frozen=True)
class Matrix(Kind):
    """x (K,), w (K, M) -> y (M,)."""

    def out(self, x: Shape, w: Shape) -> Shape:
        return (w[1],)

    def macs(self, x: Shape, w: Shape) -> int:
        return prod(w)

    def forward(self, board: Board, x: QTensor, w: QTensor) -> Array:
        return ops.matmul(board, x, w)

    def input_grad(self, board: Board, g: QTensor, w: QTensor, x: tuple[int, ...]) -> Array:
        return ops.matmul(board, g, w.transpose())

    def weight_grad(self, board: Board, g: QTensor, x: QTensor, w: Shape) -> Array:
        return ops.matmul(board, x.transpose(), g)

    def geometry(self) -> dict[str, Any]:
        return {"stride": 1, "padding": 0}

    def kernel(self, w: Array) -> Array:
        return array_namespace(w).matrix_transpose(w)[:, :, None, None]

    def weight(self, kernel: Array) -> Array:
        return array_namespace(kernel).matrix_transpose(kernel[:, :, 0, 0])


@dataclass(frozen=True)
class Product:
    """One product of a network, for one sample.

    Attributes
    ----------
    name : the layer's full name in its model.
    kind : what is computed, with its geometry.
    x : shape of the input: (C, H, W), or (K,) of a fully connected layer.
    w : shape of the weight.
    first : nothing below needs the input gradient, which is not computed.
    signed : the input may be negative.
    min_bits : no operand is narrower, whatever the schedule says.
    fixed : the precision of a layer that keeps its own.
    always : computed even for samples that skip the block it lies in.
    """

    name: str
    kind: Kind
    x: Shape
    w: Shape
    first: bool = False
    signed: bool = False
    min_bits: int = 2
    fixed: Precision | None = None
    always: bool = False

    @property
    def passes(self) -> tuple[str, ...]:
        return tuple(p for p in PASSES if not (self.first and p == "input grad"))

    @property
    def out(self) -> Shape:
        """Shape of the result."""
        return self.kind.out(self.x, self.w)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of each pass."""
        return self.kind.macs(self.x, self.w)

    def precision(self, scheduled: Precision) -> Precision:
        """The precision that it has when the schedule says `scheduled`."""
        return self.fixed or scheduled.at_least(self.min_bits)

    def inside(self, layer: str) -> Product:
        """The same product as the layer called `layer` declares it, which holds the one that has it."""
        return replace(self, name=f"{layer}.{self.name}" if self.name else layer)


def gated_products(products: Iterable[Product]) -> dict[str, list[Product]]:
    """The products that get their precision from a gate where samples choose, by the layer of the network behind it.

    Those are the layers that hold others, or in a network without such the single ones with images, but the first.
    """
    products = [product for product in products if not product.first and len(product.x) == 3]
    inner = [product for product in products if "." in product.name]
    blocks: dict[str, list[Product]] = {}
    for product in inner or products:
        blocks.setdefault(product.name.partition(".")[0], []).append(product)
    return blocks
