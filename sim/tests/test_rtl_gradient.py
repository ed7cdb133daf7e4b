"""Weight gradients through the whole accelerator: RTL, golden model and plain sums, digits by vector passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gradients import Trial

from host.backends.driver import RegisterBoard
from host.cycles.model import CycleModel
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES
from rtl.config import AcceleratorConfig
from rtl.isa import Error, Opcode
from sim.golden import execute
from sim.tests.test_rtl_fuzz import Fuzz
from sim.verilated import VerilatedTransport

#: Of `sim.tests.test_rtl_vector`.
CONFIG = AcceleratorConfig(clusters=2, managers=2, vector=True)
MEMORY = 1 << 21


@pytest.fixture(scope="module")
def board():
    board = RegisterBoard("sim", VerilatedTransport(CONFIG, memory_bytes=MEMORY))
    yield board
    board.close()


def agree(board, trial: Trial) -> None:
    """RTL and golden model leave the same memory, and the gradient in it is that of the reference."""
    memory = trial.memory(MEMORY)
    board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
    board.run(trial.work)
    assert execute(CONFIG, memory, trial.work).error == Error.NONE
    assert np.array_equal(trial.found(memory), trial.expected)
    wrong = np.flatnonzero(board.read(RESERVED_BYTES, MEMORY - RESERVED_BYTES) != memory[RESERVED_BYTES:])
    assert not wrong.size, f"differs from {RESERVED_BYTES + wrong[0]:#x} on"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [2, 4, 8, 12, 16, 32, 50])
def test_gradients(board, seed, width):
    agree(board, Trial.drawn(np.random.default_rng(seed), CONFIG, width=width))


@pytest.mark.parametrize("turn", range(3))
def test_gradients_among_other_work(board, rng, turn):
    """Products of all kinds, gradients and passes behind one another, with few fences."""
    fuzz = Fuzz(CONFIG, rng)
    work = [fuzz.sound() for _ in range(30)]
    while all(d.opcode != Opcode.WGRAD for d in work):
        work.append(fuzz.sound())
    memory = fuzz.image[:MEMORY]
    board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
    board.run(work)
    assert execute(CONFIG, memory, work).error == Error.NONE
    assert np.array_equal(board.read(RESERVED_BYTES, MEMORY - RESERVED_BYTES), memory[RESERVED_BYTES:])


def test_every_word_of_a_row_has_its_neighbours(board, rng):
    """Rows of three and four words, of as many k blocks as there are rows."""
    for width in (48, 64):
        agree(board, Trial.drawn(rng, CONFIG, width=width, height=4, n=1, side=3, stride=1, bits=(4, 3)))


def test_cycles(board, rng):
    """Busy as the cycle model says, where no plane is zero."""
    for width, bits in ((32, (8, 8)), (16, (6, 4)), (8, (8, 8)), (4, (6, 4))):
        trial = Trial.drawn(rng, CONFIG, width=width, height=width, n=4, side=3, stride=1, bits=bits)
        memory, products = trial.memory(MEMORY), trial.work[-len(trial.plan.products(0, 0)) :]
        execute(CONFIG, memory, trial.work[: -len(products)])
        board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
        before = board.counters()
        board.run(products)
        found = {name: value - before[name] for name, value in board.counters().items()}
        model = CycleModel(CONFIG).program(products)
        print(f"{trial.x.shape} {bits}: {model.busy:,} of {found['busy']:,}")
        assert found["planes_skipped"] == 0
        for name in ("read_bytes", "write_bytes", "exec_busy", "table_busy"):
            assert found[name] == getattr(model, name), name
        assert model.busy == pytest.approx(found["busy"], rel=0.01)


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (Error.SHAPE, {"images": 0}),
        (Error.SHAPE, {"stream_block_rows": 9, "row_groups": 3}),
        (Error.SHAPE, {"stationary_order": 2}),
        (Error.AXI_READ, {"stream_base": MEMORY - 64}),
        (Error.AXI_READ, {"stationary_stride_d": 0xFFFF}),
    ],
)
def test_what_is_wrong(board, rng, error, changes):
    """And later work on the same accelerator is right."""
    trial = Trial.drawn(rng, CONFIG, width=16, height=9, side=3, bits=(8, 4), stride=1)
    memory = trial.memory(MEMORY)
    board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
    work = [*trial.work[:-1], replace(trial.work[-1], **changes)]
    golden = execute(CONFIG, memory, work)
    with pytest.raises(AcceleratorError) as stopped:
        board.run(work)
    assert (stopped.value.code, stopped.value.index) == (golden.error, golden.index) == (error, len(work) - 1)
    agree(board, trial)
