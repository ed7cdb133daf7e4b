"""The buffer of coefficients: beats in, the coefficients of one channel after the other out."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .config import BEAT_BITS
from .lane import A_BITS, B_BITS, C_BITS, Coefficients
from .queue import Queue
from .vector_issue import SET_BEATS, SETS


class CoefficientBuffer(wiring.Component):
    """Holds the sets that are read ahead.

    Members
    -------
    data : In(64), write : In(1)
        A beat. The first of a channel is a and c, 32 bits each, the second is b.
    o : Out(stream of Coefficients)
    drained : Out(1)
        Pulse: a set has been taken.
    """

    def __init__(self):
        super().__init__(
            {
                "data": In(BEAT_BITS),
                "write": In(1),
                "o": Out(stream.Signature(Coefficients)),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.beats = beats = Queue(BEAT_BITS, SETS * SET_BEATS)
        taken = Signal()
        count = Signal(range(SET_BEATS))  # beats of the set that have been taken
        first = Signal(A_BITS + C_BITS, reset_less=True)
        second = count[0]
        coefficients = self.o.payload
        m.d.comb += [
            beats.i.payload.eq(self.data),
            beats.i.valid.eq(self.write),
            self.o.valid.eq(beats.o.valid & second),
            coefficients.a.eq(first[:A_BITS]),
            coefficients.c.eq(first[A_BITS:]),
            coefficients.b.eq(beats.o.payload[:B_BITS]),
            beats.o.ready.eq(~second | self.o.ready),
            taken.eq(beats.o.valid & beats.o.ready),
            self.drained.eq(taken & (count == SET_BEATS - 1)),
        ]
        with m.If(taken):
            m.d.sync += count.eq(count + 1)
        with m.If(~second):
            low, high = beats.o.payload[:32], beats.o.payload[32:]
            m.d.sync += first.eq(low[:A_BITS] | high[:C_BITS] << A_BITS)
        return m
