"""The whole accelerator with operands and results on the chip and in DDR: RTL and golden model on the same work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from host.backends.driver import RegisterBoard
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES
from rtl.config import CHIP_BASE
from rtl.isa import DESCRIPTOR_BYTES, Descriptor, Error, Flag, Opcode, Pass
from sim.golden import execute
from sim.tests.test_rtl_vector import CONFIGS, MEMORY, agree, product
from sim.tests.vector_passes import Space, TwoSpaces, drawn_pass
from sim.verilated import VerilatedTransport

CONFIG = CONFIGS["two managers"]
END = CHIP_BASE + CONFIG.chip_bytes


@pytest.fixture(scope="module")
def transport():
    return VerilatedTransport(CONFIG, memory_bytes=MEMORY)


@pytest.fixture(scope="module")
def board(transport):
    board = RegisterBoard("sim", transport)
    yield board
    board.close()


class Work:
    """Descriptors on both memories, after the chip has been filled from DDR and before it is copied there again."""

    def __init__(self, rng):
        self.rng = rng
        self.ddr, chip = Space(rng, MEMORY), Space(rng, CONFIG.chip_bytes, CHIP_BASE)
        self.ddr.take(RESERVED_BYTES)
        self.space = TwoSpaces(rng, self.ddr, chip)
        self._source, self._target = (self.ddr.take(CONFIG.chip_bytes) for _ in range(2))
        self._coefficients = self.ddr.take(256)
        self.ddr.at(self._coefficients, 256)[:] = np.array([1, 0] * 16, "<i8").view(np.uint8)

    def copy(self, source: int, target: int, nbytes: int = CONFIG.chip_bytes) -> Descriptor:
        """A pass over numbers of 16 bits, whatever they stand for."""
        row = 16 * 8
        return Descriptor(
            opcode=Opcode.VECTOR,
            flags=Flag.FENCE,
            samples=1,
            k_blocks=1,
            height=nbytes // row,
            width=4,
            vector_coefficients=self._coefficients,
            vector_top=(1 << 16) - 1,
            u_base=source,
            u_stride_y=row,
            u_planes=16,
            q_base=target,
            q_stride_y=row,
            q_planes=16,
        )

    def all(self, *work: Descriptor) -> list[Descriptor]:
        """`work` between the copies; its first descriptor reads what was copied."""
        self.ddr.at(self._source, CONFIG.chip_bytes)[:] = self.space.near.image
        first = replace(work[0], flags=work[0].flags | Flag.FENCE)
        return [self.copy(self._source, CHIP_BASE), first, *work[1:], self.copy(CHIP_BASE, self._target)]

    def drawn(self, count: int) -> list[Descriptor]:
        """Random passes and products."""
        rng, space = self.rng, self.space
        return [drawn_pass(rng, space) if rng.random() < 0.6 else product(space, rng) for _ in range(count)]


@pytest.mark.parametrize("turn", range(3))
def test_random_work_in_either_memory(board, rng, turn):
    work = Work(rng)
    descriptors = work.all(*work.drawn(20))
    before = board.counters()
    assert not agree(CONFIG, board, work.ddr.image, descriptors)
    after = board.counters()
    for name in ("chip_read_bytes", "chip_write_bytes"):
        assert after[name] - before[name] > CONFIG.chip_bytes  # that of the copy, and more


def test_bytes_of_either_memory_are_counted_apart(board, rng):
    work, counted = Work(rng), ("read_bytes", "write_bytes", "chip_read_bytes", "chip_write_bytes")
    nbytes = 0x2000
    found = []
    for source, target in ((RESERVED_BYTES, CHIP_BASE), (CHIP_BASE, END - nbytes), (CHIP_BASE, RESERVED_BYTES)):
        before = board.counters()
        board.run([work.copy(source, target, nbytes)])
        after = board.counters()
        read, *others = (after[name] - before[name] for name in counted)
        # The descriptor and the coefficients lie in DDR.
        found.append((read - DESCRIPTOR_BYTES - 256, *others))
    assert found == [(nbytes, 0, 0, nbytes), (0, 0, nbytes, nbytes), (0, nbytes, nbytes, 0)]


PASS = {"u_planes": 5, "vector_source": 0, "q_planes": 7, "vector_controls": int(Pass.SUMS), "vector_sink": 0}


@pytest.mark.parametrize("base", [END - 64, END, 0xFFFF_FF00])
@pytest.mark.parametrize(
    ("field", "error"),
    [
        ("stream_base", Error.AXI_READ),
        ("stationary_base", Error.AXI_READ),
        ("stream_table", Error.AXI_FETCH),
        ("out_base", Error.AXI_WRITE),
        ("u_base", Error.AXI_READ),
        ("vector_coefficients", Error.AXI_READ),
        ("q_base", Error.AXI_WRITE),
        ("vector_sums", Error.AXI_WRITE),
    ],
)
def test_beyond_the_end(board, rng, field, error, base):
    """What is before it completes, nothing wraps, and later work is right."""
    work = Work(rng)
    good = work.drawn(3)
    if field in ("u_base", "vector_coefficients", "q_base", "vector_sums"):
        victim = replace(drawn_pass(rng, work.space, **PASS), **{field: base, "u_stride_n": 8, "q_stride_n": 8})
    else:
        victim = replace(product(work.space, rng), **{field: base})
        if field == "stream_table":
            victim = replace(victim, flags=victim.flags | Flag.STREAM_TABLE, stream_table=max(base, END))
    descriptors = work.all(*good, victim, product(work.space, rng))
    golden = execute(CONFIG, work.ddr.image.copy(), descriptors)
    assert (golden.error, golden.index) == (error, 4)
    board.write(RESERVED_BYTES, work.ddr.image[RESERVED_BYTES:])
    with pytest.raises(AcceleratorError) as caught:
        board.run(descriptors)
    assert (caught.value.code, caught.value.index) == (error, 4)
    work = Work(rng)
    assert not agree(CONFIG, board, work.ddr.image, work.all(*work.drawn(2)))


@pytest.mark.parametrize("cycles", [300, 1500, 3000, 6000])
def test_a_reset_in_the_middle(board, transport, rng, monkeypatch, cycles):
    """It waits for the bursts of both memories; what the chip holds stays."""
    work = Work(rng)
    descriptors = work.all(*work.drawn(8))
    board.write(RESERVED_BYTES, work.ddr.image[RESERVED_BYTES:])

    def impatient():
        transport.run(cycles)
        raise TimeoutError("enough")

    with monkeypatch.context() as patch:
        patch.setattr(transport, "wait", impatient)
        with pytest.raises(TimeoutError, match=r"completed \d of 10 .* it has been reset"):
            board.run(descriptors)
    assert not agree(CONFIG, board, work.ddr.image, descriptors)


def test_the_host_does_not_reach_the_chip(board):
    with pytest.raises(ValueError, match="do not lie between"):
        board.read(CHIP_BASE, 8)
