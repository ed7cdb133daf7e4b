"""Depthwise convolutions on a board, and MobileNetV2."""

import numpy as np
import pytest
import references

from host import QTensor
from host.emulation import float_conv
from host.emulation.baselines import AffineNumerics
from host.emulation.emulated import emulate
from host.nn.depthwise import depthwise_conv2d, depthwise_conv2d_input_grad, depthwise_conv2d_weight_grad
from host.nn.float_layers import softmax_cross_entropy
from host.nn.layers import Context
from host.nn.mobilenet import DepthwiseConv2d, SignedConv2d, mobilenetv2
from host.quantise import Precision

SEED = 80
TINY = ((1, 16, 1, 1), (2, 20, 2, 2), (2, 24, 1, 1))


@pytest.fixture
def context(board):
    return Context(board, Precision(4, 6), rng=np.random.default_rng(SEED))


def charged(board, operation):
    before = board.counters()
    result = operation()
    after = board.counters()
    return result, after["macs"] - before["macs"], after["bit_macs"] - before["bit_macs"]


@pytest.mark.parametrize("channels", [1, 16, 37])
@pytest.mark.parametrize(("stride", "size"), [(1, (5, 6)), (2, (5, 6)), (2, (1, 1))])
def test_products_are_exact(channels, stride, size, board):
    rng = np.random.default_rng(SEED)
    x = references.random_tensor(rng, (2, channels, *size), 8, False)
    w = references.random_tensor(rng, (channels, 1, 3, 3), 8, True)
    full = w.codes * np.eye(channels, dtype=int)[:, :, None, None]
    y, macs, bit_macs = charged(board, lambda: depthwise_conv2d(board, x, w, stride))
    assert np.array_equal(y, references.conv2d(x.codes, full, stride, 1))
    needed = y.size * 9
    assert (macs, bit_macs) == (needed, needed * 64)

    g = references.random_tensor(rng, y.shape, 16, True)
    dx, macs, bit_macs = charged(board, lambda: depthwise_conv2d_input_grad(board, g, w, x.shape, stride))
    assert np.array_equal(dx, references.conv2d_input_grad(g.codes, full, x.shape, stride, 1))
    assert (macs, bit_macs) == (needed, needed * 128)

    dw, macs, bit_macs = charged(board, lambda: depthwise_conv2d_weight_grad(board, g, x, w.shape, stride))
    dense = references.conv2d_weight_grad(g.codes, x.codes, full.shape, stride, 1)
    assert np.array_equal(dw[:, 0], dense[np.arange(channels), np.arange(channels)])
    assert (macs, bit_macs) == (needed, needed * 128)


def test_shapes_must_agree(board):
    x, w = QTensor(np.zeros((1, 3, 4, 4), int), 8, False), QTensor(np.zeros((4, 1, 3, 3), int), 8, True)
    with pytest.raises(ValueError, match=r"kernels \(4, 1, 3, 3\) do not apply to \(1, 3, 4, 4\)"):
        depthwise_conv2d(board, x, w)
    with pytest.raises(ValueError, match=r"depthwise_conv2d_weight_grad: kernels \(3, 3, 3, 3\)"):
        depthwise_conv2d_weight_grad(board, x, x, (3, 3, 3, 3))


@pytest.mark.parametrize("stride", [1, 2])
def test_layer_keeps_its_precision(stride, board, context):
    rng = np.random.default_rng(SEED)
    layer = DepthwiseConv2d(20, stride, rng=rng)
    assert layer.params["weight"].shape == (20, 1, 3, 3)
    x = np.abs(rng.standard_normal((2, 20, 6, 6))).astype(np.float32)
    w = layer.params["weight"]
    y, macs, bit_macs = charged(board, lambda: layer.forward(x, context))
    assert bit_macs == macs * 8 * 8
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx, macs, bit_macs = charged(board, lambda: layer.backward(dy, context))
    assert bit_macs == macs * 16 * 8
    how = {"stride": stride, "padding": 1, "depthwise": True}
    # A sum of nine products, each operand half a step of 8 bits away from its value.
    bound = 9 * (np.max(x) * np.max(np.abs(w)) / 255 + np.max(np.abs(w)) * np.max(x) / 510)
    assert np.max(np.abs(y - float_conv.conv2d(x, w, **how))) < bound
    assert np.max(np.abs(dx - float_conv.conv2d_input_grad(dy, w, x.shape, **how))) < 0.1
    exact = float_conv.conv2d_weight_grad(dy, x, w.shape, **how)
    assert np.max(np.abs(layer.grads["weight"] - exact)) < 0.02 * np.max(np.abs(exact))


def test_a_bottleneck_may_be_negative(context):
    layer = SignedConv2d(3, 4, 1, rng=np.random.default_rng(SEED))
    y = layer.forward(np.random.default_rng(SEED).standard_normal((2, 3, 4, 4)).astype(np.float32), context)
    assert layer.backward(y, context).shape == (2, 3, 4, 4)


def test_the_network_of_the_paper():
    model = mobilenetv2()((3, 32, 32), 10, rng=np.random.default_rng(SEED), edge_bits=2)
    # The size that is known of this network with 10 classes: 2,296,922 parameters.
    assert sum(array.size for _, layer in model.walk() for array in layer.params.values()) == 2_296_922
    assert sum(isinstance(layer, DepthwiseConv2d) for _, layer in model.walk()) == 17


@pytest.mark.parametrize("numerics", [None, AffineNumerics])
def test_a_small_one_runs_both_ways(numerics, context):
    model = mobilenetv2(TINY, stem=16, head=32)((1, 8, 8), 10, rng=np.random.default_rng(SEED), edge_bits=2)
    if numerics:
        emulate(model, numerics())
    x = np.random.default_rng(SEED).standard_normal((2, 1, 8, 8)).astype(np.float32)
    logits = model.forward(x, context)
    assert logits.shape == (2, 10)
    _, gradient = softmax_cross_entropy(logits, np.array([1, 2]))
    assert model.backward(gradient, context) is None
    for prefix, layer in model.walk():
        for name, array in layer.params.items():
            assert layer.grads[name].shape == array.shape, prefix + name
            assert layer.grads[name].dtype == np.float32


def test_emulation_charges_what_the_board_does(context):
    charges = []
    for numerics in (None, AffineNumerics):
        model = mobilenetv2(TINY, stem=16, head=32)((1, 8, 8), 10, rng=np.random.default_rng(SEED), edge_bits=2)
        if numerics:
            emulate(model, numerics())
        x = np.random.default_rng(SEED).standard_normal((2, 1, 8, 8)).astype(np.float32)
        _, *charge = charged(context.board, lambda m=model, i=x: m.backward(m.forward(i, context), context))
        charges.append(charge)
    assert charges[0] == charges[1]
