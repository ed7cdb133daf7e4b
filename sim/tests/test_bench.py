"""The bench itself: streams under random timing, and failures that reach pytest."""

from __future__ import annotations

import os
import random
import sys

import cocotb
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from rtl.queue import Queue
from sim.tests.bench import Program, cases, compiled, run
from sim.tests.streams import StreamSink, StreamSource, start

DEPTH = 5


def queue() -> Program:
    return compiled(Queue, 70, DEPTH)


@pytest.mark.parametrize(("idle", "stall"), [(0, 0), (0.8, 0), (0, 0.8), (0.5, 0.5)])
def test_streams(idle, stall):
    run(queue(), __name__, "items_pass_in_order", env={"IDLE": idle, "STALL": stall})


def test_a_failure_is_passed_on():
    with pytest.raises(AssertionError, match=r"1 of 1 tests failed \(seed 7\):\nfails: .*the message"):
        run(queue(), __name__, "fails", seed=7)


def test_an_offer_that_changes_is_a_failure():
    with pytest.raises(AssertionError, match=r"offer_is_withdrawn: .*o changed its offer 0x1 to None"):
        run(queue(), __name__, "offer_is_withdrawn")


def test_no_test_is_a_failure():
    with pytest.raises(AssertionError, match=r"there is no cocotb test 'misspelt' in sim.tests.test_bench"):
        run(queue(), __name__, "misspelt")


def test_every_coroutine_is_a_case():
    assert cases(sys.modules[__name__]) == ["items_pass_in_order", "fails", "offer_is_withdrawn"]


def test_waveform_on_request(monkeypatch, tmp_path):
    monkeypatch.setattr("sim.tests.bench.ROOT", tmp_path)
    monkeypatch.setenv("WAVES", "1")
    compiled.cache_clear()  # another program
    run(queue(), __name__, "items_pass_in_order", env={"IDLE": 0, "STALL": 0})
    assert "o__valid" in (tmp_path / "sim_build" / "queue.vcd").read_text()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def items_pass_in_order(dut):
    await start(dut)
    source = StreamSource(dut, "i", idle=float(os.environ["IDLE"]))
    sink = StreamSink(dut, "o", stall=float(os.environ["STALL"]))
    items = [random.getrandbits(70) for _ in range(200)]
    for item in items:
        source.put(item)
    assert await sink.wait(len(items)) == items
    await source.drained()
    await ClockCycles(dut.clk, 10)
    assert sink.items == items
    assert dut.o__valid.value == 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def fails(dut):
    await start(dut)
    raise AssertionError("the message")


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def offer_is_withdrawn(dut):
    await start(dut)
    source = StreamSource(dut, "i")
    StreamSink(dut, "o", stall=1)
    source.put(1)
    await source.drained()
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 1  # empties the queue under the sink's eyes
    await ClockCycles(dut.clk, 3)
    await RisingEdge(dut.clk)
