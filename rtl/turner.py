"""The corner turner: tiles of 16 x 16 nibbles, transposed."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import BEAT_BITS, DIGIT_BITS, WORD_CHANNELS
from .dma import Beat


class Turner(wiring.Component):
    """Transposes tiles, a beat a cycle in and out, for as long as they come.

    A beat has one nibble for each of 16 banks of LUTRAM. It is turned by its number first, so that neither a row nor a
    column of a tile has two nibbles in one bank. While a tile leaves, the next one fills the other half of the banks.

    Members
    -------
    i : In(stream of 16 nibbles)
        Each 16 beats are a tile, pauses between them or not.
    o : Out(stream of dma.Beat)
        Beat i holds nibble i of each beat of the tile; `last` of them. They come in `SIDE` cycles in a row, the first
        of them `LATENCY` cycles behind the tile's last beat.
    """

    SIDE = WORD_CHANNELS
    LATENCY = 4

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(BEAT_BITS, always_ready=True)),
                "o": Out(stream.Signature(Beat, always_ready=True)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        side = self.SIDE

        # In: nibble k of row r goes to bank r + k.
        row = Signal(range(side))
        half = Signal()
        spread = Signal(BEAT_BITS, reset_less=True)
        place = Signal(range(2 * side), reset_less=True)
        write = Signal()
        whole = Signal()  # the tile is complete with it
        m.d.sync += [
            spread.eq(_turned(self.i.payload, row)),
            place.eq(Cat(row, half)),
            write.eq(self.i.valid),
            whole.eq(self.i.valid & row.all()),
        ]
        with m.If(self.i.valid):
            m.d.sync += Cat(row, half).eq(Cat(row, half) + 1)

        # Out: nibble k of column c is nibble c of row k, in bank c + k.
        column = Signal(range(side))
        full = Signal()  # the half that is read
        reading = Signal()
        with m.If(reading):
            m.d.sync += [column.eq(column + 1), reading.eq(~column.all())]
        with m.If(whole):
            m.d.sync += [reading.eq(1), full.eq(place[-1])]
        found = Signal(BEAT_BITS, reset_less=True)
        for number in range(side):
            bank = Memory(shape=DIGIT_BITS, depth=2 * side, init=[])
            m.submodules[f"bank{number}"] = bank
            port, read = bank.write_port(), bank.read_port(domain="comb")
            m.d.comb += [
                port.addr.eq(place),
                port.data.eq(spread.word_select(number, DIGIT_BITS)),
                port.en.eq(write),
                read.addr.eq(Cat((number - column)[: len(column)], full)),
            ]
            m.d.sync += found.word_select(number, DIGIT_BITS).eq(read.data)
        found_column = Signal.like(column, reset_less=True)
        found_any = Signal()
        m.d.sync += [
            found_column.eq(column),
            found_any.eq(reading),
            self.o.payload.data.eq(_turned(found, found_column, Value.rotate_right)),
            self.o.payload.last.eq(found_column.all()),
            self.o.valid.eq(found_any),
        ]
        return m


def _turned(beat, by, turn=Value.rotate_left):
    """`beat`, turned by `by` nibbles: by fours, then by single ones."""
    fours = Array(turn(beat, 4 * DIGIT_BITS * k) for k in range(4))[by[2:]]
    return Array(turn(fours, DIGIT_BITS * k) for k in range(4))[by[:2]]
