"""The RTL, the golden model and plain int64 arithmetic agree, through the host's operations."""

from __future__ import annotations

import numpy as np
import pytest
import references
from references import random_tensor

from host import open_board, ops
from rtl.config import AcceleratorConfig

#: For each configuration.
RANDOM_CASES = 150
#: (M, K, N) of BISMO's own tests, and a product that its on-chip memories refuse.
BISMO_SIZES = [(64, 1024, 64), (64, 1024, 65), (64, 1024, 77), (17, 7, 11), (3, 64, 3)]


CONFIGS = {
    "tiny": AcceleratorConfig.preset("tiny"),
    "sim": AcceleratorConfig.preset("sim"),
    "popcount": AcceleratorConfig.preset("tiny", pe="popcount"),
}


@pytest.fixture(scope="module", params=CONFIGS)
def board(request):
    with_rtl = open_board("sim", config=CONFIGS[request.param])
    yield with_rtl
    with_rtl.close()


def random_case(rng: np.random.Generator):
    """A random operation as (function, operands after the board, plain result)."""
    bits = [int(b) for b in rng.integers(1, 17, 2)]
    signed = [bool(s) for s in rng.integers(0, 2, 2)]
    which = rng.choice(["matmul", "forward", "input", "weight"])
    if which == "matmul":
        m, k, n = (int(v) for v in rng.integers(1, [40, 400, 60]))
        a, b = random_tensor(rng, (m, k), bits[0], signed[0]), random_tensor(rng, (k, n), bits[1], signed[1])
        return ops.matmul, (a, b), a.codes.astype(np.int64) @ b.codes.astype(np.int64)
    kernel = tuple(int(k) for k in rng.choice([1, 2, 3, 3, 3, 5], 2))
    x_shape = (int(rng.integers(1, 6)), int(rng.integers(1, 40)), *(int(v) for v in rng.integers(1, 14, 2)))
    w_shape = (int(rng.integers(1, 40)), x_shape[1], *kernel)
    how = {"stride": int(rng.integers(1, 4)), "padding": int(rng.integers(0, 4))}
    g_shape = (x_shape[0], w_shape[0], *references.out_size(x_shape, w_shape, **how))
    x, w = random_tensor(rng, x_shape, bits[0], signed[0]), random_tensor(rng, w_shape, bits[1], signed[1])
    if which == "forward":
        return lambda b, x, w: ops.conv2d(b, x, w, **how), (x, w), references.conv2d(x.codes, w.codes, **how)
    if which == "input":
        g = random_tensor(rng, g_shape, bits[0], signed[0])
        plain = references.conv2d_input_grad(g.codes, w.codes, x_shape, **how)
        return lambda b, g, w: ops.conv2d_input_grad(b, g, w, x_shape, **how), (g, w), plain
    g = random_tensor(rng, g_shape, bits[1], signed[1])
    plain = references.conv2d_weight_grad(g.codes, x.codes, w_shape, **how)
    return lambda b, g, x: ops.conv2d_weight_grad(b, g, x, w_shape, **how), (g, x), plain


def test_random_operations(board, rng):
    golden = open_board("golden", config=board.config)
    for case in range(RANDOM_CASES):
        run, operands, plain = random_case(rng)
        on_rtl, on_golden = run(board, *operands), run(golden, *operands)
        assert on_rtl.dtype == np.int64
        assert np.array_equal(on_rtl, plain), f"RTL differs in case {case}"
        assert np.array_equal(on_golden, plain), f"golden model differs in case {case}"


@pytest.mark.parametrize("sizes", BISMO_SIZES)
def test_bismo_matrix(board, rng, sizes):
    m, k, n = sizes
    for bits in (2, 4):
        for signed in ((False, False), (True, False), (False, True), (True, True)):
            a, b = random_tensor(rng, (m, k), bits, signed[0]), random_tensor(rng, (k, n), bits, signed[1])
            assert np.array_equal(ops.matmul(board, a, b), a.codes.astype(np.int64) @ b.codes.astype(np.int64))


@pytest.mark.parametrize(
    "sizes", [(64, 9216, 8), pytest.param((4096, 9216, 16), marks=pytest.mark.slow)], ids=["stripe", "whole"]
)
def test_product_that_bismo_refuses(rng, sizes):
    """A fully connected layer of VGG size, 4 x 8 bits: one stripe of it is more than BISMO's buffers take."""
    m, k, n = sizes
    board = open_board("sim", config="sim")
    a, b = random_tensor(rng, (m, k), 4, True), random_tensor(rng, (k, n), 8, False)
    expected = (a.codes.astype(np.float64) @ b.codes.astype(np.float64)).astype(np.int64)  # exact: below 2**53
    assert np.array_equal(ops.matmul(board, a, b), expected)
    board.close()


def test_precision_per_sample(board, rng):
    """Bits come from a table in DDR; 0 skips the sample."""
    x, w = random_tensor(rng, (9, 16, 6, 6), 3, False), random_tensor(rng, (16, 16, 3, 3), 4, True)
    bits = [3, 8, 8, 0, 5, 5, 5, 16, 3]
    y = ops.conv2d(board, references.mixed_tensor(x.codes, bits, False), w)
    expected = references.conv2d(x.codes, w.codes, 1, 1)
    expected[3] = 0
    assert np.array_equal(y, expected)


def test_tensors_stay_on_the_board(board, rng):
    """Weights over a second batch and activations under a second kernel are not written again; results are exact."""
    batches = [random_tensor(rng, (4, 20, 8, 8), 4, False) for _ in range(2)]
    kernels = [random_tensor(rng, (12, 20, 3, 3), 4, True) for _ in range(2)]

    def written(x, w) -> int:
        before = board.counters()["host_write_bytes"]
        assert np.array_equal(ops.conv2d(board, x, w), references.conv2d(x.codes, w.codes, 1, 1))
        return board.counters()["host_write_bytes"] - before

    both = written(batches[0], kernels[0])
    again = written(batches[0], kernels[0])
    batch = written(batches[1], kernels[0])  # one weight tensor, two batches
    kernel = written(batches[0], kernels[1])  # one activation tensor, two kernels
    print(f"first pass writes {both} bytes, both operands again {again}, a new batch {batch}, a new kernel {kernel}")
    assert again == 0
    assert batch + kernel == both
    assert min(batch, kernel) > 0


def test_torch_gradients(board, rng):
    torch = pytest.importorskip("torch")
    from torch.nn.grad import conv2d_input, conv2d_weight

    for stride, padding in ((1, 1), (2, 1), (2, 0)):
        x, w = random_tensor(rng, (3, 6, 9, 7), 8, False), random_tensor(rng, (5, 6, 3, 3), 8, True)
        g = random_tensor(rng, (3, 5, *references.out_size(x.shape, w.shape, stride, padding)), 8, True)
        exact = [torch.from_numpy(t.codes.astype(np.float64)) for t in (x, w, g)]
        dx = conv2d_input(x.shape, exact[1], exact[2], stride, padding).numpy()
        dw = conv2d_weight(exact[0], w.shape, exact[2], stride, padding).numpy()
        assert np.array_equal(ops.conv2d_input_grad(board, g, w, x.shape, stride, padding), dx)
        assert np.array_equal(ops.conv2d_weight_grad(board, g, x, w.shape, stride, padding), dw)
