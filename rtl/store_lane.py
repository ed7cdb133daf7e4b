"""A lane of STORE: drains the results of its clusters to DDR.

Results leave in the order (sample, row block, position, row), four rows a request, shifted, as int16, int32 or int64.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from .array import DRAIN_LATENCY
from .axi import ADDRESS_BITS
from .config import ACC_BITS, BEAT_BITS, SLOTS, AcceleratorConfig
from .control import DRAIN_ROWS, drain
from .delay import delayed
from .dma import Command
from .loop import Loop
from .narrow import Narrow
from .pack import Pack, Quad
from .queue import Queue
from .tiles import store_tile

#: Requests in flight and groups of sums waiting to become beats.
QUADS = 16
assert QUADS > DRAIN_LATENCY + Narrow.LATENCY


class Ends(NamedTuple):
    """What ends with a command: registers, valid in the cycle in which the next one is prepared."""

    block: Signal  #: the row block, in all clusters of a sample part
    sample: Signal
    parts: Signal  #: the sample, in the last of the sample parts
    tile: Signal


class StoreLane(wiring.Component):
    """Lane number `lane` of `config.lanes`, for the clusters whose numbers leave that remainder.

    Members
    -------
    i : In(stream of store_tile)
    result_full : In(1)
    drain, drain_request, drain_grant, drained, drained_valid : one lane's of `rtl.array.ClusterArray`
    command : Out(stream of dma.Command), beats : Out(stream of 64 bits)
        To the writer.
    quiet : In(1)
        The writer has written everything and been acknowledged.
    vector_finished : In(1)
        Pulse: all that a vector pass wrote has been acknowledged. The end of a pass waits for its pulse, or the pulse
        for its end.
    drained_tile : Out(1)
        Pulse: all of a tile's sums have been requested.
    done : Out(1), interrupt : Out(1), complete : In(1)
        The lane is done with a descriptor, which may ask for an interrupt, and waits until it is complete.
    waiting : Out(1)
        A tile waits for its results.
    overflows : Out
        Results that did not fit int16 or int32, counted a few cycles after they left.
    """

    def __init__(self, config: AcceleratorConfig, lane: int):
        self._config, self._lane = config, lane
        super().__init__(
            {
                "i": In(stream.Signature(store_tile(config))),
                "result_full": In(1),
                "drain": Out(drain(config)),
                "drain_request": Out(1),
                "drain_grant": In(1),
                "drained": In(data.ArrayLayout(ACC_BITS, DRAIN_ROWS)),
                "drained_valid": In(1),
                "command": Out(stream.Signature(Command)),
                "beats": Out(stream.Signature(BEAT_BITS)),
                "quiet": In(1),
                "vector_finished": In(1),
                "drained_tile": Out(1),
                "done": Out(1),
                "interrupt": Out(1),
                "complete": In(1),
                "waiting": Out(1),
                "overflows": Out(range(DRAIN_ROWS + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile = Signal(store_tile(self._config))  # in work
        loaded = Signal()  # it is new since the cycle before
        vacant = Signal(init=1)  # there is none; a register, for the record is wide
        with m.If(vacant):
            m.d.sync += tile.eq(self.i.payload)

        granted = Signal()
        ended = Signal()  # the command's last request was granted in the cycle before
        credit, whole = self._sums(m, tile, granted)
        ends = self._loops(m, tile, loaded, ended)
        self._address(m, tile, vacant, ended, ends)
        mine, last_request = self._requests(m, tile, vacant, loaded, granted, ended, ends)
        full, use = self._full(m)
        # Vector passes that have finished and whose end has not been reached: those of all ends in the queue and of the
        # one that the tiler is about to hand over.
        passes = Signal(range(self._config.queue_depth + 3))
        quiet = Signal()  # all that was to be written has been
        ended_pass = Signal()
        m.d.sync += [
            quiet.eq(self.quiet & (passes.any() | ~tile.vector)),
            loaded.eq(0),
            ended.eq(granted & last_request),
        ]
        with m.If(self.vector_finished & ~ended_pass):
            m.d.sync += passes.eq(passes + 1)
        with m.Elif(ended_pass & ~self.vector_finished):
            m.d.sync += passes.eq(passes - 1)
        m.d.comb += [
            self.interrupt.eq(tile.interrupt),
            self.i.ready.eq(vacant & (full | self.i.payload.end)),
            self.waiting.eq(vacant & self.i.valid & ~full & ~self.i.payload.end),
            granted.eq(self.drain_request & self.drain_grant),
        ]
        with m.FSM():
            with m.State("TILE"):
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += vacant.eq(0)
                    m.next = "START"
            with m.State("START"):
                m.d.sync += loaded.eq(1)
                m.d.comb += use.eq(~tile.end)
                m.next = "COMMAND"
                with m.If(tile.end):
                    m.next = "END"
            with m.State("COMMAND"):
                m.d.comb += self.command.valid.eq(mine)
                with m.If(self.command.ready):
                    m.next = "RUN"
                with m.If(~mine):
                    m.next = "SKIP"
            with m.State("SKIP"):  # another lane's command; it is passed over as slowly as the loops need
                m.d.sync += ended.eq(1)
                m.next = "NEXT"
            with m.State("RUN"):
                m.d.comb += self.drain_request.eq(credit)
                with m.If(granted & last_request):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.next = "COMMAND"
                with m.If(ends.tile):
                    m.d.comb += self.drained_tile.eq(1)
                    m.d.sync += vacant.eq(1)
                    m.next = "TILE"
            with m.State("END"):
                m.d.comb += self.done.eq(quiet & whole)
                m.d.comb += ended_pass.eq(self.complete & tile.vector)
                with m.If(self.complete):
                    m.d.sync += vacant.eq(1)
                    m.next = "TILE"
        return m

    def _full(self, m: Module) -> tuple[Signal, Signal]:
        """Whether a result slot is full, and the pulse that takes it."""
        count = Signal(range(SLOTS + 1), name="full_slots")
        full = Signal()
        use = Signal()
        with m.If(self.result_full & ~use):
            m.d.sync += [count.eq(count + 1), full.eq(1)]
        with m.Elif(use & ~self.result_full):
            m.d.sync += [count.eq(count - 1), full.eq(count != 1)]
        return full, use

    def _loops(self, m: Module, tile, loaded, ended) -> Ends:
        """A command for each cluster of a sample part, in each row block, of each sample."""
        ends = Ends(*(Signal(name=f"{name}_ends") for name in Ends._fields))
        loops = []
        for name, turns, step in (
            ("row_parts", 1 << tile.log2_row_parts, ended),
            ("row_blocks", tile.row_blocks, ended & ends.block),
            ("samples", tile.samples, ended & ends.sample),
            ("parts", tile.parts, ended & ends.sample),
        ):
            m.submodules[name] = loop = Loop(len(turns))
            m.d.comb += [loop.turns.eq(turns), loop.load.eq(loaded), loop.step.eq(step)]
            loops.append(loop)
        row_parts, row_blocks, samples, parts = loops
        m.d.sync += [
            ends.block.eq(row_parts.last),
            ends.sample.eq(row_parts.last & row_blocks.last),
            ends.parts.eq(row_parts.last & row_blocks.last & parts.last),
            ends.tile.eq(row_parts.last & row_blocks.last & samples.last),
        ]
        return ends

    def _address(self, m: Module, tile, vacant, ended, ends: Ends) -> None:
        """Commands to the writer. What the next one may need is added up while the present one runs."""
        addr = Signal(ADDRESS_BITS)
        sample = Signal(ADDRESS_BITS)  # where the sample's results begin
        next_block = Signal(ADDRESS_BITS)
        next_sample = Signal(ADDRESS_BITS)
        beats = Signal.like(self.command.payload.beats)
        quads = self._config.rows // DRAIN_ROWS
        m.d.sync += [
            next_block.eq(addr + tile.out_stride_m),
            next_sample.eq(sample + tile.out_stride_n),
            beats.eq((tile.area << ceil_log2(quads)) << tile.format),
        ]
        with m.If(vacant):
            m.d.sync += [addr.eq(self.i.payload.out_addr), sample.eq(self.i.payload.out_addr)]
        with m.Elif(ended):
            m.d.sync += addr.eq(next_block)
            with m.If(ends.sample):
                m.d.sync += [addr.eq(next_sample), sample.eq(next_sample)]
        m.d.comb += [
            self.command.payload.addr.eq(addr),
            self.command.payload.beats.eq(beats),
            self.command.payload.index.eq(tile.index),
        ]

    def _requests(self, m: Module, tile, vacant, loaded, granted, ended, ends: Ends):
        """Where the requested sums lie. Returns whether a command is this lane's, and a request its command's last."""
        config = self._config
        quads = config.rows // DRAIN_ROWS
        m.submodules.places = places = Loop(len(tile.area))
        quad = Signal(range(max(2, quads)))
        last_quad = quad == quads - 1
        m.d.comb += [
            places.turns.eq(tile.area),
            places.load.eq(loaded),
            places.step.eq(granted & last_quad),
        ]
        with m.If(granted):
            m.d.sync += quad.eq(Mux(last_quad, 0, quad + 1))

        # Positions: of the request, of its command's first, of the first command of its sample; then what may follow.
        position = Signal.like(self.drain.position)
        start = Signal.like(position)
        sample = Signal.like(position)
        next_block = Signal.like(position)
        sample_after = Signal.like(position)
        cluster = Signal(range(config.clusters))
        part = Signal.like(cluster)  # first cluster of the sample part
        part_after = Signal.like(cluster)
        slot = Signal(range(SLOTS))
        m.d.sync += [
            next_block.eq(start + tile.block_positions),
            sample_after.eq(sample + tile.area),
            part_after.eq(part + (1 << tile.log2_row_parts)),
        ]
        next_sample = Mux(ends.parts, sample_after, sample)
        next_part = Mux(ends.parts, 0, part_after)
        with m.If(granted & last_quad):
            m.d.sync += position.eq(position + 1)
        with m.If(vacant):
            m.d.sync += [value.eq(slot * config.result_slot) for value in (position, start, sample)]
            m.d.sync += [cluster.eq(0), part.eq(0)]
        with m.Elif(ended):
            m.d.sync += [position.eq(start), cluster.eq(cluster + 1)]
            with m.If(ends.block):
                m.d.sync += [position.eq(next_block), start.eq(next_block), cluster.eq(part)]
            with m.If(ends.sample):
                m.d.sync += [value.eq(next_sample) for value in (position, start, sample)]
                m.d.sync += [cluster.eq(next_part), part.eq(next_part)]
        with m.If(ended & ends.tile):
            m.d.sync += slot.eq(slot + 1)
        m.d.comb += [
            self.drain.position.eq(position),
            self.drain.cluster.eq(cluster >> exact_log2(config.lanes)),
            self.drain.quad.eq(quad),
        ]
        mine = cluster[: exact_log2(config.lanes)] == self._lane
        return mine, last_quad & places.last

    def _sums(self, m: Module, tile, granted) -> tuple[Signal, Signal]:
        """From drained sums to beats. Returns whether there is room for a request's, and whether none is on its way."""
        m.submodules.narrow = narrow = Narrow()
        m.submodules.quads = queue = Queue(Quad, QUADS)
        m.submodules.pack = pack = Pack()
        wiring.connect(m, queue.o, pack.i)
        wiring.connect(m, pack.o, wiring.flipped(self.beats))
        m.d.comb += [
            narrow.valid.eq(self.drained_valid),
            narrow.sums.eq(self.drained),
            narrow.format.eq(delayed(m, tile.format, DRAIN_LATENCY, "format")),
            narrow.shift.eq(delayed(m, tile.shift, DRAIN_LATENCY, "shift")),
            queue.i.valid.eq(narrow.narrowed_valid),
            queue.i.payload.sums.eq(narrow.narrowed),
            queue.i.payload.format.eq(narrow.narrowed_format),
            self.overflows.eq(narrow.overflows),
        ]
        count = Signal(range(QUADS + 1), init=QUADS)
        credit = Signal(init=1)
        whole = Signal()
        taken = Signal()
        m.d.sync += taken.eq(pack.i.valid & pack.i.ready)
        with m.If(taken & ~granted):
            m.d.sync += [count.eq(count + 1), credit.eq(1)]
        with m.Elif(granted & ~taken):
            m.d.sync += [count.eq(count - 1), credit.eq(count != 1)]
        m.d.sync += whole.eq(count == QUADS)
        return credit, whole
