"""Sizes of a vector pass that are the same for all of its rows."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .config import BEAT_WORDS, DIGIT_BITS
from .lane import U_BITS
from .tiles import VectorTile
from .vector_block import MOST_WIDTH, Sink, Source

#: Bits of a number of beats of a row of one plane.
GROUPS = bits_for(MOST_WIDTH // BEAT_WORDS)
#: Of a number of beats of a row of a plane or digit.
SENT = bits_for(2 * MOST_WIDTH)
#: Entries of the buffer of the results; a row of digits has one for each position.
RESULTS = MOST_WIDTH
#: Of a number of planes.
PLANES = bits_for(U_BITS)
#: Of a number of beats of a row: results of 64 bits.
ROW_BEATS = bits_for(MOST_WIDTH * 16)

Beats = data.StructLayout(dict.fromkeys(("u", "v", "x", "mask", "q", "positive"), ROW_BEATS))

Shape = data.StructLayout(
    {
        "groups": GROUPS,  # beats of a row of one plane
        "entries": bits_for(RESULTS),  # of a row of results in their buffer, read for each plane or digit
        "sent": SENT,  # beats of a row of one plane or digit
        "keep": BEAT_WORDS,  # the words of a row's last group that are there
        "beats": Beats,  # of a row in all
        "results": 1,  # stream u is results of a product
        "digits": 1,  # results are stored as digits
        "parts": PLANES,  # planes or digits of the results
    }
)


class VectorShape(wiring.Component):
    """Works the sizes out.

    Members
    -------
    tile : In(VectorTile)
    o : Out(Shape)
        `LATENCY` cycles later.
    """

    LATENCY = 3

    def __init__(self):
        super().__init__({"tile": In(VectorTile), "o": Out(Shape)})

    def elaborate(self, platform):
        m = Module()
        tile, o = self.tile, self.o
        width = tile.width[: bits_for(MOST_WIDTH)]
        over = width[: ceil_log2(BEAT_WORDS)]  # words of a last group that is not full
        spread = tile.vector.controls.spread
        digits = (tile.q.planes + DIGIT_BITS - 1)[:PLANES] >> ceil_log2(DIGIT_BITS)
        m.d.sync += [
            o.groups.eq((width + BEAT_WORDS - 1) >> ceil_log2(BEAT_WORDS)),
            o.keep.eq(Cat((over == 0) | (over > j) for j in range(BEAT_WORDS))),
            o.results.eq(tile.vector.source != Source.PLANES),
            o.digits.eq(tile.vector.sink == Sink.DIGITS),
            o.entries.eq(Mux(o.digits, width, o.groups)),
            o.sent.eq(Mux(o.digits, width << spread, o.groups)),
            o.parts.eq(Mux(o.digits, digits, tile.q.planes)),
        ]
        products = {name: self._times(m, getattr(tile, name).planes[:PLANES], name) for name in ("u", "v", "x", "q")}
        # A position has 16 channels of 2, 4 or 8 bytes.
        words = Mux(tile.vector.source[1], Mux(tile.vector.source[0], width << 4, width << 3), width << 2)
        m.d.sync += o.beats.u.eq(Mux(o.results, words, products.pop("u")))
        m.d.sync += [getattr(o.beats, name).eq(product) for name, product in products.items()]
        m.d.comb += [o.beats.mask.eq(o.groups), o.beats.positive.eq(o.groups)]
        return m

    def _times(self, m: Module, planes, name: str):
        """Beats of so many planes; added up from two sums in registers."""
        groups = self.o.groups
        parts = []
        for i in (0, 2):
            part = Signal(ROW_BEATS, name=f"{name}_beats_from{i}", reset_less=True)
            m.d.sync += part.eq((Mux(planes[i], groups, 0) << i) + (Mux(planes[i + 1], groups, 0) << (i + 1)))
            parts.append(part)
        last = Signal(ROW_BEATS, name=f"{name}_beats_from4", reset_less=True)
        m.d.sync += last.eq(Mux(planes[4], groups << 4, 0))
        return parts[0] + parts[1] + last
