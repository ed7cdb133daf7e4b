"""FracTrain's affine quantiser: codes by hand, the three products against the integer form, and against PyTorch."""

import numpy as np
import pytest
from references import conv2d, conv2d_input_grad, conv2d_weight_grad

from host.emulation.affine import SMALLEST_SCALE, AffineNumerics, channel_range, quantise_affine, tensor_range
from host.emulation.emulated import Emulated
from host.nn.layers import Context, Conv2d, Linear
from host.quantise import Precision

SEED = 60


def context(board, fw, bw, training=True):
    return Context(board, Precision(fw, bw), training=training, rng=np.random.default_rng(SEED))


def test_codes_by_hand():
    x = np.array([-1.0, -0.4, 0.0, 0.5, 1.5, 2.5])
    # Two bits over [-1, 2]: a step of 1 and codes 0 to 3; halves go to the even code, what lies beyond is clamped.
    q = quantise_affine(x, 2, np.float64(-1), np.float64(2))
    assert q.codes.tolist() == [0, 1, 1, 2, 2, 3]
    assert (q.scale, q.zero) == (1, -1)
    assert q.values.tolist() == [-1, 0, 0, 1, 1, 2]


def test_ranges_per_channel_and_per_tensor():
    w = np.array([[0.0, 3.0], [-6.0, 0.0]])
    assert quantise_affine(w, 2, *channel_range(w)).scale.tolist() == [[1], [2]]
    assert quantise_affine(w, 2, *tensor_range(w)).scale == 3


def test_a_constant_tensor_keeps_its_value():
    q = quantise_affine(np.full(5, 3.0), 8, np.float64(3), np.float64(3))
    assert q.scale == SMALLEST_SCALE
    assert q.values.tolist() == [3] * 5


def test_numbers_must_be_finite():
    for bad in (np.nan, np.inf):
        x = np.array([0.0, bad])
        with pytest.raises(FloatingPointError, match="not finite"):
            quantise_affine(x, 8, *tensor_range(x))


def test_stochastic_rounding_is_unbiased():
    draws, fractions = 20_000, np.linspace(-1, 1, 41)
    q = quantise_affine(np.tile(fractions, draws), 3, *tensor_range(fractions), rng=np.random.default_rng(SEED))
    bias = q.codes.reshape(draws, -1).mean(axis=0) - (fractions + 1) / q.scale
    # The variance of a mean of two neighbouring codes is at most 1/4 / draws; 5 sigma.
    assert np.max(np.abs(bias)) < 5 * np.sqrt(0.25 / draws) + 1e-3


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lowest", [0.0, -0.7], ids=["after ReLU", "signed"])
def test_products_equal_their_integer_form(lowest, stride, board):
    """With x = s q + z in each operand a product is four integer sums; zero padding counts as real zeros, not codes."""
    rng = np.random.default_rng(SEED)
    layer = Emulated(Conv2d(3, 4, stride=stride, rng=rng), AffineNumerics())
    w = rng.standard_normal((4, 3, 3, 3))
    layer.params = {"weight": w}
    x = np.maximum(rng.standard_normal((2, 3, 5, 6)), lowest)
    y = layer.forward(x, context(board, 4, 6))
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy, context(board, 4, 6))

    def codes(t, bits, axes, noise=0.0):
        low, high = t.min(axis=axes, keepdims=True), t.max(axis=axes, keepdims=True)
        s = np.maximum((high - low) / (2**bits - 1), 1e-8)
        q = np.rint(np.clip((t - low) / s + noise, 0, 2**bits - 1)).astype(np.int64)
        return q, s.ravel(), low.ravel()

    noise = np.random.default_rng(SEED).random(dy.shape, dtype=np.float32).astype(np.float64) - 0.5
    (qx, sx, zx), (qw, sw, zw) = codes(x, 4, (0, 1, 2, 3)), codes(w, 4, (1, 2, 3))
    qg, sg, zg = codes(dy, 6, (0, 1, 2, 3), noise)
    ones_x, ones_w, ones_g = np.ones_like(qx), np.ones_like(qw), np.ones_like(qg)
    per_row = (1, -1, 1, 1)

    forward = (
        sx * sw.reshape(per_row) * conv2d(qx, qw, stride, 1)
        + sx * zw.reshape(per_row) * conv2d(qx, ones_w, stride, 1)
        + zx * sw.reshape(per_row) * conv2d(ones_x, qw, stride, 1)
        + zx * zw.reshape(per_row) * conv2d(ones_x, ones_w, stride, 1)
    )
    np.testing.assert_allclose(y, forward, rtol=0, atol=1e-12)

    weight = (
        sg * sx * conv2d_weight_grad(qg, qx, w.shape, stride, 1)
        + zg * sx * conv2d_weight_grad(ones_g, qx, w.shape, stride, 1)
        + sg * zx * conv2d_weight_grad(qg, ones_x, w.shape, stride, 1)
        + zg * zx * conv2d_weight_grad(ones_g, ones_x, w.shape, stride, 1)
    )
    np.testing.assert_allclose(layer.grads["weight"], weight, rtol=0, atol=1e-12)

    # The scale of the weights lies on the summed axis: one integer product per output channel.
    sums = np.zeros(x.shape)
    for row in range(4):
        g, one_g, k, one_k = qg[:, [row]], ones_g[:, [row]], qw[[row]], ones_w[[row]]
        sums += (
            sg * sw[row] * conv2d_input_grad(g, k, x.shape, stride, 1)
            + zg * sw[row] * conv2d_input_grad(one_g, k, x.shape, stride, 1)
            + sg * zw[row] * conv2d_input_grad(g, one_k, x.shape, stride, 1)
            + zg * zw[row] * conv2d_input_grad(one_g, one_k, x.shape, stride, 1)
        )
    np.testing.assert_allclose(dx, sums, rtol=0, atol=1e-12)


def test_products_equal_an_emulation_in_pytorch(board):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(SEED)
    layer = Emulated(Conv2d(3, 4, rng=rng), AffineNumerics())
    layer.params = {"weight": rng.standard_normal((4, 3, 3, 3))}
    x, dy = np.abs(rng.standard_normal((2, 3, 5, 6))), rng.standard_normal((2, 4, 5, 6))

    def fake(t, bits, low, high, noise=0.0):
        scale = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
        return scale * torch.round((((t - low) / scale) + noise).clamp(0, 2**bits - 1)) + low

    tx, tw, tg = (torch.tensor(array) for array in (x, layer.params["weight"], dy))
    flat = tw.flatten(1)
    low, high = (end.values.view(-1, 1, 1, 1) for end in (flat.min(1), flat.max(1)))
    fx = fake(tx, 3, tx.min(), tx.max()).requires_grad_()
    fw = fake(tw, 3, low, high).requires_grad_()
    noise = torch.tensor(np.random.default_rng(SEED).random(dy.shape, dtype=np.float32)).double() - 0.5
    expected = torch.nn.functional.conv2d(fx, fw, padding=1)
    expected.backward(fake(tg, 6, tg.min(), tg.max(), noise))

    y = layer.forward(x, context(board, 3, 6))
    dx = layer.backward(dy, context(board, 3, 6))
    np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(dx, fx.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(layer.grads["weight"], fw.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_the_same_code_runs_on_torch_arrays(kind, board):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(SEED)
    x, dy = np.abs(rng.standard_normal((2, 3, 6, 6))), rng.standard_normal((2, 4, 3, 3))
    if kind == "linear":
        x, dy = x[:, :, 0, 0], dy[:, :, 0, 0]

    def run(convert):
        rng = np.random.default_rng(SEED)
        if kind == "linear":
            layer = Emulated(Linear(3, 4, rng=rng), AffineNumerics())
        else:
            layer = Emulated(Conv2d(3, 4, stride=2, rng=rng), AffineNumerics())
        layer.load_state({name: convert(array.astype(np.float64)) for name, array in layer.state().items()})
        y = layer.forward(convert(x), context(board, 3, 6))
        dx = layer.backward(convert(dy), context(board, 3, 6))
        return y, dx, layer.grads["weight"], layer.buffers["range"]

    for ours, theirs in zip(run(np.asarray), run(torch.as_tensor), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)


def test_evaluation_takes_the_running_range(board):
    layer = Emulated(Conv2d(1, 1, 1, rng=np.random.default_rng(SEED)), AffineNumerics())
    layer.params = {"weight": np.ones((1, 1, 1, 1))}
    image = np.array([0.0, 1.0, 3.0, 9.0]).reshape(1, 1, 2, 2)
    layer.forward(image, context(board, 2, 6))
    layer.forward(image / 3, context(board, 2, 6))
    # The range starts at 0: 0.9 * (0.1 * 9) + 0.1 * 3.
    np.testing.assert_allclose(layer.buffers["range"], [0, 1.11], rtol=1e-6)
    y = layer.forward(image, context(board, 2, 6, training=False))
    np.testing.assert_allclose(y.ravel(), [0, 1.11, 1.11, 1.11], rtol=1e-6)


def test_work_is_charged_as_on_the_board(board):
    layer = Emulated(Conv2d(16, 16, rng=np.random.default_rng(SEED)), AffineNumerics())
    macs = 16 * 16 * 9 * 16
    before = board.counters()
    layer.backward(layer.forward(np.ones((1, 16, 4, 4), np.float32), context(board, 3, 6)), context(board, 3, 6))
    after = board.counters()
    assert after["macs"] - before["macs"] == 3 * macs
    assert after["bit_macs"] - before["bit_macs"] == macs * (3 * 3 + 2 * 6 * 3)
    assert after["descriptors"] == before["descriptors"]
