"""The tiler's sizes that are the same for all tiles of a descriptor."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .config import BEAT_WORDS, WORD_CHANNELS, AcceleratorConfig
from .isa import DescriptorLayout, Format, Opcode
from .limits import WORD_POSITIONS
from .multiplier import Multiplier
from .tiles import SIZE, gradient_sizes, operands, positions_bits, samples_bits, words_bits


def sizes_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What follows from a descriptor alone. The sizes of what does not fit mean nothing."""
    words = words_bits(config)
    return data.StructLayout(
        {
            "flat": 1,
            **{name: operands(config)[name] for name in ("gradient", "words")},
            **gradient_sizes(config),
            "most": samples_bits(config),  # samples in a tile, of all clusters
            "single": 1,  # that is one
            "area": positions_bits(config),  # positions of one sample in a whole band
            "band_results": positions_bits(config) + max(Format),  # of a row in a whole band, counted in int16
            "row_step": SIZE + 1,  # rows from band to band
            "last_row": SIZE + 1,  # of the image, counted as windows see it
            "plane_beats": words,  # beats of a row of one plane, in DDR
            "plane_pitch": words,  # and in the stream buffer
            "sample_words": words,  # row groups * plane_pitch
            "slot_words": words,  # samples of a cluster * sample_words
            "plane_fits": 1,  # one plane of a tile fits the stream buffer
            "results_fit": 1,  # the results of a tile fit the result buffer
        }
    )


class Sizes(wiring.Component):
    """Works the sizes out, one product after the other.

    Members
    -------
    descriptor : In(DescriptorLayout)
        Holds still from `start` on.
    start : In(1)
        Begin. Ignored while at work.
    done : Out(1)
        Pulses `CYCLES` after `start`.
    o : Out(sizes_layout)
        From the cycle after `done` until the next `start`.
    """

    CYCLES = 8

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {"descriptor": In(DescriptorLayout), "start": In(1), "done": Out(1), "o": Out(sizes_layout(config))}
        )

    def elaborate(self, platform):
        m = Module()
        config, product, o = self._config, self.descriptor.product, self.o
        m.submodules.multiplier = multiplier = Multiplier(SIZE)

        format = self.descriptor.sink.format[: bits_for(max(Format))]
        # What a single sum gives follows the descriptor within three cycles.
        row_pitch = Signal(SIZE)
        pitch = Signal(SIZE)
        m.d.sync += [
            o.flat.eq(self.descriptor.header.opcode == Opcode.FLAT),
            o.gradient.eq(self.descriptor.header.opcode == Opcode.WGRAD),
            o.plane_beats.eq((product.width + BEAT_WORDS - 1) >> ceil_log2(BEAT_WORDS)),
            row_pitch.eq((product.width + Mux(o.flat, 2 * BEAT_WORDS - 1, BEAT_WORDS - 1)) >> ceil_log2(BEAT_WORDS)),
            pitch.eq(Mux(o.gradient, WORD_CHANNELS // BEAT_WORDS, row_pitch)),
            o.row_step.eq(Mux(product.stride[1], product.tile_rows << 1, product.tile_rows)),
            o.last_row.eq((product.height << product.stuffed[0]) - 1),
            o.band_results.eq(o.area << format),
            o.single.eq(o.most == 1),
        ]
        m.d.comb += o.plane_pitch.eq(pitch)
        if config.vector:
            self._words(m)

        def multiply(a, b):
            m.d.comb += [multiplier.a.eq(a), multiplier.b.eq(b)]

        too_many = Signal()  # positions, and words, were those that were found in the state before
        too_long = Signal()
        m.d.sync += [too_many.eq(multiplier.o > config.result_slot), too_long.eq(multiplier.o > config.stream_slot)]

        def limit(fits, exceeded):
            with m.If(exceeded):
                m.d.sync += fits.eq(0)

        m.d.sync += self.done.eq(0)
        limit(o.plane_fits, self.done & too_long)

        # A state names the factors of a product that the state after the next one finds.
        multiply(product.tile_rows, product.out_width)
        with m.FSM():
            with m.State("AREA"):
                with m.If(self.start):
                    m.d.sync += [o.results_fit.eq(1), o.plane_fits.eq(1)]
                    m.next = "MOST"
            with m.State("MOST"):
                multiply(product.tile_samples, product.sample_parts)
                m.next = "POSITIONS"
            with m.State("POSITIONS"):  # of all samples of a cluster
                m.d.sync += o.area.eq(multiplier.o)
                multiply(multiplier.o, product.tile_samples)
                m.next = "SAMPLE WORDS"
            with m.State("SAMPLE WORDS"):
                m.d.sync += o.most.eq(multiplier.o)
                limit(o.results_fit, too_many)
                multiply(pitch, product.row_groups)
                m.next = "ALL POSITIONS"
            with m.State("ALL POSITIONS"):
                multiply(multiplier.o, product.row_blocks)
                m.next = "SLOT WORDS"
            with m.State("SLOT WORDS"):
                m.d.sync += o.sample_words.eq(multiplier.o)
                limit(o.results_fit, too_many)
                multiply(multiplier.o, product.tile_samples)
                m.next = "RESULTS"
            with m.State("RESULTS"):
                limit(o.plane_fits, too_long)
                m.next = "PLANE"
            with m.State("PLANE"):
                m.d.sync += [o.slot_words.eq(multiplier.o), self.done.eq(1)]
                limit(o.results_fit, too_many)
                m.next = "AREA"
        return m

    def _words(self, m: Module) -> None:
        """Of a gradient: words of a row, of a k block's rows, of an image."""
        o, product = self.o, self.descriptor.product
        last = (o.plane_beats - 1)[:4]  # beat of a row
        m.d.sync += [
            o.words.eq((last >> ceil_log2(WORD_POSITIONS // BEAT_WORDS)) + 1),
            o.side.eq(Mux(last == 0, 4, Mux(last == 1, 2, 1))),
        ]
        for times, rows in ((o.block_words, self.descriptor.stream.block_rows), (o.height_words, product.height)):
            twice = Mux(o.words[1], rows << 1, 0)
            m.d.sync += times.eq(Mux(o.words[2], rows << 2, twice) + Mux(o.words[0], rows, 0))
