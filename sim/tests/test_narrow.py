"""Sums on their way out: every format and shift against integers, with pauses between groups."""

from __future__ import annotations

import random
from collections import deque

import cocotb
from cocotb.triggers import RisingEdge

from rtl.config import ACC_BITS
from rtl.control import DRAIN_ROWS
from rtl.narrow import Narrow
from rtl.store_block import MOST_SHIFT, Format
from sim.tests.bench import compiled, run
from sim.tests.streams import start

ROUNDS = 4000


def test_narrow(case):
    run(compiled(Narrow), __name__, case)


def drawn(rng: random.Random, bits: int) -> int:
    """A sum that leaves about `bits` bits, often within one of where it no longer fits."""
    end = 1 << min(bits, ACC_BITS) - 1
    near = rng.choice((-end, end)) + rng.randrange(-1, 2) if rng.random() < 0.5 else rng.randrange(-2 * end, 2 * end)
    return max(-(1 << ACC_BITS - 1), min(near, (1 << ACC_BITS - 1) - 1))


def expected(number: int, form: Format, shift: int) -> tuple[int, bool]:
    """What is stored of a sum, and whether it was clipped."""
    end = 1 << 8 * form.nbytes - 1
    kept = max(-end, min(number >> shift, end - 1))
    return kept & (1 << min(8 * form.nbytes, ACC_BITS)) - 1, kept != number >> shift


@cocotb.test()
async def every_format(dut):
    rng = random.Random(random.getrandbits(32))
    await start(dut, valid=0, sums=0, format=0, shift=0)
    # What is on its way: (valid, format, numbers), and how many are counted.
    coming, counts = deque([(False, Format.INT16, [])] * Narrow.LATENCY), deque([0] * (Narrow.LATENCY + 2))
    clipped = dict.fromkeys(Format, 0)
    for _ in range(ROUNDS):
        valid, form, shift = rng.random() < 0.8, rng.choice(list(Format)), rng.randrange(MOST_SHIFT + 1)
        sums = [drawn(rng, rng.choice((16, 32, 48)) + shift) for _ in range(DRAIN_ROWS)]
        dut.valid.value, dut.format.value, dut.shift.value = int(valid), form, shift
        dut.sums.value = sum((number & (1 << ACC_BITS) - 1) << ACC_BITS * k for k, number in enumerate(sums))
        found = [expected(number, form, shift) for number in sums]
        lost = sum(changed for _, changed in found) if valid else 0
        clipped[form] += lost
        coming.append((valid, form, [kept for kept, _ in found]))
        counts.append(lost)
        await RisingEdge(dut.clk)
        valid, form, kept = coming.popleft()
        assert dut.narrowed_valid.value == valid
        assert dut.overflows.value == counts.popleft()
        if valid:
            mask = (1 << min(8 * form.nbytes, ACC_BITS)) - 1
            raw = dut.narrowed.value.to_unsigned()
            assert dut.narrowed_format.value == form
            assert [raw >> ACC_BITS * k & mask for k in range(DRAIN_ROWS)] == kept
    assert clipped[Format.INT16] > ROUNDS // 10
    assert clipped[Format.INT32] > ROUNDS // 10
    assert not clipped[Format.INT64]
