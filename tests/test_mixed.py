"""Batches of mixed precision: options and their cost, ranges, and a step against one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import references
from choices import images

from host import open_board
from host.nn.layers import Context, Conv2d
from host.nn.mixed import MixedPrecision, option_cp, parse_options
from host.nn.mobilenet import SignedConv2d
from host.quantise import Precision, quantise

#: Widths of activations, gradients and weights of each run of samples: two share activations, two gradients.
RUNS = ((3, 6, 4, 2), (4, 6, 4, 1), (4, 8, 4, 3), (6, 12, 4, 1), (7, 9, 4, 2))


@pytest.fixture(params=["golden", "torch"])
def board(request):
    if request.param == "torch":
        pytest.importorskip("torch", reason="needs the extra 'torch'")
    return open_board(request.param)


def mixed(runs=RUNS) -> MixedPrecision:
    return MixedPrecision(tuple((Precision(fw, bw, weight), count) for fw, bw, weight, count in runs))


def test_options_are_read():
    assert parse_options("0,3/6, 4/8", 4) == (None, Precision(3, 6, 4), Precision(4, 8, 4))
    assert parse_options("2/16", 16) == (Precision(2, 16, 16),)


@pytest.mark.parametrize(
    ("text", "weight_bits", "message"),
    [
        ("3/6,4", 4, r"--options 3/6,4: '4' is neither 0 nor activation/gradient bits such as 4/8$"),
        ("3/6,,4/8", 4, r"'' is neither 0 nor"),
        ("3/6/4", 4, r"'3/6/4' is neither 0 nor"),
        ("a/6", 4, r"'a/6' is neither 0 nor activation/gradient bits such as 4/8$"),
        ("3/6,1/6", 4, r"'1/6' is neither .* 4/8 \(fw is 1 bits, must be an integer from 2 to 16\)"),
        ("3/17", 4, r"'3/17' is neither .* 4/8 \(bw is 17 bits, must be an integer from 2 to 16\)"),
        ("0/6", 4, r"'0/6' is neither .* 4/8 \(fw is 0 bits"),
        ("3/6", 1, r"\(weight is 1 bits, must be an integer from 2 to 16\)"),
        ("3/6,4/8, 3/6", 4, r"--options 3/6,4/8, 3/6: ' 3/6' is there twice"),
        ("0,3/6,0", 4, r"'0' is there twice"),
        ("0", 4, r"--options 0: at least one must not skip the block"),
    ],
)
def test_options_that_are_none(text, weight_bits, message):
    with pytest.raises(ValueError, match=message):
        parse_options(text, weight_bits)


@pytest.mark.parametrize(
    ("text", "weight_bits", "expected"),
    [
        ("3/6,4/6,4/8,6/8,6/12,0", 4, [1.758, 2.083, 2.604, 3.385, 4.688, 0]),  # FracTrain's code for CIFAR
        ("3/6,4/8,6/12,8/16", 6, [2.344, 3.385, 5.859, 8.854]),  # and for ImageNet
    ],
)
def test_costs_are_those_of_fractrain(text, weight_bits, expected):
    costs = [option_cp(option) for option in parse_options(text, weight_bits)]
    np.testing.assert_allclose(costs, expected, atol=5e-4)


def test_widths_of_a_batch():
    precision = mixed(((3, 6, 4, 2), (8, 12, 4, 1)))
    assert precision.activations == ((3, 2), (8, 1))
    assert precision.gradients == ((6, 2), (12, 1))
    assert precision.weight_bits == 4
    assert precision.at_least(8) == mixed(((8, 8, 8, 2), (8, 12, 8, 1)))
    with pytest.raises(ValueError, match="widths of 3 samples for a batch of 4"):
        quantise(np.zeros((4, 2), np.float32), precision.activations, signed=False)


@pytest.mark.parametrize("signed", [False, True])
def test_runs_share_the_range(signed, rng):
    x = images(rng, (9, 3, 4, 4), signed=signed)
    largest = np.max(np.abs(x))
    x[3] = -largest if signed else largest  # in a narrow run, whatever was drawn
    q = quantise(x, mixed().activations, signed=signed)
    assert [(run.bits, run.samples) for run in q.runs] == [(3, 2), (4, 1), (4, 3), (6, 1), (7, 2)]
    assert (q.bits, q.signed) == (7, signed)
    assert q.table.tolist() == [3, 3, 4, 4, 4, 4, 6, 7, 7]
    assert q.table.dtype == np.uint8
    for n, (bits, scale) in enumerate(zip(q.table.tolist(), q.scale, strict=True)):
        top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        assert scale == pytest.approx(float(largest) / top)
        np.testing.assert_array_equal(q.codes[n], np.round(x[n] / np.float32(scale)))
    for part, run in zip(q.parts(), q.runs, strict=True):
        assert (part.bits, part.scale, part.shape[0], part.table) == (run.bits, run.scale, run.samples, None)
    assert np.array_equal(np.concatenate([part.codes for part in q.parts()]), q.codes)


def test_runs_with_ranges_of_their_own(rng):
    x = images(rng, (5, 2, 3, 3))
    widths = ((6, 2), (8, 1), (8, 2))
    q = quantise(x, widths, signed=True, rng=np.random.default_rng(3), own_ranges=True)
    noise, start = np.random.default_rng(3), 0
    for part, (bits, count) in zip(q.parts(), widths, strict=True):
        alone = quantise(x[start : start + count], bits, signed=True, rng=noise)
        assert (part.bits, part.scale) == (bits, alone.scale)
        assert np.array_equal(part.codes, alone.codes)
        start += count


def test_samples_of_one_width_need_no_table(rng):
    x = images(rng, (5, 2, 3, 3), signed=False)
    q = quantise(x, mixed(((4, 6, 4, 2), (4, 8, 4, 3))).activations, signed=False)
    assert q.table is None
    assert np.array_equal(q.codes, quantise(x, 4, signed=False).codes)


def test_bad_batches_are_refused(rng):
    for value, error, message in (
        (np.nan, FloatingPointError, "cannot quantise"),
        (np.inf, FloatingPointError, "cannot quantise"),
        (-1.0, ValueError, "holds the negative value -1.0"),
    ):
        for sample in range(3):
            x = images(rng, (3, 2, 3, 3), signed=False)
            x[sample, 1, 2, 0] = value
            with pytest.raises(error, match=message):
                quantise(x, ((3, 1), (5, 2)), signed=False)


def rounded(x, bits, signed, largest, noise=None):
    """Codes on the grid of `bits` bits up to `largest`, and their scale."""
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    scale = largest / top
    steps = x / np.float32(scale)
    if noise is None:
        return np.round(steps).astype(np.int64), scale
    up = np.floor(steps + noise.random(x.shape, dtype=np.float32))
    return np.clip(up, -top if signed else 0, top).astype(np.int64), scale


def alone(layer, x, dy, precision, ranges, noise, signed):
    """Both passes of one sample, in the integers of `references`: codes' products with their scales."""
    geometry = layer.kind.stride, layer.kind.padding
    weight = layer.params["weight"]
    w, w_scale = rounded(weight, precision.weight_bits, True, float(np.max(np.abs(weight))))
    q, q_scale = rounded(x, precision.fw, signed, ranges[0])
    g, g_scale = rounded(dy, precision.bw, True, ranges[1], noise)
    return (
        (references.conv2d(q, w, *geometry), q_scale * w_scale),
        (references.conv2d_input_grad(g, w, x.shape, *geometry), g_scale * w_scale),
        (references.conv2d_weight_grad(g, q, w.shape, *geometry), g_scale * q_scale),
    )


@pytest.mark.parametrize("kind", [Conv2d, SignedConv2d], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2), (1, 1)])
def test_a_step_is_that_of_its_samples_one_at_a_time(kernel, stride, kind, board, rng):
    """Bit for bit: the products are integers, the scales the same numbers, and a float is rounded once.

    On the torch board, whose sums are floats to begin with, the scale is rounded too: two roundings of 2**-24. A sample
    alone is told the range of the batch's activations and that of its run's gradients. Noise is drawn sample by sample
    from one generator, as the batch draws it.
    """
    rounding = 2.0**-22 if board.name == "torch" else 0
    samples, seed = 9, int(rng.integers(1 << 32))
    layer = kind(5, 6, kernel, stride, rng=rng)
    context = Context(board, mixed(), rng=np.random.default_rng(seed))
    x = images(rng, (samples, 5, 6, 6), signed=kind.signed)
    y = layer.forward(x, context)
    dy = images(rng, y.shape)
    dx = layer.backward(dy, context)

    noise, dw = np.random.default_rng(seed), 0
    end = 0
    for precision, count in mixed().runs:
        run = slice(end, end := end + count)
        ranges = float(np.max(np.abs(x))), float(np.max(np.abs(dy[run])))
        sums = 0
        for n in range(run.start, run.stop):
            own = slice(n, n + 1)
            (y_sum, y_scale), (dx_sum, dx_scale), (dw_sum, dw_scale) = alone(
                layer, x[own], dy[own], precision, ranges, noise, kind.signed
            )
            for ours, exact in ((y, y_sum * y_scale), (dx, dx_sum * dx_scale)):
                np.testing.assert_allclose(ours[own], exact.astype(np.float32), rtol=rounding, err_msg=f"sample {n}")
            sums += dw_sum
        dw += sums * dw_scale  # float64: the runs are combined once
    assert np.array_equal(layer.grads["weight"], dw.astype(np.float32))
    assert y.dtype == dx.dtype == layer.grads["weight"].dtype == np.float32


def test_one_run_is_a_uniform_step(board, rng):
    layer = Conv2d(4, 5, rng=rng)
    x, dy = images(rng, (3, 4, 5, 5), signed=False), images(rng, (3, 5, 5, 5))
    results = []
    for precision in (Precision(3, 6, 5), mixed(((3, 6, 5, 3),))):
        context = Context(board, precision, rng=np.random.default_rng(7))
        results.append((layer.forward(x, context), layer.backward(dy, context), layer.grads["weight"]))
    assert all(np.array_equal(*pair) for pair in zip(*results, strict=True))


def test_each_sample_is_charged_at_its_widths(board, rng):
    layer = Conv2d(4, 5, rng=rng)
    context = Context(board, mixed(), rng=rng)
    macs = 5 * 4 * 9 * 25
    y = layer.forward(images(rng, (9, 4, 5, 5), signed=False), context)
    assert (board.macs, board.bit_macs) == (9 * macs, macs * sum(n * fw * w for fw, _, w, n in RUNS))
    board.macs = board.bit_macs = 0
    layer.backward(images(rng, y.shape), context)
    assert (board.macs, board.bit_macs) == (18 * macs, macs * sum(n * bw * (fw + w) for fw, bw, w, n in RUNS))


def test_a_layer_of_at_least_some_bits(board, rng):
    """Runs that become equal by it stay apart, and only their gradients' ranges are their own."""
    layer = Conv2d(4, 5, rng=rng, min_bits=8)
    context = Context(board, mixed(((3, 6, 4, 1), (4, 6, 4, 2))), rng=rng)
    x = images(rng, (3, 4, 5, 5), signed=False)
    y = layer.forward(x, context)
    assert np.array_equal(y, layer.forward(x, Context(board, Precision(8, 8))))
    layer.backward(y, context)
    assert board.bit_macs == 64 * board.macs
