"""The torch board against plain int64 arithmetic and the golden board; why its floating point is exact."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import references
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import mixed_tensor, random_tensor

from host import QTensor, open_board, ops

torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

from host.backends.torch import exact  # noqa: E402
from host.backends.torch.kernels import Columns, Direct, is_exact  # noqa: E402

BITS = st.integers(1, 16)
CPU = torch.device("cpu")


def board_with(kernels):
    board = open_board("torch")
    board._kernels = kernels()
    return board


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@st.composite
def convolutions(draw):
    kernel = draw(st.one_of(st.just((3, 3)), st.tuples(st.integers(1, 5), st.integers(1, 5))))
    return {
        "seed": draw(st.integers(0, 1 << 32)),
        "x": (draw(st.integers(0, 7)), draw(st.integers(0, 40)), draw(st.integers(1, 13)), draw(st.integers(1, 37))),
        "w": (draw(st.integers(0, 40)), *kernel),
        "how": (draw(st.integers(1, 3)), draw(st.integers(0, 4))),
        "bits": (draw(BITS), draw(BITS)),
        "signed": (draw(st.booleans()), draw(st.booleans())),
    }


@examples(150)
@given(convolutions(), st.sampled_from([Direct, Columns]))
def test_convolutions(case, kernels):
    rng, board = np.random.default_rng(case["seed"]), board_with(kernels)
    x_shape, how = case["x"], case["how"]
    w_shape = (case["w"][0], x_shape[1], *case["w"][1:])
    g_shape = (x_shape[0], w_shape[0], *references.out_size(x_shape, w_shape, *how))
    (a_bits, b_bits), (a_signed, b_signed) = case["bits"], case["signed"]
    x, w = random_tensor(rng, x_shape, a_bits, a_signed), random_tensor(rng, w_shape, b_bits, b_signed)
    g = random_tensor(rng, g_shape, b_bits, b_signed)
    for y, plain in (
        (ops.conv2d(board, x, w, *how), references.conv2d(x.codes, w.codes, *how)),
        (
            ops.conv2d_input_grad(board, g, w, x_shape, *how),
            references.conv2d_input_grad(g.codes, w.codes, x_shape, *how),
        ),
        (
            ops.conv2d_weight_grad(board, g, x, w_shape, *how),
            references.conv2d_weight_grad(g.codes, x.codes, w_shape, *how),
        ),
    ):
        assert y.dtype == np.int64
        assert np.array_equal(y, plain)
    macs = np.prod(g_shape, dtype=int) * np.prod(w_shape[1:], dtype=int)
    assert board.counters() == {"macs": 3 * macs, "bit_macs": macs * b_bits * (2 * a_bits + b_bits)}


@examples(80)
@given(
    st.integers(0, 1 << 32),
    st.tuples(st.integers(0, 70), st.integers(0, 700), st.integers(0, 70)),
    st.tuples(BITS, BITS),
    st.tuples(st.booleans(), st.booleans()),
)
def test_matmul(seed, sizes, bits, signed):
    rng, board = np.random.default_rng(seed), open_board("torch")
    m, k, n = sizes
    a, b = random_tensor(rng, (m, k), bits[0], signed[0]), random_tensor(rng, (k, n), bits[1], signed[1])
    assert np.array_equal(ops.matmul(board, a, b), a.codes.astype(np.int64) @ b.codes.astype(np.int64))


@examples(40)
@given(convolutions())
def test_equal_to_golden_with_precision_per_sample(case):
    rng = np.random.default_rng(case["seed"])
    boards = open_board("golden"), open_board("torch")
    table = rng.integers(0, case["bits"][0] + 1, case["x"][0])
    narrow = [random_tensor(rng, case["x"][1:], max(int(bits), 1), case["signed"][0]).codes for bits in table]
    codes = np.array(narrow).reshape(case["x"])
    x = mixed_tensor(codes.astype(np.int64), table, case["signed"][0])
    w = random_tensor(rng, (case["w"][0], case["x"][1], *case["w"][1:]), case["bits"][1], case["signed"][1])
    golden, ours = (ops.conv2d(board, x, w, *case["how"]) for board in boards)
    assert np.array_equal(golden, ours)
    assert all(boards[0].counters()[name] == boards[1].counters()[name] for name in ("macs", "bit_macs"))


def test_long_sums_are_exact():
    board = open_board("torch")
    a, b = QTensor(np.full((2, 40_000), 65535), 16, False), QTensor(np.full((40_000, 3), 65535), 16, False)
    assert (ops.matmul(board, a, b) == 40_000 * 65535**2).all()
    many = QTensor(np.full((2, 1 << 22), 65535, np.int32), 16, False)
    assert (ops.matmul(board, many, many.transpose()) == (1 << 22) * 65535**2).all()  # above 2**53
    odd = 65535 * 32767
    x, g = QTensor(np.full((6, 1, 150, 150), 65535), 16, False), QTensor(np.full((6, 1, 150, 150), 32767), 16, True)
    assert ops.conv2d_weight_grad(board, g, x, (1, 1, 1, 1), padding=0).item() == 6 * 150 * 150 * odd


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_codes_of_every_type(dtype):
    bits = min(16, 8 * np.dtype(dtype).itemsize)
    x = QTensor(np.full((2, 3, 4, 4), -(1 << bits - 1), dtype), bits, True)
    w = QTensor(np.full((2, 3, 3, 3), -(1 << bits - 1), dtype), bits, True)
    torches = (QTensor(torch.tensor(t.codes), bits, True) for t in (x, w))
    expected = references.conv2d(x.codes, w.codes, 1, 1)
    board = open_board("torch")
    assert np.array_equal(ops.conv2d(board, x, w), expected)
    assert np.array_equal(ops.conv2d(board, *torches).numpy(), expected)


def test_sum_beyond_int64_raises():
    codes = torch.ones((1, 1))
    with pytest.raises(OverflowError, match="beyond int64"):
        exact.digit_product(lambda c: c, codes, 16, 65535, 1 << 48)


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 15, 16])
@pytest.mark.parametrize("norm", [1, 1 << 8, 1 << 15, 1 << 20, 1 << 30, 1 << 40])
@pytest.mark.parametrize("signed", [False, True])
def test_digits(bits, norm, signed):
    """Every code, in however many digits the norm makes necessary; no digit exceeds what is exact."""
    low, high = QTensor([0], bits, signed).range
    codes = torch.arange(low, high + 1)

    def product(digit):
        assert float(digit.abs().max()) * norm <= exact.EXACT[digit.dtype]
        return digit * norm

    result = exact.digit_product(product, codes, bits, max(-low, high), norm)
    assert torch.equal(result.to(torch.int64), codes * norm)


def test_floating_codes_give_floating_sums(rng):
    x, w = random_tensor(rng, (2, 3, 5, 5), 8, False), random_tensor(rng, (4, 3, 3, 3), 8, True)
    qx, qw = (QTensor.trusted(torch.tensor(t.codes).float(), t.bits, t.signed) for t in (x, w))
    y = ops.conv2d(open_board("torch"), qx, qw)
    assert y.dtype == torch.float32
    assert np.array_equal(y.numpy(), references.conv2d(x.codes, w.codes, 1, 1))
    golden = ops.conv2d(open_board("golden"), qx, qw)
    assert golden.dtype == torch.int64
    assert torch.equal(golden, y.to(torch.int64))


def test_exact_whatever_the_caller_has_set(rng):
    a, b = random_tensor(rng, (64, 200), 8, True), random_tensor(rng, (200, 64), 8, True)
    expected = a.codes.astype(np.int64) @ b.codes.astype(np.int64)
    board = open_board("torch")
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert np.array_equal(ops.matmul(board, a, b), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_inexact_convolutions_are_found_and_avoided(monkeypatch, rng):
    class Transformed(Direct):
        """Convolutions that leave the integers, as Winograd's do."""

        def forward(self, *arguments):
            return super().forward(*arguments) * (1 + 2**-20)

    assert is_exact(Direct(), CPU)
    assert is_exact(Columns(), CPU)
    assert not is_exact(Transformed(), CPU)
    monkeypatch.setattr("host.backends.torch.board.Direct", Transformed)
    assert isinstance(open_board("torch")._kernels, Columns)


def test_columns_in_parts(monkeypatch, rng):
    monkeypatch.setattr("host.backends.torch.kernels._MOST_COLUMNS", 1000)
    board = board_with(Columns)
    x, w = random_tensor(rng, (5, 4, 6, 6), 8, False), random_tensor(rng, (3, 4, 3, 3), 8, True)
    assert np.array_equal(ops.conv2d(board, x, w), references.conv2d(x.codes, w.codes, 1, 1))
    g = random_tensor(rng, (5, 3, 6, 6), 8, True)
    expected = references.conv2d_weight_grad(g.codes, x.codes, w.shape, 1, 1)
    assert np.array_equal(ops.conv2d_weight_grad(board, g, x, w.shape), expected)
    expected = references.conv2d_input_grad(g.codes, w.codes, x.shape, 1, 1)
    assert np.array_equal(ops.conv2d_input_grad(board, g, w, x.shape), expected)


def test_device_that_is_not_there():
    with pytest.raises(RuntimeError, match="cannot use the device 'abacus'"):
        open_board("torch", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="cannot use the device 'cuda'"):
            open_board("torch", device="cuda")


def test_without_torch_the_message_names_the_extra(monkeypatch):
    for module in [name for name in sys.modules if name.startswith(("host.torch", "host.backends.torch."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match=r"board 'torch' needs PyTorch.*fractrain-fpga\[torch\]"):
        open_board("torch")
    with pytest.raises(ImportError, match=r"host\.torch needs PyTorch.*fractrain-fpga\[torch\]"):
        import host.torch  # noqa: F401


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu(rng):
    x, w = random_tensor(rng, (32, 16, 16, 16), 8, False), random_tensor(rng, (32, 16, 3, 3), 8, True)
    g = random_tensor(rng, (32, 32, 16, 16), 12, True)
    boards = open_board("torch"), open_board("torch", device="cuda")
    for product in (
        lambda board: ops.conv2d(board, x, w),
        lambda board: ops.conv2d_input_grad(board, g, w, x.shape),
        lambda board: ops.conv2d_weight_grad(board, g, x, w.shape),
    ):
        assert np.array_equal(*(product(board) for board in boards))
