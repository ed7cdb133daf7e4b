"""LOAD's way through the k blocks of a weight gradient: some rows of an image, image after image."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, BEAT_WORDS, TAPS, AcceleratorConfig
from .control import ROW_BANKS
from .tiles import SIZE, load_tile

#: Cycles from a new k block to its sizes.
SETTLED = 4


def after_words(bank, words) -> Array:
    """The row bank so many words on (1 to 4), with the number of groups of three that end on the way above it."""
    places = [Cat(Const((b + w) % ROW_BANKS, 2), Const((b + w) // ROW_BANKS, 2)) for w in range(8) for b in range(4)]
    return Array(places)[Cat(bank, words)]


class GradientBlocks(wiring.Component):
    """Counts rows and images; where there are no weight gradients, it knows the pitch of other products alone.

    Members
    -------
    tile : In(load_tile)
    first : In(1), step : In(1)
        The k block is the tile's first from the next cycle on, or the one behind the present one.
    ready : Out(1)
        All that follows is valid; always, for tiles of other products.
    pitch : Out(32)
        Bytes from row to row, of other products too.
    address : Out(32)
        Of the first row that is loaded, of the first image.
    rows, images : Out
        Rows that are loaded, and images that lie side by side.
    image_beats : Out(2)
        Beats of a plane of the row of one of them, modulo 4.
    bank, group : Out
        Row bank of the first row's first word, and whether it lies in the second group of three words.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "tile": In(load_tile(config)),
                "first": In(1),
                "step": In(1),
                "ready": Out(1),
                "pitch": Out(ADDRESS_BITS),
                "address": Out(ADDRESS_BITS),
                "rows": Out(bits_for(TAPS + 2)),
                "images": Out(bits_for(BEAT_WORDS)),
                "image_beats": Out(2),
                "bank": Out(2),
                "group": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile = self.tile
        row_bytes = tile.run_beats << ceil_log2(BEAT_BYTES)
        m.d.sync += self.pitch.eq(Mux(tile.stream_stride_y.any(), tile.stream_stride_y, row_bytes))
        if self._config.vector:
            self._count(m, tile)
        else:
            m.d.comb += [self.ready.eq(1), self.images.eq(1)]
        return m

    def _count(self, m: Module, tile) -> None:
        """All but the pitch."""
        image = Signal(ADDRESS_BITS)  # of the first image
        block = Signal(ADDRESS_BITS)  # of the block's own first row
        left = Signal(SIZE)  # rows of the image from there on
        top = Signal()  # it is the image's first row
        images_left = Signal(SIZE)
        settling = Signal(SETTLED)
        following = Cat(self.first | self.step, settling)[:SETTLED]
        m.d.sync += [settling.eq(following), self.ready.eq(~tile.gradient | ~following.any())]

        images_stride = Signal(ADDRESS_BITS)
        twice = Signal(ADDRESS_BITS)
        m.d.sync += [
            twice.eq(Mux(tile.side[2], tile.stream_stride_c << 1, tile.stream_stride_c)),
            images_stride.eq(Mux(tile.side[0], tile.stream_stride_c, twice << 1)),
        ]
        bottom = Signal()  # the block has the image's last row
        few = Signal()  # images
        m.d.sync += [bottom.eq(left <= tile.block_rows), few.eq(images_left.any() & (images_left < tile.side))]
        with m.If(self.first):
            m.d.sync += [
                image.eq(tile.stream_addr),
                block.eq(tile.stream_addr),
                left.eq(tile.height),
                top.eq(1),
                images_left.eq(tile.images),
            ]
        with m.Elif(self.step):
            with m.If(bottom):
                m.d.sync += [
                    image.eq(image + images_stride),
                    block.eq(image + images_stride),
                    left.eq(tile.height),
                    top.eq(1),
                    images_left.eq(images_left - tile.side),
                ]
            with m.Else():
                m.d.sync += [block.eq(block + tile.stream_stride_k), left.eq(left - tile.block_rows), top.eq(0)]

        above = Signal()  # a row above the block's own is loaded
        below = Signal()
        here = Signal.like(self.rows)
        back = Signal(ADDRESS_BITS)
        start = Signal(4)  # place of the first row
        m.d.comb += start.eq(after_words(Const(0, 2), Mux(tile.padded & top, tile.words, 0)))
        m.d.sync += [
            above.eq(tile.padded & ~top),
            below.eq(tile.padded & ~bottom),
            here.eq(Mux(bottom, left, tile.block_rows)),
            self.rows.eq(here + above + below),
            back.eq(Mux(above, self.pitch, 0)),
            self.address.eq(block - back),
            self.images.eq(Mux(few, images_left, tile.side)),
            self.image_beats.eq(Mux(tile.side[2], 1, 2)),
            Cat(self.bank, self.group).eq(start),
        ]
