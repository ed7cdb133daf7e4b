"""What the golden model refuses of a descriptor before it runs."""

from __future__ import annotations

from rtl.block import Field
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Opcode, Order
from rtl.limits import result_positions, stream_beats
from sim.golden_gradient import gradient_agrees
from sim.golden_vector import wrong_fields


def check(config: AcceleratorConfig, d: Descriptor) -> Error:
    """The error that `d` shows by itself, or `Error.NONE`.

    Precisions from a table are known only later: `execute` applies the same limits to them sample by sample.
    """
    if error := check_fields(config, d):
        return error
    if d.opcode == Opcode.VECTOR:
        return Error.NONE
    fits = result_fits(config, d) and (d.flags & Flag.STREAM_TABLE or stream_fits(config, d, d.stream_bits))
    return Error.NONE if fits else Error.SHAPE


def check_fields(config: AcceleratorConfig, d: Descriptor) -> Error:
    """The first part of `check`: all but the sizes of the buffers, before a precision table is read.

    Of several errors it is the lowest.
    """
    wrong = {field.error for name, _, _, field in d.places if _wrong(d, field, getattr(d, name))}
    wrong |= wrong_fields(config, d)
    if d.opcode == Opcode.WGRAD and not config.vector:
        wrong.add(Error.OPCODE)
    return min(wrong if _sizes_agree(config, d) else wrong | {Error.SHAPE}, default=Error.NONE)


def _wrong(d: Descriptor, field: Field, value: int) -> bool:
    ignored = field.unless is not None and bool(d.flags & field.unless)
    return not ignored and field.refuses(value)


def _sizes_agree(config: AcceleratorConfig, d: Descriptor) -> bool:
    """Whether sizes that are sound by themselves are so together."""
    span = (d.tile_rows - 1) * d.stride + 3  # rows under the windows of a tile
    height, width = d.height << d.stuffed, d.width << d.stuffed
    if d.stuffed:
        span = (span + 1) // 2  # of the image, at the most
    if d.opcode == Opcode.FLAT:
        mode = d.height == d.out_height == d.tile_rows == 1 and d.row_groups == 3 and d.pad_top == d.pad_left == 0
    elif d.opcode == Opcode.WGRAD:
        return _shared(config, d) and gradient_agrees(d)
    else:
        mode = 3 * d.row_groups >= span and d.k_tail == 1
    return (
        _shared(config, d)
        and (d.out_height - 1) * d.stride < height + d.pad_top
        and (d.out_width - 1) * d.stride < width + d.pad_left
        and mode
        and (not d.stuffed or (d.opcode == Opcode.WINDOW and d.stride == 1))
    )


def _shared(config: AcceleratorConfig, d: Descriptor) -> bool:
    """The part of it that all products share."""
    return (
        d.sample_parts << d.log2_row_parts <= config.clusters
        and (d.stationary_stride_n == 0 or d.tile_samples == 1)
        and (d.stationary_order == Order.ROWS or config.vector)
    )


def result_fits(config: AcceleratorConfig, d: Descriptor) -> bool:
    """Whether the results of a tile fit a slot of the result buffer."""
    return d.tile_samples * result_positions(d.tile_rows, d.out_width, d.row_blocks) <= config.result_slot


def stream_fits(config: AcceleratorConfig, d: Descriptor, bits: int) -> bool:
    """Whether a tile of `bits` planes fits a slot of the stream buffer."""
    return d.tile_samples * stream_beats(d.row_groups, bits, d.width, d.opcode) <= config.stream_slot
