"""Why the ring stops: the first descriptor that fails counts, in the order of `rtl.errors`."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .dma import Fault
from .errors import Error
from .tiles import INDEX

#: An error and the descriptor that met it; `Error.NONE` is none.
Failure = data.StructLayout({"error": Error, "index": INDEX})


class Stop(wiring.Component):
    """Keeps the error that counts until `clear`.

    A refused access counts when all descriptors before its own are complete, so of several the earliest counts. Each
    user of an engine works for one descriptor after the other, so its first refusal is its earliest.

    Parameters
    ----------
    users : for each engine, what a refused access of each of its users is; `Error.NONE` where it counts at once, as
        `write`. Of several that count in the same cycle the last goes first.

    Members
    -------
    fault : In(Fault) of each engine
        Pulses.
    write : In(Fault)
        Pulse: a write of the first descriptor that is not complete was refused.
    descriptor : In(Failure)
        What the tiler stopped at; it stays.
    completed : In(32)
        Descriptors completed.
    clear : In(1)
    refused : Out(users) of each engine
        An access of this user was refused, so it makes no new ones with this engine and gets no more beats. What others
        do, or what it does with another engine, may be for earlier descriptors.
    bus : Out(1)
        An error on the bus counts, so that what follows it is worthless.
    stopped : Out(1), failure : Out(Failure)
        Two cycles after `bus`. Of errors that come in one cycle, writes go before reads and reads before the tiler.
    """

    def __init__(self, users: Sequence[Sequence[Error]]):
        self._users = users
        engines = len(users)
        super().__init__(
            {
                "fault": In(Fault).array(engines),
                "write": In(Fault),
                "descriptor": In(Failure),
                "completed": In(INDEX),
                "clear": In(1),
                "refused": Out(max(map(len, users))).array(engines),
                "bus": Out(1),
                "stopped": Out(1),
                "failure": Out(Failure),
            }
        )

    def elaborate(self, platform):
        m = Module()
        kept = Signal(Failure)  # one that completion has reached
        reached = []
        matching = []
        for engine, kinds in enumerate(self._users):
            for user, kind in enumerate(kinds):
                if kind != Error.NONE:
                    here, index, halves = self._refused(m, engine, user)
                    reached.append((kind, here, index))
                    matching.append(halves)
        any_reached = Cat(here for _, here, _ in reached).any()
        # Each error is kept for a cycle before they are compared.
        write = Signal(Fault)
        descriptor = Signal(Failure)
        read = Signal()
        m.d.sync += [write.eq(self.write), descriptor.eq(self.descriptor), read.eq(any_reached)]
        for kind, here, index in reached:  # all that are reached in a cycle are the same descriptor's
            with m.If(here):
                m.d.sync += [kept.error.eq(kind), kept.index.eq(index)]

        seen = Signal()
        latest = Signal(Failure)
        m.d.sync += [seen.eq(write.valid | read | (descriptor.error != Error.NONE)), latest.eq(descriptor)]
        with m.If(write.valid):
            m.d.sync += [latest.error.eq(Error.AXI_WRITE), latest.index.eq(write.index)]
        with m.Elif(read):
            m.d.sync += latest.eq(kept)
        with m.If(self.write.valid | any_reached):
            m.d.sync += self.bus.eq(1)
        with m.If(seen & ~self.stopped):
            m.d.sync += [self.stopped.eq(1), self.failure.eq(latest)]
        with m.If(self.clear):
            pending = (*matching, *(here for _, here, _ in reached), write.valid, descriptor.error, read, seen)
            state = (*self.refused, *pending, self.bus, self.stopped, self.failure)
            m.d.sync += [signal.eq(0) for signal in state]
        return m

    def _refused(self, m: Module, engine: int, user: int):
        """Keeps a user's refused access. Returns whether completion is there, its descriptor, and what led to it."""
        fault, refused = self.fault[engine], self.refused[engine][user]
        index = Signal(INDEX, name=f"refused_index{engine}_{user}")
        reached = Signal(name=f"reached{engine}_{user}")
        with m.If(fault.valid & (fault.user == user) & ~refused):
            m.d.sync += [refused.eq(1), index.eq(fault.index)]
        # Halves of the numbers are compared first, their answers in the next cycle; by then the index never changes.
        half = len(index) // 2
        pairs = [(number[half:], number[:half]) for number in (self.completed, index)]
        halves = Signal(2, name=f"halves_match{engine}_{user}")
        m.d.sync += [
            *(halves[i].eq(refused & (now == its)) for i, (now, its) in enumerate(zip(*pairs, strict=True))),
            reached.eq(halves.all()),
        ]
        return reached, index, halves
