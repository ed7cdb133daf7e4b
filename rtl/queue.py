"""A small first-in first-out buffer between streams, with a shaped payload."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class Queue(wiring.Component):
    """FIFO of `depth` items in LUTRAM, one cycle of latency.

    Members
    -------
    i : In(stream of shape), o : Out(stream of shape)
    level : Out
        Items inside.
    """

    def __init__(self, shape, depth: int):
        if depth < 1:
            raise ValueError(f"depth of a queue is {depth}, must be at least 1")
        self._shape, self._depth = shape, depth
        super().__init__(
            {"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "level": Out(range(depth + 1))}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.items = items = Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = items.write_port(), items.read_port(domain="comb")
        head, tail = Signal(range(self._depth)), Signal(range(self._depth))

        def after(pointer):
            return Mux(pointer == self._depth - 1, 0, pointer + 1)

        push, pop = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        m.d.comb += [
            self.i.ready.eq(self.level != self._depth),
            self.o.valid.eq(self.level != 0),
            write.addr.eq(tail),
            write.data.eq(self.i.payload),
            write.en.eq(push),
            read.addr.eq(head),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += self.level.eq(self.level + push - pop)
        with m.If(push):
            m.d.sync += tail.eq(after(tail))
        with m.If(pop):
            m.d.sync += head.eq(after(head))
        return m
