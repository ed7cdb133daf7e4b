"""Cases that others publish: ONNX's integer node tests, BISMO's matrix sizes, and PyTorch's gradients."""

from __future__ import annotations

import numpy as np
import pytest
from references import out_size, random_tensor

from host import QTensor, open_board, ops


@pytest.fixture(params=["tiny", "sim"])
def board(request):
    return open_board("golden", config=request.param)


def onnx_case(monkeypatch, operator: str, export: str):
    """Node, inputs and output of one of ONNX's node tests, caught where it is made."""
    module = pytest.importorskip(f"onnx.backend.test.case.node.{operator.lower()}")
    made = []
    monkeypatch.setattr(module, "expect", lambda node, **case: made.append((node, case["inputs"], *case["outputs"])))
    getattr(getattr(module, operator), export)()
    return made[0]


def centred(codes: np.ndarray, zero_point: np.ndarray | int) -> QTensor:
    """Codes minus their zero point: nine bits hold every difference of two uint8 or two int8."""
    return QTensor(codes.astype(np.int64) - np.asarray(zero_point, np.int64), 9, True)


def test_onnx_matmulinteger(board, monkeypatch):
    _, (a, b, zero_a, zero_b), expected = onnx_case(monkeypatch, "MatMulInteger", "export")
    assert np.array_equal(ops.matmul(board, centred(a, zero_a), centred(b, zero_b)), expected)


@pytest.mark.parametrize("export", ["export_without_padding", "export_with_padding"])
def test_onnx_convinteger(board, monkeypatch, export):
    node, (x, w, zero_x, *zero_w), expected = onnx_case(monkeypatch, "ConvInteger", export)
    padding = next((attribute.ints[0] for attribute in node.attribute if attribute.name == "pads"), 0)
    per_channel = zero_w[0].reshape(-1, 1, 1, 1) if zero_w else 0
    y = ops.conv2d(board, centred(x, zero_x), centred(w, per_channel), padding=padding)
    assert np.array_equal(y, expected)


BISMO_SIZES = [(64, 1024, 64), (64, 1024, 65), (64, 1024, 77), (17, 7, 11), (3, 64, 3)]


@pytest.mark.parametrize("sizes", BISMO_SIZES)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("signed", [(False, False), (True, False), (False, True), (True, True)])
def test_bismo_matrix(board, rng, sizes, bits, signed):
    m, k, n = sizes
    a, b = random_tensor(rng, (m, k), bits, signed[0]), random_tensor(rng, (k, n), bits, signed[1])
    assert np.array_equal(ops.matmul(board, a, b), a.codes.astype(np.int64) @ b.codes.astype(np.int64))


def test_product_that_bismo_refuses(board, rng):
    """A tall matrix of 4 x 8 bits, one of whose row stripes exceeds the memory (BISMO: 4096 x 9216)."""
    small = open_board("golden", config=board.config, memory_bytes=1 << 18)
    a, b = random_tensor(rng, (256, 2304), 4, True), random_tensor(rng, (2304, 9), 8, False)
    assert np.array_equal(ops.matmul(small, a, b), a.codes.astype(np.int64) @ b.codes.astype(np.int64))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_torch_gradients(board, rng, kernel, stride, padding):
    torch = pytest.importorskip("torch")
    from torch.nn.grad import conv2d_input, conv2d_weight

    x, w = random_tensor(rng, (3, 6, 9, 7), 8, False), random_tensor(rng, (5, 6, kernel, kernel), 8, True)
    g = random_tensor(rng, (3, 5, *out_size(x.shape, w.shape, stride, padding)), 8, True)
    exact = [torch.from_numpy(t.codes.astype(np.float64)) for t in (x, w, g)]
    dx = conv2d_input(x.shape, exact[1], exact[2], stride, padding)
    dw = conv2d_weight(exact[0], w.shape, exact[2], stride, padding)
    assert np.array_equal(ops.conv2d_input_grad(board, g, w, x.shape, stride, padding), dx.numpy())
    assert np.array_equal(ops.conv2d_weight_grad(board, g, x, w.shape, stride, padding), dw.numpy())
