"""The multiplier of the descriptor front end."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Multiplier(wiring.Component):
    """Product of two unsigned numbers, with registers before and after: one DSP slice, and short paths around it.

    Parameters
    ----------
    width : bits of the factors.

    Members
    -------
    a, b : In(width)
        In cycle t.
    o : Out(2 * width)
        In cycle t + 2, `LATENCY`.
    """

    LATENCY = 2

    def __init__(self, width: int):
        super().__init__({"a": In(width), "b": In(width), "o": Out(2 * width)})

    def elaborate(self, platform):
        m = Module()
        a = Signal.like(self.a, reset_less=True)
        b = Signal.like(self.b, reset_less=True)
        product = Signal.like(self.o, reset_less=True)
        m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b)]
        m.d.comb += self.o.eq(product)
        return m
