"""The baselines: their number formats by hand, range batch norm, emulated models, float convolutions."""

import math

import numpy as np
import pytest
import references

from host.data.datasets import load_dataset
from host.emulation import float_conv
from host.emulation.baselines import NUMERICS, DoReFaNumerics, SBMNumerics, WAGEUBNNumerics
from host.emulation.emulated import Emulated, Numerics, emulate
from host.emulation.fixed_point import FixedPointSGD, constant, direct, magnitude, shift, step
from host.emulation.range_norm import RangeBatchNorm2d
from host.nn.float_layers import BatchNorm2d, softmax_cross_entropy
from host.nn.layers import Context, Conv2d, Linear
from host.nn.mixed import MixedPrecision
from host.nn.mobilenet import mobilenetv2
from host.nn.models import build_model
from host.nn.optim import SGD
from host.quantise import Precision

SEED = 70


@pytest.fixture
def context(board):
    return Context(board, Precision(8, 8), rng=np.random.default_rng(SEED))


def small_mobilenet(name, image, classes, *, seed, edge_bits):
    build = mobilenetv2(((1, 16, 1, 1), (2, 20, 2, 2)), stem=16, head=32)
    return build(image, classes, rng=np.random.default_rng(seed), edge_bits=edge_bits)


class Middle:
    """A generator whose every number is 1/2: stochastic rounding without noise."""

    def random(self, shape, dtype=np.float64):
        return np.full(shape, 0.5, dtype)


# SBM ----------------------------------------------------------------------------------------------------------------


def test_sbm_weights_have_one_range():
    w = np.array([[0.0, 1.0], [2.2, 3.0]])
    assert SBMNumerics().weight(w, 2).values.tolist() == [[0, 1], [2, 3]]


def test_sbm_activations_have_the_mean_range_of_the_samples():
    numerics = SBMNumerics()
    buffers = numerics.buffers()
    # The samples span [0, 2] and [2, 6], so the batch spans [1, 4]: the 0 and the 6 are clamped.
    rounded = numerics.activation(np.array([[0.0, 2.0], [2.0, 6.0]]), 2, buffers, True)
    assert rounded.values.tolist() == [[1, 2], [2, 4]]
    np.testing.assert_allclose(buffers["range"], [0.1, 0.3], rtol=1e-6)


def test_sbm_bifurcates_the_gradient():
    dy = np.array([-1.0, 0.1, 2.0])
    narrow, wide = SBMNumerics().gradient(dy, 2, Middle())
    assert (narrow.bits, wide.bits) == (2, 16)
    assert narrow.values.tolist() == [-1, 0, 2]
    np.testing.assert_allclose(wide.values, dy, atol=3 / 65535)
    assert not np.array_equal(wide.values, dy)
    assert SBMNumerics(wide_bits=32).gradient(dy, 2, Middle())[1].values is dy


def test_range_norm_by_hand(context):
    layer = RangeBatchNorm2d(BatchNorm2d(1))
    x = np.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 2, 2)
    spread = 5 / math.sqrt(2 * math.log(4))
    np.testing.assert_allclose(layer.forward(x, context).ravel(), np.array([-2, -1, 0, 3]) / spread, rtol=1e-4)
    np.testing.assert_allclose(layer.buffers["mean"], 0.3)
    np.testing.assert_allclose(layer.buffers["spread"], 0.9 + 0.1 * spread)


def test_range_norm_gradients(context):
    rng = np.random.default_rng(SEED)
    layer = RangeBatchNorm2d(BatchNorm2d(3))
    layer.load_state({name: rng.standard_normal(3) for name in layer.state()})
    x = rng.standard_normal((2, 3, 4, 4))
    weights = rng.standard_normal(x.shape)

    def loss():
        return float(np.sum(layer.forward(x, context) * weights))

    loss()
    dx = layer.backward(weights, context)
    grads = dict(layer.grads)
    for array, gradient in ((x, dx), *((layer.params[name], grads[name]) for name in grads)):
        numerical = np.zeros_like(array)
        for index in np.ndindex(*array.shape):
            keep = array[index]
            array[index] = keep + 1e-6
            high = loss()
            array[index] = keep - 1e-6
            numerical[index] = (high - loss()) / 2e-6
            array[index] = keep
        np.testing.assert_allclose(gradient, numerical, atol=1e-6)


def test_range_norm_evaluates_with_running_statistics(board, context):
    layer = RangeBatchNorm2d(BatchNorm2d(2))
    x = np.random.default_rng(SEED).normal(3, 2, (8, 2, 4, 4)).astype(np.float32)
    for _ in range(200):
        y = layer.forward(x, context)
    kept = dict(layer.buffers)
    np.testing.assert_allclose(layer.forward(x[:1], Context(board, Precision(8, 8), training=False)), y[:1], atol=1e-3)
    assert all(layer.buffers[name] is kept[name] for name in kept)


# DoReFa -------------------------------------------------------------------------------------------------------------


def test_dorefa_weights():
    w = np.arctanh(np.array([0.5, -0.25, 0.1, 0.0]))
    rounded = DoReFaNumerics().weight(w, 2)
    # tanh / (2 * 0.5) + 1/2 = 1, 0.25, 0.6, 0.5; times 3 and rounded: 3, 1, 2, 2.
    np.testing.assert_allclose(rounded.values, [1, -1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(rounded.slope, (1 - np.array([0.5, -0.25, 0.1, 0.0]) ** 2) / 0.5)
    assert np.all(np.isfinite(DoReFaNumerics().weight(np.zeros(3), 4).values))


def test_dorefa_activations():
    rounded = DoReFaNumerics().activation(np.array([-0.5, 0.0, 0.4, 0.9, 1.0, 1.5]), 2, {}, True)
    np.testing.assert_allclose(rounded.values, [0, 0, 1 / 3, 1, 1, 1])
    assert rounded.slope.tolist() == [0, 1, 1, 1, 1, 0]
    assert rounded.chain(np.full(6, 2.0)).tolist() == [0, 2, 2, 2, 2, 0]


def test_dorefa_gradients_scale_each_sample():
    dy = np.array([[1.0, -1.0, 0.2], [10.0, -10.0, 2.0], [0.0, 0.0, 0.0]])
    rounded, same = DoReFaNumerics().gradient(dy, 2, Middle())
    assert rounded is same
    # 0.2 / 2 + 1/2 = 0.6, times 3 is 1.8, rounded 2: 2 * (2/3 - 1/2) = 1/3.
    np.testing.assert_allclose(rounded.values[:2], [[1, -1, 1 / 3], [10, -10, 10 / 3]])
    with pytest.raises(FloatingPointError, match="not finite"):
        DoReFaNumerics().gradient(np.array([[np.inf]]), 2, Middle())


def test_dorefa_gradients_are_unbiased():
    dy = np.tile(np.array([[0.3, -1.0, 0.05, 1.0]]), (20_000, 1))
    rounded, _ = DoReFaNumerics().gradient(dy, 3, np.random.default_rng(SEED))
    # Two neighbours lie 2/7 apart; 5 sigma. The noise carries the ends of the range inwards by half a step at most.
    assert np.max(np.abs(rounded.values.mean(axis=0) - dy[0])[[0, 2]]) < 5 * (1 / 7) / math.sqrt(20_000)


# WAGEUBN ------------------------------------------------------------------------------------------------------------


def test_wageubn_functions():
    assert step(8) == 1 / 128
    assert direct(np.array([0.3, -0.9, 1.2]), 3).tolist() == [0.25, -1, 1.25]
    assert [magnitude(np.array([value, 0.0])) for value in (1.4, -1.5, 0.3, 0.0)] == [1, 2, 0.25, 1]
    # R = 8: 6 / 8 = 0.75, 1.1 / 8 rounds to 0.25 or 0.
    assert shift(np.array([6.0, -1.1, 0.9]), 3).tolist() == [6, -2, 0]
    # R = 8 for 10: beyond 1, clamped to 3/4.
    assert shift(np.array([10.0]), 3).tolist() == [6]
    with pytest.raises(FloatingPointError, match="largest magnitude is inf"):
        magnitude(np.array([np.inf]))


def test_wageubn_weight_gradients_have_a_constant_size():
    dw = np.array([0.5, -0.25, 1.0, 0.0])
    assert (constant(dw, Middle()) * 2**14).tolist() == [64, -32, 127, 0]
    assert np.array_equal(constant(1024 * dw, Middle()), constant(dw, Middle()))
    many = constant(np.tile(np.array([1.0, 0.3 / 128]), 20_000), np.random.default_rng(SEED)).reshape(-1, 2)
    assert abs(many[:, 1].mean() * 2**14 - 0.3) < 5 * 0.5 / math.sqrt(20_000)


def test_wageubn_weights_and_edges():
    numerics = WAGEUBNNumerics()
    assert numerics.weight(np.array([0.3, 2.0, -2.0]), 3).values.tolist() == [0.25, 0.75, -0.75]
    w = np.array([0.3])
    assert numerics.at_edge().weight(w, 3).values is w


def test_fixed_point_sgd_by_hand():
    layer = Linear(1, 1, rng=np.random.default_rng(SEED))
    layer.params = {"weight": np.array([[0.5]]), "bias": np.array([0.5])}
    optimiser = FixedPointSGD(layer, momentum=0.9, weight_decay=0.25)
    assert optimiser.fixed_momentum == 0.75
    gradient = 100 / 2**14
    weight, velocity = 0.5, 0.0
    for _ in range(3):
        layer.grads = {"weight": np.array([[gradient]]), "bias": np.array([0.25])}
        optimiser.step(0.1)
        velocity = round((0.75 * velocity + gradient) * 2**12) / 2**12
        weight = round((weight - 51 / 512 * velocity) * 2**23) / 2**23
        assert layer.params["weight"].item() == weight
        assert optimiser.velocity["weight"].item() == velocity
    reference = Linear(1, 1, rng=np.random.default_rng(SEED))
    reference.params = {"bias": np.array([0.5])}
    plain = SGD(reference, momentum=0.9, weight_decay=0.25)
    for _ in range(3):
        reference.grads = {"bias": np.array([0.25])}
        plain.step(0.1)
    assert layer.params["bias"].item() == pytest.approx(reference.params["bias"].item())


def test_fixed_point_weights_stay_below_one():
    layer = Conv2d(1, 1, 1, rng=np.random.default_rng(SEED))
    layer.params = {"weight": np.full((1, 1, 1, 1), 0.999)}
    optimiser = FixedPointSGD(layer)
    for _ in range(5):
        layer.grads = {"weight": np.full((1, 1, 1, 1), -127 / 2**14)}
        optimiser.step(0.5)
    assert layer.params["weight"].item() == 1 - 2**-23


# Emulated layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (2, 1, 1)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_float_convolutions(kernel, stride, padding, depthwise):
    rng = np.random.default_rng(SEED)
    x = rng.integers(-9, 10, (2, 3, 7, 6)).astype(float)
    w = rng.integers(-9, 10, (3 if depthwise else 4, 1 if depthwise else 3, kernel, kernel)).astype(float)
    how = {"stride": stride, "padding": padding, "depthwise": depthwise}
    full = w * np.eye(3)[:, :, None, None] if depthwise else w
    y = float_conv.conv2d(x, w, **how)
    assert np.array_equal(y, references.conv2d(x, full, stride, padding))
    g = rng.integers(-9, 10, y.shape).astype(float)
    dx = float_conv.conv2d_input_grad(g, w, x.shape, **how)
    assert np.array_equal(dx, references.conv2d_input_grad(g, full, x.shape, stride, padding))
    dw = float_conv.conv2d_weight_grad(g, x, w.shape, **how)
    dense = references.conv2d_weight_grad(g, x, full.shape, stride, padding)
    expected = dense[np.arange(3), np.arange(3)][:, None] if depthwise else dense
    assert np.array_equal(dw, expected)


def test_host_floats_equal_pytorch(board, context):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(SEED)
    layer = Emulated(Conv2d(3, 4, stride=2, rng=rng), Numerics())
    x, dy = rng.standard_normal((2, 3, 7, 6)).astype(np.float32), rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(layer.params["weight"], requires_grad=True)
    expected = torch.nn.functional.conv2d(tx, tw, stride=2, padding=1)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(layer.forward(x, context), expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(layer.backward(dy, context), tx.grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(layer.grads["weight"], tw.grad.numpy(), atol=1e-5)


def test_what_emulation_cannot_do_is_named(board, rng):
    layer, x = Emulated(Conv2d(3, 4, rng=rng), SBMNumerics()), np.ones((3, 3, 4, 4), np.float32)
    mixed = MixedPrecision(((Precision(3, 6), 1), (Precision(4, 6), 2)))
    with pytest.raises(TypeError, match="one precision for all samples"):
        layer.forward(x, Context(board, mixed, rng=rng))
    context = Context(board, Precision(3, 6))
    with pytest.raises(ValueError, match="backward needs a generator of random numbers"):
        layer.backward(layer.forward(x, context), context)


def emulated(name, model="cnn-small", image=(1, 8, 8)):
    built = build_model(model, image, 10, seed=1, edge_bits=2)
    emulate(built, NUMERICS[name]())
    return built


@pytest.mark.parametrize("name", [name for name, numerics in NUMERICS.items() if numerics])
@pytest.mark.parametrize("model", ["cnn-small", "resnet8"])
def test_every_layer_is_emulated(name, model):
    plain, built = build_model(model, (1, 8, 8), 10, seed=1, edge_bits=2), emulated(name, model)
    kinds = [type(layer) for _, layer in built.walk()]
    assert Conv2d not in kinds
    assert Linear not in kinds
    assert (RangeBatchNorm2d in kinds) == (BatchNorm2d not in kinds) == (name == "sbm-range-norm")
    for (prefix, layer), (other, before) in zip(built.walk(), plain.walk(), strict=True):
        assert prefix == other
        assert all(np.array_equal(layer.params[key], array) for key, array in before.params.items())


def test_first_and_last_layer_follow_each_paper():
    for name, kind in (("dorefa", Numerics), ("affine", None)):
        layers = emulated(name).children
        assert isinstance(layers["fc"], Emulated)
        for edge in ("conv1", "fc"):
            assert type(layers[edge].numerics) is (kind or type(layers["conv2"].numerics))
    layers = emulated("wageubn").children
    assert [layers[key].numerics.edge for key in ("conv1", "conv2", "fc")] == [True, False, True]


@pytest.mark.parametrize("name", [name for name, numerics in NUMERICS.items() if numerics])
def test_every_method_learns_the_digits(name, board):
    dataset, model = load_dataset("digits"), emulated(name)
    optimiser = NUMERICS[name]().optimiser(model)
    assert type(optimiser) is (FixedPointSGD if name == "wageubn" else SGD)
    rng = np.random.default_rng(SEED)
    losses = []
    for start in 3 * list(range(0, 1024, 64)):
        part = slice(start, start + 64)
        training = Context(board, Precision(6, 8), rng=rng)
        labels = dataset.train.labels[part]
        loss, gradient = softmax_cross_entropy(model.forward(dataset.images(dataset.train, part), training), labels)
        model.backward(gradient, training)
        optimiser.step(0.5 if name == "wageubn" else 0.2)
        losses.append(loss)
    logits = model.forward(dataset.images(dataset.test, slice(None)), Context(board, Precision(6, 8), training=False))
    accuracy = np.mean(np.argmax(logits, axis=1) == dataset.test.labels)
    print(f"{name}: loss {losses[0]:.2f} to {losses[-1]:.2f}, accuracy {accuracy:.2f}")
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])
    assert accuracy > 0.4
    assert all(array.dtype == np.float32 for array in model.state().values())


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
@pytest.mark.parametrize("name", NUMERICS)
@pytest.mark.parametrize("small", [build_model, small_mobilenet], ids=["cnn-small", "mobilenetv2"])
def test_every_library_gives_the_same_numbers(small, name, library, board):
    xp = pytest.importorskip(library)

    def run(convert):
        model = small("cnn-small", (1, 8, 8), 10, seed=1, edge_bits=2)
        optimiser = SGD
        if NUMERICS[name]:
            emulate(model, NUMERICS[name]())
            optimiser = NUMERICS[name]().optimiser
        model.load_state({key: convert(array) for key, array in model.state().items()})
        training = Context(board, Precision(4, 6), rng=np.random.default_rng(SEED))
        x = convert(np.random.default_rng(SEED).standard_normal((2, 1, 8, 8)).astype(np.float32))
        _, gradient = softmax_cross_entropy(model.forward(x, training), convert(np.array([1, 2])))
        model.backward(gradient, training)
        optimiser(model).step(0.1)
        return np.asarray(model.forward(x, Context(board, Precision(4, 6), training=False)))

    # Sums in another order may tip a number over to the next code, here not one of the few that matter.
    np.testing.assert_allclose(run(xp.asarray), run(np.asarray), atol=2e-2)


def test_work_is_charged_at_the_width_of_each_operand(board, context):
    layer = Emulated(Conv2d(16, 16, rng=np.random.default_rng(SEED)), SBMNumerics())
    before = board.counters()
    layer.backward(layer.forward(np.ones((1, 16, 4, 4), np.float32), context), context)
    after = board.counters()
    macs = 16 * 16 * 9 * 16
    # Forward 8 x 8, input gradient 8 x 8, weight gradient 16 x 8.
    assert after["bit_macs"] - before["bit_macs"] == macs * (64 + 64 + 128)
