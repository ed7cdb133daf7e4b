"""EXEC's way through the taps of a weight gradient: where the words of a k block lie that a tap meets."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import FLAT_TAPS, TAPS, AcceleratorConfig
from .control import ROW_BANKS, SIDE, Form, Shift
from .tiles import SIZE, exec_tile
from .walk import Move

#: Number of a word of an image, and of one above it or below it.
WORD = signed(SIZE + 4)
#: Bits of how many words there are to the image's end, where that decides on a tap: fewer than a k block and two rows.
NEAR = 5
#: The row bank of the first word, the column banks by which its channels are turned, and its group's first address.
Place = data.StructLayout({"bank": 2, "turn": 2, "group": SIZE})


class GradientTaps(wiring.Component):
    """Counts taps, and the words of the image before the k block.

    Members
    -------
    tile : In(exec_tile)
    block_end : In(1), tile_end : In(1)
        The next pass is of another k block; of another tile.
    begin : In(1), move : In(Move)
        As for `Window`.
    place : Out(Place), shift : Out(Shift)
        Of the move in the same cycle.
    outside : Out(9)
        Taps, as the window has them, whose words are no positions of the k block or lie outside the image; two cycles
        after the move.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "tile": In(exec_tile(config)),
                "block_end": In(1),
                "tile_end": In(1),
                "begin": In(1),
                "move": In(Move),
                "place": Out(Place),
                "shift": Out(Shift),
                "outside": Out(TAPS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ky = self._walk(m)
        self._outside(m, ky)
        return m

    def _walk(self, m: Module):
        """Where the present tap's words lie. Returns its row."""
        tile, move = self.tile, self.move
        ky = Signal(2)
        kx = Signal(2)
        first = Signal(data.StructLayout({"kx": 2, "ky": 2}))
        m.d.sync += first.eq(Array(Cat(Const(t % SIDE, 2), Const(t // SIDE, 2)) for t in range(TAPS))[tile.first_tap])
        starts = self.begin | move.image_end
        last = kx == SIDE - 1
        next_ky = Signal(2)
        m.d.comb += next_ky.eq(Mux(starts, first.ky, ky + (move.row_end & last)))
        with m.If(starts):
            m.d.sync += kx.eq(first.kx)
        with m.Elif(move.row_end):
            m.d.sync += kx.eq(Mux(last, 0, kx + 1))

        # Words before the tap's: its rows' above. Three of them are a group.
        rows = [Signal(Place, name=f"place{y}") for y in range(1, SIDE)]
        for y, place in enumerate(rows, start=1):
            bank_and_group = Array(Cat(Const(y * n % ROW_BANKS, 2), Const(y * n // ROW_BANKS, 2)) for n in range(8))
            words = tile.row_words
            m.d.sync += [
                Cat(place.bank, place.turn).eq(bank_and_group[tile.words]),
                place.group.eq(Mux(place.turn[1], words << 1, Mux(place.turn[0], words, 0))),
            ]
        m.d.sync += [ky.eq(next_ky), self.place.eq(Mux(next_ky[1], rows[1], Mux(next_ky[0], rows[0], 0)))]

        sides = tile.gradient & tile.padded
        form = Signal(Form)
        with m.If(tile.side[0]):
            m.d.sync += form.eq(tile.words + (Form.WHOLE.value - 1))
        with m.Else():
            m.d.sync += form.eq(Mux(tile.side[2], Form.QUARTERS, Form.HALVES))
        m.d.comb += [
            self.shift.left.eq(sides & (kx == 0)),
            self.shift.right.eq(sides & last),
            self.shift.form.eq(form),
        ]
        return ky

    def _outside(self, m: Module, ky) -> None:
        tile = self.tile
        above = Signal(WORD)  # words of the image above the k block
        rest = Signal(WORD)  # and from it on
        last = Signal()  # it has the image's last
        here = Signal(range(TAPS + 1))  # words of the block
        with m.If(self.tile_end):
            m.d.sync += above.eq(0)
        with m.Elif(self.block_end):
            m.d.sync += above.eq(Mux(last, 0, above + tile.block_words))
        m.d.sync += [
            rest.eq(tile.height_words - above),
            last.eq(rest <= tile.block_words),
            here.eq(Mux(last, rest, tile.block_words)),
        ]

        # First word that the first row of taps meets, and words from it to the image's end; then of the present row.
        pad = Mux(tile.padded, tile.words, 0)
        top = Signal(WORD)
        to_bottom = Signal(NEAR + 1)  # where that are few
        near = Signal()
        ahead = Signal(4)
        word = Signal(WORD)
        behind = Signal(NEAR + 1)
        few = Signal()
        m.d.comb += ahead.eq(Mux(ky[1], tile.words << 1, Mux(ky[0], tile.words, 0)))
        m.d.sync += [
            top.eq(above - pad),
            to_bottom.eq(rest[:NEAR] + pad),
            near.eq(rest[NEAR:] == 0),
            word.eq(top + ahead),
            behind.eq(to_bottom - ahead),
            few.eq(near),
        ]
        none = ~tile.gradient
        for number, tap in enumerate(FLAT_TAPS):
            too_high = word[-1] & (word[:4] + number < 16)
            too_low = few & (behind <= number)
            m.d.sync += self.outside[tap].eq(~none & (too_high | too_low | (here <= number)))
