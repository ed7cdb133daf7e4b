"""What the host does of a step on a device for now, each with what it reads of the device and writes again.

The vector unit will arrange the operands of a weight gradient itself.
"""

from __future__ import annotations

import numpy as np

from host.board import Board
from host.plan.packing import pack_results
from host.qtensor import QTensor
from host.step.arrange import arrange
from host.step.network import Normed
from rtl.config import WORD_CHANNELS


def weight_grad(board: Board, of: Normed, g: QTensor, x: QTensor) -> tuple[np.ndarray, int]:
    """Sums of a weight gradient from codes that were read: as results of so many bytes, uint8, of arranged weights."""
    sums = arrange(of.product.weight_grad(board, g, x, of.kernel))
    out_bytes = 4 if np.max(np.abs(sums)) < 1 << 31 else 8
    blocks, rows, taps, columns = sums.shape
    return pack_results(sums.reshape(blocks, rows, taps * columns), WORD_CHANNELS, out_bytes), out_bytes
