"""A network as the device step sees it: blocks of convolutions with batch norm, and a head on the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from host.nn.float_layers import BatchNorm2d, GlobalAvgPool2d, ReLU
from host.nn.gate import Gate
from host.nn.gated import Gated, GatedNetwork
from host.nn.layers import Conv2d, Layer, Linear, Residual, Sequential
from host.nn.products import Convolution
from host.quantise import Precision

_L = TypeVar("_L", bound=Layer)


@dataclass(frozen=True, eq=False)
class Normed:
    """A convolution and its batch norm; `name` is the convolution's full name, `number` counts them."""

    name: str
    number: int
    conv: Conv2d
    norm: BatchNorm2d

    def precision(self, scheduled: Precision) -> Precision:
        """The precision that the convolution has when the schedule says `scheduled`."""
        return scheduled.at_least(self.conv.min_bits)

    @property
    def product(self) -> Convolution:
        """What it computes."""
        assert isinstance(self.conv.kind, Convolution)
        return self.conv.kind

    @property
    def kernel(self) -> tuple[int, int, int, int]:
        """Shape of its weights (M, C, kh, kw)."""
        rows, channels, height, width = self.conv.params["weight"].shape
        return rows, channels, height, width

    @property
    def terms(self) -> tuple[int, int]:
        """Products in a sum of the forward pass and in one of the input gradient."""
        rows, channels, height, width = self.kernel
        return channels * height * width, rows * height * width


@dataclass(frozen=True, eq=False)
class Block:
    """relu(body(x) + shortcut(x)), the body being convolutions with ReLUs between; without a sum relu(body(x)).

    Attributes
    ----------
    body : its convolutions, one at least.
    adds : whether there is a sum.
    shortcut : its convolution; None for the identity, or without a sum.
    gated : what chooses the precision of its samples, if they have their own.
    """

    body: tuple[Normed, ...]
    adds: bool = False
    shortcut: Normed | None = None
    gated: Gated | None = None

    @property
    def name(self) -> str:
        return self.body[-1].name

    @property
    def adds_input(self) -> bool:
        """Whether its input itself is added."""
        return self.adds and self.shortcut is None

    @property
    def skips(self) -> bool:
        """Whether samples may leave the body out."""
        return self.gated is not None and None in self.gated.options

    def widest(self, scheduled: Precision) -> Precision:
        """The precision whose operands hold those of all samples, when the schedule says `scheduled`."""
        if self.gated is None:
            return scheduled
        options = [option for option in self.gated.options if option]
        return Precision(max(each.fw for each in options), max(each.bw for each in options), options[0].weight_bits)


@dataclass(frozen=True, eq=False)
class Network:
    """Blocks in order, then the mean over each image and a fully connected layer."""

    blocks: tuple[Block, ...]
    head: Linear
    gate: Gate | None = None

    @classmethod
    def of(cls, model: Layer) -> Network:
        """The network that a model is.

        Raises
        ------
        ValueError
            If the device step does not know it; the message names the layer.
        """
        return _Reader(model).network

    @property
    def convolutions(self) -> Iterator[Normed]:
        for block in self.blocks:
            yield from block.body
            if block.shortcut:
                yield block.shortcut


class _Reader:
    """Reads a model's layers in order."""

    def __init__(self, model: Layer):
        self._count = 0
        if not isinstance(model, Sequential | GatedNetwork):
            raise _unknown("the model", model, "a sequence of layers")
        gate = model.gate if isinstance(model, GatedNetwork) else None
        layers = [(name, layer) for name, layer in model.children.items() if layer is not gate]
        blocks = []
        while layers and isinstance(layers[0][1], Conv2d | Residual | Gated):
            (name, layer), gated = layers[0], None
            if isinstance(layer, Gated):
                name, layer, gated = f"{name}.block", layer.block, layer
            if isinstance(layer, Residual):
                blocks.append(self._residual(name, layer, gated))
                layers = layers[1:]
            else:
                blocks.append(Block((self._normed([(name, layer), *layers[1:]], ""),), gated=gated))
                layers = layers[2:]
            _expect(layers, 0, ReLU, name)
            layers = layers[1:]
        _expect(layers, 0, GlobalAvgPool2d, "the convolutions")
        head = _expect(layers, 1, Linear, "the pooling")
        if len(layers) > 2 or not blocks:
            raise _unknown(*(layers[2:] or layers)[0], "convolutions, pooling and one linear layer")
        if blocks[0].adds or not blocks[0].body[0].conv.first:
            raise _unknown(*next(iter(model.children.items())), "a convolution of the image")
        self.network = Network(tuple(blocks), head, gate)

    def _residual(self, name: str, layer: Residual, gated: Gated | None) -> Block:
        body = self._chain(f"{name}.body.", layer.body)
        if layer.shortcut is None:
            return Block(body, adds=True, gated=gated)
        around = self._chain(f"{name}.shortcut.", layer.shortcut)
        if len(around) != 1:
            raise ValueError(f"--step device knows shortcuts of one convolution, {name} has {len(around)}")
        return Block(body, adds=True, shortcut=around[0], gated=gated)

    def _chain(self, prefix: str, layer: Layer) -> tuple[Normed, ...]:
        """Convolutions with batch norm, and ReLUs between them."""
        if not isinstance(layer, Sequential):
            raise _unknown(prefix.rstrip("."), layer, "a sequence of layers")
        layers = list(layer.children.items())
        found = [self._normed(layers, prefix)]
        while len(layers) > 2:
            _expect(layers, 2, ReLU, prefix + layers[0][0])
            layers = layers[3:]
            found.append(self._normed(layers, prefix))
        return tuple(found)

    def _normed(self, layers: list[tuple[str, Layer]], prefix: str) -> Normed:
        """The convolution and the batch norm that `layers` begin with."""
        conv = _expect(layers, 0, Conv2d, prefix)
        norm = _expect(layers, 1, BatchNorm2d, prefix + layers[0][0])
        self._count += 1
        return Normed(prefix + layers[0][0], self._count - 1, conv, norm)


def _expect(layers: list[tuple[str, Layer]], place: int, kind: type[_L], after: str) -> _L:
    """The layer at `place`, which must be exactly of a kind: a subclass computes something else."""
    if len(layers) <= place:
        raise ValueError(f"--step device expects a {kind.__name__} behind {after}, where the network ends")
    name, layer = layers[place]
    if type(layer) is not kind:
        raise _unknown(name, layer, f"a {kind.__name__} behind {after}")
    return layer


def _unknown(name: str, layer: Layer, want: str) -> ValueError:
    return ValueError(f"--step device does not know layer {name} ({type(layer).__name__}); it expects {want}")
