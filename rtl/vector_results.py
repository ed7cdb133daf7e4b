"""Stream u of results of a product: beats as STORE writes them in, words of scaled numbers out."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
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

    Members
    -------
    source : In(2), dropped : In(5)
        The format, and the bits that are shifted out; stable.
    data : In(64), write : In(1)
        A beat; there is room for it.
    o : Out(stream of 16 * signed(25))
    """

    #: From a word's last beat to `o`.
    LATENCY = 9

    def __init__(self):
        super().__init__(
            {
                "source": In(Source),
                "dropped": In(range(MOST_DROPPED + 1)),
                "data": In(BEAT_BITS),
                "write": In(1),
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
        tail = Signal(range(2 * DEPTH))  # one bit more than an address: full is not empty
        head = Signal.like(tail)
        there = Signal()
        fetched = Signal()
        valid = Signal()
        beat = Signal(BEAT_BITS, reset_less=True)
        m.d.comb += [
            write.addr.eq(tail),
            write.data.eq(self.data),
            write.en.eq(self.write),
            read.addr.eq(head),
            read.en.eq(move),
            there.eq(head != tail),
        ]
        with m.If(self.write):
            m.d.sync += tail.eq(tail + 1)
        with m.If(move):
            m.d.sync += [fetched.eq(there), valid.eq(fetched), beat.eq(read.data)]
            with m.If(there):
                m.d.sync += head.eq(head + 1)
        return beat, valid

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
