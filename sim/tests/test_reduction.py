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
    """Each channel starts sums of its own; pauses mean nothing, whatever is on the inputs."""
    rng = np.random.default_rng(random.getrandbits(32))
    await start(dut, valid=0, first=0, q=0, x=0)

    async def cycle(valid: bool, first: bool, q: int, x: int) -> None:
        dut.valid.value, dut.first.value, dut.q.value, dut.x.value = int(valid), int(first), q, x
        await RisingEdge(dut.clk)

    async def pause() -> None:
        await cycle(False, bool(rng.integers(2)), int(drawn(rng, RESULT_BITS)[0]), int(drawn(rng, X_BITS)[0]))

    # Sums of more elements than this may leave 48 bits.
    for length in [1, 2, *(int(n) for n in rng.integers(1, 30, 40))]:
        q, x = drawn(rng, RESULT_BITS, length), drawn(rng, X_BITS, length)
        for i in range(length):
            while rng.random() < 0.2:
                await pause()
            await cycle(True, i == 0, int(q[i]), int(x[i]))
        for _ in range(Reduction.LATENCY - 1):
            await pause()
        await ReadOnly()
        o = Sums.from_bits(dut.o.value.to_unsigned())
        found = rules.statistics(q.reshape(length, 1, 1, 1), x.reshape(length, 1, 1, 1))
        assert [o.sums, o.products, o.low, o.high] == [int(part[0]) for part in found]
        await RisingEdge(dut.clk)
