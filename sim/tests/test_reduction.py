"""The sums of a lane against `host.step.rules.statistics`, with pauses between elements."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from host.step import rules
from rtl.lane import RESULT_BITS
from rtl.reduction import X_BITS, Reduction, Sums
from sim.tests.bench import compiled, run
from sim.tests.streams import start
from sim.tests.test_lane import drawn


def test_reduction(case):
    run(compiled(Reduction), __name__, case)


@cocotb.test()
async def channels(dut):
    """Channels follow one another without a gap; each starts sums of its own."""
    rng = np.random.default_rng(random.getrandbits(32))
    await start(dut, valid=0, first=0, q=0, x=0)
    # Sums of more elements than this may leave 48 bits.
    lengths = [1, 2, *(int(n) for n in rng.integers(1, 30, 40))]
    due = {}  # sums by cycle
    now, index = 0, 0
    while index < len(lengths) or due:
        items = []
        if index < len(lengths):
            q, x = drawn(rng, RESULT_BITS, lengths[index]), drawn(rng, X_BITS, lengths[index])
            items = list(zip(q.tolist(), x.tolist(), strict=True))
            index += 1
        for i, (value, other) in enumerate(items or [(0, 0)] * (Reduction.LATENCY + 1)):
            pause = not items or rng.random() < 0.2
            while True:
                dut.valid.value = int(not pause)
                dut.first.value = int(rng.integers(2)) if pause else int(i == 0)
                dut.q.value, dut.x.value = value, other
                if not pause and i == len(items) - 1:
                    shape = (len(items), 1, 1, 1)
                    found = rules.statistics(q.reshape(shape), x.reshape(shape))
                    due[now + Reduction.LATENCY] = [int(part[0]) for part in found]
                await ReadOnly()
                if now in due:
                    o = Sums.from_bits(dut.o.value.to_unsigned())
                    assert [o.sums, o.products, o.low, o.high] == due.pop(now)
                await RisingEdge(dut.clk)
                now += 1
                if not pause or not items:
                    break
                pause = rng.random() < 0.2
