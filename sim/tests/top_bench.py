"""Surroundings of the whole accelerator: flat buses, a memory that can refuse accesses, and the few steps of a driver.

Memory and managers are cocotbext-axi's; in the environment, `PAUSE` is the chance, each cycle, that a channel of the
memory waits, and `MANAGERS` and `ROWS` are those of the accelerator.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from itertools import repeat

import numpy as np
from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiSlave, MemoryRegion

from rtl.axi_flat import FLAT_AXI4, connect_manager, connect_subordinate, flat_axilite
from rtl.config import AcceleratorConfig
from rtl.isa import (
    CSR,
    CSR_ADDRESS_BITS,
    DESCRIPTOR_BYTES,
    Control,
    Descriptor,
    Error,
    Flag,
    Format,
    Irq,
    Opcode,
    Order,
    Status,
)
from rtl.top import Accelerator
from sim.golden import execute
from sim.golden_check import check
from sim.tests.faults import Refusing
from sim.tests.streams import start

MANAGERS = int(os.environ.get("MANAGERS", "1"))
ROWS = int(os.environ.get("ROWS", "4"))
CONFIG = AcceleratorConfig.preset("tiny", managers=MANAGERS, rows=ROWS, vector=ROWS == 16)
RING_ENTRIES = 8
TABLES, STREAM, WEIGHTS, RESULTS = 0x1000, 0x4000, 0x10000, 0x20000
#: Beyond the precision bytes, streaming and stationary operands of any random descriptor.
TABLES_END, STREAM_END, WEIGHTS_END = 0x2000, 0xC000, 0x18000
#: Room for the results of any random descriptor.
RESULT_BYTES = 0x3000 * CONFIG.rows
MEMORY = RESULTS + RING_ENTRIES * RESULT_BYTES
OWED = ("reads", "data", "responses")
BOTH_TABLES = Flag.STREAM_TABLE | Flag.STATIONARY_TABLE


class TopBench(wiring.Component):
    """Accelerator with flat buses.

    Members
    -------
    m_axi0 and so on, s_axil : the flat buses
    irq : Out(1)
    owed_reads, owed_data, owed_responses : Out(16)
        What accelerator and memory owe each other: read beats, write beats, write responses.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        buses = {f"m_axi{number}": Out(FLAT_AXI4) for number in range(config.managers)}
        owed = {f"owed_{name}": Out(16) for name in OWED}
        super().__init__({**buses, "s_axil": In(flat_axilite(CSR_ADDRESS_BITS)), "irq": Out(1), **owed})

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = accelerator = Accelerator(self._config)
        managers = accelerator.axi
        for number, axi in enumerate(managers):
            channels = {name: getattr(axi, name) for name in ("ar", "r", "aw", "w", "b")}
            connect_manager(m, channels, getattr(self, f"m_axi{number}"))
        connect_subordinate(m, self.s_axil, accelerator.csr)
        m.d.comb += self.irq.eq(accelerator.interrupt)

        def moved(name):
            return sum(getattr(axi, name).valid & getattr(axi, name).ready for axi in managers)

        def promised(name):
            channels = [getattr(axi, name) for axi in managers]
            return sum(Mux(channel.valid & channel.ready, channel.payload.len + 1, 0) for channel in channels)

        m.d.sync += [
            self.owed_reads.eq(self.owed_reads + promised("ar") - moved("r")),
            self.owed_data.eq(self.owed_data + promised("aw") - moved("w")),
            self.owed_responses.eq(self.owed_responses + moved("aw") - moved("b")),
        ]
        return m


class FaultyMemory(Refusing, MemoryRegion):
    """Memory whose `refused` a test chooses."""


class Bench:
    """Memory, its image as the golden model sees it, and the driver's few steps.

    Attributes
    ----------
    memory : FaultyMemory
    image : uint8 array, what the memory should hold.
    count : descriptors submitted since the last reset.
    """

    def __init__(self, dut):
        self.dut = dut
        self.rng = np.random.default_rng(random.getrandbits(32))
        self.memory = FaultyMemory(MEMORY)
        self._csr = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil_"), dut.clk)
        for number in range(MANAGERS):
            slave = AxiSlave(AxiBus.from_prefix(dut, f"m_axi{number}_"), dut.clk, target=self.memory)
            self._pause(slave, float(os.environ["PAUSE"]))
        self.image = self.rng.integers(0, 256, MEMORY).astype(np.uint8)
        self.memory[:] = self.image.tobytes()
        self.count = 0
        self.new_precisions()

    @staticmethod
    def _pause(slave: AxiSlave, chance: float) -> None:
        """Each channel waits at random."""
        if not chance:
            return
        read, write = slave.read_if, slave.write_if
        for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel):
            pauses = random.Random(random.getrandbits(32))
            channel.set_pause_generator(pauses.random() < chance for _ in repeat(None))

    async def read(self, address: int) -> int:
        """A CSR."""
        return int.from_bytes((await self._csr.read(address, 4)).data, "little")

    async def write(self, address: int, value: int) -> None:
        """A CSR."""
        await self._csr.write(address, int(value).to_bytes(4, "little"))

    def store(self, address: int, data: np.ndarray) -> None:
        """Into the memory and its image alike."""
        self.image[address : address + data.nbytes] = data
        self.memory[address : address + data.nbytes] = data.tobytes()

    def content(self, where: slice = slice(None)) -> np.ndarray:
        """What the memory holds."""
        return np.frombuffer(self.memory[where], np.uint8)

    def new_precisions(self) -> None:
        """New tables: runs of equal bits, some samples skipped."""
        bits = np.repeat(self.rng.integers(0, 7, 36), 2)[:72]
        self.store(TABLES, bits.astype(np.uint8))

    def owed(self) -> dict[str, int]:
        """Beats and responses that are on their way over the bus."""
        return {name: getattr(self.dut, f"owed_{name}").value.to_unsigned() for name in OWED}

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
            self.store(self.count % RING_ENTRIES * DESCRIPTOR_BYTES, d.pack())
            self.count += 1
        await self.write(CSR.TAIL, self.count)

    async def finish(self) -> int:
        """Waits for an interrupt, and clears it. Returns what was pending."""
        if not self.dut.irq.value:
            await with_timeout(RisingEdge(self.dut.irq), 20, "ms")
        pending = await self.read(CSR.IRQ)
        await self.write(CSR.IRQ, pending)
        return pending

    async def run(self, descriptors: list[Descriptor]) -> None:
        """Runs descriptors and compares the whole memory with the golden model's."""
        descriptors[-1].flags |= Flag.INTERRUPT
        await self.submit(descriptors)
        done = execute(CONFIG, self.image, descriptors)
        assert done.error == Error.NONE
        assert await self.finish() == Irq.DONE
        assert await self.read(CSR.COMPLETED) == self.count
        wrong = np.flatnonzero(self.content() != self.image)
        assert not wrong.size, f"differs from {wrong[0]:#x} on"

    async def reset(self) -> None:
        """Soft reset and a new start. What the memory holds by then is what it should hold."""
        await self.write(CSR.CONTROL, Control.RESET)
        while await self.read(CSR.CONTROL) & Control.RESET:
            pass
        assert not any(self.owed().values()), f"the bus still owes {self.owed()}"
        assert await self.read(CSR.STATUS) == Status.IDLE
        assert await self.read(CSR.COMPLETED) == 0
        self.image[:] = self.content()
        await self.begin()

    def descriptors(self, count: int, tables: Flag = BOTH_TABLES) -> list[Descriptor]:
        """Random descriptors whose results do not overlap."""
        work = [random_descriptor(self.rng, tables) for _ in range(count)]
        return [replace(d, out_base=RESULTS + RESULT_BYTES * i) for i, d in enumerate(work)]


async def bench(dut) -> Bench:
    offers = {f"m_axi{number}__{channel}valid": 0 for number in range(MANAGERS) for channel in "rb"}
    await start(dut, **offers)  # a test that failed may have left one
    made = Bench(dut)
    await made.begin()
    return made


def random_descriptor(rng: np.random.Generator, tables: Flag = BOTH_TABLES) -> Descriptor:
    """Valid work on whatever lies in memory, with any precision; `tables` are the flags it may use."""
    while True:
        flat = bool(rng.integers(2))
        stride = int(rng.integers(1, 3))
        stuffed = 0 if flat or stride == 2 else int(rng.integers(2))
        signs = Flag(int(rng.integers(4)))
        table_flags = Flag.STREAM_TABLE * int(rng.integers(2)) | Flag.STATIONARY_TABLE * (rng.random() < 0.2)
        d = Descriptor(
            opcode=Opcode.FLAT if flat else Opcode.WINDOW,
            flags=signs | table_flags & tables | Flag.FENCE * int(rng.integers(2)),
            stream_bits=int(rng.integers(1, 17)),
            stationary_bits=int(rng.integers(1, 17)),
            samples=int(rng.integers(1, 6)),
            height=1 if flat else int(rng.integers(1, 9)),
            width=int(rng.integers(1, 9)),
            out_height=1 if flat else int(rng.integers(1, 9)),
            out_width=int(rng.integers(1, 9)),
            k_blocks=int(rng.integers(1, 3)),
            row_blocks=int(rng.integers(1, 3)),
            k_tail=int(rng.integers(1, 10)) if flat else 1,
            tile_samples=int(rng.integers(1, 3)),
            sample_parts=int(rng.integers(1, 3)),
            log2_row_parts=int(rng.integers(0, 2)),
            stride=stride,
            stuffed=stuffed,
            pad_top=0 if flat else int(rng.integers(0, 3)),
            pad_left=0 if flat else int(rng.integers(0, 3)),
            stream_base=STREAM + 8 * int(rng.integers(64)),
            stream_stride_n=8 * int(rng.integers(64)),
            stream_stride_c=8 * int(rng.integers(32)),
            stream_stride_y=8 * int(rng.integers(1, 64)) if rng.random() < 0.3 else 0,
            stationary_base=WEIGHTS + 8 * int(rng.integers(64)),
            stationary_stride_n=8 * int(rng.integers(32)) if rng.random() < 0.2 else 0,
            stationary_stride_k=8 * int(rng.integers(64)),
            stationary_stride_m=8 * int(rng.integers(64)),
            stationary_order=int(rng.choice(Order)) if CONFIG.vector else Order.ROWS,
            stream_table=TABLES + int(rng.integers(64)),
            stationary_table=TABLES + 64 + int(rng.integers(8)),
            out_base=RESULTS,
            out_format=int(rng.integers(3)),
            out_shift=int(rng.integers(16)),
        )
        d.tile_rows = 1 if flat else int(rng.integers(1, d.out_height + 1))
        span = (d.tile_rows + 3) // 2 if stuffed else (d.tile_rows - 1) * stride + 3
        d.row_groups = 3 if flat else -(-span // 3)
        image_bytes = d.out_height * d.out_width * CONFIG.rows * Format(d.out_format).nbytes
        d.out_stride_m = image_bytes
        d.out_stride_n = image_bytes * (d.row_blocks << d.log2_row_parts)
        # Windows of many planes do not always fit the small buffers: take what does, whatever a table may say.
        widest = replace(d, flags=Flag(0), stream_bits=6) if d.flags & Flag.STREAM_TABLE else d
        if check(CONFIG, d) == check(CONFIG, widest) == Error.NONE:
            return d
