"""What a layer descriptor shows to be wrong by itself, before any of it is run."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .block import Block, Field
from .config import AcceleratorConfig
from .errors import Error
from .isa import BLOCKS, Opcode, descriptor_layout


class DescriptorCheck(wiring.Component):
    """Check of the fields, each by its declaration, and of the sizes against each other.

    Members
    -------
    descriptor : In(descriptor_layout(blocks))
    error : Out(Error)
        In the cycle after the descriptor: the lowest error that it has, or `Error.NONE`. Whether a tile fits the
        buffers depends on products of fields and on precision tables; the tiler sees to that.
    """

    def __init__(self, config: AcceleratorConfig, blocks: tuple[Block, ...] = BLOCKS):
        self._config = config
        self._blocks = blocks
        super().__init__({"descriptor": In(descriptor_layout(blocks)), "error": Out(Error)})

    def elaborate(self, platform):
        m = Module()
        faults: dict[Error, list[Signal]] = {}

        def refuse(error: Error, name: str, term) -> None:
            fault = Signal(name=f"{error.name.lower()}_{name}")
            m.d.sync += fault.eq(term)
            faults.setdefault(error, []).append(fault)

        for block in self._blocks:
            for field in block.members:
                terms = self._refused(block, field)
                if terms:
                    refuse(field.error, block.flat(field), _any(terms))
        for name, term in self._contradictions().items():
            refuse(Error.SHAPE, name, term)

        for error in sorted(faults, reverse=True):  # the last assignment wins
            with m.If(_any(faults[error])):
                m.d.comb += self.error.eq(error)
        return m

    def _refused(self, block: Block, field: Field) -> list[Value]:
        """What makes the value of a field wrong."""
        value = Value.cast(self.descriptor[block.name][field.name])
        terms = []
        if field.least:
            terms.append(value < field.least)
        if field.most is not None:
            terms.append(value > field.most)
        if field.multiple > 1:
            terms.append(value[: field.multiple.bit_length() - 1].any())
        if field.unless is not None:
            means_nothing = self.descriptor.header.flags[field.unless.name.lower()]
            terms = [~means_nothing & _any(terms)]
        return terms

    def _contradictions(self) -> dict[str, Value]:
        """Sizes that cannot go together, or not with the configuration."""
        p, own = self.descriptor.product, self.descriptor.stationary.stride_n
        flat = self.descriptor.header.opcode == Opcode.FLAT
        two = p.stride == 2
        return {
            "clusters": (p.sample_parts << p.log2_row_parts[:3]) > self._config.clusters,
            "own_stationary": (own != 0) & (p.tile_samples != 1),
            "windows_below": ((p.out_height - 1) << two) >= p.height + p.pad_top,
            "windows_beside": ((p.out_width - 1) << two) >= p.width + p.pad_left,
            "flat_rows": flat & ((p.height != 1) | (p.out_height != 1) | (p.tile_rows != 1) | (p.row_groups != 3)),
            "flat_padding": flat & ((p.pad_top != 0) | (p.pad_left != 0)),
            "window_tail": ~flat & (p.k_tail != 1),
            "window_rows": ~flat & (3 * p.row_groups < ((p.tile_rows - 1) << two) + 3),
        }


def _any(terms: list[Value]) -> Value:
    return Cat(*terms).any()
