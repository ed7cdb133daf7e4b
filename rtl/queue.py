"""Small first-in first-out buffers between streams, with a shaped payload."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class Queue(wiring.Component):
    """FIFO of `depth` items: one cycle of latency, one item a cycle.

    The oldest item stands in a register and those behind it in LUTRAM, or if that is one alone in a register, too. So
    both sides see registers: `o.payload`, `o.valid` and `i.ready`.

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
        push = Signal()
        pop = Signal()
        m.d.comb += [push.eq(self.i.valid & self.i.ready), pop.eq(self.o.valid & self.o.ready)]

        # As many ones as there are items: each question about their number is one bit.
        filled = Signal(depth)
        pushed = Mux(push, Cat(1, filled), filled)
        following = Mux(pop, pushed >> 1, pushed)[:depth]
        # The two sides see registers of their own: those of the items have all bits of the payload to choose.
        room = Signal(init=1)
        vacant = Signal(init=1)  # there is no item
        m.d.sync += [filled.eq(following), room.eq(~following[-1]), vacant.eq(~following[0])]

        oldest = Signal(self._shape, reset_less=True)
        enters, item = vacant, Value.cast(self.i.payload)
        if depth > 1:
            enters, item = vacant | self.o.ready, Mux(filled[1], self._second(m, push, pop, ~filled[-1]), item)
        with m.If(enters):
            m.d.sync += Value.cast(oldest).eq(item)
        m.d.comb += [self.i.ready.eq(room), self.o.valid.eq(filled[0]), self.o.payload.eq(oldest)]
        return m

    def _second(self, m: Module, push, pop, room) -> Value:
        """The item behind the oldest. Every item is written here, one that finds nobody before it as well."""
        depth = self._depth
        if depth == 2:
            second = Signal(self._shape, name="second", reset_less=True)
            with m.If(room):
                m.d.sync += second.eq(self.i.payload)
            return Value.cast(second)

        def after(pointer):
            return Mux(pointer == depth - 1, 0, pointer + 1)

        m.submodules.items = items = Memory(shape=self._shape, depth=depth, init=[])
        write, read = items.write_port(), items.read_port(domain="comb")
        tail = Signal(range(depth))  # where the next item is written
        second = Signal(range(depth), init=1)  # where the item behind the oldest stands
        with m.If(push):
            m.d.sync += tail.eq(after(tail))
        with m.If(pop):
            m.d.sync += second.eq(after(second))
        m.d.comb += [
            write.addr.eq(tail),
            write.data.eq(self.i.payload),
            write.en.eq(push),
            read.addr.eq(second),
        ]
        return Value.cast(read.data)


class PacedQueue(wiring.Component):
    """Queue of two items that gives one every second cycle, for a reader whose `ready` comes late.

    It reaches a single register: that the oldest item has been taken is only looked at in the next cycle.

    Members
    -------
    i : In(stream of shape), o : Out(stream of shape)
        One cycle of latency; both sides see registers.
    """

    def __init__(self, shape):
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        behind = Signal(self._shape, reset_less=True)
        waits = Signal()  # there is one behind the oldest
        m.d.comb += self.i.ready.eq(~waits)
        with m.If(~waits):
            m.d.sync += [behind.eq(self.i.payload), waits.eq(self.i.valid & self.o.valid)]
        with m.If(~self.o.valid):
            m.d.sync += [
                self.o.payload.eq(Mux(waits, Value.cast(behind), Value.cast(self.i.payload))),
                self.o.valid.eq(waits | self.i.valid),
                waits.eq(0),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
