"""The receiving side of LOAD: beats from DDR become words at bank addresses, or go on to `rtl.weights`."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import MAX_BITS, SLOTS, WORD_CHANNELS, AcceleratorConfig
from .control import COL_BANKS, ROW_BANKS, stream_fill
from .corner import Corner
from .countdown import Countdown
from .dma import Beat, Beats
from .queue import Queue
from .stream_run import Notice, run
from .weights import Weights, weight_beat

#: What LOAD says of a filled stream slot: bit q is set if plane q has a set bit anywhere in the tile.
StreamSlot = data.StructLayout({"planes": MAX_BITS})


class Unpack(wiring.Component):
    """Puts the beats of runs where the array expects them.

    Members
    -------
    i : In(stream of run)
        A note for each run on its way, in order; taken when the run before it has ended, so it has to be there two
        cycles before its run's first beat.
    beats : In(dma.Beats)
        What was read.
    hold : Out(1)
        No more beats, as soon as may be.
    fill : Out(control.stream_fill)
        Two cycles behind the beat.
    slots : Out(stream of StreamSlot)
        Filled slots, in order, `LATENCY` cycles behind the slot's last beat.
    weights : Out(stream of weight_beat)
        Beats of the stationary operand, one cycle behind; their slots are `Weights`' to report, after as many cycles.
    """

    LATENCY = 3
    assert LATENCY == 1 + Weights.LATENCY

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(run(config))),
                "beats": In(Beats),
                "hold": Out(1),
                "fill": Out(stream_fill(config)),
                "slots": Out(stream.Signature(StreamSlot)),
                "weights": Out(stream.Signature(weight_beat(config), always_ready=True)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beat = Signal(Beat, reset_less=True)
        came = Signal()
        ends = Signal()  # and its run with it
        some = Signal()  # a bit of it is set
        m.d.sync += [
            beat.eq(self.beats.payload),
            came.eq(self.beats.valid),
            ends.eq(self.beats.valid & self.beats.payload.last),
            some.eq(self.beats.payload.data.any()),
        ]
        current = Signal(run(self._config), reset_less=True)  # the run whose beats arrive
        active = Signal()  # there is one
        full = Signal()  # the beat completes its slot
        begin = Signal()  # the next run becomes the current one
        m.d.comb += [
            full.eq(ends & current.done),
            begin.eq(~active | ends),
            self.i.ready.eq(begin),
        ]
        with m.If(begin):
            m.d.sync += [active.eq(self.i.valid), current.eq(self.i.payload)]

        first = Signal()  # the next beat is the first of its run
        with m.If(begin | came):
            m.d.sync += first.eq(begin)
        m.d.comb += [
            self.weights.valid.eq(came & current.weight),
            self.weights.payload.data.eq(beat.data),
            self.weights.payload.first.eq(first),
            self.weights.payload.full.eq(full),
            *(self.weights.payload[name].eq(current[name]) for name in ("clusters", "order", "signed")),
        ]

        came_stream = Signal()
        m.d.comb += came_stream.eq(came & ~current.weight)
        addr, bank, plane, row_end = self._walk(m, current, came, begin)
        planes = self._seen(m, came_stream, full, some, plane)
        notice = Signal(Notice)
        m.d.comb += [notice.valid.eq(came_stream & full), notice.planes.eq(planes)]
        beat_fill = self._fill(m, current, came_stream, beat.data, addr, bank)
        filling = Signal(stream_fill(self._config))
        m.d.comb += filling.eq(beat_fill)
        if self._config.vector:
            m.submodules.corner = corner = Corner(self._config)
            turned = came_stream & current.gradient
            m.d.comb += [
                corner.begin.eq(begin),
                corner.following.eq(self.i.payload),
                corner.valid.eq(turned),
                corner.beat.eq(beat.data),
                corner.row_end.eq(row_end),
                corner.run_end.eq(ends),
                corner.done.eq(full),
                corner.planes.eq(planes),
                self.hold.eq(corner.hold),
            ]
            with m.If(corner.fill.valid | turned):
                m.d.comb += [filling.eq(corner.fill), notice.eq(corner.notice)]
        out = Signal(stream_fill(self._config), reset_less=True)
        m.d.comb += self.fill.eq(out)
        m.d.sync += out.eq(filling)

        # Notices queue up behind the writes, which take two more cycles to reach the buffers.
        m.submodules.notices = notices = Queue(StreamSlot, SLOTS)
        m.d.sync += [notices.i.valid.eq(notice.valid), notices.i.payload.planes.eq(notice.planes)]
        wiring.connect(m, notices.o, wiring.flipped(self.slots))
        return m

    def _walk(self, m, current, came, begin):
        """Address, row bank and plane (one hot) of the stream beat: columns in planes in image rows, a bank a row.

        And whether it is the last of a row of a plane.
        """
        following = self.i.payload
        columns = Countdown(len(following.plane_beats), "columns")
        planes = Countdown(len(following.planes), "planes")
        skip = Signal.like(following.plane_pitch)  # from the last beat of a plane's row to the next plane's
        addr = Signal.like(following.addr)
        row = Signal.like(following.addr)  # where this group of three image rows starts
        next_row = Signal.like(following.addr)
        bank = Signal(range(ROW_BANKS))
        plane = Signal(MAX_BITS)
        with m.If(came):
            m.d.sync += [addr.eq(addr + Mux(columns.last, skip, 1)), *columns.step()]
            with m.If(columns.last):
                m.d.sync += [plane.eq(plane << 1), *columns.restart(), *planes.step()]
                with m.If(planes.last):
                    m.d.sync += [plane.eq(1), addr.eq(row), bank.eq(bank + 1), *planes.restart()]
                    with m.If(bank == ROW_BANKS - 1):
                        m.d.sync += [
                            bank.eq(0),
                            addr.eq(next_row),
                            row.eq(next_row),
                            next_row.eq(next_row + current.row_words),
                        ]
        with m.If(begin):
            m.d.sync += [
                skip.eq(following.plane_pitch - following.plane_beats + 1),
                addr.eq(following.addr),
                row.eq(following.addr),
                next_row.eq(following.addr + following.row_words),
                bank.eq(following.bank),
                plane.eq(1),
                *columns.start(following.plane_beats),
                *planes.start(following.planes),
            ]
        return addr, bank, plane, columns.last

    def _fill(self, m, current, came, beat, addr, bank):
        """A beat of four columns, for four column banks."""
        out = Signal(stream_fill(self._config), name="beat_fill")
        words = Array(beat.word_select(j, WORD_CHANNELS) for j in range(COL_BANKS))
        m.d.comb += [
            out.valid.eq(came),
            out.clusters.eq(current.clusters),
            out.row_bank.eq(bank),
            # Bank j takes word j - turn: the skew of flat mode.
            out.data.eq(Cat(words[(j - current.turn)[: ceil_log2(COL_BANKS)]] for j in range(COL_BANKS))),
        ]
        m.d.comb += [out.addr[j].eq(addr + (j < current.turn)) for j in range(COL_BANKS)]
        return out

    def _seen(self, m, came, full, some, plane):
        """The planes with a set bit in this slot, up to the beat."""
        seen = Signal(MAX_BITS)
        planes = Signal(MAX_BITS)
        m.d.comb += planes.eq(seen | Mux(some, plane, 0))
        with m.If(came):
            m.d.sync += seen.eq(Mux(full, 0, planes))
        return planes
