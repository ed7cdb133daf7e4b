"""The planes that EXEC takes for each position: those with a set bit anywhere in the tile."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import MAX_BITS
from .unpack import StreamSlot

#: Where a slot's list lies, and the index of its last plane.
Planes = data.StructLayout({"half": 1, "last": range(MAX_BITS)})


class PlaneLists(wiring.Component):
    """Writes the list of a slot's planes, one plane of the mask a cycle, while EXEC reads the list before it.

    Members
    -------
    i : In(stream of StreamSlot)
    o : Out(stream of Planes)
        A slot's list is complete. Whoever takes it has done with the list before.
    half, index : In
        Entry to read.
    plane : Out(4)
        Its plane, in the same cycle.

    If all planes are zero the list holds plane 0, because the sums have to be stored.
    """

    #: From a slot offered with b planes to its list: b + LATENCY cycles.
    LATENCY = 1

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(StreamSlot)),
                "o": Out(stream.Signature(Planes)),
                "half": In(1),
                "index": In(range(MAX_BITS)),
                "plane": Out(range(MAX_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.lists = lists = Memory(shape=self.plane.shape(), depth=2 * MAX_BITS, init=[])
        write, read = lists.write_port(), lists.read_port(domain="comb")
        half = Signal()
        plane = Signal(range(MAX_BITS))
        count = Signal(range(MAX_BITS))  # entries written
        rest = Signal(MAX_BITS)  # the mask from `plane` on
        m.d.comb += [
            read.addr.eq(Cat(self.index, self.half)),
            self.plane.eq(read.data),
            write.addr.eq(Cat(count, half)),
            write.data.eq(plane),
            self.o.payload.half.eq(half),
        ]
        with m.FSM():
            with m.State("IDLE"):
                mask = self.i.payload.planes
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [plane.eq(0), count.eq(0), rest.eq(Cat(mask[0] | (mask == 0), mask[1:]))]
                with m.If(self.i.valid):
                    m.next = "SCAN"
            with m.State("SCAN"):
                m.d.comb += write.en.eq(rest[0])
                m.d.sync += [
                    plane.eq(plane + 1),
                    count.eq(count + rest[0]),
                    rest.eq(rest >> 1),
                    self.o.payload.last.eq(count),
                ]
                with m.If(rest[1:] == 0):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += half.eq(~half)
                    m.next = "IDLE"
        return m
