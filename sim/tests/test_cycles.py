"""What the array costs in cycles, which is as much a contract as its results."""

from __future__ import annotations

import numpy as np
import pytest
from references import mixed_tensor, random_tensor

from host import QTensor, open_board, ops
from host.bench import PAIRS, figures, measured
from rtl.config import LANES


@pytest.fixture(scope="module")
def board():
    board = open_board("sim", config="sim")
    yield board
    board.close()


def full_range(rng, shape, bits, signed):
    """Random codes; every plane has a set bit."""
    tensor = random_tensor(rng, shape, bits, signed)
    codes = tensor.codes.copy()
    codes.flat[:2] = tensor.range
    return QTensor(codes, bits, signed)


@pytest.mark.parametrize("pair", PAIRS)
def test_plane_cycles_of_a_pair(board, rng, pair):
    """The array takes min(ceil(a / 4) * b, ceil(b / 4) * a) plane-cycles a slot, whatever the operands' order."""
    a, b = pair
    rows = board.config.rows
    m, k, n = 8 * rows, 2 * LANES, 128
    bound = min(-(-a // 4) * b, -(-b // 4) * a)
    for left, right in ((a, b), (b, a)):
        x, y = full_range(rng, (m, k), left, True), full_range(rng, (k, n), right, True)
        counts = measured(board, lambda board, x=x, y=y: ops.matmul(board, x, y))
        slots = m * k * n / (rows * LANES)
        assert (counts["exec_busy"] + counts["planes_skipped"]) / slots == bound


def test_utilisation_of_a_convolution(board, rng):
    """16 channels, 3x3, 32x32 at (8, 8) on one cluster: at least 90 % of the slots, loading and storing included."""
    x, w = full_range(rng, (8, 16, 32, 32), 8, False), full_range(rng, (16, 16, 3, 3), 8, True)
    row = figures(board, measured(board, lambda board: ops.conv2d(board, x, w)))
    print(f"slot utilisation {row['utilisation']:.1%}")
    assert row["utilisation"] >= 0.9


def test_zero_planes_are_skipped(board, rng):
    """Data that needs 3 of its 8 scheduled bits costs 3 planes."""
    codes = np.minimum(random_tensor(rng, (4, 16, 16, 16), 3, False).codes, 7)
    codes.flat[0] = 7
    w = full_range(rng, (16, 16, 3, 3), 4, True)
    narrow = measured(board, lambda board: ops.conv2d(board, QTensor(codes, 3, False), w))
    wide = measured(board, lambda board: ops.conv2d(board, QTensor(codes, 8, False), w))
    assert wide["exec_busy"] == narrow["exec_busy"]
    assert wide["planes_skipped"] == 5 * 4 * 16 * 16


def test_change_of_precision_drains_nothing(board, rng):
    """Eight samples each of two precisions cost in runs of four what they cost in runs as long as can be."""
    # Weights so wide that the sums of both precisions are stored in as many bytes.
    x, w = full_range(rng, (16, 16, 16, 16), 4, False), full_range(rng, (16, 16, 3, 3), 8, True)

    def busy(bits):
        return measured(board, lambda board: ops.conv2d(board, mixed_tensor(x.codes, bits, False), w))["busy"]

    mean = (busy([4] * 15 + [8]) + busy([8] * 15 + [4])) / 2
    mixed = busy([4, 4, 4, 4, 8, 8, 8, 8] * 2)
    print(f"{mixed} cycles against {mean}")
    assert mixed < 1.02 * mean
