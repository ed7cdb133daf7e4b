"""Loop counters and one-hot states, in Amaranth's simulator."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from rtl.countdown import Countdown
from rtl.states import States


class Nest(wiring.Component):
    """An inner loop in an outer one, begun in one state and stepped in another; `done` after the last round."""

    def __init__(self):
        super().__init__({"inner": In(4), "outer": In(4), "round": Out(1), "last": Out(1), "done": Out(1)})

    def elaborate(self, platform):
        m = Module()
        inner = Countdown(4, "inner")
        outer = Countdown(4, "outer")
        states = States(m, "BEGIN", "ROUND", "DONE")
        with states.state("BEGIN"):
            m.d.sync += [*inner.start(self.inner), *outer.start(self.outer)]
            states.go("ROUND")
        with states.state("ROUND"):
            m.d.sync += inner.step()
            with m.If(inner.last):
                m.d.sync += [*inner.restart(), *outer.step()]
            with m.If(inner.last & outer.last):
                states.go("DONE")
        m.d.comb += [self.round.eq(states.at["ROUND"]), self.done.eq(states.at["DONE"]), self.last.eq(inner.last)]
        return m


@pytest.mark.parametrize("outer", [1, 2, 15])
@pytest.mark.parametrize("inner", [1, 2, 3, 15])
def test_every_round_once_and_the_last_is_known(inner, outer):
    nest = Nest()
    seen = []

    async def bench(ctx):
        ctx.set(nest.inner, inner)
        ctx.set(nest.outer, outer)
        while not ctx.get(nest.done):
            if ctx.get(nest.round):
                seen.append(ctx.get(nest.last))
            await ctx.tick()

    simulator = Simulator(nest)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen == ([0] * (inner - 1) + [1]) * outer
