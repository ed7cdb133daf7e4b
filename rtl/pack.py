"""Sums become beats: four of int16, two of int32 or one of int64 in each."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ACC_BITS, BEAT_BITS
from .control import DRAIN_ROWS
from .queue import Queue
from .store_block import Format

#: Four sums and the format in which they are stored.
Quad = data.StructLayout({"sums": data.ArrayLayout(ACC_BITS, DRAIN_ROWS), "format": Format})


class Pack(wiring.Component):
    """Cuts groups of four sums into beats.

    Members
    -------
    i : In(stream of Quad)
    o : Out(stream of 64 bits)
        Two cycles later, if nothing holds it up; a beat a cycle.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(Quad)),
                "o": Out(stream.Signature(BEAT_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        quad = Signal(Quad, reset_less=True)  # in work
        busy = Signal()
        part = Signal(range(DRAIN_ROWS))  # beat of the quad
        last = Signal()
        sent = Signal()

        # A queue whose room is a register, so that nothing of the writer reaches back through here.
        m.submodules.beats = beats = Queue(BEAT_BITS, 2)
        wiring.connect(m, beats.o, wiring.flipped(self.o))
        m.d.comb += [
            beats.i.payload.eq(self._beat(m, quad, part)),
            beats.i.valid.eq(busy),
            sent.eq(busy & beats.i.ready),
            self.i.ready.eq(~busy | (last & beats.i.ready)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                quad.eq(self.i.payload),
                busy.eq(self.i.valid),
                part.eq(0),
                last.eq(self.i.payload.format == Format.INT16),
            ]
        with m.Elif(sent):
            m.d.sync += [
                part.eq(part + 1),
                last.eq((quad.format == Format.INT32) | (part == DRAIN_ROWS - 2)),
            ]
        return m

    def _beat(self, m: Module, quad, part) -> Signal:
        """Beat `part` of a quad."""
        sums = [quad.sums[k].as_signed() for k in range(DRAIN_ROWS)]
        beat = Signal(BEAT_BITS)
        with m.Switch(quad.format):
            with m.Case(Format.INT16):
                m.d.comb += beat.eq(Cat(*(s[:16] for s in sums)))
            with m.Case(Format.INT32):
                m.d.comb += beat.eq(Mux(part[0], Cat(s[:32] for s in sums[2:]), Cat(s[:32] for s in sums[:2])))
            with m.Default():
                m.d.comb += beat.eq(Array(sums)[part])
        return beat
