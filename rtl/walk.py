"""The inner loops of EXEC: the planes of a position, the positions of a pass."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import MAX_BITS, AcceleratorConfig
from .loop import Loop
from .tiles import exec_tile

#: One plane of one position, and what ends with it.
Move = data.StructLayout(
    {
        "valid": 1,
        "index": range(MAX_BITS),  # of the plane in the slot's list
        "first": 1,  # plane of its position
        "last": 1,
        "row_end": 1,  # the position is the last of its output row
        "image_end": 1,  # and this row the last of its sample in the tile
    }
)


class Walk(wiring.Component):
    """Chooses a plane every cycle from the one after `begin` to that of `done`.

    Members
    -------
    tile : In(exec_tile), load : In(1)
        `load` pulses when the tile is new.
    last_index : In
        Of the slot's list of planes.
    begin : In(1)
        A pass begins.
    done : Out(1)
        The pass's last plane is chosen in this cycle.
    long : Out(1)
        This pass has at least `reuse_gap` positions; valid with `done`.
    move : Out(Move)
        What was chosen, one cycle later.
    """

    def __init__(self, config: AcceleratorConfig, reuse_gap: int):
        self._reuse_gap = reuse_gap
        super().__init__(
            {
                "tile": In(exec_tile(config)),
                "load": In(1),
                "last_index": In(range(MAX_BITS)),
                "begin": In(1),
                "done": Out(1),
                "long": Out(1),
                "move": Out(Move),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile, move = self.tile, self.move
        m.submodules.columns = columns = Loop(len(tile.out_width))
        m.submodules.rows = rows = Loop(len(tile.rows))
        m.submodules.samples = samples = Loop(len(tile.samples))

        running = Signal()
        resting = Signal(init=1)  # the opposite, of which less hangs: it alone decides on the end
        index = Signal(range(MAX_BITS))
        following = Signal(range(MAX_BITS))  # index of the next plane of the position
        first = Signal()  # plane of its position
        last = Signal()
        m.d.sync += [
            running.eq(self.begin | running & ~self.done),
            resting.eq(~self.begin & (resting | self.done)),
            first.eq(self.begin | last),
            index.eq(Mux(self.begin | last, 0, following)),
            following.eq(Mux(self.begin | last, 1, following + 1)),
            last.eq(Mux(self.begin | last, self.last_index == 0, following == self.last_index)),
        ]

        advance = Signal()
        m.d.comb += [
            advance.eq(running & last),
            columns.turns.eq(tile.out_width),
            columns.step.eq(advance),
            rows.turns.eq(tile.rows),
            rows.step.eq(advance & columns.last),
            samples.turns.eq(tile.samples),
            samples.step.eq(advance & columns.last & rows.last),
            self.done.eq(~resting & last & columns.last & rows.last & samples.last),
            *(loop.load.eq(self.load) for loop in (columns, rows, samples)),
        ]

        passed = Signal(self._reuse_gap - 1)  # a bit for each of the pass's first positions
        with m.If(self.begin):
            m.d.sync += passed.eq(0)
        with m.Elif(advance):
            m.d.sync += passed.eq(Cat(1, passed))
        m.d.comb += self.long.eq(passed[-1])

        m.d.sync += [
            move.valid.eq(running),
            move.index.eq(index),
            move.first.eq(first),
            move.last.eq(advance),
            move.row_end.eq(advance & columns.last),
            move.image_end.eq(advance & columns.last & rows.last),
        ]
        return m
