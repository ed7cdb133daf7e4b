"""Burst engines between the units' commands and the AXI4 manager port.

A command is a run of beats. It is cut into bursts that end at multiples of the burst length, so that none crosses
4 KiB. Bursts are in order with one ID, `config.outstanding` in flight. On `halt` no new burst starts, those in flight
end properly (their data dropped, or written with all strobes off), and `idle` says when the bus is quiet.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import ADDRESS_BITS, OKAY, ReadData, Response, WriteData, address_channel
from .config import BEAT_BITS, BEAT_BYTES, AcceleratorConfig
from .queue import Queue
from .tiles import INDEX

USER = 2
#: A run of beats from or to `addr`. `index` names the descriptor in error reports; `user` is between an arbiter and its
#: engine, which says it of all that comes of the command.
Command = data.StructLayout({"addr": ADDRESS_BITS, "beats": 24, "index": INDEX, "user": USER})
#: A beat read: `last` of its run.
Beat = data.StructLayout({"data": BEAT_BITS, "last": 1, "user": USER})
#: Beats read have no back-pressure: whoever sends a command has room for what it reads.
Beats = stream.Signature(Beat, always_ready=True)
#: An error response, and the descriptor and the user whose run met it.
Fault = data.StructLayout({"valid": 1, "index": INDEX, "user": USER})
#: Whose a burst is, and whether it is the last of its command.
Owner = data.StructLayout({"index": INDEX, "user": USER, "last": 1})
#: A command whose beats have all been written and acknowledged: its user.
Done = data.StructLayout({"valid": 1, "user": USER})


class _Cutter(wiring.Component):
    """Cuts commands into bursts. The first shows two cycles after its command is taken, then one every two cycles.

    Members
    -------
    i : In(stream of Command)
    o : Out(stream of the address channel)
    owner : Out(Owner)
        Of the burst on `o`.
    stop : In(1)
        No new burst may appear on `o`.
    """

    def __init__(self, config: AcceleratorConfig):
        self._log2_burst = exact_log2(config.burst_beats)
        super().__init__(
            {
                "i": In(stream.Signature(Command)),
                "o": Out(stream.Signature(address_channel(8))),
                "owner": Out(Owner),
                "stop": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        align = exact_log2(BEAT_BYTES)
        window = align + self._log2_burst  # a burst stays inside an aligned window of so many address bits
        active = Signal()  # bursts of the command are not on `o` yet
        number = Signal(ADDRESS_BITS - window)  # window of the next burst
        first = Signal(self._log2_burst)  # and the beat in which it starts: 0 in all windows but the first
        # Counted down a burst at a time: negative in the last one, so that nothing has to be compared.
        more = Signal(signed(len(self.i.payload.beats) + 2 - self._log2_burst))
        end = Signal(self._log2_burst)  # last beat of the last window
        owner = Signal(Owner)

        final = more < 0
        burst = Signal()  # the next burst goes to `o`
        m.d.comb += [
            self.i.ready.eq(~active),
            burst.eq(active & ~self.o.valid & ~self.stop),
        ]
        with m.If(self.i.valid & ~active):
            m.d.sync += [
                active.eq(1),
                Cat(first, number).eq(self.i.payload.addr[align:]),
                Cat(end, more).eq(self.i.payload.addr[align:window] + self.i.payload.beats - (2**self._log2_burst + 1)),
                owner.index.eq(self.i.payload.index),
                owner.user.eq(self.i.payload.user),
            ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(burst):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.payload.addr.eq(Cat(Const(0, align), first, number)),
                self.o.payload.len.eq(Mux(final, end - first, ~first)),
                self.owner.eq(owner),
                self.owner.last.eq(final),
                active.eq(~final),
                number.eq(number + 1),
                first.eq(0),
                more.eq(more - 1),
            ]
        return m


class Reader(wiring.Component):
    """Read engine.

    Members
    -------
    i : In(stream of Command)
        `beats` is at least 1.
    ar, r : AXI4 read channels
    o : Out(Beats)
        Beats in order.
    fault : Out(Fault)
        Pulses on an error response.
    hold : In(1)
        No beats, from the next cycle on.
    halt : In(1), idle : Out(1)
    waiting : Out(1)
        Beats are outstanding and none arrives.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(Command)),
                "ar": Out(stream.Signature(address_channel(8))),
                "r": In(stream.Signature(ReadData)),
                "o": Out(Beats),
                "fault": Out(Fault),
                "hold": In(1),
                "halt": In(1),
                "idle": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.cutter = cutter = _Cutter(self._config)
        wiring.connect(m, wiring.flipped(self.i), cutter.i)

        takes = Signal(init=1)
        came = Signal()
        m.d.sync += takes.eq(~self.hold)
        m.d.comb += came.eq(self.r.valid & takes)
        m.submodules.owners = owners = Queue(Owner, self._config.outstanding)  # of the bursts in flight
        m.d.comb += [
            cutter.stop.eq(self.halt),
            self.ar.valid.eq(cutter.o.valid & owners.i.ready),
            self.ar.payload.eq(cutter.o.payload),
            cutter.o.ready.eq(self.ar.ready & owners.i.ready),
            owners.i.valid.eq(cutter.o.valid & self.ar.ready),
            owners.i.payload.eq(cutter.owner),
            self.r.ready.eq(takes),
            owners.o.ready.eq(came & self.r.payload.last),
            self.idle.eq(~cutter.o.valid & ~owners.o.valid),
            self.waiting.eq(owners.o.valid & ~self.r.valid),
        ]
        m.d.sync += [
            self.o.payload.data.eq(self.r.payload.data),
            self.o.payload.last.eq(self.r.payload.last & owners.o.payload.last),
            self.o.payload.user.eq(owners.o.payload.user),
            self.o.valid.eq(came & ~self.halt),
            self.fault.valid.eq(came & (self.r.payload.resp != OKAY)),
            self.fault.index.eq(owners.o.payload.index),
            self.fault.user.eq(owners.o.payload.user),
        ]
        return m


class Writer(wiring.Component):
    """Write engine.

    Members
    -------
    i : In(stream of Command)
    data : In(stream of 64 bits)
        The beats of the commands, in order.
    user : Out(USER)
        Whose beat the next one on `data` is.
    aw, w, b : AXI4 write channels
    fault, halt, idle : see `Reader`
    done : Out(Done)
        Pulse: everything of a command has been written and acknowledged.
    waiting : Out(1)
        A beat is held up by the bus.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(Command)),
                "data": In(stream.Signature(BEAT_BITS)),
                "user": Out(USER),
                "aw": Out(stream.Signature(address_channel(8))),
                "w": Out(stream.Signature(WriteData)),
                "b": In(stream.Signature(Response)),
                "fault": Out(Fault),
                "halt": In(1),
                "idle": Out(1),
                "done": Out(Done),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = self._config.outstanding
        m.submodules.cutter = cutter = _Cutter(self._config)
        wiring.connect(m, wiring.flipped(self.i), cutter.i)

        # Lengths of the bursts whose data is still owed, and the owners of those whose response is: no fewer.
        m.submodules.lengths = lengths = Queue(data.StructLayout({"len": 8, "user": USER}), depth)
        m.submodules.owners = owners = Queue(Owner, depth)
        room = owners.i.ready
        go = cutter.o.valid & room & self.aw.ready
        m.d.comb += [
            cutter.stop.eq(self.halt),
            self.aw.valid.eq(cutter.o.valid & room),
            self.aw.payload.eq(cutter.o.payload),
            cutter.o.ready.eq(self.aw.ready & room),
            lengths.i.valid.eq(go),
            lengths.i.payload.len.eq(cutter.o.payload.len),
            lengths.i.payload.user.eq(cutter.owner.user),
            owners.i.valid.eq(go),
            owners.i.payload.eq(cutter.owner),
        ]

        # W goes through a queue, so that a halt never changes a beat that is being offered, and that nothing of the bus
        # reaches back.
        m.submodules.beats = beats = Queue(WriteData, 2)
        wiring.connect(m, beats.o, wiring.flipped(self.w))
        halt = Signal()  # a cycle late: many reasons halt, and on whether beats are taken hangs much
        m.d.sync += halt.eq(self.halt)
        owing = Signal()  # beats of a burst are to be sent
        left = Signal(signed(9))  # those after the next two: negative if the next one is the last
        last = left < 0
        taken = Signal()  # the length at the head of the queue has been looked at
        move = Signal()
        m.d.comb += [
            beats.i.valid.eq(owing & (self.data.valid | halt)),
            move.eq(beats.i.valid & beats.i.ready),
            self.data.ready.eq(beats.i.ready & owing & ~halt),
            beats.i.payload.data.eq(self.data.payload),
            beats.i.payload.strb.eq(Mux(halt, 0, 2**BEAT_BYTES - 1)),
            beats.i.payload.last.eq(last),
            lengths.o.ready.eq(taken),
            self.waiting.eq(self.data.valid & ~self.data.ready),
        ]
        with m.If(move):
            m.d.sync += left.eq(left - 1)
        m.d.sync += taken.eq(0)
        with m.If(~owing | (move & last)):
            m.d.sync += [
                owing.eq(lengths.o.valid & ~taken),
                taken.eq(lengths.o.valid & ~taken),
                left.eq(lengths.o.payload.len - 1),
                self.user.eq(lengths.o.payload.user),
            ]

        m.d.comb += [
            self.b.ready.eq(1),
            owners.o.ready.eq(self.b.valid),
            self.idle.eq(~cutter.o.valid & ~owners.o.valid),
            self.done.valid.eq(self.b.valid & owners.o.payload.last),
            self.done.user.eq(owners.o.payload.user),
        ]
        m.d.sync += [
            self.fault.valid.eq(self.b.valid & (self.b.payload.resp != OKAY)),
            self.fault.index.eq(owners.o.payload.index),
            self.fault.user.eq(owners.o.payload.user),
        ]
        return m
