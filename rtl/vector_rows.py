"""The order of a vector pass: rows, in samples, in channel blocks; and where each row lies."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .delay import delayed
from .loop import Loop
from .tiles import SIZE

#: Of what a row is the first, or the last.
Edges = data.StructLayout({"sample": 1, "block": 1, "all": 1})


class Rows(wiring.Component):
    """Counts the rows of a pass.

    Members
    -------
    height, samples, channel_blocks : In(16)
        Stable from the cycle before `load` on.
    load : In(1), step : In(1)
        The first row, or the next one, is the present one from the next cycle on.
    first : Out(Edges), last : Out(Edges)
        Whether the present row is the first or last of its sample in the block, of its block, of all.
    """

    def __init__(self):
        super().__init__(
            {
                "height": In(SIZE),
                "samples": In(SIZE),
                "channel_blocks": In(SIZE),
                "load": In(1),
                "step": In(1),
                "first": Out(Edges),
                "last": Out(Edges),
            }
        )

    def elaborate(self, platform):
        m = Module()
        first, last = self.first, self.last
        ended = 1
        for name, turns, ends in (
            ("rows", self.height, last.sample),
            ("samples", self.samples, last.block),
            ("blocks", self.channel_blocks, last.all),
        ):
            m.submodules[name] = loop = Loop(SIZE)
            m.d.comb += [
                loop.turns.eq(turns),
                loop.load.eq(self.load),
                loop.step.eq(self.step & ended),
                ends.eq(ended & loop.last),
            ]
            ended = ends
        with m.If(self.load | self.step):
            m.d.sync += [
                first.sample.eq(self.load | last.sample),
                first.block.eq(self.load | last.block),
                first.all.eq(self.load),
            ]
        return m


def room_in_ring(m: Module, ring: int, size, load, taken, freed) -> Signal:
    """Whether a buffer that is a ring of `ring` entries has room for a row of `size` entries.

    `taken` and `freed` are pulses: a row takes its place, or leaves it. The answer is that after a pulse two cycles
    later. With `load` all is free, `size` has its value a cycle before it.
    """
    spare = Signal(range(-ring, ring + 1), init=ring, name="spare")  # entries that are free behind the next row
    plus, minus, all_free = (Signal.like(spare, name=name) for name in ("row_freed", "row_taken", "all_free"))
    m.d.sync += [plus.eq(size), minus.eq(-size), all_free.eq(ring - size)]
    takes, frees = (delayed(m, pulse, 1, name, control=True) for pulse, name in ((taken, "takes"), (freed, "frees")))
    change = Mux(takes, Mux(frees, 0, minus), Mux(frees, plus, 0))
    m.d.sync += spare.eq(Mux(load, all_free, spare + change))
    return ~spare[-1]


class Place(wiring.Component):
    """A number that grows by a stride of its own with each row, sample and channel block, from a base on.

    Members
    -------
    base, row, sample, block : In(width)
        The base, and the strides.
    load : In(1)
        The number is that of the first row from two cycles later on; the first step comes a cycle after that.
    step : In(1)
        It is that of the next row from the next cycle on. Not twice in a row.
    last : In(Edges)
        Of the present row.
    o : Out(width)
    """

    def __init__(self, width: int):
        super().__init__(
            {
                **dict.fromkeys(("base", "row", "sample", "block"), In(width)),
                "load": In(1),
                "step": In(1),
                "last": In(Edges),
                "o": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        last = self.last
        sample_start = Signal.like(self.o, reset_less=True)
        block_start = Signal.like(self.o, reset_less=True)
        # What the next number is the sum of; chosen a cycle ahead.
        start = Signal.like(self.o, reset_less=True)
        stride = Signal.like(self.o, reset_less=True)
        loaded = Signal()
        following = (start + stride)[: len(self.o)]
        m.d.sync += [
            loaded.eq(self.load),
            start.eq(Mux(self.load, self.base, Mux(last.block, block_start, Mux(last.sample, sample_start, self.o)))),
            stride.eq(Mux(self.load, 0, Mux(last.block, self.block, Mux(last.sample, self.sample, self.row)))),
        ]
        with m.If(loaded | self.step):
            m.d.sync += self.o.eq(following)
        with m.If(loaded | self.step & last.sample):
            m.d.sync += sample_start.eq(following)
        with m.If(loaded | self.step & last.block):
            m.d.sync += block_start.eq(following)
        return m
