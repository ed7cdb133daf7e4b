"""Numerics that the board does not have, emulated in floating point on the host.

A `Numerics` says how the operands of a layer are rounded; `emulate` gives it to every layer with a product instead
of the board's own. Their products are computed in floating point on rounded numbers, as in the code
that the papers were measured with, and are charged to the board as if it had executed them at their widths: the
computational cost of a run compares, cycles and traffic are absent. The base class rounds nothing: plain floating
point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from host.arrays import Array, match
from host.emulation import float_conv
from host.nn.float_layers import BatchNorm2d
from host.nn.layers import Context, Layer, ProductLayer
from host.nn.optim import SGD
from host.quantise import Precision

#: Bits of an operand that is not rounded, as it is charged.
FLOAT_BITS = 32


@dataclass(frozen=True)
class Rounded:
    """An operand as it is multiplied.

    Attributes
    ----------
    values : real numbers, shape and dtype of the operand.
    bits : width that is charged.
    slope : derivative of `values`, elementwise; None for 1, the straight-through estimator.
    """

    values: Array
    bits: int = FLOAT_BITS
    slope: Array | None = None

    def chain(self, gradient: Array) -> Array:
        """The gradient at the operand from the gradient at its rounded values."""
        return gradient if self.slope is None else gradient * self.slope


class Numerics:
    """Floating point: nothing is rounded. Subclasses override what they round; bits are those of the schedule.

    Attributes
    ----------
    optimiser : class of the optimiser that belongs to the method.
    """

    optimiser: type[SGD] = SGD

    def buffers(self) -> dict[str, Array]:
        """State that each layer keeps for `activation`, as initialised."""
        return {}

    def weight(self, w: Array, bits: int) -> Rounded:
        """The weights, output channels first."""
        return Rounded(w)

    def activation(self, x: Array, bits: int, buffers: dict[str, Array], training: bool) -> Rounded:
        """The input of a layer; replaces entries of `buffers` if training."""
        return Rounded(x)

    def gradient(self, dy: Array, bits: int, rng: np.random.Generator) -> tuple[Rounded, Rounded]:
        """The gradient at a layer's result, as it enters the input gradient and the weight gradient."""
        return Rounded(dy), Rounded(dy)

    def weight_gradient(self, dw: Array, rng: np.random.Generator) -> Array:
        """The weight gradient as the optimiser receives it."""
        return dw

    def at_edge(self) -> Numerics:
        """The numerics of the first convolution and of linear layers."""
        return self

    def norm(self, layer: BatchNorm2d) -> Layer:
        """The layer that replaces a batch norm."""
        return layer


class Emulated(ProductLayer):
    """A layer whose product is computed on the host, its operands rounded by `numerics`; it has the layer's arrays."""

    def __init__(self, layer: ProductLayer, numerics: Numerics):
        super().__init__(layer.kind, layer.params["weight"], first=layer.first, min_bits=layer.min_bits)
        self.params, self.signed, self.fixed, self.edge = layer.params, layer.signed, layer.fixed, layer.edge
        self.numerics = numerics.at_edge() if layer.edge else numerics
        buffers = self.numerics.buffers()
        self.buffers = {name: match(array, layer.params["weight"]) for name, array in buffers.items()}

    def _one_precision(self, context: Context) -> Precision:
        precision = self._precision(context)
        if not isinstance(precision, Precision):
            raise TypeError("emulated numerics take one precision for all samples of a batch")
        return precision

    def _multiply(self, x: Array, context: Context) -> Array:
        bits = self._one_precision(context).fw
        rx = self.numerics.activation(_images(x), bits, self.buffers, context.training)
        rw = self.numerics.weight(self.kind.kernel(self.params["weight"]), bits)
        if context.training:
            self._operands, self._shape = (rx, rw), x.shape
        self._charge(context, x.shape, rx, rw)
        return _like(float_conv.conv2d(rx.values, rw.values, **self.kind.geometry()), x)

    def _gradients(self, dy: Array, context: Context) -> Array:
        if context.rng is None:
            raise ValueError("backward needs a generator of random numbers in its context")
        rx, rw = self._operands
        shape, how = self._shape, self.kind.geometry()
        to_input, to_weight = self.numerics.gradient(_images(dy), self._one_precision(context).bw, context.rng)
        dw = float_conv.conv2d_weight_grad(to_weight.values, rx.values, rw.values.shape, **how)
        self._charge(context, shape, to_weight, rx)
        self.grads["weight"] = self.kind.weight(self.numerics.weight_gradient(rw.chain(dw), context.rng))
        if self.first:
            return None
        dx = float_conv.conv2d_input_grad(to_input.values, rw.values, rx.values.shape, **how)
        self._charge(context, shape, to_input, rw)
        return _like(rx.chain(dx), dy)

    def _charge(self, context: Context, x: Sequence[int], a: Rounded, b: Rounded) -> None:
        """Charge one pass of a batch of the shape `x`."""
        macs = self.kind.macs(tuple(x[1:]), tuple(self.params["weight"].shape))
        context.board.charge(x[0] * macs, a.bits, b.bits)


def _images(x: Array) -> Array:
    """Features (N, K) as images of one pixel; images stay."""
    return x if x.ndim == 4 else x[:, :, None, None]


def _like(images: Array, x: Array) -> Array:
    """Images as features again where `x` are such."""
    return images if x.ndim == 4 else images[:, :, 0, 0]


def emulate(model: Layer, numerics: Numerics) -> None:
    """Give `numerics` to all products and batch norms inside `model`, which keep their arrays."""
    for name, child in model.children.items():
        if isinstance(child, ProductLayer):
            model.children[name] = Emulated(child, numerics)
        elif isinstance(child, BatchNorm2d):
            model.children[name] = numerics.norm(child)
        else:
            emulate(child, numerics)
