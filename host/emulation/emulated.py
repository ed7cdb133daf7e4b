"""Numerics that the board does not have, emulated in floating point on the host.

A `Numerics` says how the operands of a layer are rounded; `emulate` gives it to every convolution and linear layer of
a model in place of the board's own. Their products are computed in floating point on rounded numbers, as in the code
that the papers were measured with, and are charged to the board as if it had executed them at their widths: the
computational cost of a run compares, cycles and traffic are absent. The base class rounds nothing: plain floating
point.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from array_api_compat import array_namespace

from host.arrays import Array, match
from host.emulation import float_conv
from host.nn.float_layers import BatchNorm2d
from host.nn.layers import Context, Conv2d, Layer, Linear
from host.nn.mobilenet import DepthwiseConv2d
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
        """What takes the place of a batch norm."""
        return layer


class _Emulated(Layer):
    """A layer with one weight, of a convolution (M, C, kh, kw), whose operands are rounded by `numerics`."""

    def __init__(self, layer: Conv2d | Linear, numerics: Numerics):
        super().__init__()
        self.numerics, self.min_bits = numerics, layer.min_bits
        self.depthwise = isinstance(layer, DepthwiseConv2d)
        self.params = layer.params
        self.buffers = {name: match(array, layer.params["weight"]) for name, array in numerics.buffers().items()}

    def _forward(self, x: Array, w: Array, context: Context) -> Array:
        bits = self._precision(context).fw
        rx = self.numerics.activation(x, bits, self.buffers, context.training)
        rw = self.numerics.weight(w, bits)
        if context.training:
            self._operands = rx, rw
        y = float_conv.conv2d(rx.values, rw.values, **self._geometry())
        self._charge(context, y, rw, rx, rw)
        return y

    def _backward(self, dy: Array, context: Context, input_gradient: bool) -> tuple[Array, Array | None]:
        rx, rw = self._operands
        bits = self._precision(context).bw
        to_input, to_weight = self.numerics.gradient(dy, bits, context.rng)
        how = self._geometry()
        dw = float_conv.conv2d_weight_grad(to_weight.values, rx.values, rw.values.shape, **how)
        self._charge(context, dy, rw, to_weight, rx)
        dw = self.numerics.weight_gradient(rw.chain(dw), context.rng)
        if not input_gradient:
            return dw, None
        dx = float_conv.conv2d_input_grad(to_input.values, rw.values, rx.values.shape, **how)
        self._charge(context, dy, rw, to_input, rw)
        return dw, rx.chain(dx)

    def _precision(self, context: Context) -> Precision:
        return DepthwiseConv2d.PRECISION if self.depthwise else context.precision.at_least(self.min_bits)

    def _geometry(self) -> dict[str, int]:
        return {"stride": 1, "padding": 0}

    @staticmethod
    def _charge(context: Context, y: Array, weight: Rounded, a: Rounded, b: Rounded) -> None:
        """Charge one pass: each position of y (N, M, H', W') meets every element of the weight."""
        macs = y.shape[0] * prod(y.shape[2:]) * prod(weight.values.shape)
        context.board.charge(macs, a.bits, b.bits)


class EmulatedConv2d(_Emulated):
    """`Conv2d`, or a depthwise one, with other numerics; x (N, in, H, W) -> (N, out, H', W')."""

    def __init__(self, layer: Conv2d, numerics: Numerics):
        super().__init__(layer, numerics.at_edge() if layer.first else numerics)
        self.stride, self.padding, self.first = layer.stride, layer.padding, layer.first

    def _geometry(self) -> dict[str, int]:
        return {"stride": self.stride, "padding": self.padding, "depthwise": self.depthwise}

    def forward(self, x: Array, context: Context) -> Array:
        return self._forward(x, self.params["weight"], context)

    def backward(self, dy: Array, context: Context) -> Array | None:
        self.grads["weight"], dx = self._backward(dy, context, not self.first)
        return dx


class EmulatedLinear(_Emulated):
    """`Linear` with other numerics: a 1x1 convolution of an image of one pixel; x (N, in) -> (N, out)."""

    def __init__(self, layer: Linear, numerics: Numerics):
        super().__init__(layer, numerics.at_edge())

    def forward(self, x: Array, context: Context) -> Array:
        xp = array_namespace(x)
        w = xp.matrix_transpose(self.params["weight"])[:, :, None, None]
        return self._forward(x[:, :, None, None], w, context)[:, :, 0, 0] + self.params["bias"]

    def backward(self, dy: Array, context: Context) -> Array:
        xp = array_namespace(dy)
        self.grads["bias"] = xp.sum(dy, axis=0)
        dw, dx = self._backward(dy[:, :, None, None], context, True)
        self.grads["weight"] = xp.matrix_transpose(dw[:, :, 0, 0])
        return dx[:, :, 0, 0]


def emulate(model: Layer, numerics: Numerics) -> None:
    """Give `numerics` to all convolutions, linear layers and batch norms inside `model`, which keep their arrays."""
    for name, child in list(model.children.items()):
        if isinstance(child, Conv2d):
            new: Layer = EmulatedConv2d(child, numerics)
        elif isinstance(child, Linear):
            new = EmulatedLinear(child, numerics)
        elif isinstance(child, BatchNorm2d):
            new = numerics.norm(child)
        else:
            emulate(child, numerics)
            continue
        model.children[name] = new
        # Some containers hold a child under a name of their own as well.
        for attribute, value in list(vars(model).items()):
            if value is child:
                setattr(model, attribute, new)
