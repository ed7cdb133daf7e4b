"""STORE: drains finished tiles from the result buffers to DDR.

Results leave in the order (sample, row block, position, row), four rows a request, as int16, int32 or int64. POST work
(scaling, rounding, activation) has its place between the drained sums and the beats.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .array import DRAIN_LATENCY
from .axi import ADDRESS_BITS
from .config import ACC_BITS, BEAT_BITS, SLOTS, AcceleratorConfig
from .control import DRAIN_ROWS, drain
from .dma import Command
from .queue import Queue
from .store_block import Format
from .tiles import SIZE, store_tile

#: Requests in flight and groups of sums waiting to become beats.
QUADS = 16
assert QUADS > DRAIN_LATENCY


class Store(wiring.Component):
    """The STORE unit.

    Members
    -------
    i : In(stream of store_tile)
    result_full : In(1), result_free : Out(1)
    drain, drain_request, drain_grant, drained, drained_valid : see `rtl.array.ClusterArray`
    command : Out(stream of dma.Command), beats : Out(stream of 64 bits)
        To the writer.
    quiet : In(1)
        The writer has written everything and been acknowledged.
    completed : Out(1), interrupt : Out(1)
        Pulse at a descriptor's end; `interrupt` if it asked for one.
    waiting : Out(1)
        A tile waits for its results.
    overflows : Out
        Results leaving in this cycle that did not fit int16 or int32.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(store_tile(config))),
                "result_full": In(1),
                "result_free": Out(1),
                "drain": Out(drain(config)),
                "drain_request": Out(1),
                "drain_grant": In(1),
                "drained": In(data.ArrayLayout(ACC_BITS, DRAIN_ROWS)),
                "drained_valid": In(1),
                "command": Out(stream.Signature(Command)),
                "beats": Out(stream.Signature(BEAT_BITS)),
                "quiet": In(1),
                "completed": Out(1),
                "interrupt": Out(1),
                "waiting": Out(1),
                "overflows": Out(range(DRAIN_ROWS + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, tile = self._config, self.i.payload
        quads = config.rows // DRAIN_ROWS

        full = Signal(range(SLOTS + 1))
        use = Signal()
        m.d.sync += full.eq(full + self.result_full - use)

        slot = Signal(range(SLOTS))
        sample, part = Signal.like(tile.samples), Signal.like(tile.parts)
        row_block, row_part = Signal(SIZE), Signal(5)
        place, quad = Signal.like(tile.area), Signal(range(max(2, quads)))
        sample_start, block_start = Signal.like(tile.area), Signal.like(tile.area)
        sample_addr, addr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        last_row_part = row_part == (1 << tile.log2_row_parts) - 1
        last_row_block = row_block == tile.row_blocks - 1
        last_sample = sample == tile.samples - 1
        last_quad = quad == quads - 1
        last_place = place == tile.area - 1

        credit = Signal(range(QUADS + 1), init=QUADS)
        granted, taken = Signal(), Signal()
        m.d.sync += credit.eq(credit - granted + taken)
        m.d.comb += [
            granted.eq(self.drain_request & self.drain_grant),
            self.drain.position.eq(slot * config.result_slot + block_start + sample_start + place),
            self.drain.cluster.eq((part << tile.log2_row_parts) + row_part),
            self.drain.quad.eq(quad),
            self.command.payload.index.eq(tile.index),
            self.command.payload.addr.eq(addr),
            self.command.payload.beats.eq((tile.area << ceil_log2(quads)) << tile.format),
        ]

        with m.FSM():
            with m.State("TILE"):
                m.d.sync += [
                    sample.eq(0),
                    part.eq(0),
                    row_block.eq(0),
                    row_part.eq(0),
                    sample_start.eq(0),
                    block_start.eq(0),
                    sample_addr.eq(tile.out_addr),
                    addr.eq(tile.out_addr),
                ]
                with m.If(self.i.valid & tile.end):
                    m.next = "END"
                with m.Elif(self.i.valid):
                    m.d.comb += self.waiting.eq(full == 0)
                    with m.If(full != 0):
                        m.d.comb += use.eq(1)
                        m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += self.command.valid.eq(1)
                m.d.sync += [place.eq(0), quad.eq(0)]
                with m.If(self.command.ready):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.drain_request.eq(credit != 0)
                with m.If(granted):
                    m.d.sync += quad.eq(quad + 1)
                    with m.If(last_quad):
                        m.d.sync += [quad.eq(0), place.eq(place + 1)]
                    with m.If(last_quad & last_place):
                        m.d.sync += [row_part.eq(row_part + 1), addr.eq(addr + tile.out_stride_m)]
                        m.next = "COMMAND"
                        with m.If(last_row_part):
                            m.d.sync += [
                                row_part.eq(0),
                                row_block.eq(row_block + 1),
                                block_start.eq(block_start + tile.block_positions),
                            ]
                            with m.If(last_row_block):
                                m.d.sync += [
                                    row_block.eq(0),
                                    block_start.eq(0),
                                    sample.eq(sample + 1),
                                    sample_addr.eq(sample_addr + tile.out_stride_n),
                                    addr.eq(sample_addr + tile.out_stride_n),
                                    part.eq(part + 1),
                                ]
                                with m.If(part == tile.parts - 1):
                                    m.d.sync += [part.eq(0), sample_start.eq(sample_start + tile.area)]
                                with m.If(last_sample):
                                    m.d.sync += slot.eq(slot + 1)
                                    m.d.comb += [self.result_free.eq(1), self.i.ready.eq(1)]
                                    m.next = "TILE"
            with m.State("END"):
                with m.If(self.quiet & (credit == QUADS)):
                    m.d.comb += [self.completed.eq(1), self.interrupt.eq(tile.interrupt), self.i.ready.eq(1)]
                    m.next = "TILE"

        # Four sums become one beat of int16, two of int32 or four of int64.
        entry = data.StructLayout({"sums": data.ArrayLayout(ACC_BITS, DRAIN_ROWS), "format": Format})
        m.submodules.quads = queue = Queue(entry, QUADS)
        on_the_way = Signal(data.ArrayLayout(Format, DRAIN_LATENCY))  # formats of the granted requests
        m.d.sync += on_the_way.as_value().eq(Cat(tile.format, on_the_way.as_value()))
        m.d.comb += [
            queue.i.valid.eq(self.drained_valid),
            queue.i.payload.sums.eq(self.drained),
            queue.i.payload.format.eq(on_the_way[DRAIN_LATENCY - 1]),
        ]
        out = queue.o.payload
        part_of = Signal(range(DRAIN_ROWS))  # beat of the four sums
        sums = [out.sums[k].as_signed() for k in range(DRAIN_ROWS)]
        with m.Switch(out.format):
            with m.Case(Format.INT16):
                m.d.comb += self.beats.payload.eq(Cat(*(s[:16] for s in sums)))
            with m.Case(Format.INT32):
                m.d.comb += self.beats.payload.eq(
                    Mux(part_of[0], Cat(sums[2][:32], sums[3][:32]), Cat(sums[0][:32], sums[1][:32]))
                )
            with m.Default():
                m.d.comb += self.beats.payload.eq(Array(sums)[part_of])
        last_part = part_of == (1 << out.format) - 1
        m.d.comb += [
            self.beats.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.beats.ready & last_part),
            taken.eq(queue.o.ready & queue.o.valid),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += part_of.eq(Mux(last_part, 0, part_of + 1))
        with m.If(taken):
            for width, form in ((16, Format.INT16), (32, Format.INT32)):
                with m.If(out.format == form):
                    m.d.comb += self.overflows.eq(sum(s[width - 1 :].any() & ~s[width - 1 :].all() for s in sums))
        return m
