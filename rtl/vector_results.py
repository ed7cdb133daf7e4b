"""Stream u of results of a product: beats as STORE writes them in, words of scaled numbers out."""

from __future__ import annotations

import itertools

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import ACC_BITS, BEAT_BITS, BEAT_WORDS, WORD_CHANNELS
from .lane import U_BITS
from .vector_block import MOST_DROPPED, Source
from .vector_issue import RING

#: Beats of all positions that the other streams' buffers hold, of 64 bits each.
DEPTH = RING * BEAT_WORDS * WORD_CHANNELS
#: Most channels in a beat.
SLOTS = 4


class ResultBuffer(wiring.Component):
    """A queue of beats; at its end 4, 2 or 1 channels a cycle are shifted and put together.

    Rows may come in several parts, one after the other: each is added to what is there of those before it, and the row
    leaves with its last part.

    Members
    -------
    source : In(2), dropped : In(5)
        The format, and the bits that are shifted out; stable.
    data : In(64), write : In(1)
        A beat; there is room for it.
    first_part, last_part : In(1), part_end : In(1)
        Of a beat: which part of a row it belongs to, and that it is the part's last. A part has four beats or more.
    o : Out(stream of 16 * signed(25))
    """

    #: From a word's last beat to `o`.
    LATENCY = 12

    def __init__(self):
        super().__init__(
            {
                "source": In(Source),
                "dropped": In(range(MOST_DROPPED + 1)),
                "data": In(BEAT_BITS),
                "write": In(1),
                "first_part": In(1),
                "last_part": In(1),
                "part_end": In(1),
                "o": Out(stream.Signature(data.ArrayLayout(signed(U_BITS), WORD_CHANNELS))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        full = Signal()  # a word is put together
        move = Signal()  # all that is on its way goes on
        m.d.comb += move.eq(~full | ~self.o.valid)
        beat, valid = self._beats(m, move)
        formats = {source: Signal(name=f"is_{source.name.lower()}") for source in Source}
        m.d.sync += [known.eq(self.source == source) for source, known in formats.items()]
        values, valid = self._shifted(m, formats, move, beat, valid)

        # Which channels the values are: every format's value for a channel comes in the slot of its number.
        at = Signal(WORD_CHANNELS, init=1)  # one-hot: the lowest of them
        narrow, medium = formats[Source.INT16], formats[Source.INT32]
        step = Mux(narrow, at.rotate_left(4), Mux(medium, at.rotate_left(2), at.rotate_left(1)))
        word = [Signal(signed(U_BITS), name=f"word{channel}", reset_less=True) for channel in range(WORD_CHANNELS)]
        last = Mux(narrow, at[-4], Mux(medium, at[-2], at[-1]))
        with m.If(move):
            m.d.sync += full.eq(valid & last)
            with m.If(valid):
                m.d.sync += at.eq(step)
        for channel, number in enumerate(word):
            takes = at[channel] | (medium & at[channel // 2 * 2]) | (narrow & at[channel // SLOTS * SLOTS])
            with m.If(move & takes):
                m.d.sync += number.eq(values[channel % SLOTS])

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(~self.o.valid):
            m.d.sync += [self.o.valid.eq(full), self.o.payload.eq(Cat(word))]
        return m

    def _beats(self, m: Module, move) -> tuple[Signal, Signal]:
        """The queue. Returns the beat that moves on, and whether there is one."""
        m.submodules.beats = beats = Memory(shape=BEAT_BITS, depth=DEPTH, init=[])
        write, read = beats.write_port(), beats.read_port()
        written, total = self._sum(m, beats.read_port(), write.addr)
        tail = Signal(range(2 * DEPTH))  # one bit more than an address: full is not empty
        head = Signal.like(tail)
        there = Signal()
        fetched = Signal()
        valid = Signal()
        beat = Signal(BEAT_BITS, reset_less=True)
        m.d.comb += [
            write.data.eq(total),
            write.en.eq(written.valid),
            read.addr.eq(head),
            read.en.eq(move),
            there.eq(head != tail),
        ]
        with m.If(written.valid & written.last):
            m.d.sync += tail.eq(tail + 1)
        with m.If(move):
            m.d.sync += [fetched.eq(there), valid.eq(fetched), beat.eq(read.data)]
            with m.If(there):
                m.d.sync += head.eq(head + 1)
        return beat, valid

    def _sum(self, m: Module, there, place) -> tuple[data.View, Signal]:
        """Beats with what port `there` shows of the parts before. Returns what is known of the sum, and the sum."""
        row = Signal.like(place)  # where the row begins
        following = Signal.like(place)
        at = Signal.like(place)
        m.d.comb += [there.addr.eq(at), there.en.eq(1), following.eq(at + 1)]
        with m.If(self.write):
            m.d.sync += at.eq(following)
            with m.If(self.part_end & self.last_part):
                m.d.sync += row.eq(following)
            with m.Elif(self.part_end):
                m.d.sync += at.eq(row)
        layout = data.StructLayout({"valid": 1, "first": 1, "last": 1, "at": len(place), "data": BEAT_BITS})
        stages = [Signal(layout, name=f"came{i}") for i in range(3)]
        m.d.sync += [
            stages[0].eq(Cat(self.write, self.first_part, self.last_part, at, self.data)),
            *(after.eq(before) for before, after in itertools.pairwise(stages)),
        ]
        stored = Signal(BEAT_BITS, reset_less=True)  # a block RAM is slow to show its word
        total = Signal(BEAT_BITS, reset_less=True)
        wide = Signal(name="carries")  # from the lower half of a beat to the upper
        come, half = stages[1], BEAT_BITS // 2
        kept = Mux(come.first, 0, stored)
        added = Cat(come.data[:half], wide, come.data[half:]) + Cat(kept[:half], Const(0, 1), kept[half:])
        m.d.sync += [
            stored.eq(there.data),
            wide.eq(self.source == Source.INT64),
            total.eq(Cat(added[:half], added[half + 1 : BEAT_BITS + 1])),
        ]
        m.d.comb += place.eq(stages[-1].at)
        return stages[-1], total

    def _shifted(self, m: Module, formats, move, beat, valid) -> tuple[list[Signal], Signal]:
        """The numbers of a beat for each slot, without the bits that are dropped: eights first, then the rest."""
        wide, medium = formats[Source.INT64], formats[Source.INT32]
        halves = [beat[:32].as_signed(), beat[32:].as_signed()]
        quarters = [beat.word_select(i, 16).as_signed() for i in range(SLOTS)]
        done = valid
        for stage in ("chosen", "shifted", "complete"):
            before, done = done, Signal(name=stage)
            with m.If(move):
                m.d.sync += done.eq(before)
        values = []
        for slot in range(SLOTS):
            number = Signal(signed(ACC_BITS), name=f"number{slot}", reset_less=True)
            coarse = Signal(signed(U_BITS + 7), name=f"coarse{slot}", reset_less=True)
            fine = Signal(signed(U_BITS), name=f"fine{slot}", reset_less=True)
            with m.If(move):
                m.d.sync += [
                    number.eq(Mux(wide, beat[:ACC_BITS].as_signed(), Mux(medium, halves[slot % 2], quarters[slot]))),
                    coarse.eq(Array(number >> distance for distance in (0, 8, 16, 16))[self.dropped[3:]]),
                    fine.eq(Array(coarse >> distance for distance in range(8))[self.dropped[:3]]),
                ]
            values.append(fine)
        return values, done
