"""Networks with gates for the tests: samples that choose what a test says, and gates that make samples differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array
from host.nn.float_layers import BatchNorm2d
from host.nn.gate import FEATURES
from host.nn.gated import Gated, GatedNetwork, add_gates
from host.nn.layers import Context, Layer
from host.nn.mixed import Option
from host.nn.models import build_model


class Chosen(Layer):
    """Stands in for a gate: every sample gets its option with certainty; keeps the gradient at the probabilities."""

    def __init__(self, choice: Sequence[int], options: int):
        super().__init__()
        self._p = np.eye(options)[list(choice)]
        self.gradient = None

    def forward(self, x, context):
        return array_namespace(x).asarray(self._p, dtype=x.dtype, device=device(x))

    def backward(self, dy, context):
        self.gradient = dy
        return array_namespace(dy).zeros((dy.shape[0], FEATURES), dtype=dy.dtype, device=device(dy))


def dictate(network: GatedNetwork) -> GatedNetwork:
    """Let the samples of a batch take the options of a block in turn, another one first in each block.

    The gates are asked and taught all the same.
    """
    for number, block in enumerate(network.blocks.values()):
        block.choose = partial(_in_turn, block.choose, block, number)
    return network


def _in_turn(ask: Callable[[Array, Context], Array], block: Gated, first: int, x: Array, context: Context) -> Array:
    p = ask(x, context)
    block.choice = (np.arange(x.shape[0]) + first) % len(block.options)
    return p


def gated_block(
    choice: Sequence[int], options: Sequence[Option], rng: np.random.Generator, *, projects: bool = False
) -> Gated:
    """A basic block of 16 channels; where it `projects` to 32 channels of half the size, with a shortcut."""
    blocks = build_model("resnet8", (3, 8, 8), 10, seed=int(rng.integers(1 << 32)), edge_bits=8).children
    block = blocks["group2_block1" if projects else "group1_block1"]
    return Gated(block, Chosen(choice, len(options)), options, 16, rng=rng)


def gated_resnet(options: Sequence[Option], rng: np.random.Generator) -> GatedNetwork:
    """ResNet-8 for images of 3 x 8 x 8."""
    model = build_model("resnet8", (3, 8, 8), 10, seed=int(rng.integers(1 << 32)), edge_bits=8)
    return add_gates(model, (3, 8, 8), options, rng=rng)


def images(rng: np.random.Generator, shape: tuple[int, ...], *, signed: bool = True) -> np.ndarray:
    """Samples of quite different magnitude and mean, (N, C, H, W), float32: a range of their own would show."""
    x = rng.standard_normal(shape) * np.exp(rng.uniform(-2, 2, (shape[0], 1, 1, 1)))
    x = x + 2 * rng.standard_normal((*shape[:2], 1, 1))
    return (x if signed else np.maximum(x, 0)).astype(np.float32)


def make_choosy(network: GatedNetwork, x: np.ndarray, context: Context, rng: np.random.Generator) -> None:
    """Give the gates parameters with which samples of `x` differ in every block, and use every option somewhere.

    Batch norms get offsets: without them, the mean of a few whole numbers being one of them, a ReLU may have to tell
    the sign of a zero, and that depends on the order of a sum.
    """
    for _, layer in network.walk():
        if isinstance(layer, BatchNorm2d):
            offset = layer.params["offset"]
            layer.params["offset"] = (0.3 * rng.standard_normal(offset.shape)).astype(offset.dtype)
    projections = [block.projection for block in network.blocks.values()]
    for _ in range(1000):
        for layer in [network.gate, *projections]:
            for name, array in layer.params.items():
                layer.params[name] = (3 * rng.standard_normal(array.shape)).astype(array.dtype)
        network.forward(x, context)
        counts = np.array(list(network.counts().values()))
        if np.all(np.sum(counts > 0, axis=1) >= min(3, counts.shape[1])) and np.all(np.sum(counts, axis=0) > 0):
            return
    raise AssertionError("no gates were found whose samples differ")


def gradients(layer: Layer) -> dict[str, np.ndarray]:
    """Gradients of all parameters by full name."""
    return {prefix + name: array for prefix, inner in layer.walk() for name, array in inner.grads.items()}
