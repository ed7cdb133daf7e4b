"""A loop counter that knows a cycle ahead that its last turn comes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Loop(wiring.Component):
    """Counts the turns of a loop; `last` is a register, so that nested loops end in one level of logic.

    Members
    -------
    turns : In(width)
        How many turns, at least 1. Stable from the cycle before `load` to that of the last `step`.
    load : In(1)
        The first turn begins in the next cycle.
    step : In(1)
        So does the next turn, or, after the last, the first again.
    last : Out(1)
        This turn is the last.
    """

    def __init__(self, width: int):
        super().__init__({"turns": In(width), "load": In(1), "step": In(1), "last": Out(1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.turns)  # turns after this one
        others = Signal.like(self.turns)  # turns after the first
        single = Signal()
        m.d.sync += [others.eq(self.turns - 1), single.eq(self.turns == 1)]
        first = self.load | self.last
        with m.If(self.load | self.step):
            m.d.sync += [left.eq(Mux(first, others, left - 1)), self.last.eq(Mux(first, single, left == 1))]
        return m
