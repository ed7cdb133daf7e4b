"""Burst engines between the units' commands and the AXI4 manager port.

A command is a run of beats. It is cut into bursts that end at multiples of the burst length, so that none crosses
4 KiB. Bursts are in order with one ID, `config.outstanding` in flight. On `halt` no new burst starts, those in flight
end properly (their data dropped, or written with all strobes off), and `idle` says when the bus is quiet.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .axi import ADDRESS_BITS, OKAY, ReadData, Response, WriteData, address_channel
from .config import BEAT_BITS, BEAT_BYTES, AcceleratorConfig
from .queue import Queue
from .tiles import INDEX

#: A run of beats from or to `addr`. `index` names the descriptor in error reports.
Command = data.StructLayout({"addr": ADDRESS_BITS, "beats": 24, "index": INDEX})
#: A beat read: `last` of its run.
Beat = data.StructLayout({"data": BEAT_BITS, "last": 1})
#: An error response and the descriptor whose run met it.
Fault = data.StructLayout({"valid": 1, "index": INDEX})


class _Cutter(wiring.Component):
    """Cuts commands into bursts.

    Members
    -------
    i : In(stream of Command)
    o : Out(stream of the address channel)
    last : Out(1)
        The burst on `o` ends its command.
    stop : In(1)
        No new burst may appear on `o`.
    """

    def __init__(self, config: AcceleratorConfig):
        self._log2_burst = ceil_log2(config.burst_beats)
        super().__init__(
            {
                "i": In(stream.Signature(Command)),
                "o": Out(stream.Signature(address_channel(8))),
                "last": Out(1),
                "index": Out(INDEX),
                "stop": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        align = ceil_log2(BEAT_BYTES)
        beat_addr = Signal(ADDRESS_BITS - align)
        left = Signal(24)  # beats of the command that are not on `o` yet
        index = Signal(INDEX)
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                beat_addr.eq(self.i.payload.addr >> align),
                left.eq(self.i.payload.beats),
                index.eq(self.i.payload.index),
            ]

        burst = Signal(range(2**self._log2_burst + 1))  # to the next multiple of the burst length, or to the end
        room = Signal.like(burst)
        m.d.comb += [
            room.eq(2**self._log2_burst - beat_addr[: self._log2_burst]),
            burst.eq(Mux(left < room, left, room)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If((~self.o.valid | self.o.ready) & (left != 0) & ~self.stop):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.payload.addr.eq(Cat(Const(0, align), beat_addr)),
                self.o.payload.len.eq(burst - 1),
                self.last.eq(burst == left),
                self.index.eq(index),
                beat_addr.eq(beat_addr + burst),
                left.eq(left - burst),
            ]
        return m


class Reader(wiring.Component):
    """Read engine.

    Members
    -------
    i : In(stream of Command)
        `beats` is at least 1.
    ar, r : AXI4 read channels
    o : Out(Beat), o_valid : Out(1)
        Beats in order. There is no back-pressure: who sends a command has room for it.
    fault : Out(Fault)
        Pulses on an error response.
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
                "o": Out(Beat),
                "o_valid": Out(1),
                "fault": Out(Fault),
                "halt": In(1),
                "idle": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.cutter = cutter = _Cutter(self._config)
        wiring.connect(m, wiring.flipped(self.i), cutter.i)

        # A note for each burst in flight: is it the last of its command, and whose.
        note = data.StructLayout({"last": 1, "index": INDEX})
        m.submodules.notes = notes = Queue(note, self._config.outstanding)
        m.d.comb += [
            cutter.stop.eq(self.halt),
            self.ar.valid.eq(cutter.o.valid & notes.i.ready),
            self.ar.payload.eq(cutter.o.payload),
            cutter.o.ready.eq(self.ar.ready & notes.i.ready),
            notes.i.valid.eq(cutter.o.valid & self.ar.ready),
            notes.i.payload.last.eq(cutter.last),
            notes.i.payload.index.eq(cutter.index),
            self.r.ready.eq(1),
            notes.o.ready.eq(self.r.valid & self.r.payload.last),
            self.idle.eq(~cutter.o.valid & ~notes.o.valid),
            self.waiting.eq(notes.o.valid & ~self.r.valid),
        ]
        m.d.sync += [
            self.o.data.eq(self.r.payload.data),
            self.o.last.eq(self.r.payload.last & notes.o.payload.last),
            self.o_valid.eq(self.r.valid & ~self.halt),
            self.fault.valid.eq(self.r.valid & (self.r.payload.resp != OKAY)),
            self.fault.index.eq(notes.o.payload.index),
        ]
        return m


class Writer(wiring.Component):
    """Write engine.

    Members
    -------
    i : In(stream of Command)
    data : In(stream of 64 bits)
        The beats of the commands, in order.
    aw, w, b : AXI4 write channels
    fault, halt, idle : see `Reader`
    quiet : Out(1)
        Every beat of every command has been written and acknowledged.
    waiting : Out(1)
        A beat is held up by the bus.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(Command)),
                "data": In(stream.Signature(BEAT_BITS)),
                "aw": Out(stream.Signature(address_channel(8))),
                "w": Out(stream.Signature(WriteData)),
                "b": In(stream.Signature(Response)),
                "fault": Out(Fault),
                "halt": In(1),
                "idle": Out(1),
                "quiet": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = self._config.outstanding
        m.submodules.cutter = cutter = _Cutter(self._config)
        wiring.connect(m, wiring.flipped(self.i), cutter.i)

        # Lengths of the bursts whose data is still owed, and the descriptors of those whose response is.
        m.submodules.lengths = lengths = Queue(8, depth)
        m.submodules.owners = owners = Queue(INDEX, depth)
        room = lengths.i.ready & owners.i.ready
        go = cutter.o.valid & room & self.aw.ready
        m.d.comb += [
            cutter.stop.eq(self.halt),
            self.aw.valid.eq(cutter.o.valid & room),
            self.aw.payload.eq(cutter.o.payload),
            cutter.o.ready.eq(self.aw.ready & room),
            lengths.i.valid.eq(go),
            lengths.i.payload.eq(cutter.o.payload.len),
            owners.i.valid.eq(go),
            owners.i.payload.eq(cutter.index),
        ]

        # W goes through a register, so that a halt never changes a beat that is being offered.
        sent = Signal(8)
        free = ~self.w.valid | self.w.ready
        last = sent == lengths.o.payload
        move = Signal()
        m.d.comb += [
            move.eq(free & lengths.o.valid & (self.data.valid | self.halt)),
            self.data.ready.eq(free & lengths.o.valid & ~self.halt),
            lengths.o.ready.eq(move & last),
            self.waiting.eq(self.data.valid & ~self.data.ready),
        ]
        with m.If(free):
            m.d.sync += self.w.valid.eq(move)
        with m.If(move):
            m.d.sync += [
                self.w.payload.data.eq(self.data.payload),
                self.w.payload.strb.eq(Mux(self.halt, 0, 2**BEAT_BYTES - 1)),
                self.w.payload.last.eq(last),
                sent.eq(Mux(last, 0, sent + 1)),
            ]

        m.d.comb += [
            self.b.ready.eq(1),
            owners.o.ready.eq(self.b.valid),
            self.idle.eq(~cutter.o.valid & ~owners.o.valid),
            self.quiet.eq(self.idle & cutter.i.ready),
        ]
        m.d.sync += [
            self.fault.valid.eq(self.b.valid & (self.b.payload.resp != OKAY)),
            self.fault.index.eq(owners.o.payload),
        ]
        return m


class ReadArbiter(wiring.Component):
    """Lets two users share the reader; the first goes first.

    Members
    -------
    i0, i1 : In(stream of Command)
    o : Out(stream of Command)
    beat, beat_valid : the reader's output
    o0_valid, o1_valid : Out(1)
        There is a beat, and it belongs to user 0 or 1.
    user : Out(1)
        Whose beat the next one is.
    """

    def __init__(self, config: AcceleratorConfig):
        # Commands may queue in the cutter and in flight: at most one burst each.
        self._depth = 2 * config.outstanding
        super().__init__(
            {
                "i0": In(stream.Signature(Command)),
                "i1": In(stream.Signature(Command)),
                "o": Out(stream.Signature(Command)),
                "beat": In(Beat),
                "beat_valid": In(1),
                "o0_valid": Out(1),
                "o1_valid": Out(1),
                "user": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.users = users = Queue(1, self._depth)
        user = Signal()
        locked = Signal()  # an offered command must stay
        held = Signal()
        m.d.comb += user.eq(Mux(locked, held, ~self.i0.valid))
        chosen = Mux(user, self.i1.valid, self.i0.valid)
        m.d.comb += [
            self.o.payload.eq(Mux(user, self.i1.payload.as_value(), self.i0.payload.as_value())),
            self.o.valid.eq(chosen & users.i.ready),
            users.i.valid.eq(chosen & self.o.ready),
            users.i.payload.eq(user),
            self.i0.ready.eq(~user & self.o.ready & users.i.ready),
            self.i1.ready.eq(user & self.o.ready & users.i.ready),
            self.user.eq(users.o.payload),
            self.o0_valid.eq(self.beat_valid & ~self.user),
            self.o1_valid.eq(self.beat_valid & self.user),
            users.o.ready.eq(self.beat_valid & self.beat.last),
        ]
        m.d.sync += [locked.eq(self.o.valid & ~self.o.ready), held.eq(user)]
        return m
