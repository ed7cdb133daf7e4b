"""A small first-in first-out buffer between streams, with a shaped payload."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class Queue(wiring.Component):
    """FIFO of `depth` items: one cycle of latency, one item a cycle.

    The oldest item stands in a register and those behind it in LUTRAM, so that both sides see registers: `o.payload`,
    `o.valid` and `i.ready`.

    Members
    -------
    i : In(stream of shape), o : Out(stream of shape)
    """

    def __init__(self, shape, depth: int):
        if depth < 1:
            raise ValueError(f"depth of a queue is {depth}, must be at least 1")
        self._shape, self._depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        depth = self._depth
        m.submodules.items = items = Memory(shape=self._shape, depth=depth, init=[])
        write, read = items.write_port(), items.read_port(domain="comb")

        def after(pointer):
            return Mux(pointer == depth - 1, 0, pointer + 1)

        push = Signal()
        pop = Signal()
        m.d.comb += [push.eq(self.i.valid & self.i.ready), pop.eq(self.o.valid & self.o.ready)]

        # How many items there are, and what is asked of that number, worked out a cycle ahead.
        level = Signal(range(depth + 1))
        ready = Signal(init=1)  # there is room
        valid = Signal()  # there is an item
        behind = Signal()  # there is an item behind the oldest
        with m.If(push & ~pop):
            m.d.sync += [level.eq(level + 1), ready.eq(level != depth - 1), valid.eq(1), behind.eq(valid)]
        with m.Elif(pop & ~push):
            m.d.sync += [level.eq(level - 1), ready.eq(1), valid.eq(behind), behind.eq(level > 2)]

        # Every item is written to the memory; one that finds nobody before it goes to the register as well.
        tail = Signal(range(depth))  # where the next item is written
        second = Signal(range(depth), init=1 % depth)  # where the item behind the oldest stands
        oldest = Signal(self._shape, reset_less=True)
        with m.If(push):
            m.d.sync += tail.eq(after(tail))
        with m.If(pop):
            m.d.sync += second.eq(after(second))
        with m.If(pop | ~valid):
            m.d.sync += Value.cast(oldest).eq(Mux(behind, Value.cast(read.data), Value.cast(self.i.payload)))
        m.d.comb += [
            self.i.ready.eq(ready),
            self.o.valid.eq(valid),
            self.o.payload.eq(oldest),
            write.addr.eq(tail),
            write.data.eq(self.i.payload),
            write.en.eq(push),
            read.addr.eq(second),
        ]
        return m
