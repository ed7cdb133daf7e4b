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
    LATENCY = 8

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
        values, valid = self._shifted(m, move, beat, valid)

        # Which channels the values are.
        at = Signal(WORD_CHANNELS, init=1)  # one-hot: the lowest of them
        narrow, medium = self.source == Source.INT16, self.source == Source.INT32
        step = Mux(narrow, at.rotate_left(4), Mux(medium, at.rotate_left(2), at.rotate_left(1)))
        word = [Signal(signed(U_BITS), name=f"word{channel}", reset_less=True) for channel in range(WORD_CHANNELS)]
        last = Mux(narrow, at[-4], Mux(medium, at[-2], at[-1]))
        with m.If(move):
            m.d.sync += full.eq(valid & last)
            with m.If(valid):
                m.d.sync += at.eq(step)
        for channel, number in enumerate(word):
            slot = channel % SLOTS
            takes = at[channel] | (medium & at[channel // 2 * 2]) | (narrow & at[channel // SLOTS * SLOTS])
            value = Mux(narrow, values[slot], Mux(medium, values[slot % 2], values[0]))
            with m.If(move & takes):
                m.d.sync += number.eq(value)

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

    def _shifted(self, m: Module, move, beat, valid) -> tuple[list[Signal], Signal]:
        """The numbers of a beat, without the bits that are dropped: eights first, then the rest."""
        wide, medium = self.source == Source.INT64, self.source == Source.INT32
        halves = [beat[:32].as_signed(), beat[32:].as_signed()]
        quarters = [beat.word_select(i, 16).as_signed() for i in range(SLOTS)]
        numbers = [
            Mux(wide, beat[:ACC_BITS].as_signed(), Mux(medium, halves[0], quarters[0])),
            Mux(medium, halves[1], quarters[1]),
            *quarters[2:],
        ]
        values = []
        on_the_way = Signal()
        done = Signal()
        with m.If(move):
            m.d.sync += [on_the_way.eq(valid), done.eq(on_the_way)]
        for slot, number in enumerate(numbers):
            coarse = Signal(signed(U_BITS + 7), name=f"coarse{slot}", reset_less=True)
            fine = Signal(signed(U_BITS), name=f"fine{slot}", reset_less=True)
            with m.If(move):
                m.d.sync += [
                    coarse.eq(Array(number >> distance for distance in (0, 8, 16, 16))[self.dropped[3:]]),
                    fine.eq(Array(coarse >> distance for distance in range(8))[self.dropped[:3]]),
                ]
            values.append(fine)
        return values, done
