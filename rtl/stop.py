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
    read : In(Fault) of each manager, write : In(Fault)
        Pulses of the bus engines.
    operand : In(1) of each manager
        `read` is of an operand, not of a descriptor or a precision table.
    descriptor : In(Failure)
        What the tiler stopped at; it stays.
    completed : In(32)
        Descriptors completed. A refused read counts when all descriptors before its own are; so of several the earliest
        counts.
    clear : In(1)
    refused_load, refused_fetch : Out(1) of each manager
        A read of LOAD's or of fetch's was refused: the one makes no new reads over this manager, the other gets no more
        beats. What LOAD reads over another manager may be for earlier descriptors.
    bus : Out(1)
        An error on the bus counts, so that what follows it is worthless.
    stopped : Out(1), failure : Out(Failure)
        One cycle after `bus`. Of errors that come in one cycle, writes go before reads and reads before the tiler.
    """

    def __init__(self, managers: int):
        self._managers = managers
        super().__init__(
            {
                "read": In(Fault).array(managers),
                "operand": In(1).array(managers),
                "write": In(Fault),
                "descriptor": In(Failure),
                "completed": In(INDEX),
                "clear": In(1),
                "refused_load": Out(1).array(managers),
                "refused_fetch": Out(1).array(managers),
                "bus": Out(1),
                "stopped": Out(1),
                "failure": Out(Failure),
            }
        )

    def elaborate(self, platform):
        m = Module()
        read = Signal(Failure)  # one that completion has reached
        reached = Signal()
        refused = []
        for number in reversed(range(self._managers)):
            error, index, here = self._refused(m, number)
            with m.If(here):
                m.d.comb += [read.error.eq(error), read.index.eq(index), reached.eq(1)]
            refused.append(here)

        seen = Signal()
        latest = Signal(Failure)
        m.d.sync += [
            seen.eq(self.write.valid | reached | (self.descriptor.error != Error.NONE)),
            latest.eq(self.descriptor),
        ]
        with m.If(self.write.valid):
            m.d.sync += [latest.error.eq(Error.AXI_WRITE), latest.index.eq(self.write.index)]
        with m.Elif(reached):
            m.d.sync += latest.eq(read)
        with m.If(self.write.valid | reached):
            m.d.sync += self.bus.eq(1)
        with m.If(seen & ~self.stopped):
            m.d.sync += [self.stopped.eq(1), self.failure.eq(latest)]
        with m.If(self.clear):
            state = (*self.refused_load, *self.refused_fetch, *refused, seen, self.bus, self.stopped, self.failure)
            m.d.sync += [signal.eq(0) for signal in state]
        return m

    def _refused(self, m: Module, number: int):
        """Keeps a manager's refused read. Returns its error, its descriptor, and whether completion is there."""
        fault, operand = self.read[number], self.operand[number]
        load, fetch = self.refused_load[number], self.refused_fetch[number]
        index = Signal(INDEX, name=f"refused_index{number}")
        reached = Signal(name=f"reached{number}")
        # LOAD never works on a later descriptor than fetch, so it goes first.
        with m.If(fault.valid & ~load & (operand | ~fetch)):
            m.d.sync += [load.eq(operand), fetch.eq(~operand), index.eq(fault.index)]
        m.d.sync += reached.eq((load | fetch) & (self.completed == index))
        return Mux(load, Error.AXI_READ, Error.AXI_FETCH), index, reached
