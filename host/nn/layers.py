"""Layers with explicit forward and backward: the base class, containers, and the layers that run on a board.

Every convolution and matrix product of all three passes goes through `host.ops` to the board; the layers of
`host.nn.float_layers` are computed on the host. A layer never knows the training schedule: each call receives a
`Context` that carries the precision of this very step, and a container may hand a different one to each of its layers.

Arrays follow the array API standard; images are NCHW, weights OIHW, both in the floating-point dtype of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from array_api_compat import array_namespace

from host import ops
from host.board import Board
from host.nn.mixed import MixedPrecision
from host.quantise import Array, Precision, quantise, rescale, rescale_runs, rescale_sum


@dataclass(frozen=True)
class Context:
    """What one pass through a model needs beside the data.

    Attributes
    ----------
    board : the board that runs convolutions and matrix products.
    precision : operand widths of this call, of all samples or of each.
    training : batch statistics and a cache for backward if true; running statistics and no cache if false.
    rng : noise of the stochastic rounding of gradients; needed by backward alone.
    probe : called by the backward of each convolution that has an input gradient with its input before rounding, that
        gradient and whether the input is signed; the same in forward and backward.
    cost_weight : weight of `host.nn.gated`'s cost in the loss, for each percent of cp; needed by backward alone.
    """

    board: Board
    precision: Precision | MixedPrecision
    training: bool = True
    rng: np.random.Generator | None = None
    probe: Callable[[Array, Array, bool], None] | None = None
    cost_weight: float = 0.0


class Layer:
    """A differentiable function with parameters.

    Subclasses implement `forward(x, context)` and `backward(dy, context)`; backward returns the gradient at the input
    of the latest training forward, or None where nothing below needs it, and fills `grads`.

    Attributes
    ----------
    params : trained arrays by name. Steps replace an array, they never write into it: a reference is a snapshot.
    grads : their gradients after backward, same names and shapes.
    buffers : arrays that forward updates and that belong to the model's state (running statistics).
    children : layers inside this one, by name.
    """

    #: Whether the layer is part of a controller, which has to follow its target until the end of the run.
    controls = False

    def __init__(self):
        self.params: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.children: dict[str, Layer] = {}

    def forward(self, x: Array, context: Context) -> Array:
        raise TypeError(f"{type(self).__name__} defines no forward pass")

    def backward(self, dy: Array, context: Context) -> Array | None:
        raise TypeError(f"{type(self).__name__} defines no backward pass")

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all layers inside it, with the prefix of their arrays' full names."""
        yield prefix, self
        for name, child in self.children.items():
            yield from child.walk(f"{prefix}{name}.")

    def state(self) -> dict[str, Array]:
        """All parameters and buffers by full name, such as `block1.conv2.weight`; references, not copies."""
        return {prefix + name: array for prefix, layer in self.walk() for name, array in layer.arrays().items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace all parameters and buffers.

        Raises
        ------
        ValueError
            If names or shapes are not this model's; the message names the first that differ.
        """
        own = self.state()
        if own.keys() != state.keys():
            strange = sorted(own.keys() ^ state.keys())
            raise ValueError(f"state of another model: {', '.join(strange[:4])} not in both")
        for name, array in state.items():
            if tuple(array.shape) != tuple(own[name].shape):
                raise ValueError(
                    f"state of another model: {name} is {tuple(array.shape)}, not {tuple(own[name].shape)}"
                )
        for prefix, layer in self.walk():
            for arrays in (layer.params, layer.buffers):
                for name in arrays:
                    arrays[name] = state[prefix + name]

    def arrays(self) -> dict[str, Array]:
        """Parameters and buffers of this layer alone."""
        return self.params | self.buffers


class Sequential(Layer):
    """Layers one after the other."""

    def __init__(self, **children: Layer):
        super().__init__()
        self.children = children

    def forward(self, x: Array, context: Context) -> Array:
        for child in self.children.values():
            x = child.forward(x, context)
        return x

    def backward(self, dy: Array, context: Context) -> Array | None:
        for child in reversed(self.children.values()):
            dy = child.backward(dy, context)
        return dy


class Residual(Layer):
    """body(x) + shortcut(x); the shortcut is the identity where None is given."""

    def __init__(self, body: Layer, shortcut: Layer | None = None):
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self.children = {"body": body} | ({"shortcut": shortcut} if shortcut else {})

    def forward(self, x: Array, context: Context) -> Array:
        return self.body.forward(x, context) + (self.shortcut.forward(x, context) if self.shortcut else x)

    def backward(self, dy: Array, context: Context) -> Array:
        return self.body.backward(dy, context) + (self.shortcut.backward(dy, context) if self.shortcut else dy)


class Conv2d(Layer):
    """Convolution without bias on the board; x (N, in, H, W) -> (N, out, H', W').

    Forward multiplies Q_f(x) x Q_f(w). Backward rounds dy once, stochastically, to `bw` bits and multiplies the same
    codes with the codes of w (input gradient) and of x (weight gradient): FracTrain, section 3.1. The first layer of a
    network (`first=True`) takes a signed image and computes no input gradient.

    Where the precision differs between samples, x is rounded with one range, dy with one range for each run of samples
    of equal precision; each run has its own backward products, whose weight gradients are added up in floating point.

    Parameters
    ----------
    in_channels, out_channels, kernel, stride : geometry; the padding is kernel // 2.
    rng : initial weights, float32, from N(0, 2 / (kernel**2 * out_channels)) as in the paper's code.
    min_bits : no operand of this layer is narrower, whatever the schedule says.
    """

    #: Whether the input may be negative, in a subclass; that of a `first` one always may.
    signed = False
    #: Multiply-accumulates of one sample's forward pass at the precision of the call, known after the first one.
    macs = 0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        rng: np.random.Generator,
        first: bool = False,
        min_bits: int = 2,
    ):
        super().__init__()
        self.stride, self.padding, self.first, self.min_bits = stride, kernel // 2, first, min_bits
        shape = (out_channels, in_channels, kernel, kernel)
        deviation = np.sqrt(2 / (kernel * kernel * out_channels))
        self.params["weight"] = (deviation * rng.standard_normal(shape)).astype(np.float32)

    def forward(self, x: Array, context: Context) -> Array:
        precision = context.precision.at_least(self.min_bits)
        qx = quantise(x, precision.activations, signed=self.first or self.signed)
        qw = quantise(self.params["weight"], precision.weight_bits, signed=True)
        if context.training:
            self._operands = precision, qx, qw
            self._input = None if context.probe is None else x
        y = ops.conv2d(context.board, qx, qw, self.stride, self.padding)
        self.macs = prod(y.shape[2:]) * prod(qw.shape)
        return rescale(y, qx.scale * qw.scale, like=x)

    def backward(self, dy: Array, context: Context) -> Array | None:
        precision, qx, qw = self._operands
        qg = quantise(dy, precision.gradients, signed=True, rng=context.rng, own_ranges=True)
        board, how = context.board, {"stride": self.stride, "padding": self.padding}
        runs = list(zip(qg.parts(), qx.parts(), strict=True))
        self.grads["weight"] = rescale_sum(
            [(ops.conv2d_weight_grad(board, g, x, qw.shape, **how), g.scale * x.scale) for g, x in runs],
            like=dy,
        )
        if self.first:
            return None
        dx = rescale_runs(
            [(ops.conv2d_input_grad(board, g, qw, x.shape, **how), g.scale * qw.scale) for g, x in runs],
            like=dy,
        )
        if self._input is not None:
            context.probe(self._input, dx, self.signed)
        return dx


class Linear(Layer):
    """Fully connected layer on the board, its bias on the host; non-negative x (N, in) -> (N, out).

    Operands and precision as in `Conv2d`. Initial weights float32 from N(0, 2 / (in * out)) as in the paper's code.
    """

    def __init__(self, in_features: int, out_features: int, *, rng: np.random.Generator, min_bits: int = 2):
        super().__init__()
        self.min_bits = min_bits
        deviation = np.sqrt(2 / (in_features * out_features))
        self.params["weight"] = (deviation * rng.standard_normal((in_features, out_features))).astype(np.float32)
        self.params["bias"] = np.zeros(out_features, np.float32)

    def forward(self, x: Array, context: Context) -> Array:
        bits = context.precision.at_least(self.min_bits).fw
        qx = quantise(x, bits, signed=False)
        qw = quantise(self.params["weight"], bits, signed=True)
        if context.training:
            self._operands = qx, qw
        return rescale(ops.matmul(context.board, qx, qw), qx.scale * qw.scale, like=x) + self.params["bias"]

    def backward(self, dy: Array, context: Context) -> Array:
        xp = array_namespace(dy)
        qx, qw = self._operands
        qg = quantise(dy, context.precision.at_least(self.min_bits).bw, signed=True, rng=context.rng)
        self.grads["bias"] = xp.sum(dy, axis=0)
        dw = ops.matmul(context.board, qx.transpose(), qg)
        self.grads["weight"] = rescale(dw, qx.scale * qg.scale, like=dy)
        dx = ops.matmul(context.board, qg, qw.transpose())
        return rescale(dx, qg.scale * qw.scale, like=dy)
