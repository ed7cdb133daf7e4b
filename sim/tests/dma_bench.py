"""Burst engines and arbiters on one bus, with an independent AXI4 memory behind it and commands in front."""

from __future__ import annotations

import itertools
import os
import random
from collections import deque

import cocotb
from amaranth.hdl import Cat, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiSlave, SparseMemoryRegion

from rtl.arbiter import ReadArbiter, WriteArbiter
from rtl.axi_flat import FLAT_AXI4, connect_manager
from rtl.config import BEAT_BITS, AcceleratorConfig
from rtl.dma import Beat, Command, Fault, Reader, Writer
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
