"""Fetches descriptors from the ring in DDR, and beats of precision tables."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BITS, BEAT_BYTES
from .dma import Beats, Command
from .isa import DESCRIPTOR_BYTES, DescriptorLayout
from .tiles import INDEX

#: A descriptor and its number since the last reset.
Fetched = data.StructLayout({"descriptor": DescriptorLayout, "index": INDEX})

DESCRIPTOR_BEATS = DESCRIPTOR_BYTES // BEAT_BYTES


class Fetch(wiring.Component):
    """Reads on behalf of the tiler.

    Members
    -------
    enable, ring_base, ring_mask, tail : In
        From the CSRs.
    head : Out(32)
        Descriptors fetched.
    o : Out(stream of Fetched)
        The next descriptor is fetched when this one has been taken.
    lookup : In(stream of addresses), looked_up : Out(stream of beats)
        The beat at each address, a multiple of `BEAT_BYTES`; addresses come only while `o` is being worked on.
    command, beats : to and from the reader
    idle : Out(1)
        No descriptor is waiting or on its way.
    """

    def __init__(self):
        super().__init__(
            {
                "enable": In(1),
                "ring_base": In(ADDRESS_BITS),
                "ring_mask": In(16),
                "tail": In(INDEX),
                "head": Out(INDEX),
                "o": Out(stream.Signature(Fetched)),
                "lookup": In(stream.Signature(ADDRESS_BITS)),
                "looked_up": Out(stream.Signature(BEAT_BITS, always_ready=True)),
                "command": Out(stream.Signature(Command)),
                "beats": In(Beats),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # What the CSRs say counts a cycle later. No descriptor has been taken by then, so nothing is fetched twice.
        waiting = Signal()
        address = Signal(ADDRESS_BITS)
        slot = self.head & self.ring_mask
        m.d.sync += [
            waiting.eq(self.enable & (self.head != self.tail)),
            address.eq(self.ring_base + (slot << ceil_log2(DESCRIPTOR_BYTES))),
        ]

        parts = [Signal(BEAT_BITS, name=f"beat{i}", reset_less=True) for i in range(DESCRIPTOR_BEATS)]
        turn = Signal(DESCRIPTOR_BEATS)  # one-hot: the beat that comes next
        m.d.comb += self.o.payload.descriptor.eq(Cat(*parts))
        for i, part in enumerate(parts):
            with m.If(self.beats.valid & turn[i]):
                m.d.sync += part.eq(self.beats.payload.data)
        with m.If(self.beats.valid):
            m.d.sync += turn.eq(turn << 1)

        command = self.command.payload
        m.d.comb += self.looked_up.payload.eq(self.beats.payload.data)
        vacant = Signal(init=1)  # there is no command; a register, for commands are wide
        with m.If(self.command.ready):
            m.d.sync += [self.command.valid.eq(0), vacant.eq(1)]
        with m.If(vacant):
            m.d.sync += [command.addr.eq(address), command.beats.eq(DESCRIPTOR_BEATS), command.index.eq(self.head)]
            with m.If(self.lookup.valid):
                m.d.sync += [command.addr.eq(self.lookup.payload), command.beats.eq(1)]
                m.d.sync += command.index.eq(self.o.payload.index)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [
                    self.lookup.ready.eq(1),
                    self.idle.eq(self.o.valid | ~waiting),
                ]
                m.d.sync += turn.eq(~self.lookup.valid)  # a beat that is looked up is none of the descriptor's
                with m.If(self.lookup.valid):
                    m.d.sync += [self.command.valid.eq(1), vacant.eq(0)]
                    m.next = "BEAT"
                with m.Elif(waiting & ~self.o.valid):
                    m.d.sync += [self.command.valid.eq(1), vacant.eq(0)]
                    m.next = "DESCRIPTOR"
            with m.State("BEAT"):
                m.d.comb += self.looked_up.valid.eq(self.beats.valid)
                with m.If(self.beats.valid):
                    m.next = "IDLE"
            with m.State("DESCRIPTOR"):
                with m.If(self.beats.valid & self.beats.payload.last):
                    m.d.sync += [self.o.payload.index.eq(self.head), self.head.eq(self.head + 1), self.o.valid.eq(1)]
                    m.next = "IDLE"
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
