"""Cycles for a word of a long pass: what the ports to memory take, and where they take less, one."""

from __future__ import annotations

import os

import cocotb
import pytest

from rtl.isa import Pass
from sim.tests.bench import compiled, run
from sim.tests.test_vector import Bench, config_of
from sim.tests.vector_bench import VectorBench
from sim.tests.vector_passes import drawn_pass, words

#: Cycles from a command to its first beat.
LATENCY = 30


@pytest.mark.parametrize("managers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_speed(managers, case):
    run(compiled(VectorBench, config_of(managers)), __name__, case, env={"MANAGERS": managers})


async def close_to(dut, least: float, **fixed) -> None:
    """A pass takes `least` cycles a word, and little more for its beginning and its end."""
    bench = Bench(dut)
    fields = {"samples": 2, "k_blocks": 2, "height": 16, "width": 32, "vector_source": 0, "vector_sink": 0}
    fields |= dict.fromkeys((f"{name}_planes" for name in ("u", "v", "x", "mask", "q", "positive")), 0)
    fields |= {"vector_controls": int(Pass.RELU | Pass.STOCHASTIC)}
    d = drawn_pass(bench.rng, bench.space, **fields | fixed)
    memory = await bench.run([d], 0.0, (LATENCY, LATENCY))
    found = memory.cycle / words(d)
    dut._log.info(f"{found:.3f} cycles a word, {least} at least")
    assert found < 1.12 * least


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_word_a_cycle(dut):
    await close_to(dut, 1, u_planes=4, q_planes=4)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def as_fast_as_the_ports(dut):
    """Of two managers; one reads all streams."""
    least = max(8 / 4, 12 / 4) if int(os.environ["MANAGERS"]) == 2 else (8 + 12) / 4
    await close_to(dut, least, u_planes=8, v_planes=12, q_planes=8)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def as_fast_as_the_writer(dut):
    await close_to(dut, 9 / 4, u_planes=4, q_planes=8, positive_planes=1)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def results_of_a_product(dut):
    await close_to(dut, 8, vector_source=2, q_planes=8)
