"""The aperture: what it admits, proved by Yosys, and its order, beats and answers under random stalls."""

from __future__ import annotations

import json

import numpy as np
import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from rtl import levels
from rtl.aperture import BASE, PAGE_BYTES, PAGE_NUMBER_BITS, SIZE, Aperture, ApertureRegisters, Gate
from rtl.axi import DECERR, address_channel
from rtl.hierarchy import rtlil
from rtl.yosys import run_script

PAGES = 1 << PAGE_NUMBER_BITS
OUTSTANDING = 4


class Proof(wiring.Component):
    """A gate with any inputs: whatever it shows lies in the aperture, first beat and last, in plain arithmetic."""

    def __init__(self):
        pages = In(PAGE_NUMBER_BITS)
        burst = In(stream.Signature(address_channel(8)))
        super().__init__({"i": burst, "base": pages, "size": pages, "drop": In(1), "ready": In(1), "taken": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.gate = gate = Gate()
        wiring.connect(m, wiring.flipped(self.i), gate.i)
        before = Signal(2 * PAGE_NUMBER_BITS)
        began = Signal()
        shown = gate.o.payload
        first = Signal(34)
        end = Signal(34)
        start = Signal(34)
        stop = Signal(34)
        m.d.sync += [before.eq(Cat(self.base, self.size)), began.eq(1)]
        m.d.comb += [
            gate.base.eq(self.base),
            gate.size.eq(self.size),
            gate.drop.eq(self.drop),
            gate.o.ready.eq(self.ready),
            self.taken.eq(gate.o.valid),
            first.eq(shown.addr),
            end.eq((shown.addr & ~7) + 8 * (shown.len + 1)),
            start.eq(self.base * PAGE_BYTES),
            stop.eq(start + self.size * PAGE_BYTES),
            Assume(~began | (before == Cat(self.base, self.size))),
            Assert(~began | ~gate.o.valid | ((first >= start) & (end <= stop) & (end <= 1 << 32))),
        ]
        return m


PROOF = """\
read_rtlil proof.il
prep -top proof -flatten
async2sync
chformal -lower
dffunmap
opt_clean
sat -tempinduct -prove-asserts -set-assumes -maxsteps 5 -verify
"""


def test_no_burst_outside_is_ever_shown(tmp_path):
    """For every base, size, address, length and history: a proof by induction."""
    (tmp_path / "proof.il").write_text(rtlil(Proof(), "proof"))
    run_script(tmp_path, PROOF)


def test_the_proof_can_fail(tmp_path, monkeypatch):
    """Of a gate whose pages are one more than `size`."""
    text = rtlil(Proof(), "proof")
    assert "cell $lt" in text
    (tmp_path / "proof.il").write_text(text.replace("cell $lt", "cell $le"))
    with pytest.raises(RuntimeError, match="fail"):
        run_script(tmp_path, PROOF)


async def patience(ctx):
    for _ in range(50_000):  # `repeat` does not survive being left behind by the end of the simulation
        await ctx.tick()
    raise AssertionError("it hangs")


class Bench:
    """A manager with random bursts, the aperture, and a memory with random delays."""

    def __init__(self, rng: np.random.Generator, dut: wiring.Component, base: int = 0, size: int = 0):
        self.dut = dut
        self.rng, self.base, self.size = rng, base, size
        self.reached: list[tuple[str, int, int]] = []
        self.beats: list[tuple[int, int]] = []  # address and value of what was written
        self.open = {"ar": 0, "aw": 0}

    def admits(self, addr: int, beats: int) -> bool:
        end = (addr & ~7) + 8 * beats
        crosses = addr // PAGE_BYTES != (end - 1) // PAGE_BYTES
        return not crosses and end <= self.size * PAGE_BYTES and self.base * PAGE_BYTES + end <= 1 << 32

    async def pause(self, ctx):
        while self.rng.random() < 0.4:
            await ctx.tick()

    async def put(self, ctx, port, **fields):
        await self.pause(ctx)
        for name, value in fields.items():
            ctx.set(getattr(port.payload, name), value)
        ctx.set(port.valid, 1)
        while not (await ctx.tick().sample(port.ready))[-1]:
            pass
        ctx.set(port.valid, 0)

    async def get(self, ctx, port, *fields):
        await self.pause(ctx)
        ctx.set(port.ready, 1)
        valid = 0
        while not valid:
            _, _, valid, *values = await ctx.tick().sample(port.valid, *(getattr(port.payload, f) for f in fields))
        ctx.set(port.ready, 0)
        return values

    def run(self, bursts: list[tuple[int, int]]) -> None:
        """Every burst is read and written; then `finished` parts have ended."""
        dut, queues = self.dut, {"ar": [], "aw": []}
        finished, came = [], []

        async def addresses(ctx, name):
            ctx.set(dut.base, self.base)
            ctx.set(dut.size, self.size)
            for addr, beats in bursts:
                while self.open[name] == OUTSTANDING:
                    await ctx.tick()
                self.open[name] += 1
                await self.put(ctx, getattr(dut.i, name), addr=addr, len=beats - 1)

        async def memory_takes(ctx, name):
            while True:
                addr, length = await self.get(ctx, getattr(dut.o, name), "addr", "len")
                self.reached.append((name, addr, length + 1))
                queues[name].append((addr, length + 1))

        async def memory_reads(ctx):
            while True:
                await ctx.tick()
                if queues["ar"]:
                    addr, beats = queues["ar"].pop(0)
                    for i in range(beats):
                        await self.put(ctx, dut.o.r, data=addr + 8 * i, resp=0, last=i == beats - 1)

        async def memory_beats(ctx):
            while True:  # also those whose address has not come
                came.append(await self.get(ctx, dut.o.w, "data", "last"))

        async def memory_writes(ctx):
            while True:
                await ctx.tick()
                if queues["aw"] and len(came) >= queues["aw"][0][1]:
                    addr, beats = queues["aw"].pop(0)
                    for i in range(beats):
                        value, last = came.pop(0)
                        assert last == (i == beats - 1)
                        self.beats.append((addr + 8 * i, value))
                    await self.put(ctx, dut.o.b, resp=0)

        async def reads(ctx):
            for addr, beats in bursts:
                for i in range(beats):
                    value, resp, last = await self.get(ctx, dut.i.r, "data", "resp", "last")
                    assert last == (i == beats - 1)
                    assert resp == (0 if self.admits(addr, beats) else DECERR)
                    assert resp or value == self.base * PAGE_BYTES + addr + 8 * i
                self.open["ar"] -= 1
            finished.append("reads")

        async def writes(ctx):
            for addr, beats in bursts:
                for i in range(beats):
                    await self.put(ctx, dut.i.w, data=addr + 8 * i, strb=0xFF, last=i == beats - 1)

        async def responses(ctx):
            for addr, beats in bursts:
                (resp,) = await self.get(ctx, dut.i.b, "resp")
                assert resp == (0 if self.admits(addr, beats) else DECERR)
                self.open["aw"] -= 1
            finished.append("responses")

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        for name in ("ar", "aw"):

            async def sends(ctx, name=name):
                await addresses(ctx, name)

            async def takes(ctx, name=name):
                await memory_takes(ctx, name)

            simulator.add_testbench(sends, background=True)
            simulator.add_testbench(takes, background=True)
        for part in (memory_reads, memory_beats, memory_writes, writes):
            simulator.add_testbench(part, background=True)
        for part in (reads, responses):
            simulator.add_testbench(part)
        simulator.add_testbench(patience, background=True)
        simulator.run()
        assert len(finished) == 2
        assert not came

        inside = [(self.base * PAGE_BYTES + addr, beats) for addr, beats in bursts if self.admits(addr, beats)]
        for name in ("ar", "aw"):
            assert [burst[1:] for burst in self.reached if burst[0] == name] == inside
        offset = self.base * PAGE_BYTES
        assert self.beats == [(addr + 8 * i, addr - offset + 8 * i) for addr, beats in inside for i in range(beats)]


def edges(size: int, base: int) -> list[tuple[int, int]]:
    """Bursts around everything that decides: page borders, the aperture's end, the end of the address space."""
    marks = {0, PAGE_BYTES, size * PAGE_BYTES, (PAGES - base) * PAGE_BYTES, 1 << 31, 1 << 32}
    found = []
    for mark in sorted(marks):
        for beats in (1, 2, 16):
            starts = {mark - 8 * beats - 8, mark - 8 * beats, mark - 8 * beats + 8, mark - 8, mark}
            found += [(addr, beats) for addr in sorted(starts) if 0 <= addr < 1 << 32]
    return found


@pytest.mark.parametrize(
    ("base", "size"),
    [(0x10000, 2), (0x10000, 0), (0, PAGES - 1), (PAGES - 1, 4), (PAGES - 2, 2), (0x3FFFF, 0x8000)],
)
def test_edges_of_the_aperture(base, size, rng):
    bursts = edges(size, base)
    rng.shuffle(bursts)
    Bench(rng, Aperture(outstanding=OUTSTANDING), base, size).run([(int(addr), int(beats)) for addr, beats in bursts])


def test_bursts_inside_and_outside_in_any_order(rng):
    bursts = [(8 * int(rng.integers(0, 3 * 512)), int(rng.integers(1, 17))) for _ in range(150)]
    bench = Bench(rng, Aperture(outstanding=OUTSTANDING), 0x20000, 2)
    bench.run(bursts)
    assert 0 < len(bench.reached) < 2 * len(bursts)


def test_registers(rng):
    """Both halves of the addresses, with a subordinate that takes data before addresses as it likes."""
    dut, words, done = ApertureRegisters(9), {}, []
    bench = Bench(rng, dut)

    async def takes(ctx):
        while True:
            first, second = (dut.o.aw, "addr"), (dut.o.w, "data")
            pair = {}
            if rng.random() < 0.5:
                first, second = second, first
            for port, field in (first, second):
                pair[field] = (await bench.get(ctx, port, field))[0]
            words[pair["addr"]] = pair["data"]
            await bench.put(ctx, dut.o.b, resp=0)

    async def gives(ctx):
        while True:
            (addr,) = await bench.get(ctx, dut.o.ar, "addr")
            await bench.put(ctx, dut.o.r, data=words.get(addr, 0), resp=0)

    async def write(ctx, addr, value, strobes=0xF):
        ctx.set(dut.i.aw.payload.addr, addr)
        ctx.set(dut.i.w.payload, {"data": value, "strb": strobes})
        waiting = [dut.i.aw, dut.i.w]  # a manager offers both, whatever is taken first
        for port in waiting:
            ctx.set(port.valid, 1)
        while waiting:
            _, _, *ready = await ctx.tick().sample(*(port.ready for port in waiting))
            for port in [port for port, taken in zip(waiting, ready, strict=True) if taken]:
                ctx.set(port.valid, 0)
                waiting.remove(port)
        return (await bench.get(ctx, dut.i.b, "resp"))[0]

    async def read(ctx, addr):
        await bench.put(ctx, dut.i.ar, addr=addr)
        value, resp = await bench.get(ctx, dut.i.r, "data", "resp")
        assert resp == 0
        return value

    async def manager(ctx):
        own = 1 << 9
        assert await read(ctx, own + BASE) == await read(ctx, own + SIZE) == 0
        for addr in (0, 4, 0x1FC):
            value = int(rng.integers(0, 1 << 32))
            await write(ctx, addr, value)
            assert await read(ctx, addr) == value
        await write(ctx, own + BASE, 0x1234_5FFF)
        await write(ctx, own + SIZE, 0x0800_0000)
        await write(ctx, own + SIZE, 0xFFFF_FFFF, strobes=3)
        assert (await read(ctx, own + BASE), await read(ctx, own + SIZE)) == (0x1234_5000, 0x0800_0000)
        assert (ctx.get(dut.base), ctx.get(dut.size)) == (0x12345, 0x8000)
        assert set(words) == {0, 4, 0x1FC}
        done.append(True)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(takes, background=True)
    simulator.add_testbench(gives, background=True)
    simulator.add_testbench(manager)
    simulator.add_testbench(patience, background=True)
    simulator.run()
    assert done


def test_it_has_five_levels_at_most(tmp_path):
    """Alone; its ports count as registers."""
    for name, unit in (("aperture", Aperture(outstanding=16)), ("registers", ApertureRegisters(9))):
        (tmp_path / f"{name}.il").write_text(rtlil(unit, name))
        steps = [f"read_rtlil {name}.il", f"synth_xilinx -family xc7 -top {name} -noiopad -noclkbuf -flatten"]
        run_script(tmp_path, "\n".join([*steps, "blackbox =A:whitebox", f"write_json {name}.json"]))
        found = levels.analyse(json.loads((tmp_path / f"{name}.json").read_text()), name)
        print(levels.table(levels.as_json(found)))
        assert max(path.levels for path in found.values()) <= 5
