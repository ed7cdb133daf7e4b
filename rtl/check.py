"""What a layer descriptor shows to be wrong by itself, before any of it is run."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .block import Block, Field
from .config import TAPS, WORD_CHANNELS, AcceleratorConfig
from .errors import Error
from .isa import BLOCKS, Flag, Opcode, Order, Sink, Source, descriptor_layout
from .limits import MOST_GRADIENT_WIDTH, WORD_POSITIONS, words_of_row
from .vector_block import MOST_DIGITS_PLANES, MOST_WIDTH, PASS_FLAGS


class DescriptorCheck(wiring.Component):
    """Check of the fields, each by its declaration, and of the sizes against each other.

    Members
    -------
    descriptor : In(descriptor_layout(blocks))
    error : Out(Error)
        Once the descriptor has held still for `LATENCY` cycles: the lowest error that it has, or `Error.NONE`. Whether
        a tile fits the buffers depends on products of fields and on precision tables; the tiler sees to that.
    """

    LATENCY = 5  # two sums of fields, faults, errors, the lowest error

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
        if self._config.vector:
            for name, term in self._gradient_contradictions(m).items():
                refuse(Error.SHAPE, name, term)
            for name, (error, term) in self._pass_contradictions(m).items():
                refuse(error, name, term)
        else:
            opcode = self.descriptor.header.opcode
            refuse(Error.OPCODE, "no_unit", (opcode == Opcode.VECTOR) | (opcode == Opcode.WGRAD))

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
        stuffed = p.stuffed[0]  # likewise
        flat = _register(m, "flat", self.descriptor.header.opcode == Opcode.FLAT)
        gradient = _register(m, "gradient", self.descriptor.header.opcode == Opcode.WGRAD)
        window = _register(m, "window", self.descriptor.header.opcode == Opcode.WINDOW)
        clusters = _register(m, "clusters", p.sample_parts << p.log2_row_parts[:3])
        below = _register(m, "below", (p.out_height - 1)[:16] << two)
        height = _register(m, "height", (p.height << stuffed) + p.pad_top)
        beside = _register(m, "beside", (p.out_width - 1)[:16] << two)
        width = _register(m, "width", (p.width << stuffed) + p.pad_left)
        several = _register(m, "several", (p.height != 1) | (p.out_height != 1) | (p.tile_rows != 1))
        span = _register(m, "span", (p.tile_rows << two) + Mux(two, 1, 2))  # rows under the windows of a tile
        own = _register(m, "own", self.descriptor.stationary.stride_n != 0)
        # Of the rows under the windows at least every other one is stuffing, so twice the rows of the image are enough.
        loaded = _register(m, "loaded", (p.row_groups + (p.row_groups << 1)) << stuffed)
        return {
            "clusters": clusters > self._config.clusters,
            "own_stationary": own & (p.tile_samples != 1),
            "order": self.descriptor.stationary.order.any() & (not self._config.vector),
            "windows_below": ~gradient & (below >= height),
            "windows_beside": ~gradient & (beside >= width),
            "flat_rows": flat & (several | (p.row_groups != 3)),
            "flat_padding": flat & ((p.pad_top != 0) | (p.pad_left != 0)),
            "window_tail": ~flat & (p.k_tail != 1),
            "window_rows": ~flat & ~gradient & (loaded < span),
            "stuffed_mode": stuffed & (~window | two),
        }

    def _gradient_contradictions(self, m: Module) -> dict[str, Value]:
        """What a weight gradient cannot have together."""
        p, stream = self.descriptor.product, self.descriptor.stream
        gradient = _register(m, "weight_gradient", self.descriptor.header.opcode == Opcode.WGRAD)
        nine = _register(m, "nine_taps", p.out_height == TAPS)
        single = _register(m, "one_tap", p.out_height == 1)
        wide = [
            _register(m, f"row_of_{n + 1}_words", p.width > n * WORD_POSITIONS)
            for n in range(1, words_of_row(MOST_GRADIENT_WIDTH))
        ]
        rows = _register(m, "gradient_rows", stream.block_rows)
        seen = _register(m, "gradient_rows_seen", stream.block_rows + Mux(p.out_height == TAPS, 2, 0))

        def words(name: str, rows) -> Signal:
            """Of so many rows."""
            return _register(m, name, Mux(wide[1], Mux(wide[2], rows << 2, rows + (rows << 1)), rows << wide[0]))

        block, loaded = words("block_words", rows), words("loaded_words", seen)
        room = _register(m, "room_for_words", p.row_groups + (p.row_groups << 1))
        no_pads = _register(m, "no_pads", (p.pad_top == 0) & (p.pad_left == 0))
        pads = _register(m, "pads", (p.pad_top == 1) & (p.pad_left == 1))
        too_wide = _register(m, "gradient_width", p.width > MOST_GRADIENT_WIDTH)
        none = _register(m, "no_rows_or_images", (stream.block_rows == 0) | (p.images == 0))
        other = _register(m, "other_order", self.descriptor.stationary.order != Order.WORDS)
        channels = _register(m, "other_channels", p.out_width != WORD_CHANNELS)
        strided = _register(m, "gradient_stride", p.stride[1])
        terms = {
            "taps": ~(nine & pads) & ~(single & no_pads),
            "width": too_wide | channels,
            "rows": none | (block > TAPS),
            "room": loaded > room,
            "order": other | strided,
        }
        return {f"gradient_{name}": gradient & term for name, term in terms.items()}

    def _pass_contradictions(self, m: Module) -> dict[str, tuple[Error, Value]]:
        """What a vector pass cannot have together."""
        d = self.descriptor
        v, product = d.vector, d.product
        is_pass = _register(m, "pass", d.header.opcode == Opcode.VECTOR)
        digits = _register(m, "pass_digits", v.sink == Sink.DIGITS)
        results = _register(m, "pass_results", v.source != Source.PLANES)
        narrow = _register(m, "pass_no_parts", (v.source != Source.INT32) & (v.source != Source.INT64))
        flags = Cat(d.header.flags[flag.name.lower()] for flag in Flag if flag not in PASS_FLAGS)
        too_wide = _register(m, "pass_too_wide", product.width > MOST_WIDTH)
        return {
            "product_flags": (Error.FLAGS, is_pass & _register(m, "product_flags", flags.any())),
            "pass_width": (Error.SHAPE, is_pass & too_wide),
            "pass_digits_bits": (
                Error.SHAPE,
                is_pass & digits & _register(m, "many_digits", d.q.planes > MOST_DIGITS_PLANES),
            ),
            "pass_mask": (Error.SHAPE, is_pass & v.controls.masked & (d.mask.planes == 0)),
            "pass_source": (Error.SHAPE, is_pass & results & (d.u.planes != 0)),
            "pass_parts": (Error.SHAPE, is_pass & narrow & d.parts.more.any()),
        }


def _any(terms: list[Value]) -> Value:
    return Cat(*terms).any()


def _register(m: Module, name: str, value) -> Signal:
    """`value`, a cycle later."""
    register = Signal(Value.cast(value).shape(), name=name)
    m.d.sync += register.eq(value)
    return register
