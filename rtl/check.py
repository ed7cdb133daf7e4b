"""What a layer descriptor shows to be wrong by itself, before any of it is run."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
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
        Once the descriptor has held still for `LATENCY` cycles: the lowest error that it has, or `Error.NONE`. Whether
        a tile fits the buffers depends on products of fields and on precision tables; the tiler sees to that.
    """

    LATENCY = 4  # sums of fields, faults, errors, the lowest error

    def __init__(self, config: AcceleratorConfig, blocks: tuple[Block, ...] = BLOCKS):
        self._config = config
        self._blocks = blocks
        super().__init__({"descriptor": In(descriptor_layout(blocks)), "error": Out(Error)})

    def elaborate(self, platform):
        m = Module()
        faults: dict[Error, list[Signal]] = {}

        def refuse(error: Error, name: str, term) -> None:
            faults.setdefault(error, []).append(_register(m, f"{error.name.lower()}_{name}", term))

        for block in self._blocks:
            for field in block.members:
                for what, term in self._refused(block, field).items():
                    refuse(field.error, f"{block.flat(field)}_{what}", term)
        for name, term in self._contradictions(m).items():
            refuse(Error.SHAPE, name, term)

        lowest = Signal(Error)
        for error in sorted(faults, reverse=True):  # the last assignment wins
            with m.If(_register(m, f"{error.name.lower()}", _any(faults[error]))):
                m.d.comb += lowest.eq(error)
        m.d.sync += self.error.eq(lowest)
        return m

    def _refused(self, block: Block, field: Field) -> dict[str, Value]:
        """What makes the value of a field wrong."""
        value = Value.cast(self.descriptor[block.name][field.name])
        terms = {}
        if field.least:
            terms["least"] = value < field.least
        if field.most is not None:
            terms["most"] = value > field.most
        if field.multiple > 1:
            terms["multiple"] = value[: field.multiple.bit_length() - 1].any()
        if field.unless is not None:
            means_nothing = self.descriptor.header.flags[field.unless.name.lower()]
            terms = {what: ~means_nothing & term for what, term in terms.items()}
        return terms

    def _contradictions(self, m: Module) -> dict[str, Value]:
        """Sizes that cannot go together, or not with the configuration."""
        p = self.descriptor.product
        two = p.stride[1]  # a stride that is neither 1 nor 2 is refused anyway
        flat = _register(m, "flat", self.descriptor.header.opcode == Opcode.FLAT)
        clusters = _register(m, "clusters", p.sample_parts << p.log2_row_parts[:3])
        below = _register(m, "below", (p.out_height - 1)[:16] << two)
        height = _register(m, "height", p.height + p.pad_top)
        beside = _register(m, "beside", (p.out_width - 1)[:16] << two)
        width = _register(m, "width", p.width + p.pad_left)
        several = _register(m, "several", (p.height != 1) | (p.out_height != 1) | (p.tile_rows != 1))
        span = _register(m, "span", (p.tile_rows << two) + Mux(two, 1, 2))  # image rows under the windows of a tile
        own = _register(m, "own", self.descriptor.stationary.stride_n != 0)
        loaded = _register(m, "loaded", p.row_groups + (p.row_groups << 1))
        return {
            "clusters": clusters > self._config.clusters,
            "own_stationary": own & (p.tile_samples != 1),
            "windows_below": below >= height,
            "windows_beside": beside >= width,
            "flat_rows": flat & (several | (p.row_groups != 3)),
            "flat_padding": flat & ((p.pad_top != 0) | (p.pad_left != 0)),
            "window_tail": ~flat & (p.k_tail != 1),
            "window_rows": ~flat & (loaded < span),
        }


def _any(terms: list[Value]) -> Value:
    return Cat(*terms).any()


def _register(m: Module, name: str, value) -> Signal:
    """`value`, a cycle later."""
    register = Signal(Value.cast(value).shape(), name=name)
    m.d.sync += register.eq(value)
    return register
