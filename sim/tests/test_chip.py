"""The memory on the chip behind the engines of two managers, beside an independent AXI4 memory elsewhere."""

from __future__ import annotations

import itertools
import os
import random

import cocotb
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiSlave, MemoryRegion

from rtl.axi_flat import FLAT_AXI4, connect_manager
from rtl.chip import Chip
from rtl.chip_memory import PART
from rtl.config import BEAT_BITS, CHIP_BASE, AcceleratorConfig
from rtl.dma import Beat, Command, Done, Fault, Reader, Writer
from sim.tests.bench import compiled, run
from sim.tests.faults import Refusing
from sim.tests.streams import StreamSource, start

MANAGERS = 2
#: Both banks have a whole part and a short one.
CONFIG = AcceleratorConfig(clusters=2, managers=MANAGERS, outstanding=4, chip_kib=144)
END = CHIP_BASE + CONFIG.chip_bytes
DDR = 1 << 16
#: Where runs begin, about: in DDR, at the start of the chip, where its parts meet, and at its end.
BASES = (0x800, CHIP_BASE, CHIP_BASE + 16 * PART - 0x800, END - 0x1000)
ROOM = 0x1000


class ChipBench(wiring.Component):
    """Engines of two managers with one user each."""

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        members = {"halt": In(1), "idle": Out(1)}
        for number in range(MANAGERS):
            members |= {
                f"read{number}": In(stream.Signature(Command)),
                f"write{number}": In(stream.Signature(Command)),
                f"data{number}": In(stream.Signature(BEAT_BITS)),
                f"beat{number}": Out(Beat),
                f"beat_valid{number}": Out(1),
                f"done{number}": Out(Done),
                f"read_fault{number}": Out(Fault),
                f"write_fault{number}": Out(Fault),
                f"m_axi{number}": Out(FLAT_AXI4),
            }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.chip = chip = Chip(self._config)
        idle = 1
        for number, (bus, port) in enumerate(zip(chip.engines, chip.ports, strict=True)):
            m.submodules[f"reader{number}"] = reader = Reader(self._config)
            m.submodules[f"writer{number}"] = writer = Writer(self._config)
            for engine, channels in ((reader, ("ar", "r")), (writer, ("aw", "w", "b"))):
                for channel in channels:
                    wiring.connect(m, getattr(engine, channel), getattr(bus, channel))
                m.d.comb += engine.halt.eq(self.halt)
                idle &= engine.idle
            for name, sink in (("read", reader.i), ("write", writer.i), ("data", writer.data)):
                wiring.connect(m, wiring.flipped(getattr(self, f"{name}{number}")), sink)
            outputs = {
                "beat": reader.o.payload,
                "beat_valid": reader.o.valid,
                "done": writer.done,
                "read_fault": reader.fault,
                "write_fault": writer.fault,
            }
            m.d.comb += [getattr(self, f"{name}{number}").eq(value) for name, value in outputs.items()]
            channels = {name: getattr(port, name) for name in ("ar", "r", "aw", "w", "b")}
            connect_manager(m, channels, getattr(self, f"m_axi{number}"))
        m.d.comb += self.idle.eq(idle)
        return m


def test_chip(case):
    stall = 0.0 if case == all_engines_move_a_beat_a_cycle.name else 0.4
    run(compiled(ChipBench, CONFIG), __name__, case, env={"STALL": stall})


class FaultyMemory(Refusing, MemoryRegion):
    """DDR that refuses its last KiB."""

    refused = range(DDR - 1024, DDR)


def command(addr: int, beats: int, index: int = 0) -> int:
    return Command.const({"addr": addr, "beats": beats, "index": index}).as_value().value


class Bench:
    """DDR behind the ports, commands in front, and a record of what comes out; `words` is what the memories hold."""

    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(random.getrandbits(32))
        self.stall = float(os.environ["STALL"])
        self.words: dict[int, int] = {}
        self.beats: list[list] = [[] for _ in range(MANAGERS)]  # of each manager: (data, last)
        self.want: list[list] = [[] for _ in range(MANAGERS)]
        self.done, self.writes = 0, 0
        self.faults: set[tuple] = set()  # (kind, manager, index)

    async def start(self):
        await start(self.dut, halt=0)
        self.memory = FaultyMemory(DDR)
        for number in range(MANAGERS):
            slave = AxiSlave(
                AxiBus.from_prefix(self.dut, f"m_axi{number}_"), self.dut.clk, self.dut.rst, target=self.memory
            )
            write, read = slave.write_if, slave.read_if
            if self.stall:
                for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel):
                    channel.set_pause_generator(self.rng.random() < self.stall for _ in itertools.count())
        self.sources = {
            name: [StreamSource(self.dut, f"{name}{number}", idle=self.stall) for number in range(MANAGERS)]
            for name in ("read", "write", "data")
        }
        cocotb.start_soon(self._record())
        return self

    async def _record(self):
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            if dut.rst.value:
                continue
            for number in range(MANAGERS):

                def value(name, number=number):
                    return getattr(dut, f"{name}{number}").value.to_unsigned()

                if getattr(dut, f"beat_valid{number}").value:
                    beat = Beat.from_bits(value("beat"))
                    self.beats[number].append((beat.data, beat.last))
                self.done += Done.from_bits(value("done")).valid
                for kind in ("read", "write"):
                    fault = Fault.from_bits(value(f"{kind}_fault"))
                    if fault.valid:
                        self.faults.add((kind, number, fault.index))

    def write(self, number: int, addr: int, beats: int, index: int = 0) -> None:
        """New numbers for a run, if it lies in a memory."""
        self.sources["write"][number].put(command(addr, beats, index))
        self.writes += 1
        for address in range(addr, addr + 8 * beats, 8):
            word = self.rng.getrandbits(64)
            self.sources["data"][number].put(word)
            if address < DDR - 1024 or CHIP_BASE <= address < END:
                self.words[address] = word

    def read(self, number: int, addr: int, beats: int) -> None:
        """A run of what has been written."""
        self.sources["read"][number].put(command(addr, beats))
        self.want[number] += [(self.words.get(addr + 8 * k, 0), int(k == beats - 1)) for k in range(beats)]

    async def until(self, condition, cycles: int = 50_000) -> int:
        for cycle in range(cycles):
            if condition():
                return cycle
            await RisingEdge(self.dut.clk)
        raise TimeoutError(f"not after {cycles} cycles")

    async def written(self) -> int:
        return await self.until(lambda: self.done == self.writes)

    async def seen(self) -> int:
        """All that was read has come, and no more."""
        cycles = await self.until(lambda: all(len(g) >= len(w) for g, w in zip(self.beats, self.want, strict=True)))
        await ClockCycles(self.dut.clk, 20)
        assert self.beats == self.want
        return cycles

    def runs(self, turn: int) -> list[tuple[int, int, int]]:
        """Runs (manager, address, beats) that do not overlap, in random order; none of them lies in two turns."""
        found = []
        for base in BASES:
            address = base + turn * ROOM // 2
            while True:
                beats = self.rng.choice((1, 2, 15, 16, 17, self.rng.randrange(1, 60)))
                if address + 8 * beats > base + (turn + 1) * ROOM // 2:
                    break
                found.append((self.rng.randrange(MANAGERS), address, beats))
                address += 8 * beats + 8 * self.rng.randrange(3)
        self.rng.shuffle(found)
        return found


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def what_is_written_in_either_memory_is_read_again(dut):
    bench = await Bench(dut).start()
    known = bench.runs(0)
    for run_ in known:
        bench.write(*run_)
    await bench.written()
    for run_ in bench.runs(1):
        bench.write(*run_)
    for _ in range(2 * len(known)):  # beside them
        _, addr, beats = bench.rng.choice(known)
        bench.read(bench.rng.randrange(MANAGERS), addr, beats)
    await bench.written()
    await bench.seen()
    for addr in sorted(bench.words):
        if addr < DDR:
            assert await bench.memory.read_qword(addr) == bench.words[addr]
    for addr in (*BASES[1:], CHIP_BASE + 16 * PART - 0x400):
        for number in range(MANAGERS):
            bench.read(number, addr, ROOM // 8 if addr != BASES[2] else 60)
    await bench.seen()
    assert bench.faults == set()
    assert dut.idle.value == 1


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def beyond_the_end_is_an_error_and_changes_nothing(dut):
    """Also between accesses that are none, of both managers, with the DDR's own errors among them."""
    bench = await Bench(dut).start()
    for base in BASES:
        bench.write(0, base, 40)
    await bench.written()
    wanted = set()
    beyond = (END, END + 0x1000, CHIP_BASE + 0x0100_0000, 0xFFFF_F000)
    for index, addr in enumerate([*beyond, DDR - 512, *BASES] * 4):
        number = bench.rng.randrange(MANAGERS)
        if addr in BASES:
            bench.read(number, addr, 40)
            bench.write(0, addr + 8 * 64, 17, index)  # one engine's, so that the last one is known
            continue
        beats = bench.rng.choice((1, 16, 20))
        bench.sources["read"][number].put(command(addr, beats, index))
        bench.want[number] += [None] * beats  # whatever it is
        bench.write(number, addr, beats, index)
        wanted |= {("read", number, index), ("write", number, index)}
    await bench.written()
    await bench.until(lambda: dut.idle.value == 1)
    await ClockCycles(dut.clk, 20)
    assert bench.faults == wanted
    for got, want in zip(bench.beats, bench.want, strict=True):
        assert [g if w else None for g, w in zip(got, want, strict=True)] == want
    bench.beats = [[] for _ in range(MANAGERS)]
    bench.want = [[] for _ in range(MANAGERS)]
    for base in BASES[1:]:
        bench.read(0, base, 81)
    await bench.seen()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_halt_drains_both_memories_and_work_goes_on_after_a_reset(dut):
    bench = await Bench(dut).start()
    for after in (0, 1, 3, 8, 13, 21, 34, 55, 89):
        before = dict(bench.words)
        runs = bench.runs(0)
        for run_ in runs:
            bench.write(*run_)
            bench.sources["read"][run_[0]].put(command(*run_[1:]))
        await ClockCycles(dut.clk, after)
        dut.halt.value = 1
        await bench.until(lambda: dut.idle.value == 1)
        for source in itertools.chain(*bench.sources.values()):
            source.clear()
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.halt.value = 0
        dut.rst.value = 0
        await ClockCycles(dut.clk, 3)
        assert dut.idle.value == 1
        # A beat is the old one or the new one.
        bench.beats, bench.want = ([[] for _ in range(MANAGERS)] for _ in range(2))
        for _, addr, beats in runs:
            bench.read(0, addr, beats)
        await bench.until(lambda: len(bench.beats[0]) == len(bench.want[0]))
        addresses = [addr + 8 * k for _, addr, beats in runs for k in range(beats)]
        for address, (word, _) in zip(addresses, bench.beats[0], strict=True):
            assert word in (before.get(address, 0), bench.words[address])
            bench.words[address] = word


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def all_engines_move_a_beat_a_cycle(dut):
    bench = await Bench(dut).start()
    beats = 1000
    for number in range(MANAGERS):
        bench.write(number, CHIP_BASE + 0x4000 * number, beats)
    first = await bench.written()
    assert first < beats + 40
    for number in range(MANAGERS):
        bench.read(number, CHIP_BASE + 0x4000 * number, beats)
        bench.write(number, CHIP_BASE + 0x4000 * (number + 2), beats)
    start_of_both = bench.done
    cycles = await bench.until(
        lambda: bench.done == start_of_both + MANAGERS and all(len(got) == beats for got in bench.beats)
    )
    dut._log.warning(f"{beats} beats in {cycles} cycles")
    assert cycles < beats + 40
    await bench.seen()
