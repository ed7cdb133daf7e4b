"""The descriptor front end: ring, precision tables, checks, and every tile field by field against a plain model."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.dma import Beat, Command
from rtl.fetch import Fetch
from rtl.isa import DESCRIPTOR_BYTES, Descriptor, Error, Flag, Opcode, Order
from rtl.tiler import Tiler
from rtl.tiles import exec_tile, load_tile, store_tile
from sim.golden_check import check
from sim.tests.bench import compiled, run
from sim.tests.products import as_gradient
from sim.tests.streams import StreamSink, StreamSource, start
from sim.tile_model import records, tiles_of

CONFIG = AcceleratorConfig.preset("tiny", rows=16, vector=True)
RING, RING_ENTRIES, TABLE = 0x400, 4, 0x2000
BAD_TABLE = TABLE + 64  # four good samples, then a byte that is no precision
BAD_BYTE = BAD_TABLE + 4
LAYOUTS = {"load": load_tile(CONFIG), "execute": exec_tile(CONFIG), "store": store_tile(CONFIG)}


class FrontEnd(wiring.Component):
    """Fetch and Tiler, with the memory and the three queues as ports."""

    def __init__(self):
        super().__init__(
            {
                "tail": In(32),
                "head": Out(32),
                "command": Out(stream.Signature(Command)),
                "beats": In(stream.Signature(Beat)),
                **{name: Out(stream.Signature(layout)) for name, layout in LAYOUTS.items()},
                "completed": In(32),
                "quiescent": In(1),
                "error": Out(8),
                "error_index": Out(32),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetch = fetch = Fetch()
        m.submodules.tiler = tiler = Tiler(CONFIG)
        wiring.connect(m, fetch.o, tiler.i)
        wiring.connect(m, tiler.lookup, fetch.lookup)
        wiring.connect(m, fetch.looked_up, tiler.looked_up)
        wiring.connect(m, fetch.command, wiring.flipped(self.command))
        for name in LAYOUTS:
            wiring.connect(m, getattr(tiler, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [
            fetch.enable.eq(self.error == 0),
            fetch.ring_base.eq(RING),
            fetch.ring_mask.eq(RING_ENTRIES - 1),
            fetch.tail.eq(self.tail),
            fetch.beats.payload.eq(self.beats.payload),
            fetch.beats.valid.eq(self.beats.valid),
            self.beats.ready.eq(1),
            tiler.completed.eq(self.completed),
            tiler.quiescent.eq(self.quiescent),
            self.head.eq(fetch.head),
            self.error.eq(tiler.error),
            self.error_index.eq(tiler.error_index),
            self.idle.eq(tiler.idle & fetch.idle),
        ]
        return m


def test_front_end(case):
    run(compiled(FrontEnd), __name__, case)


def decoder(name: str):
    layout = LAYOUTS[name]

    def decode(raw: int) -> dict:
        fields = layout.from_bits(raw)
        return {key: int(getattr(fields, key)) for key in layout.members}

    return decode


def sound_gradient(rng) -> Descriptor:
    """One of nine taps, without tables."""
    while True:
        d = as_gradient(rng, descriptor(rng, flags=0, height=9, width=9))
        if d.pad_top and check(CONFIG, d) == Error.NONE:
            return d


def descriptor(rng, **changes) -> Descriptor:
    """A random valid descriptor."""
    while True:
        flat = bool(rng.integers(2))
        stride = int(rng.integers(1, 3))
        stuffed = 0 if flat or stride == 2 else int(rng.integers(2))
        tables = Flag.STREAM_TABLE * int(rng.integers(2)) | Flag.STATIONARY_TABLE * int(rng.integers(2))
        d = Descriptor(
            opcode=Opcode.FLAT if flat else Opcode.WINDOW,
            flags=Flag(int(rng.integers(4))) | tables | Flag.INTERRUPT,
            out_format=int(rng.integers(3)),
            out_shift=int(rng.integers(32)),
            stream_bits=int(rng.integers(1, 8)),
            stationary_bits=int(rng.integers(1, 17)),
            samples=int(rng.integers(1, 9)),
            height=1 if flat else int(rng.integers(1, 20)),
            width=int(rng.integers(1, 20)),
            out_height=1 if flat else int(rng.integers(1, 12)),
            out_width=int(rng.integers(1, 12)),
            k_blocks=int(rng.integers(1, 4)),
            row_blocks=int(rng.integers(1, 3)),
            k_tail=int(rng.integers(1, 10)) if flat else 1,
            tile_samples=int(rng.integers(1, 4)),
            sample_parts=int(rng.integers(1, 3)),
            log2_row_parts=int(rng.integers(0, 2)),
            stride=stride,
            stuffed=stuffed,
            pad_top=0 if flat else int(rng.integers(0, 3)),
            pad_left=0 if flat else int(rng.integers(0, 3)),
            **{name: 8 * int(rng.integers(1 << 29)) for name in ("stream_base", "stationary_base", "out_base")},
            **{f"stream_stride_{axis}": 8 * int(rng.integers(1 << 12)) for axis in "nc"},
            **{f"stationary_stride_{axis}": 8 * int(rng.integers(1 << 12)) for axis in "km"},
            **{f"out_stride_{axis}": 8 * int(rng.integers(1 << 12)) for axis in "nm"},
            stream_stride_y=8 * int(rng.integers(1 << 8)) * int(rng.integers(2)),
            stationary_stride_n=8 * int(rng.integers(2)),
            stationary_order=int(rng.choice(Order)),
            stream_table=TABLE + int(rng.integers(40)),
            stationary_table=TABLE + 60 + int(rng.integers(4)),
        )
        if not flat and rng.random() < 0.3:
            d = as_gradient(rng, d)
            if check(CONFIG, d) == check(CONFIG, Descriptor(**{**vars(d), "flags": 0, "stream_bits": 7})) == Error.NONE:
                return Descriptor(**{**vars(d), **changes})
            continue
        d.tile_rows = 1 if flat else int(rng.integers(1, d.out_height + 1))
        span = (d.tile_rows + 3) // 2 if stuffed else (d.tile_rows - 1) * stride + 3
        d.row_groups = 3 if flat else -(-span // 3)
        widest = Descriptor(**{**vars(d), "flags": 0, "stream_bits": 7})
        if check(CONFIG, d) == check(CONFIG, widest) == Error.NONE:
            return Descriptor(**{**vars(d), **changes})


class Bench:
    """Memory, queues with back-pressure, and the completion count."""

    def __init__(self, dut, stall: float):
        self.dut = dut
        self.rng = np.random.default_rng(random.getrandbits(32))
        self.memory = np.zeros(0x3000, np.uint8)
        bits = np.repeat(self.rng.integers(0, 8, 32), 2)
        bits[60:] = self.rng.integers(0, 17, 4)
        self.memory[TABLE:BAD_TABLE] = bits
        self.memory[BAD_TABLE:BAD_BYTE] = 3, 3, 0, 2
        self.memory[BAD_BYTE] = 200
        self.commands = StreamSink(dut, "command", stall=0.3)
        self.beats = StreamSource(dut, "beats", idle=0.3)
        self.sinks = {name: StreamSink(dut, name, stall=stall, decode=decoder(name)) for name in LAYOUTS}
        cocotb.start_soon(self._memory())

    async def _memory(self):
        served = 0
        while True:
            await self.commands.wait(served + 1)
            await ClockCycles(self.dut.clk, int(self.rng.integers(1, 20)))
            wanted = Command.from_bits(self.commands.items[served])
            served += 1
            for i in range(wanted.beats):
                word = self.memory[wanted.addr + BEAT_BYTES * i :][:BEAT_BYTES].tobytes()
                last = int(i == wanted.beats - 1)
                beat = Beat.const({"data": int.from_bytes(word, "little"), "last": last})
                self.beats.put(beat.as_value().value)

    def place(self, number: int, d: Descriptor) -> None:
        address = RING + number % RING_ENTRIES * DESCRIPTOR_BYTES
        self.memory[address : address + DESCRIPTOR_BYTES] = d.pack()

    async def fetched(self, count: int) -> None:
        while self.dut.head.value.to_unsigned() < count:
            await RisingEdge(self.dut.clk)


async def bench(dut, stall=0.4) -> Bench:
    await start(dut, tail=0, completed=0, quiescent=1)
    return Bench(dut, stall)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def tiles(dut):
    """Random descriptors, many times around the ring; tiles go to all three queues."""
    b = await bench(dut)
    expected = []
    count = 30
    for number in range(count):
        d = descriptor(b.rng)
        b.place(number, d)
        made, stop = tiles_of(CONFIG, d, b.memory)
        assert stop == Error.NONE
        expected += [records(CONFIG, tile, number) for tile in made]
        dut.tail.value = number + 1
        await b.fetched(number + 1)
        end = {"index": number, "end": 1, "interrupt": 1}
        expected.append({"store": end})
    stores = await b.sinks["store"].wait(len(expected))
    for got, wanted in zip(stores, (item["store"] for item in expected), strict=True):
        assert {key: got[key] for key in wanted} == wanted
    for name in ("load", "execute"):
        wanted = [item[name] for item in expected if name in item]
        assert b.sinks[name].items == wanted


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def fences(dut):
    """A fenced descriptor makes no tile until all before it have completed."""
    b = await bench(dut, stall=0.0)
    for number in range(3):
        d = descriptor(b.rng, samples=1)
        d.flags &= ~(Flag.STREAM_TABLE | Flag.STATIONARY_TABLE)
        d.flags |= Flag.FENCE
        b.place(number, d)
    dut.tail.value = 3
    for number in range(3):
        while not b.sinks["store"].items or not b.sinks["store"].items[-1]["end"]:
            await RisingEdge(dut.clk)
        await ClockCycles(dut.clk, 200)
        seen = {item["index"] for item in b.sinks["store"].items}
        assert seen == {number}
        b.sinks["store"].items.clear()
        dut.completed.value = number + 1


#: Any of these is wrong with a weight gradient.
GRADIENT_FAULTS = {
    **{"out_height": 3, "out_width": 17, "stride": 2, "stuffed": 1, "k_tail": 2, "images": 0, "width": 65},
    **{"pad_left": 0, "pad_top": 0, "stream_block_rows": 10, "row_groups": 1, "stationary_order": Order.TURNED},
}

BAD = (
    (Error.OPCODE, {"opcode": 0}),
    (Error.OPCODE, {"opcode": 0x101}),
    *((Error.FLAGS, {"flags": 1 << bit}) for bit in (6, 15)),
    *((Error.FLAGS, {name: 4}) for name in ("out_format", "stationary_order")),
    *((Error.RESERVED, {place.name: 1}) for place in Descriptor.places if place.field.name == "reserved"),
    (Error.RESERVED, {"parts_reserved": 1 << 23}),
    (Error.PRECISION, {"flags": Flag(0), "stream_bits": 17}),
    (Error.PRECISION, {"flags": Flag(0), "stationary_bits": 0}),
    (Error.PRECISION, {"flags": Flag.STREAM_TABLE, "stream_table": BAD_BYTE}),
    (Error.PRECISION, {"flags": Flag.STATIONARY_TABLE, "stationary_table": BAD_BYTE}),
    (Error.PRECISION, {"flags": Flag.STREAM_TABLE, "stream_table": BAD_TABLE, "samples": 8}),
    *(
        (Error.ALIGNMENT, {name: 4})
        for name in ("stream_base", "stream_stride_y", "stationary_stride_k", "out_stride_m")
    ),
    *((Error.SHAPE, {name: 0}) for name in ("samples", "width", "k_blocks", "tile_rows", "sample_parts", "stride")),
    (Error.SHAPE, {"pad_left": 3}),
    (Error.SHAPE, {"log2_row_parts": 5}),
    (Error.SHAPE, {"k_tail": 10}),
    (Error.SHAPE, {"out_width": 400}),
    (Error.SHAPE, {"row_blocks": 60000}),
    (Error.SHAPE, {"tile_samples": 255}),
    (Error.SHAPE, {"row_groups": 1000}),
    *((Error.SHAPE, {"opcode": Opcode.WGRAD, name: value}) for name, value in GRADIENT_FAULTS.items()),
)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def errors(dut):
    """Every kind of bad descriptor: code and index, after the tiles before it; nothing is fetched behind it."""
    b = await bench(dut)
    for error, changes in BAD:
        good = descriptor(b.rng)
        good.flags &= ~(Flag.STREAM_TABLE | Flag.STATIONARY_TABLE)
        first, _ = tiles_of(CONFIG, good, b.memory)
        base, is_gradient = good, changes.get("opcode") == Opcode.WGRAD
        for _ in range(20):  # what is wrong with one may be right with another
            base = sound_gradient(b.rng) if is_gradient else base
            bad = Descriptor(**{**vars(base), **changes})
            before_stop, stop = tiles_of(CONFIG, bad, b.memory)
            if stop == error:
                break
            base = descriptor(b.rng)
            base.flags &= ~(Flag.STREAM_TABLE | Flag.STATIONARY_TABLE)
        assert stop == error
        expected = [records(CONFIG, tile, i) for i, tiles in enumerate((first, before_stop)) for tile in tiles]
        for number, d in enumerate((good, bad, good)):
            b.place(number, d)
        dut.quiescent.value = 0
        dut.tail.value = 3
        await b.sinks["store"].wait(len(expected) + 1)
        await ClockCycles(dut.clk, 600)  # longer than its fetch and its table can take
        await ReadOnly()
        assert dut.error.value == Error.NONE, "reported before the work before it is done"
        await RisingEdge(dut.clk)
        dut.quiescent.value = 1
        await ClockCycles(dut.clk, 5)
        assert (dut.error.value.to_unsigned(), dut.error_index.value.to_unsigned()) == (error, 1)
        assert [item["end"] for item in b.sinks["store"].items].count(1) == 1
        for name, sink in b.sinks.items():
            tiles = [item for item in sink.items if not item.get("end")]
            assert tiles == [item[name] for item in expected]
        b.beats.clear()
        for sink in b.sinks.values():
            sink.items.clear()
        dut.tail.value = 0
        dut.rst.value = 1
        await ClockCycles(dut.clk, 40)
        dut.rst.value = 0
        await RisingEdge(dut.clk)
