"""Layers: numerical gradients of the float ones, the board's ones against float convolutions, optimiser, models."""

from itertools import pairwise

import numpy as np
import pytest
from references import double, numerical_gradient

from host import open_board
from host.nn.float_layers import AvgPool2d, BatchNorm2d, GlobalAvgPool2d, MaxPool2d, ReLU, softmax_cross_entropy
from host.nn.layers import Context, Conv2d, Linear, Residual, Sequential
from host.nn.models import MODELS, build_model
from host.nn.optim import SGD, cosine_lr, step_lr
from host.quantise import Precision

SEED = 30


@pytest.fixture
def context(board):
    return Context(board, Precision(16, 16), rng=np.random.default_rng(SEED))


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm2d(3),
        ReLU(),
        AvgPool2d(2),
        MaxPool2d(2),
        GlobalAvgPool2d(),
        Sequential(norm=BatchNorm2d(3), relu=ReLU(), pool=AvgPool2d(2)),
        Residual(Sequential(norm=BatchNorm2d(3), relu=ReLU())),
        Residual(BatchNorm2d(3), ReLU()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_numerical_gradients(layer, context):
    rng = np.random.default_rng(SEED)
    double(layer)
    for _, inner in layer.walk():
        for name, array in inner.params.items():
            inner.params[name] = array + 0.1 * rng.standard_normal(array.shape)
    x = rng.standard_normal((2, 3, 4, 4))
    weights = rng.standard_normal(layer.forward(x, context).shape)

    def loss():
        return float(np.sum(layer.forward(x, context) * weights))

    loss()
    dx = layer.backward(weights, context)
    np.testing.assert_allclose(dx, numerical_gradient(loss, x), atol=1e-7)
    for _, inner in layer.walk():
        for name, array in inner.params.items():
            np.testing.assert_allclose(inner.grads[name], numerical_gradient(loss, array), atol=1e-7)


def test_softmax_cross_entropy():
    rng = np.random.default_rng(SEED)
    logits, labels = 3 * rng.standard_normal((4, 5)), np.array([0, 4, 2, 2])
    loss, gradient = softmax_cross_entropy(logits, labels)
    expected = -np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(4), labels].mean()
    assert loss == pytest.approx(expected)
    np.testing.assert_allclose(
        gradient, numerical_gradient(lambda: softmax_cross_entropy(logits, labels)[0], logits), atol=1e-8
    )
    huge, _ = softmax_cross_entropy(np.float32([[1e4, -1e4]]), np.array([1]))
    assert huge == 2e4


def test_batch_norm_statistics(context, board):
    layer = BatchNorm2d(2)
    x = np.random.default_rng(SEED).normal(3, 2, (8, 2, 4, 4)).astype(np.float32)
    for _ in range(200):
        y = layer.forward(x, context)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 1, atol=1e-4)
    np.testing.assert_allclose(layer.buffers["mean"], x.mean(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(layer.buffers["variance"], x.var(axis=(0, 2, 3), ddof=1), rtol=1e-4)
    kept = dict(layer.buffers)
    half = layer.forward(x[:1], Context(board, Precision(8, 8), training=False))
    assert all(layer.buffers[name] is kept[name] for name in kept)
    np.testing.assert_allclose(half, y[:1], atol=0.02)


def float_conv(x, w, stride):
    pad = w.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, w)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2), (1, 1)])
def test_convolution_matches_float_at_16_bits(kernel, stride, first, context):
    rng = np.random.default_rng(SEED)
    layer = Conv2d(3, 4, kernel, stride, rng=rng, first=first)
    x = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    x = x if first else np.abs(x)
    y = layer.forward(x, context)
    w = layer.params["weight"].astype(np.float64)
    exact = float_conv(x.astype(np.float64), w, stride)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, exact, atol=1e-3)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dx = layer.backward(dy, context)
    # The operation is linear in w and in x, so a large step gives the exact derivative.
    double_x = x.astype(np.float64)

    def loss():
        return float(np.sum(float_conv(double_x, w, stride) * dy))

    np.testing.assert_allclose(layer.grads["weight"], numerical_gradient(loss, w, step=1.0), atol=1e-2)
    if first:
        assert dx is None
    else:
        np.testing.assert_allclose(dx, numerical_gradient(loss, double_x, step=1.0), atol=1e-2)


def test_an_evaluation_writes_its_weights_once():
    """Until they or their width change: then the next batch's product takes the new ones."""
    board, rng = open_board("golden"), np.random.default_rng(SEED)
    layer = Conv2d(16, 16, rng=rng)

    def written(bits: int = 12) -> int:
        x = np.abs(rng.standard_normal((2, 16, 5, 5))).astype(np.float32)
        before = board.host_write_bytes
        y = layer.forward(x, Context(board, Precision(bits, 8), training=False))
        np.testing.assert_allclose(y, float_conv(x, layer.params["weight"], 1), atol=0.02)
        return board.host_write_bytes - before

    both = written()
    images = written()
    assert images < both
    assert written() == images
    layer.params["weight"] = -layer.params["weight"]
    assert [written(), written()] == [both, images]
    assert written(bits=13) > written(bits=13)


def test_linear_matches_float_at_16_bits(context):
    rng = np.random.default_rng(SEED)
    layer = Linear(20, 5, rng=rng)
    layer.params["bias"] = rng.standard_normal(5).astype(np.float32)
    x, dy = np.abs(rng.standard_normal((7, 20))).astype(np.float32), rng.standard_normal((7, 5)).astype(np.float32)
    weight = layer.params["weight"]
    np.testing.assert_allclose(layer.forward(x, context), x @ weight + layer.params["bias"], atol=1e-3)
    np.testing.assert_allclose(layer.backward(dy, context), dy @ weight.T, atol=1e-3)
    np.testing.assert_allclose(layer.grads["weight"], x.T @ dy, atol=1e-2)
    np.testing.assert_allclose(layer.grads["bias"], dy.sum(axis=0), rtol=1e-5)


def test_work_is_charged_at_the_precision_of_the_call(board):
    layer = Conv2d(16, 16, rng=np.random.default_rng(SEED))
    x = np.ones((1, 16, 4, 4), np.float32)
    macs = 16 * 16 * 9 * 16
    before = board.counters()
    context = Context(board, Precision(3, 6), rng=np.random.default_rng(SEED))
    layer.backward(layer.forward(x, context), context)
    after = board.counters()
    assert after["macs"] - before["macs"] == 3 * macs
    assert after["bit_macs"] - before["bit_macs"] == macs * (3 * 3 + 2 * 6 * 3)


def test_edge_layers_keep_a_minimum(board):
    layer = Conv2d(16, 16, rng=np.random.default_rng(SEED), min_bits=8)
    before = board.counters()
    layer.forward(np.ones((1, 16, 4, 4), np.float32), Context(board, Precision(3, 6)))
    after = board.counters()
    assert after["bit_macs"] - before["bit_macs"] == 64 * (after["macs"] - before["macs"])


def test_pooling_refuses_what_does_not_divide(context):
    with pytest.raises(ValueError, match="5 x 4 cannot be pooled in windows of 2 x 2"):
        MaxPool2d(2).forward(np.zeros((1, 1, 5, 4), np.float32), context)


def test_max_pooling_gives_ties_to_the_first(context):
    layer = MaxPool2d(2)
    layer.forward(np.ones((1, 1, 2, 2), np.float32), context)
    assert layer.backward(np.ones((1, 1, 1, 1), np.float32), context).tolist() == [[[[1, 0], [0, 0]]]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("image", [(1, 8, 8), (3, 32, 32)])
def test_models_run_both_ways(name, image, board):
    model = build_model(name, image, 10, seed=1, edge_bits=2)
    context = Context(board, Precision(4, 6), rng=np.random.default_rng(SEED))
    x = np.random.default_rng(SEED).standard_normal((2, *image)).astype(np.float32)
    logits = model.forward(x, context)
    assert logits.shape == (2, 10)
    _, gradient = softmax_cross_entropy(logits, np.array([1, 2]))
    assert model.backward(gradient, context) is None
    for prefix, layer in model.walk():
        for parameter, array in layer.params.items():
            assert layer.grads[parameter].shape == array.shape, prefix + parameter
            assert layer.grads[parameter].dtype == np.float32
    assert all(array.dtype == np.float32 for array in model.state().values())


def test_resnet8_has_eight_layers_and_two_projections():
    state = build_model("resnet8", (3, 32, 32), 10, seed=1, edge_bits=2).state()
    kernels = [array.shape[2] for name, array in state.items() if array.ndim == 4]
    assert kernels.count(3) == 7
    assert kernels.count(1) == 2


def test_state_of_another_model_is_refused():
    small = build_model("cnn-small", (1, 8, 8), 10, seed=1, edge_bits=2)
    with pytest.raises(ValueError, match="state of another model"):
        small.load_state(build_model("resnet8", (1, 8, 8), 10, seed=1, edge_bits=2).state())
    with pytest.raises(ValueError, match=r"conv1\.weight is \(16, 3, 3, 3\), not \(16, 1, 3, 3\)"):
        small.load_state(build_model("cnn-small", (3, 8, 8), 10, seed=1, edge_bits=2).state())
    with pytest.raises(ValueError, match="unknown model 'vgg'"):
        build_model("vgg", (1, 8, 8), 10, seed=1, edge_bits=2)


def test_sgd_by_hand():
    layer = Linear(1, 1, rng=np.random.default_rng(SEED))
    layer.params = {"weight": np.float64([[2.0]])}
    optimiser = SGD(layer, momentum=0.5, weight_decay=0.25)
    for gradient, expected in ((1.0, 2 - 0.1 * 1.5), (0.0, 1.85 - 0.1 * (0.5 * 1.5 + 0.25 * 1.85))):
        layer.grads = {"weight": np.float64([[gradient]])}
        optimiser.step(0.1)
        assert layer.params["weight"][0, 0] == pytest.approx(expected)


def test_learning_rate():
    rates = [cosine_lr(1.0, i, 100, 9) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(high > low for high, low in pairwise(rates[9:]))
    assert 0 < rates[-1] < 0.001


def test_learning_rate_in_steps():
    """FracTrain's code for CIFAR: 0.1, 0.01 and 0.001 from iterations 32,000 and 48,000 of 64,000."""
    rates = [step_lr(0.1, i, 64000, 0) for i in (0, 31999, 32000, 47999, 48000, 63999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert [step_lr(1.0, i, 100, 3) for i in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
