"""Operations on the golden board against plain int64 arithmetic."""

from __future__ import annotations

import json

import numpy as np
import pytest
import references
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import mixed_tensor, random_tensor

from host import QTensor, open_board, ops
from host.plan import sums
from host.qtensor import Run
from rtl.config import AcceleratorConfig

CONFIGS = {
    "tiny": AcceleratorConfig.preset("tiny"),
    "sim": AcceleratorConfig.preset("sim"),
    "zc706": AcceleratorConfig.preset("zc706"),
    # Too small for a flat tile of many planes.
    "small": AcceleratorConfig(clusters=3, rows=4, stream_depth=64, result_depth=16),
}

BITS = st.integers(1, 16)


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.fixture(params=["tiny", "sim", "zc706"])
def board(request):
    return open_board("golden", config=request.param)


@st.composite
def convolutions(draw):
    """Shapes, widths and signs of one convolution."""
    kernel = draw(st.one_of(st.just((3, 3)), st.tuples(st.integers(1, 5), st.integers(1, 5))))
    return {
        "config": draw(st.sampled_from(sorted(CONFIGS))),
        "seed": draw(st.integers(0, 1 << 32)),
        "x": (draw(st.integers(0, 5)), draw(st.integers(0, 40)), draw(st.integers(1, 13)), draw(st.integers(1, 37))),
        "w": (draw(st.integers(0, 40)), *kernel),
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 4)),
        "bits": (draw(BITS), draw(BITS)),
        "signed": (draw(st.booleans()), draw(st.booleans())),
        "memory_bytes": draw(st.sampled_from([1 << 15, 1 << 17, 1 << 26])),
    }


@examples(250)
@given(convolutions(), st.sampled_from(["forward", "input", "weight"]))
def test_convolution(case, which):
    rng = np.random.default_rng(case["seed"])
    board = open_board("golden", config=CONFIGS[case["config"]], memory_bytes=case["memory_bytes"])
    x_shape, how = case["x"], (case["stride"], case["padding"])
    w_shape = (case["w"][0], x_shape[1], *case["w"][1:])
    g_shape = (x_shape[0], w_shape[0], *references.out_size(x_shape, w_shape, *how))
    shapes = {"forward": (x_shape, w_shape), "input": (g_shape, w_shape), "weight": (g_shape, x_shape)}[which]
    a, b = (random_tensor(rng, *what) for what in zip(shapes, case["bits"], case["signed"], strict=True))
    if which == "forward":
        y, expected = ops.conv2d(board, a, b, *how), references.conv2d(a.codes, b.codes, *how)
    elif which == "input":
        y = ops.conv2d_input_grad(board, a, b, x_shape, *how)
        expected = references.conv2d_input_grad(a.codes, b.codes, x_shape, *how)
    else:
        y = ops.conv2d_weight_grad(board, a, b, w_shape, *how)
        expected = references.conv2d_weight_grad(a.codes, b.codes, w_shape, *how)
    assert y.dtype == np.int64
    assert np.array_equal(y, expected)
    macs = np.prod(g_shape, dtype=int) * np.prod(w_shape[1:], dtype=int)
    counters = board.counters()
    assert counters["overflows"] == 0
    assert counters["macs"] == macs
    assert counters["bit_macs"] == macs * case["bits"][0] * case["bits"][1]


@examples(150)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.integers(0, 1 << 32),
    st.tuples(st.integers(0, 70), st.integers(0, 700), st.integers(0, 70)),
    st.tuples(BITS, BITS),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([1 << 15, 1 << 26]),
)
def test_matmul(config, seed, sizes, bits, signed, memory_bytes):
    rng = np.random.default_rng(seed)
    board = open_board("golden", config=CONFIGS[config], memory_bytes=memory_bytes)
    m, k, n = sizes
    a, b = random_tensor(rng, (m, k), bits[0], signed[0]), random_tensor(rng, (k, n), bits[1], signed[1])
    c = ops.matmul(board, a, b)
    assert c.dtype == np.int64
    assert np.array_equal(c, a.codes.astype(np.int64) @ b.codes.astype(np.int64))
    assert board.counters()["overflows"] == 0


@examples(100)
@given(convolutions())
def test_precision_per_sample(case):
    rng = np.random.default_rng(case["seed"])
    board = open_board("golden", config=CONFIGS[case["config"]], memory_bytes=case["memory_bytes"])
    x_bits, w_bits = case["bits"]
    table = rng.integers(0, x_bits + 1, case["x"][0])
    x = np.zeros(case["x"], np.int64)
    for n, bits in enumerate(table.tolist()):
        if bits:
            x[n] = random_tensor(rng, case["x"][1:], bits, case["signed"][0]).codes
    w = random_tensor(rng, (case["w"][0], case["x"][1], *case["w"][1:]), w_bits, case["signed"][1])
    how = (case["stride"], case["padding"])
    expected = references.conv2d(x, w.codes, *how)
    # A skipped image gives zeros whatever it holds.
    x[table == 0] = random_tensor(rng, case["x"], x_bits, case["signed"][0]).codes[table == 0]
    y = ops.conv2d(board, mixed_tensor(x, table, case["signed"][0]), w, *how)
    assert np.array_equal(y, expected)
    assert board.bit_macs == expected[0:1].size * w.codes[0:1].size * int(table.sum()) * w_bits


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 1, 9), (2, 17, 3, 1)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (7, 7)])
def test_small_images(board, rng, shape, kernel):
    x, w = random_tensor(rng, shape, 5, True), random_tensor(rng, (3, shape[1], *kernel), 7, True)
    for stride in (1, 2, 3):
        padding = kernel[0] // 2
        y = ops.conv2d(board, x, w, stride, padding)
        assert np.array_equal(y, references.conv2d(x.codes, w.codes, stride, padding))
        g = random_tensor(rng, y.shape, 6, True)
        dx = ops.conv2d_input_grad(board, g, w, shape, stride, padding)
        assert np.array_equal(dx, references.conv2d_input_grad(g.codes, w.codes, shape, stride, padding))
        dw = ops.conv2d_weight_grad(board, g, x, w.shape, stride, padding)
        assert np.array_equal(dw, references.conv2d_weight_grad(g.codes, x.codes, w.shape, stride, padding))


@pytest.mark.parametrize("config", ["tiny", "zc706"])
def test_wide_and_tall_images(rng, config):
    board = open_board("golden", config=config)
    for shape in ((1, 3, 5, 700), (1, 3, 700, 5), (1, 1, 1, 3000)):
        x, w = random_tensor(rng, shape, 16, True), random_tensor(rng, (33, shape[1], 3, 3), 9, True)
        for stride in (1, 2):
            y = ops.conv2d(board, x, w, stride)
            assert np.array_equal(y, references.conv2d(x.codes, w.codes, stride, 1))


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(6, 701), (7, 700), (701, 7), (40, 39)])
def test_gradients_of_stride_2_in_patches(rng, size, padding):
    """Patches begin on a pixel or on a zero before one; some hold nothing but the zeros behind the last pixel."""
    board = open_board("golden", config="tiny", memory_bytes=1 << 17)
    shape, w = (2, 3, *size), random_tensor(rng, (21, 3, 3, 3), 9, True)
    g = random_tensor(rng, (2, 21, *references.out_size(shape, w.shape, 2, padding)), 16, True)
    dx = ops.conv2d_input_grad(board, g, w, shape, 2, padding)
    assert np.array_equal(dx, references.conv2d_input_grad(g.codes, w.codes, shape, 2, padding))


def test_work_bigger_than_the_memory_is_done_in_rounds(rng):
    board = open_board("golden", config="tiny", memory_bytes=1 << 15)
    x, w = random_tensor(rng, (4, 40, 16, 16), 8, False), random_tensor(rng, (24, 40, 3, 3), 8, True)
    y = ops.conv2d(board, x, w)
    assert np.array_equal(y, references.conv2d(x.codes, w.codes, 1, 1))
    assert board.counters()["descriptors"] > 10
    with pytest.raises(ValueError, match="room for"):
        ops.conv2d(open_board("golden", config="tiny", memory_bytes=9000), x, w)


def test_sums_beyond_the_accumulators_are_split():
    # Only extremes reach 2**47: 40,000 products of 2**32.
    board = open_board("golden", config="sim")
    a = QTensor(np.full((2, 40_000), 65535), 16, False)
    b = QTensor(np.full((40_000, 3), 65535), 16, False)
    assert (ops.matmul(board, a, b) == 40_000 * 65535**2).all()
    x, w = QTensor(np.full((1, 4000, 3, 3), 65535), 16, False), QTensor(np.full((1, 4000, 3, 3), -32768), 16, True)
    assert ops.conv2d(board, x, w, padding=0).item() == -36_000 * 65535 * 32768
    assert board.counters()["overflows"] == 0


def test_sum_beyond_int64_raises():
    assert [sums.reach(bound) for bound in (0, 32767, 32768, (1 << 31) - 1, 1 << 31, 1 << 47)] == [
        16,
        16,
        32,
        32,
        48,
        64,
    ]
    with pytest.raises(OverflowError, match="beyond int64"):
        sums.reach(1 << 63)


@pytest.mark.parametrize(("bits", "signed"), [(b, s) for b in (1, 2, 7, 16) for s in (False, True)])
def test_codes_that_do_not_fit_are_named(bits, signed):
    low, high = QTensor(np.zeros(1, int), bits, signed).range
    assert QTensor([low, high], bits, signed).shape == (2,)
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=rf"{bits} bits\) holds the code {value}, must lie in {low} to {high}"):
            QTensor([0, value], bits, signed)


def test_bad_tensors_are_refused(board):
    for bits in (0, 17, True, 4.0):
        with pytest.raises(ValueError, match="bits"):
            QTensor([0], bits, True)
    for codes in ([0.0], [True]):
        with pytest.raises(ValueError, match="integer type"):
            QTensor(codes, 4, True)
    with pytest.raises(ValueError, match="only a matrix"):
        QTensor(np.zeros((1, 2, 3), int), 4, True).transpose()


def test_shapes_that_disagree_are_named(board):
    def zeros(*shape):
        return QTensor(np.zeros(shape, int), 4, True)

    with pytest.raises(ValueError, match="a has 3 columns, b has 4 rows"):
        ops.matmul(board, zeros(2, 3), zeros(4, 2))
    with pytest.raises(ValueError, match="matmul: a has shape"):
        ops.matmul(board, zeros(2, 3, 1), zeros(3, 2))
    with pytest.raises(ValueError, match="x has 2 channels, w takes 3"):
        ops.conv2d(board, zeros(1, 2, 4, 4), zeros(1, 3, 3, 3))
    with pytest.raises(ValueError, match="stride 0"):
        ops.conv2d(board, zeros(1, 2, 4, 4), zeros(1, 2, 3, 3), stride=0)
    with pytest.raises(ValueError, match=r"has \(1, 5, 2, 2\)"):
        ops.conv2d_input_grad(board, zeros(1, 5, 4, 4), zeros(5, 2, 3, 3), (1, 2, 4, 4), stride=2)
    with pytest.raises(ValueError, match=r"has \(1, 5, 4, 4\)"):
        ops.conv2d_weight_grad(board, zeros(2, 5, 4, 4), zeros(1, 2, 4, 4), (5, 2, 3, 3))
    with pytest.raises(ValueError, match="no kernel"):
        ops.conv2d_weight_grad(board, zeros(1, 5, 4, 4), zeros(1, 2, 4, 4), (5, 3, 3, 3))


def test_what_is_refused_is_not_charged(board):
    x, w = QTensor(np.ones((1, 2, 4, 4), int), 4, True), QTensor(np.ones((3, 2, 3, 3), int), 4, True)
    for how, message in (
        ({"stride": 1.0}, "stride is 1.0, must be an integer"),
        ({"padding": "1"}, "padding is '1', must be an integer"),
        ({"stride": True}, "stride is True"),
    ):
        with pytest.raises(TypeError, match=message):
            ops.conv2d(board, x, w, **how)
        with pytest.raises(TypeError, match=message):
            ops.conv2d_input_grad(board, x, w, x.shape, **how)
    for codes in (x.codes, (1, 2), None):
        with pytest.raises(TypeError, match=f"conv2d: w is a {type(codes).__name__}, must be a QTensor"):
            ops.conv2d(board, x, codes)
    for shape in ((1, 2, 4.0, 4), 4, None, "abcd"):
        with pytest.raises(TypeError, match=r"input_shape is .*, must be four integers"):
            ops.conv2d_input_grad(board, x, w, shape)
        with pytest.raises(TypeError, match=r"kernel_shape is .*, must be four integers"):
            ops.conv2d_weight_grad(board, x, x, shape)
    with pytest.raises(ValueError, match=r"input_shape is \(1, 2, 4\), must be four integers"):
        ops.conv2d_input_grad(board, x, w, (1, 2, 4))
    assert (board.macs, board.bit_macs) == (0, 0)


def test_the_account_stays_an_integer_that_json_knows(board):
    """numpy's integers are fine as sizes, and do not get into what a run writes down."""
    x, w = QTensor(np.ones((1, 2, 4, 4), int), 4, True), QTensor(np.ones((3, 2, 3, 3), int), 4, True)
    ops.conv2d(board, x, w, np.int64(1), np.int8(1))
    ops.conv2d_input_grad(board, QTensor(np.ones((1, 3, 4, 4), int), 4, True), w, np.array(x.shape), np.int64(1))
    macs = 2 * 16 * 18 * 3
    assert json.loads(json.dumps([board.macs, board.bit_macs])) == [macs, 16 * macs]


def test_a_tensor_keeps_what_was_checked(board):
    """What becomes of the caller's array later does not matter, and the tensor's own cannot be written to."""
    codes = np.full((2, 3), 15)
    a = QTensor(codes, 4, False)
    codes[1, 2] = 16
    assert np.array_equal(ops.matmul(board, a, a.transpose()), np.full((2, 2), 3 * 15 * 15))
    with pytest.raises(ValueError, match="read-only"):
        a.codes[1, 2] = 16


def test_bad_runs_are_named():
    codes = np.full((3, 1, 4, 4), 5)
    for runs, message in (
        ([], r"runs of \[\] samples for a tensor of \(3, 1, 4, 4\)"),
        ([Run(4, 2)], r"runs of \[2\] samples for a tensor of \(3, 1, 4, 4\)"),
        ([(4, 4), (4, -1)], r"runs of \[4, -1\] samples for a tensor of \(3, 1, 4, 4\)"),
        ([Run(4, 2), Run(4.0, 1)], "a tensor of 4.0 bits"),
        ([Run(4, 2), Run(17, 1)], "a tensor of 17 bits: must be an integer from 0 to 16"),
        ([Run(-1, 2), Run(4, 1)], "a tensor of -1 bits"),
        ([Run(4, 1), Run(2, 2)], r"run 1 of the tensor \(unsigned, 2 bits\) holds the code 5, must lie in 0 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            QTensor.of_runs(codes, runs, False)


def test_runs_say_what_codes_mean():
    codes = np.arange(8).reshape(4, 2)
    q = QTensor.of_runs(codes, [Run(3, 1, 0.5), Run(0, 1), Run(5, 2, 0.25)], signed=False)
    assert (q.bits, q.range, q.shape) == (5, (0, 31), (4, 2))
    assert q.table.tolist() == [3, 0, 5, 5]
    assert q.scale.tolist() == [0.5, 1, 0.25, 0.25]
    assert [(part.bits, part.scale, part.codes.tolist()) for part in q.parts()] == [
        (3, 0.5, [[0, 1]]),
        (0, 1.0, [[2, 3]]),
        (5, 0.25, [[4, 5], [6, 7]]),
    ]
    with pytest.raises(ValueError, match="only a matrix of one run"):
        q.transpose()
    one = QTensor(codes, 3, False, 0.5)
    assert (one.table, one.scale, one.parts()) == (None, 0.5, [one])


def test_only_the_images_of_a_convolution_may_differ_in_width(board):
    mixed = mixed_tensor(np.ones((2, 2, 3, 3), int), [2, 3], False)
    same = QTensor(np.ones((2, 2, 3, 3), int), 3, False)
    for operation, operands, name in (
        (ops.conv2d, (same, mixed), "w"),
        (ops.conv2d_input_grad, (mixed, same, (2, 2, 3, 3)), "g"),
        (ops.conv2d_weight_grad, (same, mixed, (2, 2, 3, 3)), "x"),
    ):
        with pytest.raises(ValueError, match=f"{operation.__name__}: {name} has samples of different widths"):
            operation(board, *operands)


def test_operands_of_any_layout(board, rng):
    codes = rng.integers(0, 16, (6, 8, 8, 20)).transpose(0, 3, 1, 2)[::2, :, ::-1]
    x, w = QTensor(codes, 4, False), random_tensor(rng, (5, 20, 3, 3), 4, True)
    assert np.array_equal(ops.conv2d(board, x, w), references.conv2d(codes, w.codes, 1, 1))
