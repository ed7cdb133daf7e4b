"""Queues against a deque, cycle by cycle: what they hold shows after one cycle, and nothing is lost between."""

from __future__ import annotations

import os
import random
from collections import deque

import cocotb
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from rtl.queue import PacedQueue, Queue
from sim.tests.bench import compiled, run
from sim.tests.streams import start

WIDTH = 70


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_queue(depth, case):
    run(compiled(Queue, WIDTH, depth), __name__, case, env={"DEPTH": depth, "PACED": 0})


def test_paced_queue(case):
    run(compiled(PacedQueue, WIDTH), __name__, case, env={"DEPTH": 2, "PACED": 1})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def follows_a_deque(dut):
    depth, paced = int(os.environ["DEPTH"]), os.environ["PACED"] == "1"
    await start(dut, i__valid=0, i__payload=0, o__ready=0)
    held: deque[int] = deque()
    passed = 0
    pauses = False  # a paced queue does, in the cycle after it has given an item
    for offers, takes in ((1.0, 1.0), (0.5, 0.5), (1.0, 0.2), (0.2, 1.0), (0.9, 0.9)):
        for _ in range(200):
            item = random.getrandbits(WIDTH) if random.random() < offers else None
            take = random.random() < takes
            dut.i__valid.value = item is not None
            dut.i__payload.value = item or 0
            dut.o__ready.value = take
            await ReadOnly()
            offered = bool(held) and not pauses
            room = len(held) + pauses < depth
            pauses = False
            assert dut.o__valid.value == offered
            assert dut.i__ready.value == room
            if offered:
                assert dut.o__payload.value.to_unsigned() == held[0]
                if take:
                    held.popleft()
                    passed += 1
                    pauses = paced
            if item is not None and room:
                held.append(item)
            await RisingEdge(dut.clk)
    assert passed > 200
