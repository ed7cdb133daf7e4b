"""The gate: LSTM, head and projection against PyTorch and against numerical derivatives; state between passes."""

from __future__ import annotations

import numpy as np
import pytest
from references import double, numerical_gradient

from host import open_board
from host.nn.gate import Gate, Projection
from host.nn.layers import Context
from host.quantise import Precision

STEPS, SAMPLES, FEATURES, HIDDEN, OPTIONS = 4, 5, 6, 3, 3


@pytest.fixture
def context():
    return Context(open_board("golden"), Precision(8, 8))


@pytest.fixture
def evaluation(context):
    return Context(context.board, context.precision, training=False)


@pytest.fixture
def gate(rng):
    """In double precision, with parameters large enough to bend all its curves."""
    gate = double(Gate(OPTIONS, FEATURES, HIDDEN, rng=rng))
    gate.params = {name: rng.standard_normal(array.shape) for name, array in gate.params.items()}
    return gate


@pytest.fixture
def features(rng):
    return rng.standard_normal((STEPS, SAMPLES, FEATURES))


@pytest.fixture
def weights(rng):
    """Of the probabilities of all steps in a loss."""
    return rng.standard_normal((STEPS, SAMPLES, OPTIONS))


def forward(gate, features, context):
    gate.reset(context)
    return np.stack([gate.forward(x, context) for x in features])


def backward(gate, weights, context):
    """The gradients at the features of all steps, in their order."""
    return np.stack([gate.backward(dy, context) for dy in weights[::-1]][::-1])


def test_gate_is_that_of_torch(gate, features, weights, context):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    cell = torch.nn.LSTMCell(FEATURES, HIDDEN, dtype=torch.float64)
    head = torch.nn.Linear(HIDDEN, OPTIONS, dtype=torch.float64)
    ours = {name: torch.from_numpy(array) for name, array in gate.params.items()}
    with torch.no_grad():
        cell.weight_ih.copy_(ours["input"].T)
        cell.weight_hh.copy_(ours["recurrent"].T)
        cell.bias_ih.copy_(ours["bias"])
        cell.bias_hh.zero_()
        head.weight.copy_(ours["head"].T)
        head.bias.copy_(ours["head_bias"])
    x = torch.tensor(features, requires_grad=True)
    state = (torch.zeros(SAMPLES, HIDDEN, dtype=torch.float64),) * 2
    p = []
    for step in x:
        state = cell(step, state)
        p.append(torch.softmax(head(state[0]), dim=1))
    p = torch.stack(p)
    (p * torch.from_numpy(weights)).sum().backward()

    np.testing.assert_allclose(forward(gate, features, context), p.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(backward(gate, weights, context), x.grad.numpy(), atol=1e-13)
    for name, theirs in (
        ("input", cell.weight_ih.grad.T),
        ("recurrent", cell.weight_hh.grad.T),
        ("bias", cell.bias_ih.grad),
        ("head", head.weight.grad.T),
        ("head_bias", head.bias.grad),
    ):
        np.testing.assert_allclose(gate.grads[name], theirs.numpy(), atol=1e-13, err_msg=name)


def test_numerical_gradients_of_the_gate(gate, features, weights, context, evaluation):
    def loss():
        return float(np.sum(forward(gate, features, evaluation) * weights))

    forward(gate, features, context)
    dx = backward(gate, weights, context)
    np.testing.assert_allclose(dx, numerical_gradient(loss, features), atol=1e-8)
    for name, array in gate.params.items():
        np.testing.assert_allclose(gate.grads[name], numerical_gradient(loss, array), atol=1e-8, err_msg=name)


def test_passes_do_not_know_each_other(gate, features, weights, context):
    p = forward(gate, features, context)
    dx, grads = backward(gate, weights, context), dict(gate.grads)
    assert not np.allclose(gate.forward(features[0], context), p[0])  # the state is the last step's
    assert np.array_equal(forward(gate, features, context), p)
    assert np.array_equal(backward(gate, weights, context), dx)
    assert all(np.array_equal(gate.grads[name], array) for name, array in grads.items())


def test_a_pass_that_was_given_up_leaves_nothing(gate, features, weights, context):
    forward(gate, features, context)
    dx, grads = backward(gate, weights, context), dict(gate.grads)
    forward(gate, 2 * features, context)
    gate.backward(weights[-1], context)
    forward(gate, features, context)
    assert np.array_equal(backward(gate, weights, context), dx)
    assert all(np.array_equal(gate.grads[name], array) for name, array in grads.items())
    with pytest.raises(IndexError):
        gate.backward(weights[0], context)


def test_evaluation_leaves_what_backward_needs(gate, features, weights, context, evaluation):
    p = forward(gate, features, context)
    dx = backward(gate, weights, context)
    forward(gate, features, context)
    assert np.array_equal(forward(gate, features, evaluation), p)
    forward(gate, -features, evaluation)
    assert np.array_equal(backward(gate, weights, context), dx)


def test_extreme_sums_do_not_overflow(gate, features, weights, context):
    gate.params["bias"] = np.where(np.arange(4 * HIDDEN) % 2, 1e5, -1e5)
    gate.params["head_bias"] = np.array([1e4, -1e4, 0.0])
    p = forward(gate, features, context)
    assert np.array_equal(p, np.broadcast_to([1.0, 0.0, 0.0], p.shape))
    assert np.all(np.isfinite(backward(gate, weights, context)))


def test_projection_against_numerical_derivatives(rng, context):
    layer = double(Projection(3, 4, rng=rng))
    x, weights = rng.standard_normal((2, 3, 2, 5)), rng.standard_normal((2, 4))

    def loss():
        return float(np.sum(layer.forward(x, context) * weights))

    loss()
    dx = layer.backward(weights, context)
    assert dx.shape == (2, 3, 1, 1)
    np.testing.assert_allclose(np.broadcast_to(dx, x.shape), numerical_gradient(loss, x), atol=1e-9)
    for name, array in layer.params.items():
        np.testing.assert_allclose(layer.grads[name], numerical_gradient(loss, array), atol=1e-9, err_msg=name)


def test_projection_is_that_of_torch(rng, context, evaluation):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    layer = double(Projection(3, 4, rng=rng))
    x, weights = rng.standard_normal((2, 3, 2, 5)), rng.standard_normal((2, 4))
    linear = torch.nn.Linear(3, 4, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(layer.params["weight"].T))
        linear.bias.copy_(torch.from_numpy(layer.params["bias"]))
    theirs = torch.tensor(x, requires_grad=True)
    y = linear(torch.nn.functional.adaptive_avg_pool2d(theirs, 1).flatten(1))
    (y * torch.from_numpy(weights)).sum().backward()
    np.testing.assert_allclose(layer.forward(x, context), y.detach().numpy(), atol=1e-14)
    layer.forward(-x, evaluation)  # leaves what backward needs
    dx = layer.backward(weights, context)
    np.testing.assert_allclose(np.broadcast_to(dx, x.shape), theirs.grad.numpy(), atol=1e-14)
    np.testing.assert_allclose(layer.grads["weight"], linear.weight.grad.numpy().T, atol=1e-14)
    np.testing.assert_allclose(layer.grads["bias"], linear.bias.grad.numpy(), atol=1e-14)


def test_first_weights(rng):
    """Uniform within one over the square root of the inputs, single precision, and it stays single."""
    gate, projection = Gate(4, rng=rng), Projection(64, rng=rng)
    for array, inputs in [(array, gate.hidden) for array in gate.params.values()] + [
        (array, 64) for array in projection.params.values()
    ]:
        assert array.dtype == np.float32
        assert np.max(np.abs(array)) <= np.float32(inputs**-0.5)
    bound = gate.hidden**-0.5
    assert np.std(gate.params["recurrent"]) == pytest.approx(bound / np.sqrt(3), rel=0.15)
    context = Context(open_board("golden"), Precision(8, 8))
    x = rng.standard_normal((3, 64, 2, 2)).astype(np.float32)
    gate.reset(context)
    p = gate.forward(projection.forward(x, context), context)
    dx = projection.backward(gate.backward(p, context), context)
    assert {array.dtype for array in (p, dx, *gate.grads.values(), *projection.grads.values())} == {np.dtype("float32")}
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
