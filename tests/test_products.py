"""What layers declare is what they execute, and a layer with a product of its own needs nothing else to be known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
import references
from choices import images

from host import open_board, ops
from host.backends.modelled import Modelled
from host.bench import bench_network
from host.emulation.baselines import NUMERICS
from host.emulation.emulated import emulate
from host.nn.depthwise import Depthwise
from host.nn.float_layers import AvgPool2d, BatchNorm2d, GlobalAvgPool2d, MaxPool2d, ReLU
from host.nn.gated import add_gates
from host.nn.layers import Context, Conv2d, Layer, Linear, ProductLayer, Residual, Sequential
from host.nn.mixed import parse_options
from host.nn.mobilenet import DepthwiseConv2d, mobilenetv2
from host.nn.models import MODELS, build_model
from host.nn.products import Convolution, Kind, Matrix, Product, gated_products
from host.quantise import Precision
from host.training.cc import FULL, executed_cc, paper_cc
from host.training.workload import network, task

PRECISION = Precision(3, 6)
SMALL_MOBILENET = mobilenetv2(((1, 16, 1, 1), (2, 20, 2, 2), (2, 24, 1, 1)), stem=16, head=32)


@dataclass(frozen=True)
class Upsampling(Kind):
    """The product of this file: a transposed convolution, x (C, H, W), w (C, M, 3, 3) -> y (M, 2 * H, 2 * W)."""

    def out(self, x, w):
        return (w[1], 2 * x[1], 2 * x[2])

    def macs(self, x, w):
        return prod(x) * prod(w[1:])

    def forward(self, board, x, w):
        return ops.conv2d_input_grad(board, x, w, (x.shape[0], *self.out(x.shape[1:], w.shape)), 2, 1)

    def input_grad(self, board, g, w, x):
        return ops.conv2d(board, g, w, 2, 1)

    def weight_grad(self, board, g, x, w):
        return ops.conv2d_weight_grad(board, x, g, w, 2, 1)


def upsampling(channels: int, rows: int, rng: np.random.Generator) -> ProductLayer:
    return ProductLayer(Upsampling(), 0.2 * rng.standard_normal((channels, rows, 3, 3)).astype(np.float32))


def build_own(image, classes, *, rng, edge_bits):
    return Sequential(
        conv=Conv2d(image[0], 6, stride=2, rng=rng, first=True, min_bits=edge_bits),
        relu=ReLU(),
        up=upsampling(6, 5, rng),
        up_relu=ReLU(),
        depth=DepthwiseConv2d(5, rng=rng),
        depth_relu=ReLU(),
        pool=GlobalAvgPool2d(),
        fc=Linear(5, classes, rng=rng, min_bits=edge_bits),
    )


@pytest.fixture
def own(monkeypatch) -> list[Product]:
    """The products of a network with the layer of this file, entered under the name `own` and nowhere else."""
    monkeypatch.setitem(MODELS, "own", build_own)
    return network("own", (3, 8, 8), 10, edge_bits=4)


def test_a_new_product_is_in_the_workload(own, rng):
    assert [(product.name, product.x, product.out) for product in own] == [
        ("conv", (3, 8, 8), (6, 4, 4)),
        ("up", (6, 4, 4), (5, 8, 8)),
        ("depth", (5, 8, 8), (5, 8, 8)),
        ("fc", (5,), (10,)),
    ]
    up = own[1]
    for which in up.passes:
        board = open_board("golden")
        task(up, which, 2, PRECISION, rng)(board)
        macs = 2 * 6 * 16 * 5 * 9
        assert (board.macs, board.bit_macs) == (macs, macs * {"forward": 3 * 3}.get(which, 3 * 6))


def test_a_new_product_has_its_cost(own):
    macs = [6 * 16 * 27, 6 * 16 * 5 * 9, 5 * 64 * 9, 50]
    own_widths = 64 + 2 * 8 * 16  # the depthwise layer's
    assert paper_cc(own, PRECISION) * FULL == sum(macs) * 45 + macs[2] * (own_widths - 45)
    executed = macs[0] * (4 * 4 + 4 * 6) + macs[1] * 45 + macs[2] * own_widths + macs[3] * (4 * 4 + 2 * 4 * 6)
    assert executed_cc(own, PRECISION) * FULL == executed


def test_a_new_product_is_in_the_bench(own):
    rows = bench_network(Modelled(open_board("golden", config="tiny")), own, 2, PRECISION)
    passes = [(row["layer"], row["pass"]) for row in rows]
    assert passes == [(product.name, which) for product in own for which in product.passes]
    for row in rows:
        assert row["macs"] == 2 * next(product.macs for product in own if product.name == row["layer"])
        assert row["cycles"] > 0


def test_a_new_product_can_stand_behind_a_gate(own, rng):
    model = build_model("own", (3, 8, 8), 10, seed=1, edge_bits=4)
    gated = add_gates(model, (3, 8, 8), parse_options("3/6,4/8", 4), rng=rng)
    assert list(gated.blocks) == ["up", "depth"]
    assert [block.share for block in gated.blocks.values()] == [1, 0]  # depthwise convolutions keep their precision
    board = open_board("golden")
    y = gated.forward(images(rng, (2, 3, 8, 8)), Context(board, Precision(8, 8), rng=rng))
    gated.backward(np.ones_like(y), Context(board, Precision(8, 8), rng=rng))
    assert board.macs == 2 * sum(product.macs * len(product.passes) for product in own)


def test_a_new_product_learns(rng):
    """At 16 bits the layer's gradients are those of the exact function, which is linear in x and in w."""
    layer = upsampling(3, 4, rng)
    context = Context(open_board("golden"), Precision(16, 16), rng=rng)
    x = images(rng, (2, 3, 4, 5), signed=False)
    y = layer.forward(x, context)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx, dw, w = layer.backward(dy, context), layer.grads["weight"], layer.params["weight"]
    for ours, other in ((dx, x), (dw, w)):
        np.testing.assert_allclose(np.sum(ours * other), np.sum(y * dy), rtol=1e-3)
    quantised = [np.round(array * 2**10).astype(np.int64) for array in (x, w)]
    exact = references.conv2d_input_grad(*quantised, y.shape, 2, 1) / 2**20
    np.testing.assert_allclose(y, exact, atol=2e-2)


def test_a_product_without_an_emulation_says_so(rng):
    model = Sequential(up=upsampling(3, 4, rng))
    emulate(model, NUMERICS["affine"]())
    with pytest.raises(TypeError, match="Upsampling is no convolution that could be emulated"):
        model.forward(images(rng, (2, 3, 4, 4)), Context(open_board("golden"), PRECISION))


@pytest.mark.parametrize("numerics", ["device", "affine"])
@pytest.mark.parametrize(
    "build", [MODELS["cnn-small"], MODELS["resnet8"], SMALL_MOBILENET], ids=["cnn-small", "resnet8", "mobilenet"]
)
def test_what_is_declared_is_executed(build, numerics, rng):
    image, samples, board = (3, 8, 8), 2, open_board("golden")
    model = build(image, 10, rng=rng, edge_bits=5)
    if numerics != "device":
        emulate(model, NUMERICS[numerics]())
    out, products = model.trace(image)
    context = Context(board, PRECISION, rng=rng)
    y = model.forward(images(rng, (samples, *image)), context)
    assert y.shape[1:] == out
    model.backward(y, context)
    assert board.macs == samples * sum(product.macs * len(product.passes) for product in products)
    assert board.bit_macs == samples * FULL * executed_cc(products, PRECISION)
    names = [prefix.rstrip(".") for prefix, layer in model.walk() if isinstance(layer, ProductLayer)]
    assert sorted(product.name for product in products) == sorted(names)


@pytest.mark.parametrize(
    "layer",
    [
        AvgPool2d(2),
        MaxPool2d(4),
        GlobalAvgPool2d(),
        Sequential(norm=BatchNorm2d(3), relu=ReLU(), pool=MaxPool2d(2)),
        Residual(AvgPool2d(2), MaxPool2d(2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_shapes_of_layers_of_the_host(layer, rng, board):
    y = layer.forward(images(rng, (2, 3, 8, 12)), Context(board, PRECISION))
    assert layer.trace((3, 8, 12)) == (y.shape[1:], [])


def test_declarations_that_do_not_fit():
    with pytest.raises(ValueError, match=r"body of a residual block gives \(3, 4, 4\), its shortcut \(3, 8, 8\)"):
        Residual(AvgPool2d(2)).trace((3, 8, 8))

    class Silent(Layer):
        pass

    with pytest.raises(TypeError, match="Silent declares no products"):
        Sequential(relu=ReLU(), silent=Silent()).trace((3, 8, 8))


@pytest.mark.parametrize(
    ("kind", "x", "w", "out", "macs"),
    [
        (Convolution(1, 1), (3, 5, 6), (4, 3, 3, 3), (4, 5, 6), 4 * 30 * 27),
        (Convolution(2, 0), (3, 5, 6), (4, 3, 2, 1), (4, 2, 3), 4 * 6 * 6),
        (Convolution(1, 0), (3, 2, 2), (4, 3, 3, 3), (4, 0, 0), 0),
        (Depthwise(2, 1), (7, 5, 6), (7, 1, 3, 3), (7, 3, 3), 7 * 9 * 9),
        (Matrix(), (8,), (8, 5), (5,), 40),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_shapes_and_work_of_every_kind(kind, x, w, out, macs, first, rng):
    product = Product("layer", kind, x, w, first=first)
    assert (product.out, product.macs) == (out, macs)
    assert product.passes == (("forward", "weight grad") if first else ("forward", "input grad", "weight grad"))
    assert product.inside("block").name == "block.layer"
    for which in product.passes:
        board = open_board("golden")
        result = task(product, which, 2, PRECISION, rng)(board)
        shape = {"forward": (2, *out), "input grad": (2, *x), "weight grad": w}[which]
        assert (result.shape, board.macs) == (shape, 2 * macs)


def test_precision_of_a_product():
    edge = Product("", Matrix(), (4,), (4, 2), min_bits=5)
    assert edge.precision(Precision(3, 6, 4)) == Precision(5, 6, 5)
    own = Product("", Matrix(), (4,), (4, 2), min_bits=5, fixed=Precision(2, 3))
    assert own.precision(Precision(8, 8)) == Precision(2, 3)
    assert edge.inside("fc").name == "fc"


def product_of(name: str, x: tuple[int, ...] = (4, 1, 1), **how) -> Product:
    return Product(name, Convolution(), x, (4, 4, 1, 1), **how)


def test_blocks_behind_gates():
    first, beside, inner, other = (product_of(name) for name in ("conv1", "conv2", "b1.body.conv", "b1.shortcut.conv"))
    fc = product_of("fc", x=(4,))
    edge = product_of("conv1", first=True)
    assert gated_products([edge, inner, beside, other, fc]) == {"b1": [inner, other]}
    assert gated_products([edge, beside, fc]) == {"conv2": [beside]}
    assert gated_products([first, beside]) == {"conv1": [first], "conv2": [beside]}
    assert gated_products([]) == {}


@pytest.mark.parametrize("make", [Conv2d, DepthwiseConv2d], ids=lambda make: make.__name__)
def test_a_probe_hears_of_products_at_the_precision_of_the_call(make: Callable[..., ProductLayer], rng):
    heard = []
    layer = make(4, rng=rng) if make is DepthwiseConv2d else make(4, 4, rng=rng)
    context = Context(open_board("golden"), PRECISION, rng=rng, probe=lambda *what: heard.append(what))
    x = images(rng, (2, 4, 5, 5), signed=False)
    dx = layer.backward(layer.forward(x, context), context)
    assert len(heard) == (make is Conv2d)
    for seen, gradient, signed in heard:
        assert seen is x
        assert gradient is dx
        assert not signed
