"""The tiler's bands: the output rows of a run, cut to the rows of a tile."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, AcceleratorConfig
from .isa import DescriptorLayout, Format
from .multiplier import Multiplier
from .runs import run_layout
from .sizes import sizes_layout
from .tiles import SIZE, TOP, positions_bits


def band_layout(config: AcceleratorConfig) -> data.StructLayout:
    positions = positions_bits(config)
    return data.StructLayout(
        {
            "rows": SIZE,
            "area": positions,  # positions of one sample
            "block_positions": positions,  # positions of one row block: all samples of a cluster
            "top": TOP,  # row of the first window's first row; negative in the padding
            "first_bank": 2,  # row bank of the first loaded image row
            "runs": SIZE,  # of one sample's channel block: its rows where each is read alone, else 1
            "run_beats": SIZE,
            "stream_addr": ADDRESS_BITS,
            "out_addr": ADDRESS_BITS,
        }
    )


class Bands(wiring.Component):
    """Cuts runs into bands. Rows are counted as windows see them: those of a stuffed image are twice as many.

    Members
    -------
    descriptor : In(DescriptorLayout), sizes : In(sizes_layout)
    i : In(stream of run_layout)
        Taken with its last band.
    o : Out(stream of band_layout)
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "descriptor": In(DescriptorLayout),
                "sizes": In(sizes_layout(config)),
                "i": In(stream.Signature(run_layout(config))),
                "o": Out(stream.Signature(band_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        product, sizes, run, band = self.descriptor.product, self.sizes, self.i.payload, self.o.payload
        m.submodules.multiplier = multiplier = Multiplier(SIZE)

        def multiply(a, b):
            m.d.comb += [multiplier.a.eq(a), multiplier.b.eq(b)]

        log2_row_bytes = exact_log2(self._config.rows * Format.INT16.nbytes)
        two = product.stride[1]
        stuffed = product.stuffed[0]
        left = Signal(SIZE)  # output rows from this band on
        last = Signal()
        first = Signal(SIZE)  # image row to load
        bottom = Signal(signed(SIZE + 3))  # last row that windows see
        span = Signal(SIZE + 1)  # rows from the first window's first row to the last window's last
        room = Signal(signed(SIZE + 3))  # such rows that end inside the image
        below = Signal()  # the windows end below it
        in_rows = Signal(SIZE)
        alone = Signal()  # each row is read alone
        pitch = Signal(SIZE)  # beats from row to row
        stride_y = self.descriptor.stream.stride_y
        m.d.sync += [
            alone.eq(stride_y.any() | sizes.gradient),
            pitch.eq(Mux(stride_y.any(), stride_y >> exact_log2(BEAT_BYTES), run.row_beats)),
        ]
        fits = left <= product.tile_rows

        multiply(multiplier.o, run.slots)
        with m.FSM():
            with m.State("RUN"):
                m.d.sync += [left.eq(product.out_height), band.top.eq(-product.pad_top), band.out_addr.eq(run.out)]
                with m.If(self.i.valid):
                    m.next = "ROWS"
            with m.State("ROWS"):
                m.d.sync += [
                    last.eq(fits),
                    band.rows.eq(Mux(fits, left, product.tile_rows)),
                    first.eq(Mux((band.top < 0) | sizes.gradient, 0, band.top + stuffed) >> stuffed),
                    band.first_bank.eq(Mux(band.top < 0, -band.top >> stuffed, 0)),
                ]
                m.next = "WINDOWS"

            # A state names the factors of a product that the state after the next one finds.
            with m.State("WINDOWS"):
                m.d.sync += [span.eq(band.rows + Mux(two, band.rows, 1)), room.eq(sizes.last_row - band.top)]
                with m.If((band.top == sizes.last_row) & (sizes.gradient == 0)):  # stuffing alone, but a run has a row
                    m.d.sync += first.eq(sizes.last_row >> stuffed)
                m.next = "AREA"
            with m.State("AREA"):
                m.d.sync += [bottom.eq(band.top + span), below.eq(span > room)]
                multiply(band.rows, product.out_width)
                m.next = "START"
            with m.State("START"):
                m.d.sync += bottom.eq(Mux(below, sizes.last_row, bottom))
                multiply(first, pitch)
                with m.If(sizes.flat):
                    m.d.sync += bottom.eq(0)
                m.next = "POSITIONS"
            with m.State("POSITIONS"):
                m.d.sync += [band.area.eq(multiplier.o), in_rows.eq((bottom >> stuffed) - first + 1)]
                m.next = "BEATS"
            with m.State("BEATS"):
                m.d.sync += [
                    band.stream_addr.eq(run.stream + (multiplier.o << exact_log2(BEAT_BYTES))),
                    band.runs.eq(Mux(alone, in_rows, 1)),
                ]
                multiply(Mux(alone, 1, in_rows), run.row_beats)
                m.next = "LAST POSITIONS"
            with m.State("LAST POSITIONS"):
                m.d.sync += band.block_positions.eq(multiplier.o)
                m.next = "LAST BEATS"
            with m.State("LAST BEATS"):
                m.d.sync += [band.run_beats.eq(multiplier.o), self.o.valid.eq(1)]
                m.next = "BAND"
            with m.State("BAND"):
                m.d.comb += self.i.ready.eq(self.o.ready & last)
                with m.If(self.o.ready):
                    m.d.sync += self.o.valid.eq(0)
                    m.next = "NEXT"
                    with m.If(last):
                        m.next = "RUN"
            with m.State("NEXT"):
                m.d.sync += [
                    left.eq(left - product.tile_rows),
                    band.top.eq(band.top + sizes.row_step),
                    band.out_addr.eq(band.out_addr + (sizes.band_results << log2_row_bytes)),
                ]
                m.next = "ROWS"
        return m
