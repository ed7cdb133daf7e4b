"""Dynamic fractional quantisation (DFQ): networks whose samples choose the precision of each block for themselves.

FracTrain (arXiv 2012.13113), section 3.2, executed as a device can: only the chosen option runs. The samples of a batch
are sorted by option when they enter a block, so that samples of equal precision lie next to each other, and go back to
their places after it. One decision sets the widths of activations and gradients; the weights have a width of their
own. Batch norm sees the whole mixed batch.

With p the probabilities and k the options, each convolution's input counts as sum_k mask_k * Q_k(x), where
mask = hard - constant(p) + p is the hard decision with the gradient of p. So d loss / d mask_k is the product of the
input gradient with Q_k(x), for every option and without a further convolution: the form of FracTrain's code for
ImageNet. An option that skips the block counts as the factor 0 of the body's result, all others as the factor 1 (the
paper's equation 1); a sample that skips teaches nothing but its cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array, to_numpy
from host.nn.gate import Gate, Projection
from host.nn.layers import Context, Layer, Residual, Sequential
from host.nn.mixed import MixedPrecision, Option, option_cp
from host.nn.products import Product, Shape, gated_products
from host.quantise import Precision, quantise


class Probe:
    """Adds up what the convolutions of a block say about d loss / d mask.

    Parameters
    ----------
    widths : activation bits of each option; None for one whose input counts as 0.
    total : the sum so far, (samples, options).
    """

    def __init__(self, widths: Sequence[int | None], total: Array):
        self.widths, self.total = widths, total

    def __call__(self, x: Array, dx: Array, signed: bool) -> None:
        """Take the input of a convolution before rounding, the gradient there, and whether the input is signed."""
        xp = array_namespace(dx)
        products: dict[int | None, Array] = {None: xp.zeros_like(dx[:, 0, 0, 0])}
        for bits in {bits for bits in self.widths if bits is not None}:
            rounded = quantise(x, bits, signed=signed)
            products[bits] = xp.sum(dx * rounded.codes, axis=(1, 2, 3)) * rounded.scale
        self.total = self.total + xp.stack([products[bits] for bits in self.widths], axis=1)


@dataclass(frozen=True)
class _Part:
    """What the body or the shortcut of a block gets in both passes."""

    runs: tuple[tuple[Precision, int], ...]
    probe: Probe

    def of(self, context: Context) -> Context:
        return replace(context, precision=MixedPrecision(self.runs), probe=self.probe)


@dataclass(frozen=True)
class _Route:
    """Which way the samples of a batch take through a block: where they come from, and how many enter the body."""

    places: Array
    back: Array
    active: int
    body: _Part
    shortcut: _Part


class Gated(Layer):
    """A block behind a gate: a residual block, or any layer that keeps its samples apart but for batch norm.

    Parameters
    ----------
    block : the layer; its convolutions take their precision from the context.
    gate : the gate that all blocks of the network share; it belongs to the network.
    options : what a sample may choose. None, for `Residual` only, leaves the shortcut, whose convolution then runs at
        the precision of the most expensive option: it is all that such a sample has.
    channels : of the block's input.
    share : the block's part of the multiply-accumulates whose precision gates decide.

    Attributes
    ----------
    choice : option of each sample of the latest forward, (N,).
    costs : `host.nn.mixed.option_cp` of each option.
    widest : the most expensive option.
    order : numbers of the options, in the order in which their samples enter the block: skips last.
    """

    def __init__(
        self,
        block: Layer,
        gate: Gate,
        options: Sequence[Option],
        channels: int,
        *,
        rng: np.random.Generator,
        share: float = 1.0,
    ):
        super().__init__()
        self.gate, self.options = gate, tuple(options)
        self.projection = Projection(channels, rng=rng)
        self.children = {"block": block, "projection": self.projection}
        self.share = share
        self.choice = np.zeros(0, np.int64)
        self.costs = [option_cp(option) for option in self.options]
        self.widest = max(filter(None, self.options), key=option_cp)
        self.order = sorted(range(len(self.options)), key=lambda k: _place(self.options[k]))

    @property
    def block(self) -> Layer:
        return self.children["block"]

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        out, products = self.block.trace(shape)
        return out, [product.inside("block") for product in products]

    def forward(self, x: Array, context: Context) -> Array:
        xp = array_namespace(x)
        route = self._route(self.choose(x, context))
        x = xp.take(x, route.places, axis=0)
        changed = None
        if not isinstance(self.block, Residual):
            y = changed = self.block.forward(x, route.body.of(context))
        else:
            if route.active:
                changed = self.block.body.forward(x[: route.active, ...], route.body.of(context))
            y = x if self.block.shortcut is None else self.block.shortcut.forward(x, route.shortcut.of(context))
            y = _add_first(y, changed)
        if context.training:
            self._cache = route, changed if None in self.options else None
        return xp.take(y, route.back, axis=0)

    def choose(self, x: Array, context: Context) -> Array:
        """Set `choice` from the block's input, or its means as (N, C, 1, 1); the probabilities (N, options)."""
        p = self.gate.forward(self.projection.forward(x, context), context)
        self.choice = np.argmax(to_numpy(p), axis=1)  # of equal ones the first
        return p

    def teach(self, dmask: Array, context: Context) -> Array:
        """Backward of `choose`: `dmask` (N, options) is what the block says of d loss / d mask, without the cost."""
        xp = array_namespace(dmask)
        costs = xp.asarray(self.costs, dtype=dmask.dtype, device=device(dmask))
        dmask = dmask + context.cost_weight * self.share / dmask.shape[0] * costs
        return self.projection.backward(self.gate.backward(dmask, context), context)

    def _route(self, p: Array) -> _Route:
        """The way that `choice` means; `p` (N, options) has the library and the dtype of the arrays to come."""
        xp = array_namespace(p)
        order = np.argsort(np.argsort(self.order)[self.choice], kind="stable")
        counts = np.bincount(self.choice, minlength=len(self.options))
        runs = [(option, int(counts[k])) for k in self.order if counts[k] and (option := self.options[k])]
        active = sum(count for _, count in runs)
        widths = [None if option is None else option.fw for option in self.options]
        body = _Part(tuple(runs), Probe(widths, xp.zeros_like(p[:active, :])))
        if active < len(order):
            runs.append((self.widest, len(order) - active))
        all_widths = [self.widest.fw if width is None else width for width in widths]
        shortcut = _Part(tuple(runs), Probe(all_widths, xp.zeros_like(p)))
        places, back = (xp.asarray(index, device=device(p)) for index in (order, np.argsort(order)))
        return _Route(places, back, active, body, shortcut)

    def backward(self, dy: Array, context: Context) -> Array:
        xp = array_namespace(dy)
        route, changed = self._cache
        dy = xp.take(dy, route.places, axis=0)
        if not isinstance(self.block, Residual):
            dx = self.block.backward(dy, route.body.of(context))
        else:
            inner = None
            if route.active:
                inner = self.block.body.backward(dy[: route.active, ...], route.body.of(context))
            else:
                _clear_gradients(self.block.body)
            shortcut = self.block.shortcut
            dx = _add_first(dy if shortcut is None else shortcut.backward(dy, route.shortcut.of(context)), inner)
        dmask = _add_first(route.shortcut.probe.total, route.body.probe.total)
        if changed is not None:
            runs = xp.asarray([float(option is not None) for option in self.options], dtype=dy.dtype, device=device(dy))
            along = xp.sum(dy[: route.active, ...] * changed, axis=(1, 2, 3))
            dmask = _add_first(dmask, along[:, None] * runs)
        above = self.teach(xp.take(dmask, route.back, axis=0), context)
        return xp.take(dx, route.back, axis=0) + above


class GatedNetwork(Layer):
    """Layers one after the other, some of them `Gated`, and the gate that those share.

    Attributes
    ----------
    blocks : the gated ones by name.
    """

    def __init__(self, gate: Gate, layers: dict[str, Layer]):
        super().__init__()
        self._layers, self.gate = Sequential(**layers), gate
        self.children = {**layers, "gate": gate}
        self.blocks = {name: layer for name, layer in layers.items() if isinstance(layer, Gated)}

    def trace(self, shape: Shape) -> tuple[Shape, list[Product]]:
        return self._layers.trace(shape)

    def forward(self, x: Array, context: Context) -> Array:
        self.gate.reset(context)
        return self._layers.forward(x, context)

    def backward(self, dy: Array, context: Context) -> Array:
        return self._layers.backward(dy, context)

    def completed(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """`state` of the same layers without gates, with the gates as they are here; one that has gates stays."""
        if any(name.startswith("gate.") for name in state):
            return dict(state)
        own = {
            prefix + name: a for prefix, layer in self.walk() if layer.controls for name, a in layer.arrays().items()
        }
        inner = {}
        for name, array in state.items():
            block, _, rest = name.partition(".")
            inner[f"{block}.block.{rest}" if block in self.blocks else name] = array
        return own | inner

    def cp(self) -> float:
        """Cost of the latest forward's batch with its backward, in percent of that at 32 bits (FracTrain's cp).

        Over the gated blocks, weighted with their multiply-accumulates; the mean over the samples there were. A sample
        that skips a block counts nothing there, not even the convolution of a shortcut.
        """
        return sum(
            block.share * float(np.mean(np.asarray(block.costs)[block.choice])) for block in self.blocks.values()
        )

    def counts(self) -> dict[str, list[int]]:
        """Samples of the latest forward's batch by block and option."""
        return {
            name: np.bincount(block.choice, minlength=len(block.options)).tolist()
            for name, block in self.blocks.items()
        }


def add_gates(
    model: Sequential, image: tuple[int, int, int], options: Sequence[Option], *, rng: np.random.Generator
) -> GatedNetwork:
    """Put a gate before every block of `model`; all its layers and their arrays are kept.

    Which layers are blocks `host.nn.products.gated_products` says.

    Parameters
    ----------
    model : as built, its arrays in numpy.
    image : shape (C, H, W) of what it takes.
    rng : initial weights of the gates.

    Raises
    ------
    ValueError
        If an option skips blocks and a block has no shortcut; the message names it.
    """
    _, products = model.trace(image)
    blocks = gated_products(products)
    macs = {name: sum(p.macs for p in inside if not p.fixed) for name, inside in blocks.items()}
    total = sum(macs.values())
    gate = Gate(len(options), rng=rng)
    layers: dict[str, Layer] = {}
    for name, layer in model.children.items():
        if name in blocks:
            if None in options and not isinstance(layer, Residual):
                raise ValueError(f"option 0 skips blocks, but {name} of this model has no shortcut")
            channels = blocks[name][0].x[0]
            layer = Gated(layer, gate, options, channels, rng=rng, share=macs[name] / total)
        layers[name] = layer
    return GatedNetwork(gate, layers)


def _place(option: Option) -> tuple[int, int, int]:
    """Where samples of an option lie in a batch: equal widths of activations together, skips last."""
    return (1, 0, 0) if option is None else (0, option.fw, option.bw)


def _add_first(whole: Array, part: Array | None) -> Array:
    """`whole` with `part` added to its first samples, as many as there are; None adds nothing."""
    if part is None or not part.shape[0]:
        return whole
    count = part.shape[0]
    if count == whole.shape[0]:
        return whole + part
    return array_namespace(whole).concat([whole[:count, ...] + part, whole[count:, ...]])


def _clear_gradients(layer: Layer) -> None:
    """Gradients of zero: no sample of the batch went through the layer."""
    for _, inner in layer.walk():
        inner.grads = {name: array_namespace(array).zeros_like(array) for name, array in inner.params.items()}
