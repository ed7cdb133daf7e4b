"""The receiving side of a vector pass: what each beat from DDR is, and where it goes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import BEAT_BITS
from .countdown import Countdown
from .dma import Beat, Beats
from .lane import U_BITS
from .vector_issue import RING, TENSORS, Note, Read
from .vector_shape import GROUPS

#: What is to be known of a command when its beats come: a note, decoded.
_Ready = data.StructLayout(
    {"read": len(Read), "plane": U_BITS, "planes": U_BITS, "last": 1, "first_part": 1, "last_part": 1}
)


class VectorReceive(wiring.Component):
    """Sorts what comes over one manager.

    Members
    -------
    groups : In, results_u : In(1)
        Beats of a row of one plane; stream u is results of a product.
    load : In(1)
        A pass begins: the next row lies at the beginning of the ring.
    notes : In(stream of Note)
        A note for each command, in order; there three cycles before its first beat.
    beats : In(dma.Beats)
    data : Out(64), address : Out
        A beat, one cycle later, and the group of positions that it belongs to, if it is of a plane.
    u, v, x, mask : Out(25)
        The planes of a stream that take the beat, from the lowest on. The first plane of a signed number is taken by
        those above it as well.
    results, coefficients : Out(1)
        What else the beat is.
    first_part, last_part : Out(1), part_end : Out(1)
        Of results: of which part of several they are, and that the beat is the last of it.
    row : Out(1)
        Pulse: a row is complete with this beat.
    """

    def __init__(self):
        super().__init__(
            {
                "groups": In(GROUPS),
                "results_u": In(1),
                "load": In(1),
                "notes": In(stream.Signature(Note)),
                "beats": In(Beats),
                "data": Out(BEAT_BITS),
                "address": Out(ceil_log2(RING)),
                **dict.fromkeys(TENSORS.values(), Out(U_BITS)),
                "results": Out(1),
                "coefficients": Out(1),
                "first_part": Out(1),
                "last_part": Out(1),
                "part_end": Out(1),
                "row": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beat = Signal(Beat, reset_less=True)
        came = Signal()
        ends = Signal()  # and its command with it
        ready = Signal(_Ready, reset_less=True)  # what is to be known of the next command
        there = Signal()  # there is one
        current = Signal(_Ready, reset_less=True)  # of the command whose beats come
        active = Signal()
        # Known a cycle ahead, like all that decides on every beat.
        begin = Signal(init=1)  # the next one becomes the current one
        takes = Signal(init=1)  # a note is taken
        next_there = Signal()
        next_begin = Signal()
        last = self.beats.valid & self.beats.payload.last
        m.d.comb += [
            next_there.eq(Mux(takes, self.notes.valid, there)),
            next_begin.eq(last | ~Mux(begin, there, active)),
            self.notes.ready.eq(takes),
            self.row.eq(ends & current.last),
        ]
        m.d.sync += [
            there.eq(next_there),
            begin.eq(next_begin),
            takes.eq(next_begin | ~next_there),
            beat.eq(self.beats.payload),
            came.eq(self.beats.valid),
            ends.eq(last),
        ]
        note = self.notes.payload
        top = Cat(note.planes == i + 1 for i in range(U_BITS))
        above = Cat(note.signed & (note.planes <= i) for i in range(U_BITS))
        with m.If(takes):
            m.d.sync += [
                ready.read.eq(Cat(note.read == read for read in Read)),
                ready.plane.eq(top),
                ready.planes.eq(top | above),
                ready.last.eq(note.last),
                ready.first_part.eq(note.first_part),
                ready.last_part.eq(note.last_part),
            ]
        with m.If(begin):
            m.d.sync += [active.eq(there), current.eq(ready)]
        planes = self._walk(m, came, begin, ready)

        is_read = {read: current.read[i] for i, read in enumerate(Read)}
        m.d.comb += [
            self.data.eq(beat.data),
            self.coefficients.eq(came & is_read[Read.COEFFICIENTS]),
            self.results.eq(came & is_read[Read.U] & self.results_u),
            self.first_part.eq(current.first_part),
            self.last_part.eq(current.last_part),
            self.part_end.eq(ends),
        ]
        for read, name in TENSORS.items():
            m.d.comb += getattr(self, name).eq(Mux(came & is_read[read], planes, 0))
        return m

    def _walk(self, m: Module, came, begin, ready) -> Signal:
        """Groups in planes, over the same groups again for each stream of a row. Returns the planes that are due."""
        groups = Countdown(GROUPS, "groups")
        plane = Signal(U_BITS)  # one-hot, from the highest on
        planes = Signal(U_BITS)  # it and, if it is the sign, those above
        row = Signal.like(self.address)  # where the row begins
        next_row = Signal.like(row)
        m.d.comb += next_row.eq(row + self.groups)
        with m.If(came):
            m.d.sync += [self.address.eq(self.address + 1), *groups.step()]
            with m.If(groups.last):
                m.d.sync += [self.address.eq(row), plane.eq(plane >> 1), planes.eq(plane >> 1), *groups.restart()]
        with m.If(begin):
            m.d.sync += [
                plane.eq(ready.plane),
                planes.eq(ready.planes),
                self.address.eq(Mux(self.row, next_row, row)),
                *groups.start(self.groups),
            ]
        with m.If(self.row):
            m.d.sync += row.eq(next_row)
        with m.If(self.load):
            m.d.sync += row.eq(0)
        return planes
