"""The bits of an operand, sample by sample, whether the descriptor names them or a table in DDR does."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BITS, BEAT_BYTES
from .states import States
from .tiles import SIZE

BYTE = 8

#: Bytes wanted: `count` of them from `table` on, or `count` times `bits`. `single`: that is one.
Wanted = data.StructLayout({"from_table": 1, "bits": BYTE, "table": ADDRESS_BITS, "count": SIZE, "single": 1})
#: The bits of a sample; are they `again` those of the one before, and is it the `last` one wanted.
Precision = data.StructLayout({"bits": BYTE, "again": 1, "last": 1})


class Precisions(wiring.Component):
    """Gives precisions at one a cycle. A beat of a table is read when every byte before it has been taken.

    Members
    -------
    i : In(stream of Wanted)
        Taken when all that was wanted before has been given.
    o : Out(stream of Precision)
    lookup, looked_up : see `rtl.fetch.Fetch`
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(Wanted)),
                "o": Out(stream.Signature(Precision)),
                "lookup": Out(stream.Signature(ADDRESS_BITS)),
                "looked_up": In(stream.Signature(BEAT_BITS, always_ready=True)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        align = ceil_log2(BEAT_BYTES)
        from_table = Signal()
        place = Signal(ADDRESS_BITS - align)  # of the next beat of the table
        beat = Signal(BEAT_BITS, reset_less=True)
        byte = Signal(align)  # of the beat, to be given next
        count = Signal(SIZE)  # bytes to give
        final = Signal()  # that is one
        pause = Signal()  # the byte is its beat's last, and the next is of the table too
        bits = beat.word_select(byte, BYTE)

        m.d.comb += self.lookup.payload.eq(Cat(Const(0, align), place))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)

        states = States(m, "IDLE", "LOOK UP", "BEAT", "GIVE")
        with states.state("IDLE"):
            wanted = self.i.payload
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += [
                from_table.eq(wanted.from_table),
                Cat(byte, place).eq(wanted.table),
                beat.eq(wanted.bits.replicate(BEAT_BYTES)),
                count.eq(wanted.count),
                final.eq(wanted.single),
                pause.eq(wanted.from_table & wanted.table[:align].all()),
            ]
            with m.If(self.i.valid & wanted.from_table):
                states.go("LOOK UP")
            with m.Elif(self.i.valid):
                states.go("GIVE")
        with states.state("LOOK UP"):
            m.d.comb += self.lookup.valid.eq(~self.o.valid)
            with m.If(self.lookup.valid & self.lookup.ready):
                states.go("BEAT")
        with states.state("BEAT"):
            m.d.sync += beat.eq(self.looked_up.payload)
            with m.If(self.looked_up.valid):
                m.d.sync += place.eq(place + 1)
                states.go("GIVE")
        with states.state("GIVE"):
            with m.If(~self.o.valid | self.o.ready):
                m.d.sync += [
                    self.o.payload.bits.eq(bits),
                    self.o.payload.again.eq(bits == self.o.payload.bits),
                    self.o.payload.last.eq(final),
                    self.o.valid.eq(1),
                    byte.eq(byte + 1),
                    count.eq(count - 1),
                    final.eq(count == 2),
                    pause.eq(from_table & (byte == BEAT_BYTES - 2)),
                ]
                with m.If(final):
                    states.go("IDLE")
                with m.Elif(pause):
                    states.go("LOOK UP")
        return m
