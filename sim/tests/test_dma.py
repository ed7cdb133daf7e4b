"""Burst engines and arbiters against an independent AXI4 memory: cuts, error responses, drain on halt, timing."""

from __future__ import annotations

import itertools
import os
import random
from collections import deque

import cocotb
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiSlave, SparseMemoryRegion

from rtl.arbiter import ReadArbiter, WriteArbiter
from rtl.axi_flat import FLAT_AXI4, connect_manager
from rtl.config import BEAT_BITS, AcceleratorConfig
from rtl.dma import Beat, Command, Fault, Reader, Writer
from sim.tests.bench import compiled, run
from sim.tests.faults import Refusing
from sim.tests.streams import StreamSource, start

# Addresses around all of these are used: the first, a 4 KiB boundary, and the last.
BASES = (0, 0xF80, 0x7FFF_FF00, 0xFFFF_F800)
BAD = 0x4000_0000  # errors from here on, for 64 KiB
USERS = 3


class DmaBench(wiring.Component):
    """Reader and writer on one bus, each with its arbiter."""

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                **{f"read{user}": In(stream.Signature(Command)) for user in range(USERS)},
                "closed": In(USERS),
                "beat": Out(Beat),
                "beat_valid": Out(USERS),
                "read_fault": Out(Fault),
                "read_idle": Out(1),
                "read_waiting": Out(1),
                **{f"write{user}": In(stream.Signature(Command)) for user in range(USERS)},
                **{f"data{user}": In(stream.Signature(BEAT_BITS)) for user in range(USERS)},
                "write_fault": Out(Fault),
                "write_idle": Out(1),
                "write_quiet": Out(1),
                "halt": In(1),
                "m_axi": Out(FLAT_AXI4),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = Reader(self._config)
        m.submodules.writer = writer = Writer(self._config)
        m.submodules.reads = reads = ReadArbiter(USERS)
        m.submodules.writes = writes = WriteArbiter(self._config, USERS)
        channels = {"ar": reader.ar, "r": reader.r, "aw": writer.aw, "w": writer.w, "b": writer.b}
        connect_manager(m, channels, self.m_axi)
        for user in range(USERS):
            wiring.connect(m, wiring.flipped(getattr(self, f"read{user}")), reads.i[user])
            wiring.connect(m, wiring.flipped(getattr(self, f"write{user}")), writes.i[user])
            wiring.connect(m, wiring.flipped(getattr(self, f"data{user}")), writes.data[user])
        wiring.connect(m, reads.o, reader.i)
        wiring.connect(m, reader.o, reads.beats)
        wiring.connect(m, writes.o, writer.i)
        wiring.connect(m, writes.beats, writer.data)
        m.d.comb += [
            self.beat.eq(reader.o.payload),
            self.beat_valid.eq(Cat(share.valid for share in reads.share)),
            self.read_fault.eq(reader.fault),
            self.read_idle.eq(reader.idle),
            self.read_waiting.eq(reader.waiting),
            self.write_fault.eq(writer.fault),
            self.write_idle.eq(writer.idle),
            self.write_quiet.eq(writes.quiet.all()),
            reader.halt.eq(self.halt),
            writer.halt.eq(self.halt),
            reads.closed.eq(self.closed),
            reads.fault.eq(reader.fault),
            writes.user.eq(writer.user),
            writes.done.eq(writer.done),
        ]
        return m


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("config", [(2, 1), (16, 8), (256, 2)], ids=lambda c: f"{c[0]} beats, {c[1]} outstanding")
def test_dma(config, stall, case):
    burst, outstanding = config
    program = compiled(DmaBench, AcceleratorConfig(burst_beats=burst, outstanding=outstanding))
    run(program, __name__, case, env={"STALL": stall, "BURST": burst, "OUTSTANDING": outstanding})


class FaultyMemory(Refusing, SparseMemoryRegion):
    """Memory that fails in the range of `BAD`."""

    refused = range(BAD, BAD + 0x10000)


def command(addr: int, beats: int, index: int = 0) -> int:
    return Command.const({"addr": addr, "beats": beats, "index": index}).as_value().value


class Bench:
    """Memory behind the bus, commands in front, and a record of all that comes out."""

    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(random.getrandbits(32))
        self.stall = float(os.environ["STALL"])
        self.burst, self.outstanding = int(os.environ["BURST"]), int(os.environ["OUTSTANDING"])
        self.beats: list[list] = [[] for _ in range(USERS)]  # of each user: (data, last)
        self.faults: dict[str, list] = {"read": [], "write": []}  # (user, index)
        self.bursts: list[tuple[str, int, int]] = []
        self.written: list[tuple] = []  # commands in the order in which they were taken: (user, command)

    async def start(self):
        await start(self.dut, halt=0, closed=0)
        self.memory = FaultyMemory(2**32)
        self.slave = AxiSlave(AxiBus.from_prefix(self.dut, "m_axi_"), self.dut.clk, self.dut.rst, target=self.memory)
        write, read = self.slave.write_if, self.slave.read_if
        if self.stall:
            for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel):
                channel.set_pause_generator(self.rng.random() < self.stall for _ in itertools.count())
        self.reads, self.writes, self.data = (
            [StreamSource(self.dut, f"{name}{user}", idle=self.stall) for user in range(USERS)]
            for name in ("read", "write", "data")
        )
        cocotb.start_soon(self._record())
        return self

    async def _record(self):
        dut = self.dut
        in_flight, lengths, owed = {"ar": 0, "aw": 0}, deque(), 0
        while True:
            await RisingEdge(dut.clk)
            if dut.rst.value:
                in_flight, lengths, owed = {"ar": 0, "aw": 0}, deque(), 0
                continue
            # What the engines say of themselves may never be ahead of the bus.
            assert not (dut.read_idle.value and in_flight["ar"])
            assert not (dut.write_idle.value and in_flight["aw"])
            assert not (dut.write_quiet.value and owed)
            self._taken("read", closed=dut.closed.value.to_unsigned())
            if (user := self._taken("write")) is not None:
                run = Command.from_bits(getattr(dut, f"write{user}__payload").value.to_unsigned())
                self.written.append((user, run))
                owed += run.beats
            for user in range(USERS):
                if dut.beat_valid.value.to_unsigned() >> user & 1:
                    beat = Beat.from_bits(dut.beat.value.to_unsigned())
                    self.beats[user].append((beat.data, beat.last))
            for name, port in (("read", dut.read_fault), ("write", dut.write_fault)):
                fault = Fault.from_bits(port.value.to_unsigned())
                if fault.valid:
                    self.faults[name].append((fault.user, fault.index))
            for name in ("ar", "aw"):
                valid, ready, addr, length = (
                    getattr(dut, f"m_axi__{name}{s}").value for s in ("valid", "ready", "addr", "len")
                )
                if valid and ready:
                    self.bursts.append((name, addr.to_unsigned(), length.to_unsigned() + 1))
                    in_flight[name] += 1
                    if name == "aw":
                        lengths.append(length.to_unsigned() + 1)
            if dut.m_axi__rvalid.value and dut.m_axi__rready.value and dut.m_axi__rlast.value:
                in_flight["ar"] -= 1
            if dut.m_axi__bvalid.value and dut.m_axi__bready.value:
                in_flight["aw"] -= 1
                owed -= lengths.popleft()
            assert max(in_flight.values()) <= self.outstanding

    def _taken(self, name: str, closed: int = 0) -> int | None:
        """Whose command is taken in this cycle, if one is: never another's than that of the first who may have one."""
        offered = [user for user in range(USERS) if getattr(self.dut, f"{name}{user}__valid").value]
        taken = [user for user in offered if getattr(self.dut, f"{name}{user}__ready").value]
        assert taken in ([], [user for user in offered if not closed >> user & 1][:1])
        return taken[0] if taken else None

    def address(self, beats: int) -> int:
        """A random address near a boundary, so that the run ends before the end of the address space."""
        base = self.rng.choice(BASES)
        return min(base + 8 * self.rng.randrange(64), 2**32 - 8 * beats)

    async def until(self, condition, cycles: int = 100_000) -> None:
        for _ in range(cycles):
            if condition():
                return
            await RisingEdge(self.dut.clk)
        raise TimeoutError(f"not after {cycles} cycles")

    async def all_written(self) -> None:
        """All commands and beats have been taken."""
        for source in (*self.writes, *self.data):
            await source.drained()

    def check_bursts(self, name: str, commands: list[tuple[int, int]]) -> None:
        """The bursts cover the commands in order; each but the last of a command ends at a multiple of its length."""
        bursts = iter([(addr, beats) for kind, addr, beats in self.bursts if kind == name])
        for addr, beats in commands:
            while beats:
                got = next(bursts)
                want = min(beats, self.burst - addr // 8 % self.burst)
                assert got == (addr, want)
                addr, beats = addr + 8 * want, beats - want
        assert next(bursts, None) is None


async def random_reads(bench: Bench) -> tuple[list[list], list[list]]:
    """Commands of each user, (addr, beats, index), and what they read: (data, last)."""
    commands, want = ([[] for _ in range(USERS)] for _ in range(2))
    for i in range(20 * USERS):
        user = bench.rng.randrange(USERS)
        beats = bench.rng.choice((1, 2, 3, 15, 16, 17, bench.rng.randrange(1, 80)))
        addr = bench.address(beats)
        data = bench.rng.randbytes(8 * beats)
        # Runs overlap: what is there already stays.
        present = await bench.memory.read(addr, 8 * beats)
        data = bytes(p or d for p, d in zip(present, data, strict=True))
        await bench.memory.write(addr, data)
        commands[user].append((addr, beats, i))
    for user in range(USERS):
        for addr, beats, _ in commands[user]:
            raw = bytes(await bench.memory.read(addr, 8 * beats))
            words = [int.from_bytes(raw[k : k + 8], "little") for k in range(0, len(raw), 8)]
            want[user].extend((word, int(k == beats - 1)) for k, word in enumerate(words))
    return commands, want


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reads(dut):
    bench = await Bench(dut).start()
    commands, want = await random_reads(bench)
    for source, runs in zip(bench.reads, commands, strict=True):
        for wanted in runs:
            source.put(command(*wanted))
    await bench.until(lambda: all(len(got) >= len(w) for got, w in zip(bench.beats, want, strict=True)))
    await ClockCycles(dut.clk, 20)
    assert bench.beats == want
    assert dut.read_idle.value == 1
    assert bench.faults == {"read": [], "write": []}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_refused_read_closes_its_user_alone(dut):
    """As the accelerator does it: in the cycle after the fault."""
    bench = await Bench(dut).start()
    commands, want = await random_reads(bench)
    victim = bench.rng.randrange(USERS)
    bad = bench.rng.randrange(len(commands[victim]))
    rest = [(BAD, 20, 1000), *commands[victim][bad:]]
    want[victim] = want[victim][: sum(beats for _, beats, _ in commands[victim][:bad])]
    commands[victim][bad:] = rest
    for source, runs in zip(bench.reads, commands, strict=True):
        for wanted in runs:
            source.put(command(*wanted))
    while not Fault.from_bits(dut.read_fault.value.to_unsigned()).valid:
        await RisingEdge(dut.clk)
    dut.closed.value = 1 << victim
    await RisingEdge(dut.clk)
    left = bench.reads[victim].pending
    others = [source for source in bench.reads if source is not bench.reads[victim]]
    await bench.until(lambda: not any(source.pending for source in others) and dut.read_idle.value == 1)
    await ClockCycles(dut.clk, 50)
    assert bench.beats == want
    assert bench.reads[victim].pending == left, "a closed user's command has been taken"
    assert set(bench.faults["read"]) == {(victim, 1000)}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bursts_are_cut_at_multiples_of_their_length(dut):
    bench = await Bench(dut).start()
    commands = [(bench.address(beats), beats) for beats in (1, 2, 16, 17, 64, 255, 256, 257, 600)]
    for addr, beats in commands:
        bench.reads[1].put(command(addr, beats))
        bench.writes[1].put(command(addr, beats))
        for _ in range(beats):
            bench.data[1].put(bench.rng.getrandbits(64))
    total = sum(beats for _, beats in commands)
    await bench.until(lambda: len(bench.beats[1]) >= total and dut.write_quiet.value == 1 and not bench.data[1].pending)
    bench.check_bursts("ar", commands)
    bench.check_bursts("aw", commands)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def writes(dut):
    bench = await Bench(dut).start()
    sent: list[deque] = [deque() for _ in range(USERS)]
    for i in range(20 * USERS):
        user = bench.rng.randrange(USERS)
        beats = bench.rng.choice((1, 2, 3, 15, 16, 17, bench.rng.randrange(1, 80)))
        addr = bench.address(beats)
        bench.writes[user].put(command(addr, beats, i))
        for _ in range(beats):
            sent[user].append(bench.rng.getrandbits(64))
            bench.data[user].put(sent[user][-1])
    await bench.all_written()
    await bench.until(lambda: dut.write_quiet.value == 1)
    image = {run.addr + 8 * k: sent[user].popleft() for user, run in bench.written for k in range(run.beats)}
    assert not any(sent)
    for addr, word in image.items():
        assert await bench.memory.read_qword(addr) == word, hex(addr)
    assert bench.faults["write"] == []


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def quiet_means_acknowledged(dut):
    bench = await Bench(dut).start()
    b_channel = bench.slave.write_if.b_channel
    b_channel.clear_pause_generator()
    b_channel.pause = True
    bench.writes[1].put(command(0x100, 2))
    for word in (1, 2):
        bench.data[1].put(word)
    await bench.all_written()
    await ClockCycles(dut.clk, 50)
    assert dut.write_quiet.value == 0
    assert dut.write_idle.value == 0
    b_channel.pause = False
    await bench.until(lambda: dut.write_quiet.value == 1, 100)
    assert [await bench.memory.read_qword(0x100 + 8 * k) for k in range(2)] == [1, 2]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def errors_name_their_user_and_descriptor(dut):
    bench = await Bench(dut).start()
    plan = [(BAD if bad else 0x1000, 5, 100 + i) for i, bad in enumerate((0, 1, 0, 0, 1, 1, 0))]
    for addr, beats, index in plan:
        bench.reads[index % USERS].put(command(addr, beats, index))
        bench.writes[index % USERS].put(command(addr, beats, index))
        for _ in range(beats):
            bench.data[index % USERS].put(index)
    await bench.all_written()
    await bench.until(lambda: sum(map(len, bench.beats)) == 20 and dut.write_quiet.value == 1)
    await bench.until(lambda: dut.read_idle.value == 1)
    await ClockCycles(dut.clk, 2)
    assert set(bench.faults["read"]) == {(index % USERS, index) for addr, _, index in plan if addr == BAD}
    bad = [(user, run.index) for user, run in bench.written if run.addr == BAD]
    assert list(dict.fromkeys(bench.faults["write"])) == bad


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def halt_drains_the_bus(dut):
    bench = await Bench(dut).start()
    for after in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89):
        addr = 0x10_0000 + 0x1000 * after
        for k in range(4):
            bench.reads[1].put(command(addr, 100))
            bench.writes[1].put(command(addr + 800 * k, 100))
        for k in range(60):  # fewer than were promised
            bench.data[1].put(~k & 2**64 - 1)
        await ClockCycles(dut.clk, after)
        dut.halt.value = 1
        await RisingEdge(dut.clk)
        before = len(bench.bursts)
        await bench.until(lambda: dut.read_idle.value == 1 and dut.write_idle.value == 1, 20_000)
        # At most the bursts that were already offered when the halt came.
        assert len(bench.bursts) <= before + 2
        quiet = len(bench.bursts)
        received = len(bench.beats[1])
        await ClockCycles(dut.clk, 100)
        assert len(bench.bursts) == quiet
        assert len(bench.beats[1]) == received, "data that arrives after a halt is dropped"
        # Only beats that were sent before the halt are in memory; the rest of the burst had its strobes off.
        words = [await bench.memory.read_qword(addr + 8 * k) for k in range(400)]
        written = [word for word in words if word]
        assert written == [~k & 2**64 - 1 for k in range(len(written))]
        assert words[: len(written)] == written
        for source in (*bench.reads, *bench.writes, *bench.data):
            source.clear()
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.halt.value = 0
        dut.rst.value = 0
        await ClockCycles(dut.clk, 3)
