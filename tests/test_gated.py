"""Gated blocks: routing, skips, cost, and networks of them. `test_straight_through` has their gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from choices import Chosen, gated_block, gated_resnet, gradients, images, make_choosy
from references import double, numerical_gradient

from host import open_board
from host.arrays import to_numpy
from host.nn.float_layers import softmax_cross_entropy
from host.nn.gate import Gate
from host.nn.gated import Gated, GatedNetwork, add_gates
from host.nn.layers import Context, Conv2d, Residual, Sequential
from host.nn.mixed import MixedPrecision, parse_options
from host.nn.models import build_model
from host.nn.optim import SGD
from host.quantise import Precision

OPTIONS = parse_options("3/6,0,6/12,4/8", 4)


@pytest.fixture
def board():
    return open_board("golden")


@pytest.fixture
def context(board):
    return Context(board, Precision(8, 8), rng=np.random.default_rng(40))


@pytest.mark.parametrize("projects", [False, True])
def test_routing(projects, context, rng):
    """The block on the sorted samples, at their precisions, and everything back in its place: bit for bit."""
    choice = [2, 0, 3, 2, 0, 0, 3]
    order = [1, 4, 5, 2, 6, 0, 3]
    gated = gated_block(choice, OPTIONS, rng, projects=projects)
    x = images(rng, (7, 16, 8, 8), signed=False)
    y = gated.forward(x, context)
    dy = images(rng, y.shape)
    dx = gated.backward(dy, context)
    ours = gradients(gated.block)
    assert gated.choice.tolist() == choice

    precision = MixedPrecision(((Precision(3, 6, 4), 3), (Precision(4, 8, 4), 2), (Precision(6, 12, 4), 2)))
    plain = replace(context, precision=precision, rng=np.random.default_rng(40))
    assert np.array_equal(gated.block.forward(x[order], plain), y[order])
    assert np.array_equal(gated.block.backward(dy[order], plain), dx[order])
    assert ours.keys() == gradients(gated.block).keys()
    assert all(np.array_equal(array, ours[name]) for name, array in gradients(gated.block).items())


@pytest.mark.parametrize("choice", [[2, 0, 3, 3, 0], [1, 2, 0, 1, 3], [1, 1, 0, 1, 1], [1] * 5])
def test_skips_without_a_projection(choice, board, rng):
    """The identity for those that skip; the others are what they are without them."""
    skip = np.array(choice) == 1
    gated = gated_block(choice, OPTIONS, rng)
    before = gated.block.state()
    x, dy = images(rng, (5, 16, 8, 8), signed=False), images(rng, (5, 16, 8, 8))
    y = gated.forward(x, Context(board, Precision(8, 8)))
    per_sample = 2 * 64 * 16 * 9 * 16
    assert board.macs == np.sum(~skip) * per_sample
    dx = gated.backward(dy, Context(board, Precision(8, 8), rng=np.random.default_rng(3)))
    assert board.macs == 3 * np.sum(~skip) * per_sample
    assert np.array_equal(y[skip], x[skip])
    assert np.array_equal(dx[skip], dy[skip])
    assert not gated.gate.gradient[skip].any()
    ours, state = gradients(gated.block), gated.block.state()
    if skip.all():
        assert not any(array.any() for array in ours.values())
        assert ours.keys() == {name for name in before if name.split(".")[-1] in ("weight", "gain", "offset")}
        assert all(state[name] is before[name] for name in before)
    else:
        gated.block.load_state(before)
        others = Gated(gated.block, Chosen([k for k in choice if k != 1], 4), OPTIONS, 16, rng=rng)
        assert np.array_equal(others.forward(x[~skip], Context(board, Precision(8, 8))), y[~skip])
        alone = others.backward(dy[~skip], Context(board, Precision(8, 8), rng=np.random.default_rng(3)))
        assert np.array_equal(alone, dx[~skip])
        np.testing.assert_allclose(others.gate.gradient, gated.gate.gradient[~skip], rtol=1e-5)
        assert all(np.array_equal(array, ours[name]) for name, array in gradients(gated.block).items())
        assert all(np.array_equal(array, state[name]) for name, array in gated.block.state().items())


@pytest.mark.parametrize("choice", [[1, 2, 0, 1, 3], [1] * 5])
def test_skips_with_a_projection(choice, board, rng):
    """Those that skip have the shortcut's convolution, at the widths of the most expensive option, and nothing else."""
    skip = np.array(choice) == 1
    order = [2, 4, 1, 0, 3] if not skip.all() else [0, 1, 2, 3, 4]
    gated = gated_block(choice, OPTIONS, rng, projects=True)
    x = images(rng, (5, 16, 8, 8), signed=False)
    y = gated.forward(x, Context(board, Precision(8, 8)))
    dy = images(rng, y.shape)
    dx = gated.backward(dy, Context(board, Precision(8, 8), rng=np.random.default_rng(3)))
    body, shortcut = 16 * 32 * 9 * (16 + 32), 16 * 32 * 16
    assert board.macs == 3 * (np.sum(~skip) * body + 5 * shortcut)

    runs = tuple((OPTIONS[k], 1) for k in (0, 3, 2)) if not skip.all() else ()
    precision = MixedPrecision((*runs, (OPTIONS[2], int(np.sum(skip)))))
    noise = np.random.default_rng(3)
    noise.random(2 * np.sum(~skip) * 32 * 16, dtype=np.float32)  # of the body's two convolutions
    plain = Context(board, precision, rng=noise)
    back = np.argsort(order)
    alone = gated.block.shortcut.forward(x[order], plain)[back]
    assert np.array_equal(y[skip], alone[skip])
    assert np.array_equal(dx[skip], gated.block.shortcut.backward(dy[order], plain)[back][skip])
    assert skip.all() or not np.any(y[~skip] == alone[~skip])


def test_order_of_samples_does_not_matter(board, rng):
    network, evaluation = gated_resnet(OPTIONS, rng), Context(board, Precision(8, 8), training=False)
    x = images(rng, (12, 3, 8, 8))
    make_choosy(network, x, evaluation, rng)
    y, counts = network.forward(x, evaluation), network.counts()
    choices = [block.choice for block in network.blocks.values()]
    for _ in range(3):
        order = rng.permutation(12)
        assert np.array_equal(network.forward(x[order], evaluation), y[order])
        assert network.counts() == counts
        assert all(
            np.array_equal(block.choice, choice[order])
            for block, choice in zip(network.blocks.values(), choices, strict=True)
        )


def test_cost_and_counts_of_a_batch():
    model = GatedNetwork(None, {})
    for name, share, choice in (("a", 0.25, [0, 0, 1, 2]), ("b", 0.75, [3, 3, 3, 1])):
        model.blocks[name] = gated_block(choice, OPTIONS, np.random.default_rng(1))
        model.blocks[name].share, model.blocks[name].choice = share, np.array(choice)
    assert model.counts() == {"a": [2, 1, 1, 0], "b": [0, 1, 0, 3]}
    # 1.7578, 0, 4.6875 and 2.6042 percent.
    assert model.cp() == pytest.approx(0.25 * (2 * 1.7578 + 4.6875) / 4 + 0.75 * 3 * 2.6042 / 4, abs=1e-4)


def test_cost_is_a_function_of_the_soft_masks(board, rng):
    """With nothing else in the loss, every parameter's gradient is the derivative of weight * cp(soft mask)."""
    options = parse_options("3/6,6/12,0", 4)
    context = Context(board, Precision(8, 8), rng=rng, cost_weight=-2.5)
    gate = double(Gate(3, rng=rng))
    gated = double(Gated(Residual(Sequential(conv=Conv2d(4, 4, rng=rng))), gate, options, 4, rng=rng))
    gated.share = 0.4
    network = GatedNetwork(gate, {"block": gated})
    x = np.abs(rng.standard_normal((3, 4, 2, 2)))
    evaluation = replace(context, training=False)

    def loss():
        gate.reset(evaluation)
        p = gate.forward(gated.projection.forward(x, evaluation), evaluation)
        return -2.5 * 0.4 * float(np.sum(p * [1.7578125, 4.6875, 0])) / 3

    dx = network.backward(0 * network.forward(x, context), context)
    np.testing.assert_allclose(dx, numerical_gradient(loss, x), atol=1e-8)
    for layer in (gated.projection, gate):
        for name, array in layer.params.items():
            np.testing.assert_allclose(layer.grads[name], numerical_gradient(loss, array), atol=1e-8, err_msg=name)


def test_boards_agree_on_a_network(board, rng):
    """In double precision: the sums of the libraries differ in their last place, but no code does."""
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    network, x = gated_resnet(OPTIONS, rng), images(rng, (10, 3, 8, 8)).astype(np.float64)
    make_choosy(network, x, Context(board, Precision(8, 8), training=False), rng)
    state, results = double(network).state(), []
    for name in ("golden", "torch"):
        each = open_board(name)
        network.load_state({name: each.place(array) for name, array in state.items()})
        context = Context(each, Precision(8, 8), rng=np.random.default_rng(41), cost_weight=0.1)
        logits = network.forward(each.place(x), context)
        network.backward(softmax_cross_entropy(logits, each.place(np.arange(10)))[1], context)
        choices = [block.choice.tolist() for block in network.blocks.values()]
        results.append((choices, network.cp(), each.macs, each.bit_macs, gradients(network)))
    (*decisions, ours), (*same, theirs) = results
    assert decisions == same
    for name, array in ours.items():
        assert str(theirs[name].dtype) == "torch.float64"
        atol = 1e-9 * np.max(np.abs(array))
        np.testing.assert_allclose(to_numpy(theirs[name]), array, atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize("projects", [False, True])
def test_boards_agree_on_a_block(projects, rng):
    """In single precision, where a code may be another at times: at many bits, where that means little."""
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    options = parse_options("11/14,0,16/16,13/15", 12)
    gated = gated_block([2, 0, 3, 1, 0, 2], options, rng, projects=projects)
    gated.block.load_state(
        {
            name: array + (0.3 * rng.standard_normal(array.shape)).astype(np.float32) * name.endswith("offset")
            for name, array in gated.block.state().items()
        }
    )
    x, state, results = images(rng, (6, 16, 8, 8), signed=False), gated.state(), []
    dy = images(rng, gated.forward(x, Context(open_board("golden"), Precision(8, 8), training=False)).shape)
    for name in ("golden", "torch"):
        board = open_board(name)
        gated.load_state({name: board.place(array) for name, array in state.items()})
        context = Context(board, Precision(8, 8), rng=np.random.default_rng(41))
        y = gated.forward(board.place(x), context)
        dx = gated.backward(board.place(dy), context)
        results.append({"y": y, "dx": dx, "mask": gated.gate.gradient} | gradients(gated.block))
    ours, theirs = results
    for name, array in ours.items():
        assert str(theirs[name].dtype) == "torch.float32"
        atol = 1e-2 * np.max(np.abs(array))
        np.testing.assert_allclose(to_numpy(theirs[name]), array, atol=atol, rtol=0, err_msg=name)


def test_networks_keep_to_the_standard(board, rng):
    """Gates lean on nothing that numpy alone has: the strict namespace holds nothing else."""
    xp = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    network = gated_resnet(OPTIONS, rng)
    x = images(rng, (12, 3, 8, 8))
    make_choosy(network, x, Context(board, Precision(8, 8), training=False), rng)
    network.load_state({name: xp.asarray(array) for name, array in network.state().items()})
    context = Context(board, Precision(8, 8), rng=rng, cost_weight=0.1)
    logits = network.forward(xp.asarray(x), context)
    network.backward(softmax_cross_entropy(logits, xp.asarray(np.arange(12) % 10))[1], context)
    SGD(network).step(0.1)
    assert all(type(array) is type(logits) for array in network.state().values())


def test_evaluation_leaves_what_backward_needs(board, rng):
    network, results = gated_resnet(OPTIONS, rng), []
    x = images(rng, (4, 3, 8, 8))
    for evaluates in (False, True):
        context = Context(board, Precision(8, 8), rng=np.random.default_rng(5))
        y = network.forward(x, context)
        if evaluates:
            network.forward(-x[:2], replace(context, training=False))
        network.backward(np.ones_like(y), context)
        results.append(gradients(network))
    assert all(np.array_equal(array, results[1][name]) for name, array in results[0].items())


def test_gates_are_put_before_blocks(rng):
    model = build_model("resnet8", (3, 16, 16), 10, seed=1, edge_bits=8)
    before = model.state()
    network = add_gates(model, (3, 16, 16), OPTIONS, rng=rng)
    assert list(network.blocks) == ["group1_block1", "group2_block1", "group3_block1"]
    assert [block.projection.params["weight"].shape[0] for block in network.blocks.values()] == [16, 16, 32]
    assert all(block.gate is network.gate for block in network.blocks.values())
    macs = [2 * 256 * 16 * 16 * 9, 64 * 32 * (16 * 9 + 32 * 9 + 16), 16 * 64 * (32 * 9 + 64 * 9 + 32)]
    _, products = network.trace((3, 16, 16))
    for name, count in zip(network.blocks, macs, strict=True):
        assert sum(product.macs for product in products if product.name.startswith(f"{name}.block.")) == count
    np.testing.assert_allclose([block.share for block in network.blocks.values()], np.array(macs) / sum(macs))
    after = {name.replace(".block.", "."): array for name, array in network.state().items()}
    assert all(after[name] is array for name, array in before.items())
    assert all("gate" in name or "projection" in name for name in after.keys() - before.keys())
    own = network.state()
    for state in (before, own):  # of the model without its gates and with them
        completed = network.completed(state)
        assert completed.keys() == own.keys()
        assert all(completed[name] is array for name, array in own.items())


def test_blocks_without_a_shortcut(rng):
    model = build_model("cnn-small", (1, 8, 8), 10, seed=1, edge_bits=8)
    with pytest.raises(ValueError, match="option 0 skips blocks, but conv2 of this model has no shortcut"):
        add_gates(model, (1, 8, 8), OPTIONS, rng=rng)
    network = add_gates(model, (1, 8, 8), parse_options("3/6,4/8", 4), rng=rng)
    assert list(network.blocks) == ["conv2", "conv3"]
    x = images(rng, (6, 1, 8, 8))
    board = open_board("golden")
    context = Context(board, Precision(8, 8), rng=rng)
    make_choosy(network, x, context, rng)
    board.macs = board.bit_macs = 0
    network.forward(x, context)
    works = [(64 * 16 * 9, 8 * 8, 6), (32 * 10, 8 * 8, 6)]  # the layers without a gate, at their own precision
    for block, macs in (("conv2", 16 * 32 * 16 * 9), ("conv3", 16 * 32 * 32 * 9)):
        narrow, wide = network.counts()[block]
        works += [(macs, 3 * 4, narrow), (macs, 4 * 4, wide)]
    assert board.macs == sum(macs * samples for macs, _, samples in works)
    assert board.bit_macs == sum(macs * bits * samples for macs, bits, samples in works)


def test_a_convolution_beside_blocks_has_no_gate():
    rng = np.random.default_rng(3)
    network = add_gates(
        build_model("mobilenetv2", (3, 8, 8), 10, seed=0, edge_bits=2), (3, 8, 8), parse_options("3/6,4/8", 4), rng=rng
    )
    assert len(network.blocks) == 17
    assert "conv2" not in network.blocks
