"""The receiving side of LOAD for the stationary operand: beats of tiles in any order become rows of digits."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import BEAT_BITS, TAPS, WEIGHT_SLOTS, WORD_CHANNELS, AcceleratorConfig
from .control import SIDE, weight_fill
from .delay import delayed
from .load_block import Order, is_turned
from .queue import Queue
from .table import WeightSlot
from .turner import Turner


def weight_beat(config: AcceleratorConfig) -> data.StructLayout:
    """A beat of a tile, and what its run is."""
    return data.StructLayout(
        {
            "data": BEAT_BITS,
            "clusters": config.clusters,
            "order": Order,
            "signed": 1,
            "first": 1,  # of its run
            "full": 1,  # it completes its slot
        }
    )


class Weights(wiring.Component):
    """Puts the beats of stationary tiles where the table loader expects them: nine taps of a row, row after row.

    Every run of a slot fills the same addresses, of other clusters. Taps that are turned leave by the corner turner, so
    a tile of another order must not come before the last turned slot has been taken.

    Members
    -------
    i : In(stream of weight_beat)
    fill : Out(control.weight_fill)
        One cycle behind the beat. A turned tap comes as a whole, `TURNED` cycles later than its last beat would.
    slots : Out(stream of table.WeightSlot)
        Filled slots, in order, `LATENCY` cycles behind the slot's last beat, or `TURNED` cycles later.
    """

    LATENCY = 2
    TURNED = Turner.LATENCY + Turner.SIDE - 1

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(weight_beat(config), always_ready=True)),
                "fill": Out(weight_fill(config)),
                "slots": Out(stream.Signature(WeightSlot)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beat = self.i.payload
        row = Signal(range(WORD_CHANNELS))  # of a tile that lies tap by tap
        last = Signal()  # it is the last one
        with m.If(self.i.valid):
            m.d.sync += [row.eq(row + 1), last.eq(row == WORD_CHANNELS - 2)]

        write = Signal(data.StructLayout({**weight_fill(self._config).members, "signed": 1, "full": 1}))
        m.d.comb += [
            write.valid.eq(self.i.valid),
            write.clusters.eq(beat.clusters),
            write.addr.eq(self._address(m, last)),
            write.data.eq(beat.data),
            write.signed.eq(beat.signed),
            write.full.eq(beat.full),
        ]
        if self._config.vector:
            write = self._turned(m, write, last)

        out = Signal.like(self.fill, reset_less=True)
        m.submodules.notices = notices = Queue(WeightSlot, WEIGHT_SLOTS)
        m.d.comb += self.fill.eq(out)
        m.d.sync += [
            *(out[name].eq(write[name]) for name in out.shape().members),
            notices.i.valid.eq(write.valid & write.full),
            notices.i.payload.signed.eq(write.signed),
        ]
        wiring.connect(m, notices.o, wiring.flipped(self.slots))
        return m

    def _address(self, m, last):
        """Where the beat goes; of a turned tap, where its first row goes. `last` marks the last beat of a tap."""
        beats = self._config.weight_tile_beats
        beat = self.i.payload
        start = Signal(len(self.fill.addr))  # of the slot
        following = Signal.like(start, init=beats)
        offset = Signal(range(beats))  # of the next beat in it
        here = Signal.like(offset)
        step = Signal.like(offset)
        m.d.comb += [here.eq(Mux(beat.first, 0, offset)), step.eq(1)]
        if self._config.vector:
            lowest = Signal()  # the last row of taps; it has been there since the tap's first beats
            m.d.sync += lowest.eq(offset >= TAPS - SIDE)
            with m.If(beat.order == Order.TAPS):  # rows are nine beats apart, and the last tap comes first
                m.d.comb += step.eq(Mux(last, -(WORD_CHANNELS - 1) * TAPS - 1, TAPS))
                with m.If(beat.first):
                    m.d.comb += here.eq(TAPS - 1)
            with m.If(beat.order == Order.TURNED):
                m.d.comb += step.eq(last)
            with m.If(beat.order == Order.WORDS):  # three taps on; from the last row of taps to the first
                m.d.comb += step.eq(Mux(last, Mux(lowest, -(TAPS - SIDE - 1), SIDE), 0))
        with m.If(self.i.valid):
            m.d.sync += offset.eq(here + step)
        with m.If(self.i.valid & beat.full):
            m.d.sync += [
                start.eq(following),
                following.eq(Mux(following == (WEIGHT_SLOTS - 1) * beats, 0, following + beats)),
            ]
        return start + here

    def _turned(self, m, write, last):
        """What is written if turned taps go through the turner; `last` marks the last beat of a tap."""
        m.submodules.turner = turner = Turner()
        turned = is_turned(self.i.payload.order)
        m.d.comb += [turner.i.valid.eq(self.i.valid & turned), turner.i.payload.eq(self.i.payload.data)]

        tap = Signal.like(write)  # the last that has come, until the next one
        leaves = Signal.like(write)  # that which leaves the turner
        comes = Signal()
        m.d.comb += comes.eq(turner.i.valid & last)
        with m.If(turner.o.valid):
            m.d.sync += leaves.addr.eq(leaves.addr + TAPS)
        with m.If(comes):
            m.d.sync += tap.eq(write)
        with m.If(delayed(m, comes, Turner.LATENCY - 1, "comes", control=True)):
            m.d.sync += leaves.eq(tap)

        chosen = Signal.like(write)
        m.d.comb += [chosen.eq(write), chosen.valid.eq(write.valid & ~turned)]
        with m.If(turner.o.valid):
            m.d.comb += [
                chosen.eq(leaves),
                chosen.valid.eq(1),
                chosen.data.eq(turner.o.payload.data),
                chosen.full.eq(leaves.full & turner.o.payload.last),
            ]
        return chosen
