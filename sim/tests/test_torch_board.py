"""The torch board gives what the RTL gives."""

from __future__ import annotations

import numpy as np
import pytest
from references import mixed_tensor, out_size, random_tensor

from host import open_board, ops

CASES = 8


def test_equal_to_the_rtl(rng):
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    rtl, ours = open_board("sim", config="tiny"), open_board("torch")
    for _ in range(CASES):
        bits, signed = rng.integers(1, 17, 2), rng.integers(0, 2, 2)
        kernel, stride, padding = int(rng.choice([1, 3, 3, 5])), int(rng.integers(1, 3)), int(rng.integers(0, 3))
        x_shape = tuple(int(v) for v in rng.integers([1, 1, 5, 5], [4, 20, 10, 10]))
        w_shape = (int(rng.integers(1, 20)), x_shape[1], kernel, kernel)
        x, w = (
            random_tensor(rng, shape, int(b), bool(s))
            for shape, b, s in zip((x_shape, w_shape), bits, signed, strict=True)
        )
        g_shape = (x_shape[0], w_shape[0], *out_size(x_shape, w_shape, stride, padding))
        g = random_tensor(rng, g_shape, int(bits[1]), True)
        table = np.where(rng.integers(0, 4, x_shape[0]) == 0, 0, x.bits)
        a, b = random_tensor(rng, (9, 40), int(bits[0]), True), random_tensor(rng, (40, 7), int(bits[1]), False)
        for operation, operands, how in (
            (ops.conv2d, (x, w, stride, padding), {}),
            (ops.conv2d, (mixed_tensor(x.codes, table, x.signed), w, stride, padding), {}),
            (ops.conv2d_input_grad, (g, w, x_shape, stride, padding), {}),
            (ops.conv2d_weight_grad, (g, x, w_shape, stride, padding), {}),
            (ops.matmul, (a, b), {}),
        ):
            results = [operation(board, *operands, **how) for board in (rtl, ours)]
            assert np.array_equal(*results), operation.__name__
    assert (rtl.macs, rtl.bit_macs) == (ours.macs, ours.bit_macs)
    rtl.close()
