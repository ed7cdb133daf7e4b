"""Several users share a burst engine, each as if it were its own.

The first user that has a command goes first. Commands take one cycle, or none if the user is alone.
"""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .config import BEAT_BITS, AcceleratorConfig
from .dma import USER, Beats, Command, Done, Fault


def _checked(users: int) -> int:
    if not 1 <= users <= 2**USER:
        raise ValueError(f"users is {users}, must be 1 to {2**USER}")
    return users


def _merge(m: Module, users, o) -> None:
    """The commands of `users` to `o`."""
    if len(users) == 1:
        (user,) = users
        m.d.comb += [o.valid.eq(user.valid), o.payload.eq(user.payload), user.ready.eq(o.ready)]
        return
    free = Signal()
    chosen = Signal(Command)
    earlier = Const(0)  # one who goes first has a command
    m.d.comb += [free.eq(~o.valid | o.ready), chosen.eq(users[-1].payload), chosen.user.eq(len(users) - 1)]
    for user in users:
        m.d.comb += user.ready.eq(free & ~earlier)
        earlier |= user.valid
    # Every choice is by one user's `valid`, not by all before it: the way to all bits costs a level.
    for number, user in reversed(list(enumerate(users[:-1]))):
        with m.If(user.valid):
            m.d.comb += [chosen.eq(user.payload), chosen.user.eq(number)]
    with m.If(free):
        m.d.sync += [o.valid.eq(earlier), o.payload.eq(chosen)]


class ReadArbiter(wiring.Component):
    """Lets `users` share a reader.

    Members
    -------
    i : In(stream of Command) of each user
    share : Out(Beats) of each user
        What was read for it, but for beats that were refused.
    closed : In(users)
        No more commands of this user are taken, and it gets no more beats.
    o : Out(stream of Command), beats : In(Beats), fault : In(Fault)
        To and from the reader.
    """

    def __init__(self, users: int):
        super().__init__(
            {
                "i": In(stream.Signature(Command)).array(_checked(users)),
                "share": Out(Beats).array(users),
                "closed": In(users),
                "o": Out(stream.Signature(Command)),
                "beats": In(Beats),
                "fault": In(Fault),
            }
        )

    def elaborate(self, platform):
        m = Module()
        opened = []
        for number, (i, share, closed) in enumerate(zip(self.i, self.share, self.closed, strict=True)):
            command = stream.Signature(Command).create(path=(f"command{number}",))
            mine = self.beats.payload.user == number
            m.d.comb += [
                command.valid.eq(i.valid & ~closed),
                command.payload.eq(i.payload),
                i.ready.eq(command.ready & ~closed),
                share.payload.eq(self.beats.payload),
                share.valid.eq(self.beats.valid & mine & ~self.fault.valid & ~closed),
            ]
            opened.append(command)
        _merge(m, opened, self.o)
        return m


class WriteArbiter(wiring.Component):
    """Lets `users` share a writer. The beats of a command keep all later ones waiting.

    So a user offers a command only when its beats follow without waiting for anything but room.

    Members
    -------
    i : In(stream of Command), data : In(stream of 64 bits) of each user
        The beats of its commands, in order.
    o : Out(stream of Command), beats : Out(stream of 64 bits)
        To the writer.
    user : In(USER)
        Whose beat the writer takes next.
    done : In(Done)
        The writer's.
    quiet : Out(users)
        All commands of this user are done.
    """

    def __init__(self, config: AcceleratorConfig, users: int):
        # Bursts in flight may all be of a command of their own, and others wait in the engine and here.
        self._most = config.outstanding + 3
        super().__init__(
            {
                "i": In(stream.Signature(Command)).array(_checked(users)),
                "data": In(stream.Signature(BEAT_BITS)).array(users),
                "o": Out(stream.Signature(Command)),
                "beats": Out(stream.Signature(BEAT_BITS)),
                "user": In(USER),
                "done": In(Done),
                "quiet": Out(users),
            }
        )

    def elaborate(self, platform):
        m = Module()
        _merge(m, self.i, self.o)
        for number, (i, quiet) in enumerate(zip(self.i, self.quiet, strict=True)):
            under_way = Signal(range(self._most + 1), name=f"under_way{number}")
            taken = Signal(name=f"taken{number}")  # counted a cycle later: long before it can be done
            m.d.sync += taken.eq(i.valid & i.ready)
            done = self.done.valid & (self.done.user == number)
            with m.If(taken & ~done):
                m.d.sync += under_way.eq(under_way + 1)
            with m.Elif(done & ~taken):
                m.d.sync += under_way.eq(under_way - 1)
            m.d.comb += quiet.eq((under_way == 0) & ~taken)
        m.d.comb += [
            self.beats.valid.eq(Array(port.valid for port in self.data)[self.user]),
            self.beats.payload.eq(Array(port.payload for port in self.data)[self.user]),
            *(port.ready.eq(self.beats.ready & (self.user == number)) for number, port in enumerate(self.data)),
        ]
        return m
