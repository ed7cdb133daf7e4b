"""The vector unit: the whole memory after random passes, under random latencies and stalls, and its speed."""

from __future__ import annotations

import os
import random

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge

from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error
from sim.golden import execute
from sim.tests.bench import compiled, run
from sim.tests.streams import StreamSource, start
from sim.tests.vector_bench import Memory, VectorBench
from sim.tests.vector_passes import Space, drawn_pass, packed, words

PASSES, SIZE = 12, 1 << 22


def config_of(managers: int) -> AcceleratorConfig:
    return AcceleratorConfig(managers=managers, vector=True)


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("managers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_vector(managers, stall, case):
    run(compiled(VectorBench, config_of(managers)), __name__, case, env={"MANAGERS": managers, "STALL": stall})


class Bench:
    """Passes one behind the other, and what the golden model makes of the same memory."""

    def __init__(self, dut, size: int = SIZE):
        self.rng = np.random.default_rng(random.getrandbits(32))
        self.space = Space(self.rng, size)
        self._dut = dut

    async def run(self, passes: list[Descriptor], stall: float, latency: tuple[int, int]) -> Memory:
        """The memory when all have ended, compared after each."""
        dut, managers = self._dut, int(os.environ["MANAGERS"])
        config, expected = config_of(managers), self.space.image.copy()
        memory = Memory(dut, self.space.image, managers, stall, latency)
        await start(dut, i__valid=0, **{f"beats{i}__valid": 0 for i in range(managers)})
        source = StreamSource(dut, "i")
        indices = [random.getrandbits(32) for _ in passes]
        for d, index in zip(passes, indices, strict=True):
            source.put(packed(d, index))
        cocotb.start_soon(memory.run())
        while len(memory.ends) < len(passes):
            await RisingEdge(dut.clk)
        for d, (_, after) in zip(passes, memory.ends, strict=True):
            assert execute(config, expected, [d]).error == Error.NONE
            wrong = np.flatnonzero(after != expected)
            assert not len(wrong), f"{len(wrong)} bytes differ, the first at {wrong[0]:#x}, after {d}"
        assert memory.words == sum(words(d) for d in passes)
        assert memory.indices == set(indices)
        return memory


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def memory_to_memory(dut):
    bench = Bench(dut)
    passes = [drawn_pass(bench.rng, bench.space) for _ in range(PASSES)]
    await bench.run(passes, float(os.environ["STALL"]), (3, 60))
