"""The corner turner against numpy's transposition, with pauses and without, each beat in its cycle."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from rtl.config import BEAT_BITS
from rtl.dma import Beat
from rtl.turner import Turner
from sim.tests.bench import compiled, run
from sim.tests.streams import start

SIDE = Turner.SIDE
TILES = 40


class TurnerBench(wiring.Component):
    """The turner with the valid bits and the payloads of its streams as ports."""

    def __init__(self):
        super().__init__({"valid": In(1), "i": In(BEAT_BITS), "turned": Out(1), "o": Out(Beat)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.turner = turner = Turner()
        m.d.comb += [turner.i.valid.eq(self.valid), turner.i.payload.eq(self.i)]
        m.d.comb += [self.turned.eq(turner.o.valid), self.o.eq(turner.o.payload)]
        return m


def test_turner(case):
    run(compiled(TurnerBench), __name__, case)


def beat(nibbles) -> int:
    return sum(int(nibble) << 4 * k for k, nibble in enumerate(nibbles))


@cocotb.test()
async def tiles(dut):
    rng = np.random.default_rng(random.getrandbits(32))
    await start(dut, valid=0, i=0)
    for pause in (0.0, 0.1, 0.7):
        sent, expected, now = {}, {}, 0  # beats, by the cycle in which they come and leave
        for tile in rng.integers(0, 16, (TILES, SIDE, SIDE)):
            for row in tile:
                now += int(rng.geometric(1 - pause))
                sent[now] = beat(row)
            for number, column in enumerate(tile.T):
                values = {"data": beat(column), "last": number == SIDE - 1}
                expected[now + Turner.LATENCY + number] = Beat.const(values).as_value().value
        for cycle in range(max(expected) + 3):
            dut.valid.value = cycle in sent
            dut.i.value = sent.get(cycle, random.getrandbits(BEAT_BITS))
            await ReadOnly()
            left = dut.o.value.to_unsigned() if dut.turned.value else None
            assert left == expected.get(cycle), f"in cycle {cycle}"
            await RisingEdge(dut.clk)
