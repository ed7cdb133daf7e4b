"""The bridge from AXI3 to AXI4-Lite, with bursts of every length against a memory of registers."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from rtl.axi_bridge import FIXED, AXI3ToLite

INCR = 1
SLVERR = 2
BAD = 0x1F0  # the address that answers with an error


class Bench:
    """Bridge, a subordinate with random delays that is a table of words, and a manager."""

    def __init__(self, rng: np.random.Generator):
        self.dut = AXI3ToLite(9)
        self.rng = rng
        self.words: dict[int, int] = {}

    async def pause(self, ctx):
        for _ in range(self.rng.integers(0, 4)):
            await ctx.tick()

    async def put(self, ctx, stream, **fields):
        await self.pause(ctx)
        for name, value in fields.items():
            ctx.set(getattr(stream.payload, name), value)
        ctx.set(stream.valid, 1)
        while not (await ctx.tick().sample(stream.ready))[-1]:
            pass
        ctx.set(stream.valid, 0)

    async def get(self, ctx, stream, *fields):
        await self.pause(ctx)
        ctx.set(stream.ready, 1)
        valid = 0
        while not valid:  # `until` does not survive being left behind by the end of the simulation
            _, _, valid, *values = await ctx.tick().sample(
                stream.valid, *(getattr(stream.payload, name) for name in fields)
            )
        ctx.set(stream.ready, 0)
        return values[0] if len(fields) == 1 else tuple(values)

    async def read_side(self, ctx):
        while True:
            addr = await self.get(ctx, self.dut.o.ar, "addr")
            resp = SLVERR if addr == BAD else 0
            await self.put(ctx, self.dut.o.r, data=self.words.get(addr, 0), resp=resp)

    async def write_side(self, ctx):
        while True:
            addr = await self.get(ctx, self.dut.o.aw, "addr")
            data, strobes = await self.get(ctx, self.dut.o.w, "data", "strb")
            mask = sum(0xFF << 8 * i for i in range(4) if strobes >> i & 1)
            self.words[addr] = self.words.get(addr, 0) & ~mask | data & mask
            await self.put(ctx, self.dut.o.b, resp=SLVERR if addr == BAD else 0)

    async def write(self, ctx, ident, addr, data, burst=INCR, strobes=0xF):
        await self.put(ctx, self.dut.i.aw, id=ident, addr=addr, len=len(data) - 1, burst=burst)
        for i, word in enumerate(data):
            await self.put(ctx, self.dut.i.w, data=int(word), strb=strobes, last=i == len(data) - 1)
        return await self.get(ctx, self.dut.i.b, "id", "resp")

    async def read(self, ctx, ident, addr, length, burst=INCR):
        await self.put(ctx, self.dut.i.ar, id=ident, addr=addr, len=length - 1, burst=burst)
        return [await self.get(ctx, self.dut.i.r, "id", "data", "resp", "last") for _ in range(length)]

    def run(self, manager):
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.read_side, background=True)
        simulator.add_testbench(self.write_side, background=True)
        simulator.add_testbench(manager)
        simulator.run_until(0.02)
        assert self.finished, "the bridge hangs"


@pytest.fixture
def bench(rng):
    return Bench(rng)


def test_bursts(bench, rng):
    async def manager(ctx):
        bench.finished = False
        for length in range(1, 17):
            ident, addr = int(rng.integers(0, 1 << 12)), 4 * int(rng.integers(0, 100))
            data = rng.integers(0, 1 << 32, length)
            assert await bench.write(ctx, ident, addr, data) == (ident, 0)
            beats = await bench.read(ctx, ident ^ 1, addr, length)
            assert [(i, d, r) for i, d, r, _ in beats] == [(ident ^ 1, int(d), 0) for d in data]
            assert [last for *_, last in beats] == [0] * (length - 1) + [1]
        bench.finished = True

    bench.run(manager)


def test_fixed_bursts_and_strobes(bench):
    async def manager(ctx):
        bench.finished = False
        await bench.write(ctx, 1, 0x20, [1, 2, 0xAABBCCDD], burst=FIXED)
        await bench.write(ctx, 1, 0x20, [0x11223344], strobes=0b0101)
        assert bench.words == {0x20: 0xAA22CC44}
        beats = await bench.read(ctx, 2, 0x20, 3, burst=FIXED)
        assert [d for _, d, _, _ in beats] == [0xAA22CC44] * 3
        bench.finished = True

    bench.run(manager)


def test_error_responses(bench):
    """A write tells the worst of its beats, a read the response of each."""

    async def manager(ctx):
        bench.finished = False
        assert await bench.write(ctx, 3, BAD - 4, [1, 2, 3]) == (3, SLVERR)
        assert [r for _, _, r, _ in await bench.read(ctx, 4, BAD - 4, 3)] == [0, SLVERR, 0]
        assert await bench.write(ctx, 5, 0, [7]) == (5, 0)
        bench.finished = True

    bench.run(manager)
