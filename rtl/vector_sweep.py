"""The words of a vector pass in their order: where each lies in the buffers, its number, and what begins or ends."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .config import BEAT_WORDS, AcceleratorConfig
from .countdown import Countdown
from .delay import delayed
from .lanes import NUMBER_BITS, Word
from .queue import Queue
from .tiles import VectorTile
from .vector_block import MOST_WIDTH
from .vector_issue import RING
from .vector_rows import Place, Rows, room_in_ring
from .vector_shape import RESULTS, Shape

#: Where a word lies, and whether it is the last of its row.
Spot = data.StructLayout({"address": ceil_log2(RING), "position": ceil_log2(BEAT_WORDS), "ends": 1})
#: A word, and its place in the buffers.
Step = data.StructLayout({"word": Word, "spot": Spot})


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
    o : Out(stream of Step)
        A row begins two cycles after the one before it, or later.
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
                "o": Out(stream.Signature(Step)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile, controls = self.tile, self.tile.vector.controls
        m.submodules.rows = rows = Rows()
        m.submodules.steps = steps = Queue(Step, 2)
        wiring.connect(m, steps.o, wiring.flipped(self.o))
        step = steps.i.payload
        columns = Countdown(bits_for(MOST_WIDTH), "columns")

        # A row is granted while the one before it is read, so that no cycle passes between them.
        more = Signal()  # not all rows have been granted
        granted = Signal()  # the next row has been
        grant = Signal()
        begin = Signal()  # the next row is the present one from the next cycle on
        running = Signal()  # there is one
        read = Signal()  # a word of it
        ends = Signal()  # the last
        # The buffer of the results is a ring too.
        room = room_in_ring(m, RESULTS, self.shape.entries, self.load, grant, self.emptied)
        m.d.comb += [
            rows.height.eq(tile.height),
            rows.samples.eq(tile.samples),
            rows.channel_blocks.eq(tile.channel_blocks),
            rows.load.eq(self.load),
            rows.step.eq(begin),
            grant.eq(more & ~granted & self._there(m, grant) & room),
            read.eq(running & steps.i.ready),
            ends.eq(read & columns.last),
            begin.eq(granted & (~running | ends)),
            steps.i.valid.eq(running),
        ]
        m.d.sync += [granted.eq((granted | grant) & ~begin), running.eq(begin | (running & ~ends))]
        with m.If(delayed(m, self.load, 2, "load", control=True)):
            m.d.sync += more.eq(1)
        with m.Elif(begin & rows.last.all):
            m.d.sync += more.eq(0)

        next_opens = Signal()  # sums begin with the next row
        next_closes = Signal()  # and end with it
        opens = Signal()  # sums begin with the next word
        closes = Signal()  # sums end with the present row
        number = Signal(NUMBER_BITS)
        address = Signal(ceil_log2(RING))
        position = Signal(ceil_log2(BEAT_WORDS))
        m.d.sync += [
            next_opens.eq(Mux(controls.each_sample, rows.first.sample, rows.first.block)),
            next_closes.eq(controls.sums & Mux(controls.each_sample, rows.last.sample, rows.last.block)),
        ]
        m.d.comb += [
            step.word.number.eq(number),
            step.word.first.eq(opens),
            step.word.last.eq(closes & columns.last),
            step.spot.address.eq(address),
            step.spot.position.eq(position),
            step.spot.ends.eq(columns.last),
        ]
        row_number = self._row_number(m, rows, begin)
        with m.If(begin):
            m.d.sync += [number.eq(row_number), opens.eq(next_opens), closes.eq(next_closes)]
        with m.Elif(read):
            m.d.sync += [number.eq(number + 1), opens.eq(0)]

        with m.If(read):
            m.d.sync += [position.eq(position + 1), *columns.step()]
            with m.If(columns.last | (position == BEAT_WORDS - 1)):
                m.d.sync += [position.eq(0), address.eq(address + 1)]
            with m.If(columns.last):
                m.d.sync += columns.restart()
        with m.If(self.load):
            m.d.sync += [address.eq(0), *columns.start(tile.width[: bits_for(MOST_WIDTH)])]
        return m

    def _there(self, m: Module, grant):
        """A row is in the buffers that has not been granted."""
        granted = delayed(m, grant, 1, "taken", control=True)
        there = []
        for manager, (arrived, used) in enumerate(zip(self.arrived, self.used, strict=True)):
            others = Signal(signed(bits_for(RING) + 1), name=f"rows{manager}", init=-1)  # but one
            m.d.sync += others.eq(others + delayed(m, arrived, 1, f"arrived{manager}", control=True) - (granted & used))
            there.append(~others[-1] | ~used)
        return Cat(there).all()

    def _row_number(self, m: Module, rows: Rows, begin) -> Signal:
        """The number of the first word of the next row: it goes on from row to row."""
        vector = self.tile.vector
        m.submodules.number = number = Place(NUMBER_BITS)
        m.d.comb += [
            number.base.eq(vector.number),
            number.row.eq(self.tile.width),
            number.sample.eq(vector.number_stride_n),
            number.block.eq(vector.number_stride_c),
            number.load.eq(self.load),
            number.step.eq(begin),
            number.last.eq(rows.last),
        ]
        return number.o
