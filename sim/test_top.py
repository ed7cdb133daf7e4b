"""The whole accelerator between cocotbext-axi's memory and manager, against the golden model on the same image."""

from __future__ import annotations

import os
import random
from itertools import repeat

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, First, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from rtl.config import AcceleratorConfig
from rtl.isa import CSR, CSR_ADDRESS_BITS, DESCRIPTOR_BYTES, ID, Control, Descriptor, Error, Flag, Irq, Opcode, Status
from rtl.top import Accelerator
from sim.bench import run
from sim.flat import FLAT_AXI4, connect_manager, connect_subordinate, flat_axilite
from sim.golden import check, execute
from sim.streams import start

CONFIG = AcceleratorConfig.preset("tiny")
MEMORY = 1 << 18
RING_ENTRIES = 8
TABLES, STREAM, WEIGHTS, OUT = 0x1000, 0x4000, 0x10000, 0x20000


class TopBench(wiring.Component):
    """Accelerator with flat buses."""

    def __init__(self):
        super().__init__({"m_axi": Out(FLAT_AXI4), "s_axil": In(flat_axilite(CSR_ADDRESS_BITS)), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = accelerator = Accelerator(CONFIG)
        channels = {name: getattr(accelerator.axi, name) for name in ("ar", "r", "aw", "w", "b")}
        connect_manager(m, channels, self.m_axi)
        connect_subordinate(m, self.s_axil, accelerator.csr)
        m.d.comb += self.irq.eq(accelerator.interrupt)
        return m


@pytest.mark.parametrize("pause", [0.0, 0.4])
def test_top(pause):
    assert run(TopBench(), __name__, env={"PAUSE": pause}) == 4


class Bench:
    """Memory, manager, and the driver's few steps."""

    def __init__(self, dut):
        self.dut = dut
        self.rng = np.random.default_rng(random.getrandbits(32))
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_"), dut.clk, size=MEMORY)
        self.csr = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil_"), dut.clk)
        chance = float(os.environ["PAUSE"])
        if chance:
            read, write = self.ram.read_if, self.ram.write_if
            for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel):
                pauses = random.Random(random.getrandbits(32))
                channel.set_pause_generator(pauses.random() < chance for _ in repeat(None))
        self.image = self.rng.integers(0, 256, MEMORY).astype(np.uint8)
        self.ram.write(0, self.image.tobytes())
        self.precisions()
        self.count = 0

    async def read(self, address: int) -> int:
        return int.from_bytes((await self.csr.read(address, 4)).data, "little")

    async def write(self, address: int, value: int) -> None:
        await self.csr.write(address, int(value).to_bytes(4, "little"))

    async def begin(self) -> None:
        for address, value in (
            (CSR.RING_BASE, 0),
            (CSR.RING_MASK, RING_ENTRIES - 1),
            (CSR.IRQ_ENABLE, Irq.DONE | Irq.ERROR),
            (CSR.CONTROL, Control.ENABLE),
        ):
            await self.write(address, value)
        self.count = 0

    async def submit(self, descriptors: list[Descriptor]) -> None:
        for d in descriptors:
            slot = self.count % RING_ENTRIES * DESCRIPTOR_BYTES
            self.store(slot, d.pack())
            self.count += 1
        await self.write(CSR.TAIL, self.count)

    def store(self, address: int, data: np.ndarray) -> None:
        """Into the memory and its image alike."""
        self.image[address : address + data.nbytes] = data
        self.ram.write(address, data.tobytes())

    async def interrupt(self) -> None:
        while not self.dut.irq.value:
            await RisingEdge(self.dut.clk)

    async def finish(self) -> int:
        """Waits for an interrupt, and clears it. Returns what was pending."""
        await with_timeout(self.interrupt(), 20, "ms")
        pending = await self.read(CSR.IRQ)
        await self.write(CSR.IRQ, pending)
        return pending

    async def run(self, descriptors: list[Descriptor]) -> None:
        """Runs descriptors and compares the whole memory with the golden model's."""
        last = descriptors[-1]
        last.flags |= Flag.INTERRUPT
        await self.submit(descriptors)
        done = execute(CONFIG, self.image, descriptors)
        assert done.error == Error.NONE
        assert await self.finish() == Irq.DONE
        assert await self.read(CSR.COMPLETED) == self.count
        result = np.frombuffer(self.ram.read(0, MEMORY), np.uint8)
        assert np.array_equal(result, self.image), f"differs from {np.flatnonzero(result != self.image)[0]:#x} on"

    def descriptor(self, tables: Flag = Flag.STREAM_TABLE | Flag.STATIONARY_TABLE) -> Descriptor:
        """Random valid work on whatever lies in memory, with any precision; `tables` are the flags it may use."""
        rng = self.rng
        while True:
            flat = bool(rng.integers(2))
            stride = int(rng.integers(1, 3))
            size = [int(v) for v in rng.integers(1, 9, 2)]
            pad = [int(v) for v in rng.integers(0, 3, 2)]
            table_flags = Flag.STREAM_TABLE * int(rng.integers(2)) | Flag.STATIONARY_TABLE * (rng.random() < 0.2)
            signs = Flag(int(rng.integers(4)))
            d = Descriptor(
                opcode=Opcode.FLAT if flat else Opcode.WINDOW,
                flags=signs
                | table_flags & tables
                | int(rng.choice([0, Flag.OUT64]))
                | Flag.FENCE * int(rng.integers(2)),
                stream_bits=int(rng.integers(1, 17)),
                stationary_bits=int(rng.integers(1, 17)),
                samples=int(rng.integers(1, 6)),
                height=1 if flat else size[0],
                width=size[1],
                out_height=1 if flat else int(rng.integers(1, 9)),
                out_width=int(rng.integers(1, 9)),
                k_blocks=int(rng.integers(1, 3)),
                row_blocks=int(rng.integers(1, 3)),
                k_tail=9 if flat else 1,
                tile_samples=int(rng.integers(1, 3)),
                sample_parts=int(rng.integers(1, 3)),
                log2_row_parts=int(rng.integers(0, 2)),
                stride=stride,
                pad_top=0 if flat else pad[0],
                pad_left=0 if flat else pad[1],
                stream_base=STREAM + 8 * int(rng.integers(64)),
                stream_stride_n=8 * int(rng.integers(64)),
                stream_stride_c=8 * int(rng.integers(32)),
                stationary_base=WEIGHTS + 8 * int(rng.integers(64)),
                stationary_stride_n=8 * int(rng.integers(32)) if rng.random() < 0.2 else 0,
                stationary_stride_k=8 * int(rng.integers(64)),
                stationary_stride_m=8 * int(rng.integers(64)),
                stream_table=TABLES + int(rng.integers(64)),
                stationary_table=TABLES + 64 + int(rng.integers(8)),
            )
            d.tile_rows = 1 if flat else int(rng.integers(1, d.out_height + 1))
            d.row_groups = 3 if flat else -(-((d.tile_rows - 1) * stride + 3) // 3)
            image_bytes = d.out_height * d.out_width * CONFIG.rows * (8 if d.flags & Flag.OUT64 else 4)
            d.out_stride_m = image_bytes
            d.out_stride_n = image_bytes * (d.row_blocks << d.log2_row_parts)
            # Windows of many planes do not always fit the small buffers: take what does.
            widest = d if not d.flags & Flag.STREAM_TABLE else Descriptor(**{**vars(d), "flags": 0, "stream_bits": 6})
            if check(CONFIG, d) == check(CONFIG, widest) == Error.NONE:
                return d

    def precisions(self) -> None:
        """New tables: runs of equal bits, some samples skipped."""
        bits = np.repeat(self.rng.integers(0, 7, 36), 2)[:72]
        self.store(TABLES, bits.astype(np.uint8))


async def bench(dut) -> Bench:
    await start(dut)
    made = Bench(dut)
    await made.begin()
    return made


@cocotb.test()
async def random_programs(dut):
    """Several descriptors in the ring at once, its end passed many times, tables rewritten in between."""
    b = await bench(dut)
    assert await b.read(CSR.ID) == ID
    for _ in range(12):
        b.precisions()
        work = [b.descriptor() for _ in range(int(b.rng.integers(1, RING_ENTRIES)))]
        for i, d in enumerate(work):
            d.out_base = OUT + 0x4000 * i
        await b.run(work)


@cocotb.test()
async def precision_changes_without_a_new_program(dut):
    """The same descriptor bytes run again under another table."""
    b = await bench(dut)
    d = b.descriptor()
    d.flags |= Flag.STREAM_TABLE
    d.samples, d.out_base = 5, OUT
    while True:
        b.precisions()
        if check(CONFIG, Descriptor(**{**vars(d), "flags": 0, "stream_bits": 6})) == Error.NONE:
            break
        d = b.descriptor()
        d.flags |= Flag.STREAM_TABLE
        d.samples, d.out_base = 5, OUT
    for _ in range(4):
        b.precisions()
        await b.run([d])


@cocotb.test()
async def errors_stop_and_recover(dut):
    """A bad descriptor and a bad address stop the ring; earlier work is complete, later work right."""
    b = await bench(dut)
    for bad, error in (({"opcode": 77}, Error.OPCODE), ({"samples": 0}, Error.SHAPE)):
        good = b.descriptor(tables=Flag(0))
        good.out_base = OUT
        wrong = Descriptor(**{**vars(good), **bad, "out_base": OUT + 0x8000})
        await b.submit([good, wrong, good])
        execute(CONFIG, b.image, [good])
        assert await b.finish() == Irq.ERROR
        assert await b.read(CSR.ERROR_CODE) == error
        assert await b.read(CSR.ERROR_INDEX) == 1
        assert await b.read(CSR.STATUS) & Status.ERROR
        assert b.ram.read(0, MEMORY) == b.image.tobytes()
        await reset(b)
        again = b.descriptor()
        again.out_base = OUT
        await b.run([again])
        await reset(b)


async def reset(b: Bench) -> None:
    await b.write(CSR.CONTROL, Control.RESET)
    while await b.read(CSR.CONTROL) & Control.RESET:
        pass
    assert await b.read(CSR.STATUS) == Status.IDLE
    assert await b.read(CSR.COMPLETED) == 0
    await b.begin()


@cocotb.test()
async def reset_in_the_middle(dut):
    """A soft reset at any moment leaves a clean bus and an accelerator that works."""
    b = await bench(dut)
    for _ in range(6):
        work = [b.descriptor(tables=Flag(0)) for _ in range(3)]
        for i, d in enumerate(work):
            d.out_base = OUT + 0x4000 * i
        await b.submit(work)
        await First(ClockCycles(b.dut.clk, int(b.rng.integers(1, 3000))), RisingEdge(b.dut.irq))
        await reset(b)
        b.image[:] = np.frombuffer(b.ram.read(0, MEMORY), np.uint8)  # results up to the reset
        after = b.descriptor()
        after.out_base = OUT
        await b.run([after])
        await reset(b)
