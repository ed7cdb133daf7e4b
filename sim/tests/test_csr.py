"""The register bank against an independent AXI4-Lite master: every register, side effects, counters, random timing."""

from __future__ import annotations

import itertools
import os
import random

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from rtl.axi_flat import connect_subordinate, flat_axilite
from rtl.config import AcceleratorConfig
from rtl.csr import RegisterBank
from rtl.isa import COUNTER_NAMES, CSR, CSR_ADDRESS_BITS, ID, VERSION, Control, Irq, Status, config_words
from sim.tests.bench import compiled, run
from sim.tests.streams import start

CONFIG = AcceleratorConfig.preset("tiny")
STATES = ("head", "completed", "error", "error_index", "idle", "done", "reset_done")
WRITABLE = {CSR.RING_BASE: 0xFFFF_FFFF, CSR.RING_MASK: 0xFFFF, CSR.TAIL: 0xFFFF_FFFF, CSR.IRQ_ENABLE: 3}


class CsrBench(wiring.Component):
    """The bank with a flat bus; its other ports as they are."""

    def __init__(self):
        self.bank = RegisterBank(CONFIG)
        members = {name: member for name, member in self.bank.signature.members.items() if name != "bus"}
        super().__init__({"s_axil": In(flat_axilite(CSR_ADDRESS_BITS)), **members})

    def elaborate(self, platform):
        m = Module()
        m.submodules.bank = self.bank
        connect_subordinate(m, self.s_axil, self.bank.bus)
        for name in self.signature.members:
            if name == "s_axil":
                continue
            ours, theirs = getattr(self, name), getattr(self.bank, name)
            if name == "events":
                m.d.comb += [to.eq(source) for to, source in zip(theirs, ours, strict=True)]
            elif self.signature.members[name].flow == In:
                m.d.comb += theirs.eq(ours)
            else:
                m.d.comb += ours.eq(theirs)
        return m


@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_registers(stall, case):
    run(compiled(CsrBench), __name__, case, env={"STALL": stall})


class Bench:
    """Master, and shorthands."""

    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(random.getrandbits(32))

    async def start(self):
        inputs = dict.fromkeys(STATES, 0) | {f"events__{i}": 0 for i in range(len(COUNTER_NAMES))}
        await start(self.dut, **inputs)
        self.bus = AxiLiteMaster(AxiLiteBus.from_prefix(self.dut, "s_axil_"), self.dut.clk, self.dut.rst)
        if stall := float(os.environ["STALL"]):
            write, read = self.bus.write_if, self.bus.read_if
            for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel):
                channel.set_pause_generator(self.rng.random() < stall for _ in itertools.count())
        return self

    async def read(self, address: int) -> int:
        return await self.bus.read_dword(address)

    async def write(self, address: int, value: int) -> None:
        await self.bus.write_dword(address, value)

    async def pulse(self, name: str) -> None:
        signal = getattr(self.dut, name)
        signal.value = 1
        await RisingEdge(self.dut.clk)
        signal.value = 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def constants(dut):
    bench = await Bench(dut).start()
    assert await bench.read(CSR.ID) == ID
    assert await bench.read(CSR.VERSION) == VERSION
    for address, word in zip((CSR.CONFIG0, CSR.CONFIG1, CSR.CONFIG2), config_words(CONFIG), strict=True):
        assert await bench.read(address) == word
        await bench.write(address, 0xFFFF_FFFF)
        assert await bench.read(address) == word
    for address in (0x34, 0x3C, 0x4C, 0x7C, CSR.COUNTERS + 8 * len(COUNTER_NAMES), 0x180, 0x1FC):
        assert await bench.read(address) == 0, hex(address)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def writable_registers_keep_values_and_reach_ports(dut):
    bench = await Bench(dut).start()
    for _ in range(5):
        values = {address: bench.rng.getrandbits(32) for address in WRITABLE}
        for address in bench.rng.sample(list(values), len(values)):
            await bench.write(address, values[address])
        for address, mask in WRITABLE.items():
            assert await bench.read(address) == values[address] & mask, address.name
        for name in ("ring_base", "ring_mask", "tail"):
            address = CSR[name.upper()]
            assert getattr(dut, name).value == values[address] & WRITABLE[address]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def state_is_readable(dut):
    bench = await Bench(dut).start()
    for name in ("head", "completed", "error_index"):
        value = bench.rng.getrandbits(32)
        getattr(dut, name).value = value
        assert await bench.read(CSR[name.upper()]) == value
    for idle, error in itertools.product((0, 1), (0, 7)):
        dut.idle.value, dut.error.value = idle, error
        status = (Status.IDLE if idle else 0) | (Status.ERROR if error else 0)
        assert await bench.read(CSR.STATUS) == status
        assert await bench.read(CSR.ERROR_CODE) == error


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def interrupts(dut):
    bench = await Bench(dut).start()
    await bench.pulse("done")
    assert await bench.read(CSR.IRQ) == Irq.DONE
    assert dut.interrupt.value == 0
    await bench.write(CSR.IRQ_ENABLE, Irq.DONE)
    await ClockCycles(dut.clk, 2)
    assert dut.interrupt.value == 1
    await bench.write(CSR.IRQ, Irq.ERROR)
    assert await bench.read(CSR.IRQ) == Irq.DONE, "writing one bit leaves the other"
    await bench.write(CSR.IRQ, Irq.DONE)
    await ClockCycles(dut.clk, 2)
    assert dut.interrupt.value == 0
    assert await bench.read(CSR.IRQ) == 0
    dut.error.value = 3
    assert await bench.read(CSR.IRQ) == Irq.ERROR
    await bench.write(CSR.IRQ, Irq.ERROR)
    assert await bench.read(CSR.IRQ) == 0, "an error that stays does not interrupt again"
    dut.done.value = 1
    await bench.write(CSR.IRQ, Irq.DONE)
    dut.done.value = 0
    assert await bench.read(CSR.IRQ) == Irq.DONE, "a completion in the cycle of the clear is not lost"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def soft_reset(dut):
    bench = await Bench(dut).start()
    await bench.write(CSR.TAIL, 5)
    await bench.write(CSR.RING_BASE, 0x1000)
    await bench.write(CSR.CONTROL, Control.ENABLE)
    await bench.pulse("done")
    assert dut.enable.value == 1
    await bench.write(CSR.CONTROL, Control.RESET | Control.ENABLE)
    await ClockCycles(dut.clk, 20)
    assert dut.reset_request.value == 1
    assert await bench.read(CSR.CONTROL) & Control.RESET
    await bench.pulse("reset_done")
    assert await bench.read(CSR.CONTROL) == 0
    assert await bench.read(CSR.TAIL) == 0
    assert await bench.read(CSR.IRQ) == 0
    assert await bench.read(CSR.RING_BASE) == 0x1000, "the CSRs themselves are not reset"
    assert dut.reset_request.value == 0
    assert dut.enable.value == 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def counters_count_and_clear(dut):
    bench = await Bench(dut).start()
    want = [0] * len(COUNTER_NAMES)
    await bench.write(CSR.CONTROL, Control.CLEAR_COUNTERS)
    for _ in range(50):
        events = [bench.rng.randrange(32) if bench.rng.random() < 0.5 else 0 for _ in want]
        for i, event in enumerate(events):
            getattr(dut, f"events__{i}").value = event
            want[i] += event
        await RisingEdge(dut.clk)
    for i in range(len(want)):
        getattr(dut, f"events__{i}").value = 0

    async def counter(i: int) -> int:
        low = await bench.read(CSR.COUNTERS + 8 * i)
        return low | await bench.read(CSR.COUNTERS + 8 * i + 4) << 32

    assert [await counter(i) for i in range(len(want))] == want
    for address in range(CSR.COUNTERS + 8 * len(want), 1 << CSR_ADDRESS_BITS, 4):
        assert await bench.read(address) == 0, f"nothing is at {address:#x}"
    await bench.write(CSR.CONTROL, Control.CLEAR_COUNTERS)
    assert [await counter(i) for i in range(len(want))] == [0] * len(want)
    assert await bench.read(CSR.CONTROL) == 0, "the clear bit does not stay"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reads_and_writes_overlap(dut):
    bench = await Bench(dut).start()
    address, values = CSR.RING_BASE, [bench.rng.getrandbits(32) for _ in range(30)]

    async def writes():
        for value in values:
            await bench.write(address, value)

    task, seen = cocotb.start_soon(writes()), []
    while not task.done():
        seen.append(await bench.read(address))
        assert await bench.read(CSR.ID) == ID
    assert await bench.read(address) == values[-1]
    order = [values.index(value) for value in seen if value in values]
    assert order == sorted(order)
    assert set(seen) <= {0, *values}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def accesses_in_flight_stay_apart(dut):
    bench = await Bench(dut).start()
    registers = (CSR.RING_BASE, CSR.TAIL)
    values = [(bench.rng.choice(registers), bench.rng.getrandbits(32)) for _ in range(40)]
    for task in [cocotb.start_soon(bench.write(*value)) for value in values]:
        await task
    last = dict(values)
    order = [bench.rng.choice((*registers, CSR.ID, CSR.VERSION)) for _ in range(40)]
    answers = [await task for task in [cocotb.start_soon(bench.read(address)) for address in order]]
    want = {CSR.ID: ID, CSR.VERSION: VERSION, **last}
    assert answers == [want[address] for address in order]
