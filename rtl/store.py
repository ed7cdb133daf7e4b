"""STORE: drains finished tiles from the result buffers to DDR.

Results leave in the order (sample, row block, position, row), two rows a request, as int32 or int64. POST work
(scaling, rounding, activation) has its place between the drained sums and the beats.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .array import DRAIN_LATENCY
from .axi import ADDRESS_BITS
from .config import ACC_BITS, BEAT_BITS, SLOTS, AcceleratorConfig
from .control import drain
from .dma import Command
from .queue import Queue
from .tiles import SIZE, store_tile

#: Requests in flight and pairs waiting to become beats.
PAIRS = 16
assert PAIRS > DRAIN_LATENCY


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
    overflows : Out(2)
        Results of this cycle's beat that did not fit int32.
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
                "drained": In(data.ArrayLayout(ACC_BITS, 2)),
                "drained_valid": In(1),
                "command": Out(stream.Signature(Command)),
                "beats": Out(stream.Signature(BEAT_BITS)),
                "quiet": In(1),
                "completed": Out(1),
                "interrupt": Out(1),
                "waiting": Out(1),
                "overflows": Out(2),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, tile = self._config, self.i.payload
        pairs = config.rows // 2

        full = Signal(range(SLOTS + 1))
        use = Signal()
        m.d.sync += full.eq(full + self.result_full - use)

        slot = Signal(range(SLOTS))
        sample, part = Signal.like(tile.samples), Signal.like(tile.parts)
        row_block, row_part = Signal(SIZE), Signal(5)
        place, pair = Signal.like(tile.area), Signal(range(max(2, pairs)))
        sample_start, block_start = Signal.like(tile.area), Signal.like(tile.area)
        sample_addr, addr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        last_row_part = row_part == (1 << tile.log2_row_parts) - 1
        last_row_block = row_block == tile.row_blocks - 1
        last_sample = sample == tile.samples - 1
        last_pair = pair == pairs - 1
        last_place = place == tile.area - 1

        credit = Signal(range(PAIRS + 1), init=PAIRS)
        granted, taken = Signal(), Signal()
        m.d.sync += credit.eq(credit - granted + taken)
        m.d.comb += [
            granted.eq(self.drain_request & self.drain_grant),
            self.drain.position.eq(slot * config.result_slot + block_start + sample_start + place),
            self.drain.cluster.eq((part << tile.log2_row_parts) + row_part),
            self.drain.pair.eq(pair),
            self.command.payload.index.eq(tile.index),
            self.command.payload.addr.eq(addr),
            self.command.payload.beats.eq((tile.area << ceil_log2(pairs)) << tile.out64),
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
                m.d.sync += [place.eq(0), pair.eq(0)]
                with m.If(self.command.ready):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.drain_request.eq(credit != 0)
                with m.If(granted):
                    m.d.sync += pair.eq(pair + 1)
                    with m.If(last_pair):
                        m.d.sync += [pair.eq(0), place.eq(place + 1)]
                    with m.If(last_pair & last_place):
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
                with m.If(self.quiet & (credit == PAIRS)):
                    m.d.comb += [self.completed.eq(1), self.interrupt.eq(tile.interrupt), self.i.ready.eq(1)]
                    m.next = "TILE"

        # A pair of sums becomes one beat of two int32 or two beats of one int64.
        entry = data.StructLayout({"sums": data.ArrayLayout(ACC_BITS, 2), "out64": 1})
        m.submodules.pairs = queue = Queue(entry, PAIRS)
        wide = Signal(DRAIN_LATENCY)  # the format of the requests on their way
        m.d.sync += wide.eq(Cat(tile.out64, wide))
        m.d.comb += [
            queue.i.valid.eq(self.drained_valid),
            queue.i.payload.sums.eq(self.drained),
            queue.i.payload.out64.eq(wide[-1]),
        ]
        second = Signal()
        out = queue.o.payload
        sums = [out.sums[k].as_signed() for k in range(2)]
        m.d.comb += [
            self.beats.valid.eq(queue.o.valid),
            self.beats.payload.eq(
                Mux(out.out64, Mux(second, sums[1], sums[0]), Cat(out.sums[0][:32], out.sums[1][:32]))
            ),
            taken.eq(queue.o.ready & queue.o.valid),
            queue.o.ready.eq(self.beats.ready & (~out.out64 | second)),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += second.eq(out.out64 & ~second)
            with m.If(~out.out64):
                wraps = [s[31:].any() & ~s[31:].all() for s in sums]
                m.d.comb += self.overflows.eq(wraps[0] + wraps[1])
        return m
