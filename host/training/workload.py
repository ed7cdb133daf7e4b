"""The products of a network, as its layers declare them, and running one pass of one on a board."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from host.board import Board
from host.nn.models import build_model
from host.nn.products import Product
from host.qtensor import QTensor, code_range
from host.quantise import Precision


class Codes(Protocol):
    """Where random codes come from: a generator of numpy's, or what draws otherwise."""

    def integers(self, low: int, high: int, /, size: Any, dtype: Any) -> np.ndarray:
        """Integers from `low` up to, but not including, `high`."""
        ...


def network(model: str, image: tuple[int, int, int], classes: int, edge_bits: int = 2) -> list[Product]:
    """The products of a model for one image (C, H, W), in the order of the forward pass.

    `edge_bits` is the least width of its first and its last layer.
    """
    _, products = build_model(model, image, classes, seed=0, edge_bits=edge_bits).trace(image)
    return products


def task(product: Product, which: str, batch: int, precision: Precision, rng: Codes) -> Callable[[Board], object]:
    """One pass of a product, on random codes of the whole range, as a function of the board.

    `which` is one of the product's `passes`; `precision` is what the schedule says.
    """

    def tensor(shape: tuple[int, ...], bits: int, signed: bool) -> QTensor:
        low, high = code_range(bits, signed)
        return QTensor(rng.integers(low, high + 1, size=shape, dtype=np.int32), bits, signed)

    own, kind = product.precision(precision), product.kind
    x = tensor((batch, *product.x), own.fw, product.signed)
    w = tensor(product.w, own.weight_bits, True)
    g = tensor((batch, *product.out), own.bw, True)
    if which == "forward":
        return lambda board: kind.forward(board, x, w)
    if which == "input grad":
        return lambda board: kind.input_grad(board, g, w, x.shape)
    return lambda board: kind.weight_grad(board, g, x, w.shape)
