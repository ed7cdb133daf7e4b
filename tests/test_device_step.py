"""The device step: its networks, its gradients against floating point, equal bits on every board, and its counters."""

import copy
from importlib.util import find_spec

import numpy as np
import pytest

from host import open_board
from host.arrays import to_numpy
from host.emulation.emulated import Numerics, emulate
from host.nn.float_layers import AvgPool2d, BatchNorm2d, GlobalAvgPool2d, ReLU, softmax_cross_entropy
from host.nn.layers import Context, Conv2d, Linear, Residual, Sequential
from host.nn.models import build_model
from host.quantise import Precision
from host.step.device import DeviceStep
from host.step.network import Network
from host.step.tensors import Storage

IMAGE, CLASSES = (3, 8, 8), 10
#: The boards agree bit for bit; PyTorch is the faster one where it is installed.
BOARD = "torch" if find_spec("torch") else "golden"
FINE = Precision(12, 14)


def batch(rng, samples=10):
    labels = rng.integers(0, CLASSES, samples)
    images = rng.standard_normal((samples, *IMAGE)) + labels[:, None, None, None] / 5
    return images.astype(np.float32), labels


def device_step(board, model="resnet8", seed=0, **changes):
    how = {"image": IMAGE, "micro_batch": 0, "storage": Storage(), "seed": seed, "momentum": 0.9, "weight_decay": 1e-4}
    return DeviceStep(build_model(model, IMAGE, CLASSES, seed=seed, edge_bits=2), board, **how | changes)


def everything(step):
    """All arrays that a step leaves, as bytes."""
    step.publish()
    arrays = {**step.model.state(), **step.optimiser.state(), **step.state()}
    return {name: to_numpy(array).tobytes() for name, array in arrays.items()}


# Networks -----------------------------------------------------------------------------------------------------------


def test_a_network_is_read_as_blocks():
    network = Network.of(build_model("resnet8", IMAGE, CLASSES, seed=0, edge_bits=2))
    assert [block.name for block in network.blocks] == [
        "conv",
        *(f"group{group}_block1.body.conv2" for group in (1, 2, 3)),
    ]
    assert [block.adds_input for block in network.blocks] == [False, True, False, False]
    assert [block.shortcut and block.shortcut.name for block in network.blocks][2:] == [
        "group2_block1.shortcut.conv",
        "group3_block1.shortcut.conv",
    ]
    assert [normed.number for normed in network.convolutions] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    small = Network.of(build_model("cnn-small", IMAGE, CLASSES, seed=0, edge_bits=2))
    assert [len(block.body) for block in small.blocks] == [1, 1, 1]


def layers(rng, **changes):
    parts = {"conv": Conv2d(3, 4, rng=rng, first=True), "bn": BatchNorm2d(4), "relu": ReLU()}
    return Sequential(**parts | changes | {"pool": GlobalAvgPool2d(), "fc": Linear(4, 3, rng=rng)})


def test_networks_that_the_step_does_not_know_are_refused_by_the_layer(rng):
    Network.of(layers(rng))
    plain = Sequential(conv=Conv2d(4, 4, rng=rng), bn=BatchNorm2d(4))
    two = Sequential(**plain.children, relu=ReLU(), conv2=Conv2d(4, 4, rng=rng), bn2=BatchNorm2d(4))
    cases = [
        (build_model("mobilenetv2", IMAGE, CLASSES, seed=0, edge_bits=2), r"layer \w+ \(.*\); it expects"),
        (layers(rng, bn=ReLU()), r"layer bn \(ReLU\); it expects a BatchNorm2d behind conv"),
        (layers(rng, relu=AvgPool2d(2)), r"layer relu \(AvgPool2d\); it expects a ReLU behind conv"),
        (layers(rng, block=Residual(plain, two), last=ReLU()), "shortcuts of one convolution, block has 2"),
        (layers(rng, conv=Conv2d(3, 4, rng=rng)), r"layer conv \(Conv2d\); it expects a convolution of the image"),
        (Sequential(pool=GlobalAvgPool2d(), fc=Linear(4, 3, rng=rng)), "layer pool .* expects convolutions"),
        (ReLU(), "the model"),
    ]
    for model, message in cases:
        with pytest.raises(ValueError, match=f"--step device.*{message}"):
            Network.of(model)


def test_operands_wider_than_the_streams_are_refused(board, rng):
    with pytest.raises(ValueError, match="up to FW13/BW16, not FW14/BW8"):
        device_step(board).gradients(*batch(rng), Precision(14, 8))


def test_the_widest_operands_and_storage_fit_the_lanes(rng):
    step = device_step(open_board(BOARD), storage=Storage(4, 4, 2))
    for _ in range(2):
        step.gradients(*batch(rng), Precision(13, 16))
        step.optimiser.step(0.1)


# Numbers ------------------------------------------------------------------------------------------------------------


def reference(model, images, labels):
    """Loss and gradients in floating point."""
    model.load_state({name: array.astype(np.float64) for name, array in model.state().items()})
    emulate(model, Numerics())
    context = Context(open_board("golden"), Precision(8, 8), rng=np.random.default_rng(0))
    loss, gradient = softmax_cross_entropy(model.forward(images.astype(np.float64), context), labels)
    model.backward(gradient, context)
    grads = {prefix + name: array for prefix, layer in model.walk() for name, array in layer.grads.items()}
    return loss, grads, model.state()


def shift(step, offsets):
    """Give the batch norms offsets, far from where a ReLU has to tell the sign of what rounding has moved."""
    for normed in step.network.convolutions:
        shape = normed.norm.params["offset"].shape
        normed.norm.params["offset"] = np.resize(np.float32(offsets), shape)


@pytest.mark.parametrize(("model", "offsets", "close"), [("cnn-small", [3, -3], 0.02), ("resnet8", 5, 0.15)])
def test_fine_gradients_are_those_of_floating_point(rng, model, offsets, close):
    """With 12 and 14 bits little is rounded away, so any wrong scale, mean or mask would show.

    What remains is largest for offsets behind which another batch norm takes nearly all of their gradient away.
    """
    images, labels = batch(rng)
    step = device_step(open_board(BOARD), model)
    shift(step, offsets)
    loss, expected, state = reference(copy.deepcopy(step.model), images, labels)
    found, logits = step.gradients(images, labels, FINE)
    assert found == pytest.approx(loss, rel=2e-3)
    assert logits.shape == (len(labels), CLASSES)
    grads = {prefix + name: array for prefix, layer in step.model.walk() for name, array in layer.grads.items()}
    grads |= {name: array for name, array in step.optimiser.state().items() if name in step.optimiser.elsewhere}
    assert grads.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.linalg.norm(grads[name] - gradient) <= close * np.linalg.norm(gradient), name
    for name in state:
        if name.endswith(("mean", "variance")):
            np.testing.assert_allclose(step.model.state()[name], state[name], rtol=2e-2, atol=2e-3, err_msg=name)


def test_micro_batches_of_equal_images_are_as_the_whole_batch(rng):
    """The same images in each micro-batch: the same statistics, and gradients that add up to those of one."""
    images, labels = batch(rng, 6)
    whole, parts = device_step(open_board(BOARD)), device_step(open_board(BOARD), micro_batch=6)
    shift(whole, 5)
    shift(parts, 5)
    loss, _ = whole.gradients(images, labels, FINE)
    found, logits = parts.gradients(np.tile(images, (3, 1, 1, 1)), np.tile(labels, 3), FINE)
    assert found == pytest.approx(loss, rel=1e-3)
    assert len(logits) == 18
    for name in whole.optimiser.elsewhere:
        velocity = whole.optimiser.state()[name]
        difference = parts.optimiser.state()[name] - velocity
        assert np.linalg.norm(difference) <= 0.1 * np.linalg.norm(velocity), name


def test_weights_move_along_their_momentum_and_decay(rng):
    images, labels = batch(rng)
    step = device_step(open_board(BOARD), weight_decay=0.01)
    step.gradients(images, labels, Precision(8, 8))
    before = {normed: normed.conv.params["weight"] for normed in step.network.convolutions}
    step.optimiser.step(0.125)
    step.publish()
    for normed, weight in before.items():
        velocity = step.weights.velocity()[f"{normed.name}.weight"]
        assert velocity.any()
        after = step.weights.masters[normed.name]
        expected = weight * (1 - 0.125 * 0.01 / (1 - 0.9)) - 0.125 * velocity.astype(np.float64)
        # A decay is a multiple of what a coefficient can tell; the rest comes with later steps.
        np.testing.assert_allclose(normed.conv.params["weight"], expected, rtol=2.0**-17, atol=2 * after.unit)
        assert after.measured.largest < 1 << 23


def test_a_decay_too_small_for_a_coefficient_is_not_lost(rng):
    step = device_step(open_board("golden"), "cnn-small", weight_decay=1e-3)
    for _, layer in step.model.walk():
        layer.grads = {name: 0 * array for name, array in layer.params.items()}
    normed = next(step.network.convolutions)
    before = normed.conv.params["weight"].astype(np.float64)
    for _ in range(200):
        step.optimiser.step(1e-3)  # 1e-5 a step, where a coefficient has 16 bits behind the point
    step.publish()
    # Each step rounds to one of two neighbours, so errors add up like a walk of at most half a unit a step.
    within = {"rtol": 2.0**-16, "atol": 5 * 8 * step.weights.masters[normed.name].unit}
    np.testing.assert_allclose(normed.conv.params["weight"], before * (1 - 1e-5) ** 200, **within)


@pytest.mark.parametrize("model", ["cnn-small", "resnet8"])
def test_boards_agree_bit_for_bit_over_steps_and_switches(rng, model):
    """Whole batches and micro-batches, three precisions, evaluation between."""
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    batches = [batch(rng, 7) for _ in range(4)]
    left = []
    for name in ("golden", "torch"):
        board = open_board(name)
        step = device_step(board, model, micro_batch=4)
        said = []
        for number, (images, labels) in enumerate(batches):
            precision = (Precision(3, 6), Precision(4, 6), Precision(8, 8), Precision(8, 8))[number]
            loss, logits = step.gradients(images, labels, precision)
            step.optimiser.step(0.1)
            said += [loss, logits.tobytes(), step.logits(images, precision).tobytes()]
        left.append((said, everything(step), step.shared.saturation.take()))
        board.close()
    assert left[0] == left[1]


def test_a_step_continues_bit_for_bit_from_its_state(board, rng):
    batches = [batch(rng, 6) for _ in range(4)]
    whole = device_step(board, "cnn-small", micro_batch=4)
    for number, (images, labels) in enumerate(batches):
        if number == 2:
            whole.publish()
            model, velocity, state = whole.model.state(), whole.optimiser.state(), whole.state()
        whole.gradients(images, labels, Precision(4, 6))
        whole.optimiser.step(0.1)
    again = device_step(board, "cnn-small", micro_batch=4)
    again.model.load_state(model)
    again.restart()
    again.load_state(state, velocity)
    for images, labels in batches[2:]:
        again.gradients(images, labels, Precision(4, 6))
        again.optimiser.step(0.1)
    assert everything(again) == everything(whole)


def test_evaluation_leaves_no_trace(board, rng):
    images, labels = batch(rng, 6)
    step = device_step(board, "cnn-small")
    step.logits(images, Precision(4, 6))  # before any range is known
    step.gradients(images, labels, Precision(4, 6))
    step.optimiser.step(0.1)
    before, counts = everything(step), step.shared.saturation.take()
    logits = step.logits(images, Precision(4, 6))
    assert np.array_equal(logits, step.logits(images, Precision(4, 6)))
    assert everything(step) == before
    assert counts
    assert step.shared.saturation.take() == {}


def test_a_sum_that_was_zero_once_returns(board, rng):
    images, labels = batch(rng, 6)
    step = device_step(board)
    step.gradients(images, labels, Precision(3, 6))
    names = [name for name in step.shared.ranges.last if name.endswith("body.conv2.h")]
    before = {name: float(step.shared.ranges.last[name]) for name in names}
    for name in names:
        step.shared.ranges.last[name] = np.array(1e-9)
    step.gradients(images, labels, Precision(3, 6))
    assert all(float(step.shared.ranges.last[name]) > before[name] / 4 for name in names)


def test_what_is_clipped_is_counted_by_layer(board, rng):
    """With a range that is far too small for one tensor, that one is clipped, and twice as large the next time."""
    images, labels = batch(rng, 8)
    step = device_step(board, "cnn-small")
    step.gradients(images, labels, Precision(8, 8))
    counts = step.shared.saturation.take()
    assert all(clipped == 0 for name, (clipped, _) in counts.items() if name.endswith((".y", ".dy", ".h")))
    assert counts["conv1.y"] == [0, 8 * 16 * 8 * 8]
    assert counts["conv2.m"] == [0, 32 * 16 * 3 * 3]
    true = step.shared.ranges.last["conv2.y"]
    step.shared.ranges.last["conv2.y"] = true / 16
    step.gradients(images, labels, Precision(8, 8))
    clipped, elements = step.shared.saturation.take()["conv2.y"]
    assert 0 < clipped < elements == 8 * 32 * 4 * 4
    small = step.shared.ranges.last["conv2.y"]
    assert np.all(small > true / 16)
    assert np.all(small < true)
