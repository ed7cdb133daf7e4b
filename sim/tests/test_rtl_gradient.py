"""Weight gradients through the whole accelerator: RTL, golden model and a plain reference, digits by vector passes."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import Trial

from host.backends.driver import RegisterBoard
from host.ring import RESERVED_BYTES
from rtl.config import AcceleratorConfig
from rtl.isa import Error
from sim.golden import execute
from sim.verilated import VerilatedTransport

CONFIG = AcceleratorConfig.preset("vector")
MEMORY = 1 << 20


@pytest.fixture(scope="module")
def board():
    board = RegisterBoard("sim", VerilatedTransport(CONFIG, memory_bytes=MEMORY))
    yield board
    board.close()


def agree(board, trial: Trial, wanted: np.ndarray | None = None) -> None:
    """RTL and golden model leave the same memory, and the gradient in it is that of the reference."""
    memory = trial.memory(MEMORY)
    board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
    board.run(trial.work)
    assert execute(trial.config, memory, trial.work).error == Error.NONE
    assert np.array_equal(trial.found(memory), trial.expected)
    wrong = np.flatnonzero(board.read(RESERVED_BYTES, MEMORY - RESERVED_BYTES) != memory[RESERVED_BYTES:])
    assert not wrong.size, f"differs from {RESERVED_BYTES + wrong[0]:#x} on"


@pytest.mark.parametrize("width", [2, 4, 7, 8, 16, 20, 32])
def test_widths(board, rng, width):
    agree(board, Trial.drawn(rng, CONFIG, width=width))
