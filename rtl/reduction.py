"""Sums over the results of a lane: of q, of q x, and the extremes of q. Batch norm is computed from them."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .cells import Accumulator, Select
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

    Parameters
    ----------
    vendor : of the cells that add up.

    Members
    -------
    valid : In(1), first : In(1)
        An element; it is the first of new sums.
    q : In(signed(25)), x : In(signed(18))
    o : Out(Sums)
        Of the elements up to now, when none has come for `LATENCY` cycles.
    """

    LATENCY = 1 + Accumulator.LATENCY

    def __init__(self, *, vendor: str = "generic"):
        self._vendor = vendor
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
        found = Signal(Sums)
        valid, first = delayed(m, self.valid, 1, "valid", control=True), delayed(m, self.first, 1, "first")
        q, x = delayed(m, self.q, 1, "q"), delayed(m, self.x, 1, "x")
        begins = delayed(m, valid & first, Accumulator.BASE_DELAY, "begins", control=True)
        for name, factor in (("sums", 1), ("products", x)):
            m.submodules[name] = total = Accumulator(RESULT_BITS, vendor=self._vendor)
            m.d.comb += [
                total.enable.eq(1),
                total.sum.eq(q),
                total.weight.eq(Mux(valid, factor, 0)),
                total.select.eq(Mux(begins, Select.ZERO, Select.ACC)),
                found[name].eq(total.o),
            ]
        low, high = (Signal(signed(RESULT_BITS), name=name, reset_less=True) for name in ("low", "high"))
        m.d.comb += [found.low.eq(low), found.high.eq(high)]
        with m.If(valid & (first | (q < low))):
            m.d.sync += low.eq(q)
        with m.If(valid & (first | (q > high))):
            m.d.sync += high.eq(q)
        m.d.comb += self.o.eq(found)
        return m
