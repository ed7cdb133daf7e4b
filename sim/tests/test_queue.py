"""The queue against a deque, cycle by cycle: what it holds shows after one cycle, and nothing is lost between."""

from __future__ import annotations

import os
import random
from collections import deque

import cocotb
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from rtl.queue import Queue
from sim.tests.bench import compiled, run
from sim.tests.streams import start

WIDTH = 70


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_queue(depth, case):
    run(compiled(Queue, WIDTH, depth), __name__, case, env={"DEPTH": depth})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def follows_a_deque(dut):
    depth = int(os.environ["DEPTH"])
    await start(dut, i__valid=0, i__payload=0, o__ready=0)
    held: deque[int] = deque()
    passed = 0
    for offers, takes in ((1.0, 1.0), (0.5, 0.5), (1.0, 0.2), (0.2, 1.0), (0.9, 0.9)):
        for _ in range(200):
            item = random.getrandbits(WIDTH) if random.random() < offers else None
            take = random.random() < takes
            dut.i__valid.value = item is not None
            dut.i__payload.value = item or 0
            dut.o__ready.value = take
            await ReadOnly()
            assert dut.o__valid.value == bool(held)
            assert dut.i__ready.value == (len(held) < depth)
            room = len(held) < depth
            if held:
                assert dut.o__payload.value.to_unsigned() == held[0]
                if take:
                    held.popleft()
                    passed += 1
            if item is not None and room:
                held.append(item)
            await RisingEdge(dut.clk)
    assert passed > 200
