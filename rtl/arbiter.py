"""Several users share a burst engine, each as if it were its own."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .config import AcceleratorConfig
from .dma import Beats, Command
from .queue import Queue


def _take(m: Module, users, o, room):
    """Commands of `users` to `o`, one a cycle, the first that has one goes first; none without `room`.

    Returns whether one is taken, and whose, with a bit for each user.
    """
    free = Signal()
    taken = Signal()
    whose = Signal(len(users))
    earlier = Const(0)  # one who goes first has a command
    for bit, user in zip(whose, users, strict=True):
        m.d.comb += [bit.eq(user.valid & ~earlier), user.ready.eq(free & ~earlier)]
        earlier |= user.valid
    payload = Value.cast(users[-1].payload)
    for user in reversed(users[:-1]):
        payload = Mux(user.valid, Value.cast(user.payload), payload)
    m.d.comb += [free.eq((~o.valid | o.ready) & room), taken.eq(free & earlier)]
    with m.If(o.ready):
        m.d.sync += o.valid.eq(0)
    with m.If(taken):
        m.d.sync += o.valid.eq(1)
    with m.If(free):
        m.d.sync += Value.cast(o.payload).eq(payload)
    return taken, whose


class ReadArbiter(wiring.Component):
    """Lets `users` share a reader; the first goes first. A command takes one cycle, or none if the user is alone.

    Members
    -------
    i : In(stream of Command) of each user
    o : Out(stream of Command)
    beats : In(Beats)
        The reader's.
    share : Out(Beats) of each user
        Those of its commands.
    user : Out(users)
        Whose beat the next one is: one bit is set.
    """

    def __init__(self, config: AcceleratorConfig, users: int):
        # Commands may queue in the cutter and in flight: at most one burst each.
        self._depth = 2 * config.outstanding
        super().__init__(
            {
                "i": In(stream.Signature(Command)).array(users),
                "o": Out(stream.Signature(Command)),
                "beats": In(Beats),
                "share": Out(Beats).array(users),
                "user": Out(users),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if len(self.i) == 1:
            wiring.connect(m, wiring.flipped(self.i[0]), wiring.flipped(self.o))
            m.d.comb += self.user.eq(1)
        else:
            m.submodules.users = users = Queue(len(self.i), self._depth)
            taken, whose = _take(m, self.i, self.o, users.i.ready)
            m.d.comb += [
                users.i.valid.eq(taken),
                users.i.payload.eq(whose),
                users.o.ready.eq(self.beats.valid & self.beats.payload.last),
                self.user.eq(users.o.payload),
            ]
        for share, mine in zip(self.share, self.user, strict=True):
            m.d.comb += [share.payload.eq(self.beats.payload), share.valid.eq(self.beats.valid & mine)]
        return m
