"""The words of a vector pass in their order: where each lies in the buffers, its number, and what begins or ends."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .config import BEAT_WORDS, AcceleratorConfig
from .countdown import Countdown
from .lanes import NUMBER_BITS
from .tiles import VectorTile
from .vector_block import MOST_WIDTH
from .vector_issue import RING
from .vector_rows import Edges, Place, Rows
from .vector_shape import RESULTS, Shape


class VectorSweep(wiring.Component):
    """Goes through the words of a row when all of it has come and all its results have room.

    Members
    -------
    tile : In(VectorTile), shape : In(Shape)
        Stable from the cycle before `load` on.
    load : In(1)
        Begin.
    arrived : In(1), used : In(1)
        Of each manager: the pulse that its part of a row is in the buffers, and whether rows are read over it.
    emptied : In(1)
        Pulse: a row of results has left their buffer.
    address : Out, position : Out(2), read : Out(1)
        A word is read; the buffers show it from the next cycle on.
    valid : Out(1), number : Out(24), first : Out(1), last : Out(1), taken : In(1)
        The word that they show: whether there is one, what the lanes are to know of it, and that they take it.
    drained : Out(1)
        Pulse: all words of a row have been read.
    """

    def __init__(self, config: AcceleratorConfig):
        managers = config.managers
        super().__init__(
            {
                "tile": In(VectorTile),
                "shape": In(Shape),
                "load": In(1),
                "arrived": In(1).array(managers),
                "used": In(1).array(managers),
                "emptied": In(1),
                "address": Out(ceil_log2(RING)),
                "position": Out(ceil_log2(BEAT_WORDS)),
                "read": Out(1),
                "valid": Out(1),
                "number": Out(NUMBER_BITS),
                "first": Out(1),
                "last": Out(1),
                "taken": In(1),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile, controls = self.tile, self.tile.vector.controls
        m.submodules.rows = rows = Rows()
        columns = Countdown(bits_for(MOST_WIDTH), "columns")

        # A row is granted while the one before it is read, so that no cycle passes between them.
        more = Signal()  # not all rows have begun
        granted = Signal()  # the next row has been
        grant = Signal()
        begin = Signal()  # the next row is the present one from the next cycle on
        running = Signal()  # there is one
        last = Signal(Edges)  # whether it is the last one
        opens = Signal()  # sums begin with it
        closes = Signal()  # and end with it
        m.d.comb += [
            rows.height.eq(tile.height),
            rows.samples.eq(tile.samples),
            rows.channel_blocks.eq(tile.channel_blocks),
            rows.load.eq(self.load),
            rows.step.eq(begin),
            grant.eq(more & ~granted & self._there(m, grant) & self._room(m, grant)),
            begin.eq(granted & (~running | self.drained)),
            self.read.eq(running & (~self.valid | self.taken)),
            self.drained.eq(self.read & columns.last),
        ]
        m.d.sync += [granted.eq((granted | grant) & ~begin), running.eq(begin | (running & ~self.drained))]
        with m.If(self.load):
            m.d.sync += [more.eq(1), *columns.start(tile.width[: bits_for(MOST_WIDTH)])]
        with m.Elif(begin):
            m.d.sync += more.eq(~rows.last.all)
        fresh = Signal()  # the next word read is the first of its row
        with m.If(begin):
            m.d.sync += [
                last.eq(rows.last),
                opens.eq(Mux(controls.each_sample, rows.first.sample, rows.first.block)),
                closes.eq(controls.sums & Mux(controls.each_sample, rows.last.sample, rows.last.block)),
            ]
        m.d.sync += fresh.eq(begin | (fresh & ~self.read))

        with m.If(self.read):
            m.d.sync += [self.position.eq(self.position + 1), *columns.step()]
            with m.If(columns.last | (self.position == BEAT_WORDS - 1)):
                m.d.sync += [self.position.eq(0), self.address.eq(self.address + 1)]
            with m.If(columns.last):
                m.d.sync += columns.restart()
        with m.If(self.load):
            m.d.sync += self.address.eq(0)

        number = self._number(m, last, columns)
        m.d.sync += self.valid.eq(self.read | (self.valid & ~self.taken))
        with m.If(self.read):
            m.d.sync += [
                self.number.eq(number),
                self.first.eq(opens & fresh),
                self.last.eq(closes & columns.last),
            ]
        return m

    def _there(self, m: Module, grant):
        """A row is in the buffers that has not been granted."""
        there = []
        for manager, (arrived, used) in enumerate(zip(self.arrived, self.used, strict=True)):
            count = Signal(range(RING + 1), name=f"rows{manager}")
            m.d.sync += count.eq(count + arrived - (grant & used))
            there.append(count.any() | ~used)
        return Cat(there).all()

    def _room(self, m: Module, grant):
        """The buffer of the results, a ring too, has room for a row."""
        entries = self.shape.entries
        spare = Signal(range(-RESULTS, RESULTS + 1), init=RESULTS)
        with m.If(self.load):
            m.d.sync += spare.eq(RESULTS - entries)
        with m.Elif(grant & ~self.emptied):
            m.d.sync += spare.eq(spare - entries)
        with m.Elif(self.emptied & ~grant):
            m.d.sync += spare.eq(spare + entries)
        return ~spare[-1]

    def _number(self, m: Module, last, columns: Countdown) -> Signal:
        """The number of the word that is read: it goes on from row to row."""
        vector = self.tile.vector
        m.submodules.number = number = Place(NUMBER_BITS)
        m.d.comb += [
            number.base.eq(vector.number),
            number.row.eq(1),
            number.sample.eq(vector.number_stride_n),
            number.block.eq(vector.number_stride_c),
            number.load.eq(self.load),
            number.step.eq(self.read),
            number.last.sample.eq(columns.last & last.sample),
            number.last.block.eq(columns.last & last.block),
        ]
        return number.o
