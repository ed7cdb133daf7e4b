"""The device step of networks whose samples choose their own precision, against the layers of the host."""

import copy

import numpy as np
import pytest
from choices import dictate, gated_resnet, gradients, images

from host.nn.float_layers import BatchNorm2d, softmax_cross_entropy
from host.nn.layers import Context
from host.nn.mixed import parse_options
from host.quantise import Precision
from host.step.device import DeviceStep
from host.step.network import Network
from host.step.tensors import Storage

FINE, COST = Precision(12, 14), 0.1
IMAGE = (3, 8, 8)


def device_step(network, board):
    how = {"micro_batch": 0, "storage": Storage(), "seed": 0, "momentum": 0.9, "weight_decay": 1e-4}
    return DeviceStep(network, board, image=IMAGE, **how)


def batch(rng, samples):
    return images(rng, (samples, *IMAGE)), rng.integers(0, 10, samples)


def test_a_gated_network_is_read_as_blocks(rng):
    options = parse_options("0,3/6,6/8,4/12", 4)
    network = Network.of(gated_resnet(options, rng))
    assert network.gate is not None
    assert [block.gated is not None for block in network.blocks] == [False, True, True, True]
    assert [block.skips for block in network.blocks] == [False, True, True, True]
    assert network.blocks[1].name == "group1_block1.block.body.conv2"
    assert network.blocks[1].widest(FINE) == Precision(6, 12, 4)
    assert network.blocks[0].widest(FINE) == FINE


@pytest.mark.parametrize("options", ["10/12,11/13,12/14", "0,11/13,12/14"])
def test_fine_gradients_are_those_of_the_hosts_layers(options, board, rng):
    """Those of the gates among them; with 12 bits and more, little is rounded away in either step.

    Batch norms get offsets, far from where a ReLU has to tell the sign of what rounding has moved.
    """
    network = gated_resnet(parse_options(options, 12), rng)
    x, labels = batch(rng, 9)
    context = Context(board, FINE, rng=np.random.default_rng(0), cost_weight=COST)
    for _, layer in network.walk():
        if isinstance(layer, BatchNorm2d):
            layer.params["offset"] = np.full_like(layer.params["offset"], 3)
    step = device_step(dictate(copy.deepcopy(network)), board)
    dictate(network)
    before = board.bit_macs
    loss, gradient = softmax_cross_entropy(network.forward(x, context), labels)
    network.backward(gradient, context)
    of_host, before = board.bit_macs - before, board.bit_macs
    found, _ = step.gradients(x, labels, FINE, lambda: COST)
    assert found == pytest.approx(loss, rel=2e-3)
    assert step.model.counts() == network.counts()
    head = 9 * 64 * 10 * (FINE.fw * FINE.fw + 2 * FINE.fw * FINE.bw)  # the device step leaves it to the host
    assert board.bit_macs - before == of_host - head
    grads = gradients(step.model)
    grads |= {name: array for name, array in step.optimiser.state().items() if name in step.optimiser.elsewhere}
    for name, expected in gradients(network).items():
        error, norm = np.linalg.norm(grads[name] - expected), np.linalg.norm(expected)
        assert error <= 0.15 * norm or error < 1e-4, name
    told = gradients(network)["gate.head"]
    assert np.linalg.norm(grads["gate.head"] - told) <= 0.01 * np.linalg.norm(told)


def test_a_block_that_nobody_enters_keeps_its_weights_and_statistics(board, rng):
    options = parse_options("0,4/8", 4)
    network = gated_resnet(options, rng)
    network.gate.params["head_bias"] = np.array([50.0, 0.0])
    step = device_step(network, board)
    before = network.state()
    x, labels = batch(rng, 6)
    for _ in range(2):
        step.gradients(x, labels, Precision(8, 8))
        step.optimiser.step(0.05)
        assert all(counts == [6, 0] for counts in network.counts().values())
    step.publish()
    after = network.state()
    for name in before:
        moved = np.max(np.abs(after[name] - before[name]))
        if ".body." not in name:
            assert "projection" in name or moved > 0, name
        elif name.endswith("weight"):
            assert moved <= 1e-4 * np.max(np.abs(before[name])), name  # by weight decay
        elif name.endswith(("mean", "variance", "offset")):
            assert moved == 0, name


def test_a_step_with_gates_takes_a_batch_as_a_whole(board, rng):
    step = device_step(gated_resnet(parse_options("3/6,4/8", 4), rng), board)
    step.micro_batch = 4
    with pytest.raises(ValueError, match="a network with gates takes a batch as a whole, without --micro-batch"):
        step.gradients(*batch(rng, 6), Precision(8, 8))


def test_options_wider_than_the_streams_are_refused(board, rng):
    with pytest.raises(ValueError, match="up to FW13/BW16, not FW14/BW8/W4"):
        device_step(gated_resnet(parse_options("3/6,14/8", 4), rng), board)


def test_what_samples_cost_moves_the_gates_alone(board, rng):
    network = gated_resnet(parse_options("3/6,6/12", 4), rng)
    x, labels = batch(rng, 4)
    found = []
    for weight in (0.0, 5.0):
        step = device_step(copy.deepcopy(network), board)
        step.gradients(x, labels, Precision(8, 8), lambda weight=weight: weight)
        found.append(gradients(step.model))
    free, charged = found
    assert np.max(np.abs(charged["gate.head_bias"] - free["gate.head_bias"])) > 1e-3
    assert np.array_equal(charged["fc.weight"], free["fc.weight"])
    last = "group3_block1.block.body.bn2.gain"  # nothing of a gate has reached it
    assert np.array_equal(charged[last], free[last])
