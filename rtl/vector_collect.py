"""The buffer of the results: words of whole numbers in, beats of one plane or digit out."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .config import BEAT_BITS, BEAT_WORDS, DIGIT_BITS, WORD_CHANNELS
from .countdown import Countdown
from .lanes import result
from .reduction import Sums
from .tiles import VectorTile
from .vector_block import MOST_DIGITS_PLANES, MOST_PLANES, MOST_WIDTH
from .vector_shape import RESULTS, Shape

#: What a beat can be besides plane or digit number 0 to 23 of the results. Those of a channel's sums follow downwards.
POSITIVE = MOST_PLANES
EXTREMES, PRODUCTS, SUMS, CLIPPED = 28, 29, 30, 31
BEATS = 32
#: Digits in the part of a beat that one memory holds.
DIGITS = WORD_CHANNELS // BEAT_WORDS
#: Choices of the first of two multiplexers.
NEAR = 4


class VectorCollect(wiring.Component):
    """A memory for each of four positions, of rows of results.

    Members
    -------
    tile : In(VectorTile), shape : In(Shape)
        Stable from the cycle before `load` on.
    load : In(1)
        Begin.
    word : In(result), valid : In(1)
        A word, in the order of the rows; there is room for it.
    row : Out(1)
        Pulse: a row is complete with the word before.
    address : In, beat : In(5), keep : In(4)
        Which entry is read and what of it; words that are not to be kept are zero. A row's entries begin where those of
        the row before it ended.
    sums : In(Sums), clipped : In(32)
        What is read as `SUMS` and so on.
    o : Out(64)
        Two cycles later.
    """

    LATENCY = 2

    def __init__(self):
        super().__init__(
            {
                "tile": In(VectorTile),
                "shape": In(Shape),
                "load": In(1),
                "word": In(result(WORD_CHANNELS)),
                "valid": In(1),
                "row": Out(1),
                "address": In(ceil_log2(RESULTS)),
                "beat": In(range(BEATS)),
                "keep": In(BEAT_WORDS),
                "sums": In(Sums),
                "clipped": In(32),
                "o": Out(BEAT_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        word = Signal.like(self.word, reset_less=True)
        valid = Signal()
        m.d.sync += [word.eq(self.word), valid.eq(self.valid)]
        position, entry, group = self._places(m, valid)
        planes = self._memories(m, word, valid, position, entry, group)
        sums = self.sums
        others = {
            EXTREMES: Cat(self._wide(sums.low, 32), self._wide(sums.high, 32)),
            PRODUCTS: self._wide(sums.products, BEAT_BITS),
            SUMS: self._wide(sums.sums, BEAT_BITS),
            CLIPPED: self.clipped,
        }
        choices = [planes.get(i, others.get(i, Const(0, BEAT_BITS))) for i in range(BEATS)]

        near, far = self.beat[: ceil_log2(NEAR)], self.beat[ceil_log2(NEAR) :]
        far_later = Signal.like(far, reset_less=True)
        keep = Signal.like(self.keep, reset_less=True)
        chosen = []
        for i in range(0, BEATS, NEAR):
            found = Signal(BEAT_BITS, name=f"near{i}", reset_less=True)
            m.d.sync += found.eq(Array(choices[i : i + NEAR])[near])
            chosen.append(found)
        m.d.sync += [far_later.eq(far), keep.eq(self.keep)]
        beat = Array(chosen)[far_later]
        for j in range(BEAT_WORDS):
            word = self.o.word_select(j, WORD_CHANNELS)
            m.d.sync += word.eq(Mux(keep[j], beat.word_select(j, WORD_CHANNELS), 0))
        return m

    @staticmethod
    def _wide(number, bits: int):
        """A signed number in as many bits."""
        return Cat(number, number[-1].replicate(bits - len(number)))

    def _places(self, m: Module, valid):
        """Of the word: its position, one-hot; the entry of its results; the group of its mask."""
        columns = Countdown(bits_for(MOST_WIDTH), "columns")
        position = Signal(BEAT_WORDS, init=1)
        entry = Signal.like(self.address)
        group = Signal.like(self.address)
        next_row = Signal.like(self.address)
        with m.If(self.load):
            m.d.sync += [
                *columns.start(self.tile.width[: bits_for(MOST_WIDTH)]),
                next_row.eq(entry + self.shape.entries),
            ]
        with m.If(valid):
            m.d.sync += [position.eq(position.rotate_left(1)), *columns.step()]
            with m.If(self.shape.digits | position[-1]):
                m.d.sync += entry.eq(entry + 1)
            with m.If(position[-1]):
                m.d.sync += group.eq(group + 1)
        m.d.comb += self.row.eq(valid & columns.last)
        with m.If(self.row):
            m.d.sync += [
                *columns.restart(),
                position.eq(1),
                entry.eq(next_row),
                group.eq(next_row),
                next_row.eq(next_row + self.shape.entries),
            ]
        return position, entry, group

    def _memories(self, m: Module, word, valid, position, entry, group) -> dict[int, Signal]:
        """Writes the word. Returns the beat of each plane that is read."""
        beats = {i: [] for i in range(POSITIVE + 1)}
        digits = self.shape.digits
        channels = range(WORD_CHANNELS)
        q = [word.q[channel] for channel in channels]
        for j in range(BEAT_WORDS):
            stored = []
            for i in range(MOST_PLANES):
                plane = Cat(q[channel][i] for channel in channels)
                if i * DIGIT_BITS < MOST_DIGITS_PLANES:  # digit i of the channels that fill this part of a beat
                    part = channels[j * DIGITS : (j + 1) * DIGITS]
                    plane = Mux(digits, Cat(q[channel].word_select(i, DIGIT_BITS) for channel in part), plane)
                stored.append(plane)
            for name, value, address, every in (
                ("results", Cat(stored), entry, digits),
                ("mask", word.mask, group, 0),
            ):
                memory = Memory(shape=len(value), depth=RESULTS, init=[])
                m.submodules[f"{name}{j}"] = memory
                write, read = memory.write_port(), memory.read_port(domain="comb")
                m.d.comb += [
                    write.addr.eq(address),
                    write.data.eq(value),
                    write.en.eq(valid & (position[j] | every)),
                    read.addr.eq(self.address),
                ]
                first = 0 if name == "results" else POSITIVE
                for i in range(len(value) // WORD_CHANNELS):
                    beats[first + i].append(read.data.word_select(i, WORD_CHANNELS))
        return {i: Cat(words) for i, words in beats.items()}
