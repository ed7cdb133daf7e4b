"""Sums over the results of a lane: of q, of q x, and the extremes of q. Batch norm is computed from them."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .delay import delayed
from .lane import RESULT_BITS, SUM_BITS, V_BITS

X_BITS = V_BITS

#: Sums of a channel, as `host.step.rules.statistics` defines them.
Sums = data.StructLayout(
    {
        "sums": signed(SUM_BITS),
        "products": signed(SUM_BITS),
        "low": signed(RESULT_BITS),
        "high": signed(RESULT_BITS),
    }
)


class Reduction(wiring.Component):
    """The sums of one lane.

    Members
    -------
    valid : In(1), first : In(1)
        An element; it is the first of new sums.
    q : In(signed(25)), x : In(signed(18))
        In cycle t.
    o : Out(Sums)
        With this element, in cycle t + `LATENCY`.
    """

    LATENCY = 3

    def __init__(self):
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "q": In(signed(RESULT_BITS)),
                "x": In(signed(X_BITS)),
                "o": Out(Sums),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # The product takes two cycles more than what it is added to beside the others, which wait for it.
        valid = delayed(m, self.valid, 2, "valid", control=True)
        first = delayed(m, self.first, 2, "first")
        q = delayed(m, self.q, 1, "q")
        x = delayed(m, self.x, 1, "x")
        product = Signal(signed(RESULT_BITS + X_BITS), reset_less=True)
        m.d.sync += product.eq(q * x)
        q = delayed(m, q, 1, "q_late")
        found = Signal(Sums, reset_less=True)
        with m.If(valid):
            m.d.sync += [
                found.sums.eq(Mux(first, 0, found.sums) + q),
                found.products.eq(Mux(first, 0, found.products) + product),
            ]
            with m.If(first | (q < found.low)):
                m.d.sync += found.low.eq(q)
            with m.If(first | (q > found.high)):
                m.d.sync += found.high.eq(q)
        m.d.comb += self.o.eq(found)
        return m
