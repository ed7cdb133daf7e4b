"""Ends of descriptors in STORE: in order, when all is written, and those of vector passes when they have finished."""

from __future__ import annotations

import os
import random
from collections import deque
from dataclasses import replace

import cocotb
import pytest
from cocotb.triggers import RisingEdge

from rtl.config import AcceleratorConfig
from rtl.store import Store
from rtl.tiles import store_tile
from sim.tests.bench import compiled, run
from sim.tests.streams import StreamSource, start

CONFIG = AcceleratorConfig.preset("tiny")
RECORDS = 300
WAITING = CONFIG.queue_depth + 2  # passes that may have finished before their ends


@pytest.mark.parametrize("lanes", [1, 2])
def test_store(lanes, case):
    run(compiled(Store, replace(CONFIG, managers=lanes)), __name__, case, env={"LANES": lanes})


@cocotb.test(timeout_time=300, timeout_unit="us")
async def ends(dut):
    lanes = int(os.environ["LANES"])
    rng = random.Random(random.getrandbits(32))
    quiet = [getattr(dut, f"quiet__{lane}") for lane in range(lanes)]
    idle = {f"{name}__{lane}": 0 for name in ("quiet", "drained_valid") for lane in range(lanes)}
    await start(dut, result_full=0, drain_grant=0, vector_finished=0, **idle)
    records = StreamSource(dut, "i", idle=0.5)
    due: deque[tuple[int, int]] = deque()  # (vector, interrupt) of the ends that are not complete
    for _ in range(RECORDS):
        due.append((rng.randrange(2), rng.randrange(2)))
        record = {"end": 1, "vector": due[-1][0], "interrupt": due[-1][1]}
        records.put(store_tile(CONFIG).const(record).as_value().value)
    passes = sum(vector for vector, _ in due)  # that have not finished
    waiting = 0  # that have, and are not complete
    before = deque([False], maxlen=lanes)  # whether the writers were quiet, in so many cycles: the lanes look at it
    pulse = 0
    while due:
        busy = rng.choice((0.1, 0.9))  # the unit and the writers are now slow, now fast
        for _ in range(50):
            pulse = int(passes > 0 and waiting < WAITING and rng.random() > busy)
            dut.vector_finished.value = pulse
            for port in quiet:
                port.value = int(rng.random() > busy / 4)
            await RisingEdge(dut.clk)
            if dut.completed.value:
                vector, interrupt = due.popleft()
                assert before[0], "complete before all is written"
                assert dut.interrupt.value == interrupt
                assert waiting >= vector, "complete before its pass has finished"
                waiting -= vector
            else:
                assert not dut.interrupt.value
            before.append(all(port.value for port in quiet))
            waiting, passes = waiting + pulse, passes - pulse
    assert (passes, waiting) == (0, 0)
