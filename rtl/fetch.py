"""Fetches descriptors from the ring in DDR, and precision bytes from their tables."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import ADDRESS_BITS
from .config import BEAT_BITS, BEAT_BYTES
from .dma import Beats, Command
from .isa import DESCRIPTOR_BYTES, DescriptorLayout
from .tiles import INDEX

#: A descriptor and its number since the last reset.
Fetched = data.StructLayout({"descriptor": DescriptorLayout, "index": INDEX})

USED_BEATS = -(-DescriptorLayout.size // BEAT_BITS)


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
    lookup : In(stream of 32-bit addresses), looked_up : Out(8)
        Byte at an address, in the cycle after the address was taken. The last beat read is kept until the next
        descriptor.
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
                "looked_up": Out(8),
                "command": Out(stream.Signature(Command)),
                "beats": In(Beats),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beats = [Signal(BEAT_BITS, name=f"beat{i}", reset_less=True) for i in range(USED_BEATS)]
        count = Signal(range(DESCRIPTOR_BYTES // BEAT_BYTES))
        kept = Signal(BEAT_BITS, reset_less=True)
        kept_addr, kept_valid = Signal(ADDRESS_BITS - 3), Signal()
        slot = self.head & self.ring_mask
        m.d.comb += [
            self.o.payload.descriptor.eq(Cat(*beats)),
            self.command.payload.index.eq(self.head),
        ]
        kept_bytes = Array(kept.word_select(i, 8) for i in range(BEAT_BYTES))

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.lookup.valid)
                m.d.sync += count.eq(0)
                with m.If(self.lookup.valid):
                    m.d.comb += self.idle.eq(0)
                    with m.If(kept_valid & (kept_addr == self.lookup.payload[3:])):
                        m.d.comb += self.lookup.ready.eq(1)
                        m.d.sync += self.looked_up.eq(kept_bytes[self.lookup.payload[:3]])
                    with m.Else():
                        m.next = "READ BYTES"
                with m.Elif(self.enable & (self.head != self.tail) & ~self.o.valid):
                    m.d.comb += self.idle.eq(0)
                    m.next = "READ DESCRIPTOR"
            with m.State("READ BYTES"):
                m.d.comb += [
                    self.command.valid.eq(1),
                    self.command.payload.addr.eq(Cat(Const(0, 3), self.lookup.payload[3:])),
                    self.command.payload.beats.eq(1),
                    self.command.payload.index.eq(self.o.payload.index),
                ]
                m.d.sync += [kept_addr.eq(self.lookup.payload[3:]), kept_valid.eq(0)]
                with m.If(self.command.ready):
                    m.next = "BYTES"
            with m.State("BYTES"):
                with m.If(self.beats.valid):
                    m.d.sync += [kept.eq(self.beats.payload.data), kept_valid.eq(1)]
                    m.next = "IDLE"
            with m.State("READ DESCRIPTOR"):
                m.d.comb += [
                    self.command.valid.eq(1),
                    self.command.payload.addr.eq(self.ring_base + slot * DESCRIPTOR_BYTES),
                    self.command.payload.beats.eq(DESCRIPTOR_BYTES // BEAT_BYTES),
                ]
                m.d.sync += kept_valid.eq(0)
                with m.If(self.command.ready):
                    m.next = "DESCRIPTOR"
            with m.State("DESCRIPTOR"):
                with m.If(self.beats.valid):
                    m.d.sync += count.eq(count + 1)
                    for i, beat in enumerate(beats):
                        with m.If(count == i):
                            m.d.sync += beat.eq(self.beats.payload.data)
                    with m.If(self.beats.payload.last):
                        m.d.sync += [self.o.payload.index.eq(self.head), self.head.eq(self.head + 1)]
                        m.d.sync += self.o.valid.eq(1)
                        m.next = "IDLE"
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m
