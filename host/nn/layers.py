"""Layers with explicit forward and backward: the base class, containers, and the layers that run on a board.

Every product of all three passes goes to the board, and is declared by `trace`; the layers of `host.nn.float_layers`
are computed on the host. A layer never knows the training schedule: each call receives a `Context` that carries the
precision of this very step, and a container may hand a different one to each of its layers.

Arrays follow the array API standard; images are NCHW, weights OIHW, both in the floating-point dtype of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace

from host.board import Board
from host.nn.mixed import MixedPrecision
from host.nn.products import Convolution, Kind, Matrix, Product, Shape
from host.qtensor import QTensor
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
    probe : called by the backward of each product that has an input gradient and the precision of the call, with its
        input before rounding, that gradient and whether the input is signed; the same in forward and backward.
    share : part of a batch that this call is: so much of their momentum do running statistics move by.
    cost_weight : weight of `host.nn.gated`'s cost in the loss, for each percent of cp; needed by backward alone.
    """

    board: Board
    precision: Precision | MixedPrecision
    training: bool = True
    rng: np.random.Generator | None = None
    probe: Callable[[Array, Array, bool], None] | None = None
    share: float = 1.0
    cost_weight: float = 0.0


class Layer:
    """A differentiable function with parameters.

    Subclasses implement `forward(x, context)`, `backward(dy, context)` and `trace(shape)`; backward returns the
    gradient at the input of the latest training forward, or None where nothing below needs it, and fills `grads`.

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

    def backward(self, dy: Array, context: Context) -> Array:
        raise TypeError(f"{type(self).__name__} defines no backward pass")

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        """Shape of the output for an input of `shape`, both without the batch, and the products on the way to it."""
        raise TypeError(f"{type(self).__name__} declares no products")

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


class SameShape(Layer):
    """A layer of the host whose output has the shape of its input."""

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        return shape, []


class Sequential(Layer):
    """Layers one after the other."""

    def __init__(self, **children: Layer):
        super().__init__()
        self.children = children

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        found: list[Product] = []
        for name, child in self.children.items():
            shape, products = child.trace(shape)
            found += [product.inside(name) for product in products]
        return shape, found

    def forward(self, x: Array, context: Context) -> Array:
        for child in self.children.values():
            x = child.forward(x, context)
        return x

    def backward(self, dy: Array, context: Context) -> Array:
        for child in reversed(self.children.values()):
            dy = child.backward(dy, context)
        return dy


class Residual(Layer):
    """body(x) + shortcut(x); the shortcut is the identity where None is given."""

    def __init__(self, body: Layer, shortcut: Layer | None = None):
        super().__init__()
        self.children = {"body": body} | ({"shortcut": shortcut} if shortcut else {})

    @property
    def body(self) -> Layer:
        return self.children["body"]

    @property
    def shortcut(self) -> Layer | None:
        return self.children.get("shortcut")

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        out, products = self.body.trace(shape)
        beside, around = (shape, []) if self.shortcut is None else self.shortcut.trace(shape)
        if out != beside:
            raise ValueError(f"the body of a residual block gives {out}, its shortcut {beside}")
        found = [product.inside("body") for product in products]
        return out, found + [replace(product.inside("shortcut"), always=True) for product in around]

    def forward(self, x: Array, context: Context) -> Array:
        return self.body.forward(x, context) + (self.shortcut.forward(x, context) if self.shortcut else x)

    def backward(self, dy: Array, context: Context) -> Array:
        return self.body.backward(dy, context) + (self.shortcut.backward(dy, context) if self.shortcut else dy)


class ProductLayer(Layer):
    """A layer whose product of input and weight runs on the board; a bias of features (N, M) is added on the host.

    Forward multiplies Q_f(x) x Q_f(w). Backward rounds dy once, stochastically, to `bw` bits and multiplies the same
    codes with the codes of w (input gradient) and of x (weight gradient): FracTrain, section 3.1.

    Where the precision differs between samples, x is rounded with one range, dy with one range for each run of samples
    of equal precision; each run has its own backward products, whose weight gradients are added up in floating point.

    Parameters
    ----------
    kind : the product.
    weight : initial weight.
    first : no input gradient is computed, and the input may be negative.
    min_bits : no operand of this layer is narrower, whatever the schedule says.
    """

    #: Whether the input may be negative, in a subclass; that of a `first` layer always may.
    signed = False
    #: The precision of a subclass that keeps its own.
    fixed: Precision | None = None
    #: Whether the layer is always the first or the last of a network, where some methods round otherwise.
    edge = False

    def __init__(self, kind: Kind, weight: Array, *, first: bool = False, min_bits: int = 2):
        super().__init__()
        self.kind, self.first, self.min_bits = kind, first, min_bits
        self.params["weight"] = weight
        self._rounded: tuple[Array, QTensor] | None = None

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        product = Product(
            "",
            self.kind,
            tuple(shape),
            tuple(self.params["weight"].shape),
            first=self.first,
            signed=self.first or self.signed,
            min_bits=self.min_bits,
            fixed=self.fixed,
        )
        return product.out, [product]

    def forward(self, x: Array, context: Context) -> Array:
        y = self._multiply(x, context)
        return y + self.params["bias"] if "bias" in self.params else y

    def backward(self, dy: Array, context: Context) -> Array:
        if "bias" in self.params:
            self.grads["bias"] = array_namespace(dy).sum(dy, axis=0)
        return self._gradients(dy, context)

    def _precision(self, context: Context) -> Precision | MixedPrecision:
        return self.fixed or context.precision.at_least(self.min_bits)

    def _rounded_weight(self, bits: int) -> QTensor:
        """The same tensor as long as weight and width stay, as in an evaluation: a board may have kept its bytes."""
        weight = self.params["weight"]
        if self._rounded is None or self._rounded[0] is not weight or self._rounded[1].bits != bits:
            self._rounded = weight, quantise(weight, bits, signed=True)
        return self._rounded[1]

    def _multiply(self, x: Array, context: Context) -> Array:
        """The product for forward."""
        precision = self._precision(context)
        qx = quantise(x, precision.activations, signed=self.first or self.signed)
        qw = self._rounded_weight(precision.weight_bits)
        if context.training:
            self._operands = precision, qx, qw
            self._probed = None if context.probe is None or self.fixed else x
        return rescale(self.kind.forward(context.board, qx, qw), qx.scale * qw.scale, like=x)

    def _gradients(self, dy: Array, context: Context) -> Array:
        """The products for backward: fills the gradient at the weight, returns that at the input."""
        precision, qx, qw = self._operands
        board, kind = context.board, self.kind
        qg = quantise(dy, precision.gradients, signed=True, rng=context.rng, own_ranges=True)
        runs = list(zip(qg.parts(), qx.parts(), strict=True))
        self.grads["weight"] = rescale_sum(
            [(kind.weight_grad(board, g, x, qw.shape), g.scale * x.scale) for g, x in runs], like=dy
        )
        if self.first:
            return None
        dx = rescale_runs([(kind.input_grad(board, g, qw, x.shape), g.scale * qw.scale) for g, x in runs], like=dy)
        if self._probed is not None and context.probe is not None:
            context.probe(self._probed, dx, self.signed)
        return dx


class Conv2d(ProductLayer):
    """Convolution without bias; x (N, in, H, W) -> (N, out, H', W'), not negative unless it is the `first` layer's.

    Parameters
    ----------
    in_channels, out_channels, kernel, stride : geometry; the padding is kernel // 2.
    rng : initial weights, float32, from N(0, 2 / (kernel**2 * out_channels)) as in the paper's code.
    first, min_bits : see `ProductLayer`.
    """

    #: The kind of product, made from stride and padding.
    of_kind: type[Convolution] = Convolution

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
        shape = (out_channels, in_channels, kernel, kernel)
        weight = _normal(rng, shape, 2 / (kernel * kernel * out_channels))
        super().__init__(self.of_kind(stride, kernel // 2), weight, first=first, min_bits=min_bits)
        self.edge = first


class Linear(ProductLayer):
    """Fully connected layer, its bias on the host; non-negative x (N, in) -> (N, out).

    Initial weights float32 from N(0, 2 / (in * out)) as in the paper's code.
    """

    edge = True

    def __init__(self, in_features: int, out_features: int, *, rng: np.random.Generator, min_bits: int = 2):
        weight = _normal(rng, (in_features, out_features), 2 / (in_features * out_features))
        super().__init__(Matrix(), weight, min_bits=min_bits)
        self.params["bias"] = np.zeros(out_features, np.float32)


def _normal(rng: np.random.Generator, shape: Shape, variance: float) -> np.ndarray:
    """Initial weights, float32."""
    return (np.sqrt(variance) * rng.standard_normal(shape)).astype(np.float32)
