"""What a layer descriptor shows to be wrong by itself, before any of it is run."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import MAX_BITS, TAPS, AcceleratorConfig
from .isa import DESCRIPTOR_FIELDS, DescriptorLayout, Error, Flag, Opcode

#: Fields that must be multiples of a beat.
ALIGNED = tuple(name for name, bits, _ in DESCRIPTOR_FIELDS if bits == 32 and not name.endswith("_table"))
#: Fields that must not be zero.
NONZERO = (
    *("samples", "height", "width", "out_height", "out_width", "k_blocks", "row_blocks", "tile_rows"),
    *("row_groups", "tile_samples", "sample_parts"),
)


class DescriptorCheck(wiring.Component):
    """Combinational check of the fields, in the order of `rtl.isa.Error`.

    Members
    -------
    descriptor : In(DescriptorLayout)
    error : Out(8)
        `Error.NONE` if the fields agree with each other and with the configuration. Whether a tile fits the buffers
        depends on products of fields and on precision tables; the tiler sees to that.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__({"descriptor": In(DescriptorLayout), "error": Out(8)})

    def elaborate(self, platform):
        m = Module()
        d = self.descriptor
        flat = d.opcode == Opcode.FLAT
        flags = d.flags

        def bad_bits(bits, table: Flag):
            return ~flags[table.bit_length() - 1] & ((bits == 0) | (bits > MAX_BITS))

        window_overrun = [
            ((size_out - 1) << (d.stride == 2)) >= size + pad
            for size_out, size, pad in ((d.out_height, d.height, d.pad_top), (d.out_width, d.width, d.pad_left))
        ]
        shape = [getattr(d, name) == 0 for name in NONZERO]
        shape += [
            (d.stride != 1) & (d.stride != 2),
            d.pad_top > 2,
            d.pad_left > 2,
            d.log2_row_parts > 4,
            (d.sample_parts << d.log2_row_parts[:3]) > self._config.clusters,
            (d.stationary_stride_n != 0) & (d.tile_samples != 1),
            *window_overrun,
            flat & ((d.height != 1) | (d.out_height != 1) | (d.tile_rows != 1) | (d.row_groups != 3)),
            flat & ((d.pad_top != 0) | (d.pad_left != 0) | (d.k_tail == 0) | (d.k_tail > TAPS)),
            ~flat & (d.k_tail != 1),
            ~flat & (3 * d.row_groups < ((d.tile_rows - 1) << (d.stride == 2)) + 3),
        ]

        def any_of(terms):
            result = 0
            for term in terms:
                result |= term
            return result

        with m.If((d.opcode != Opcode.WINDOW) & (d.opcode != Opcode.FLAT)):
            m.d.comb += self.error.eq(Error.OPCODE)
        with m.Elif(flags[Flag.OUT16.bit_length() - 1] & flags[Flag.OUT64.bit_length() - 1]):
            m.d.comb += self.error.eq(Error.FLAGS)
        with m.Elif(bad_bits(d.stream_bits, Flag.STREAM_TABLE) | bad_bits(d.stationary_bits, Flag.STATIONARY_TABLE)):
            m.d.comb += self.error.eq(Error.PRECISION)
        with m.Elif(any_of(getattr(d, name)[:3] != 0 for name in ALIGNED)):
            m.d.comb += self.error.eq(Error.ALIGNMENT)
        with m.Elif(any_of(shape)):
            m.d.comb += self.error.eq(Error.SHAPE)
        return m
