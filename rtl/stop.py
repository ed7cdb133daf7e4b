"""Why the ring stops: the first descriptor that fails counts, in the order of `rtl.errors`."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .dma import Fault
from .errors import Error
from .tiles import INDEX

#: An error and the descriptor that met it; `Error.NONE` is none.
Failure = data.StructLayout({"error": Error, "index": INDEX})


class Stop(wiring.Component):
    """Keeps the error that counts until `clear`.

    Members
    -------
    read, write : In(Fault)
        Pulses of the bus engines.
    operand : In(1)
        `read` is of an operand, not of a descriptor or a precision table.
    descriptor : In(Failure)
        What the tiler stopped at; it stays.
    completed : In(32)
        Descriptors completed. A refused read counts when all descriptors before its own are.
    clear : In(1)
    refused_load, refused_fetch : Out(1)
        A read of LOAD's or of fetch's was refused: the one makes no new reads, the other gets no more beats.
    bus : Out(1)
        An error on the bus counts, so that what follows it is worthless.
    stopped : Out(1), failure : Out(Failure)
        One cycle after `bus`. Of errors that come in one cycle, writes go before reads and reads before the tiler.
    """

    def __init__(self):
        super().__init__(
            {
                "read": In(Fault),
                "operand": In(1),
                "write": In(Fault),
                "descriptor": In(Failure),
                "completed": In(INDEX),
                "clear": In(1),
                "refused_load": Out(1),
                "refused_fetch": Out(1),
                "bus": Out(1),
                "stopped": Out(1),
                "failure": Out(Failure),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # LOAD never works on a later descriptor than fetch, so it goes first.
        refused_index = Signal(INDEX)
        reached = Signal()  # by completion
        with m.If(self.read.valid & ~self.refused_load & (self.operand | ~self.refused_fetch)):
            m.d.sync += [
                self.refused_load.eq(self.operand),
                self.refused_fetch.eq(~self.operand),
                refused_index.eq(self.read.index),
            ]
        m.d.sync += reached.eq((self.refused_load | self.refused_fetch) & (self.completed == refused_index))

        seen = Signal()
        latest = Signal(Failure)
        m.d.sync += [
            seen.eq(self.write.valid | reached | (self.descriptor.error != Error.NONE)),
            latest.eq(self.descriptor),
        ]
        with m.If(self.write.valid):
            m.d.sync += [latest.error.eq(Error.AXI_WRITE), latest.index.eq(self.write.index)]
        with m.Elif(reached):
            m.d.sync += [
                latest.error.eq(Mux(self.refused_load, Error.AXI_READ, Error.AXI_FETCH)),
                latest.index.eq(refused_index),
            ]
        with m.If(self.write.valid | reached):
            m.d.sync += self.bus.eq(1)
        with m.If(seen & ~self.stopped):
            m.d.sync += [self.stopped.eq(1), self.failure.eq(latest)]
        with m.If(self.clear):
            state = (self.refused_load, self.refused_fetch, reached, seen, self.bus, self.stopped, self.failure)
            m.d.sync += [signal.eq(0) for signal in state]
        return m
