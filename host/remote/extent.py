"""Where a descriptor reads and writes, known before it runs: what a server checks for clients it does not control.

The golden model has the same addresses where it computes; a test holds them against each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rtl.config import (
    BEAT_BYTES,
    CHIP_BASE,
    DIGIT_BITS,
    LANES,
    TAPS,
    WEIGHT_TILE_BYTES,
    WORD_BYTES,
    WORD_CHANNELS,
    AcceleratorConfig,
)
from rtl.isa import Descriptor, Error, Flag, Format, Opcode, Pass, Sink, Source
from rtl.limits import images_of_word, plane_beats
from rtl.vector_block import COEFFICIENTS_BYTES, READS, SUMS_BYTES, WRITES

#: Addresses are modulo this.
_SPACE = 1 << 32
#: Size and stride of an axis, in bytes.
Way = tuple[int, int]


class Extent(NamedTuple):
    """The smallest range of addresses that holds all bytes of an operand or a result.

    Attributes
    ----------
    error : what the accelerator reports if the memory does not have them.
    start, stop : addresses; a `start` below 0 and a `stop` beyond 2**32 mean that the sums of base and strides wrap.
    """

    error: Error
    start: int
    stop: int

    def lies_in(self, start: int, stop: int) -> bool:
        """Whether nothing of it is outside of these addresses."""
        return start <= self.start and self.stop <= stop


def outside(config: AcceleratorConfig, start: int, stop: int, d: Descriptor) -> Error:
    """The error of the first operand or result that lies neither whole in the memory from `start` to `stop` nor whole
    in that on the chip; `Error.NONE` if there is none. The descriptor's fields have to be sound.
    """
    chip = CHIP_BASE, CHIP_BASE + config.chip_bytes
    for extent in extents(config, d):
        if not extent.lies_in(start, stop) and not extent.lies_in(*chip):
            return extent.error
    return Error.NONE


def extents(config: AcceleratorConfig, d: Descriptor) -> Iterator[Extent]:
    """All that a descriptor touches, if its fields are sound (`sim.golden_check`): reads first.

    Of an operand whose widths come from a table it is the part that one plane or digit takes.
    """
    yield from _pass(d) if d.opcode == Opcode.VECTOR else _product(config, d)


def largest_array(config: AcceleratorConfig, d: Descriptor) -> int:
    """Elements of the largest array that a model computes a descriptor with, about: its fields alone may ask for more
    than any machine has, also where all its bytes lie in the memory.
    """
    pixels = d.samples * d.k_blocks * d.height * d.width
    if d.opcode == Opcode.VECTOR:
        return pixels * WORD_CHANNELS * (d.parts_more + 1)
    rows = (d.row_blocks << d.log2_row_parts) * config.rows
    lanes, positions = d.k_blocks * LANES, d.out_height * d.out_width
    own = d.samples if d.stationary_stride_n else 1
    image = pixels * (LANES if d.opcode == Opcode.FLAT else WORD_CHANNELS) << 2 * d.stuffed
    if d.opcode == Opcode.WGRAD:  # k blocks are parts of images
        image = d.samples * d.images * d.height * d.width * WORD_CHANNELS
    return max(image, positions * lanes, own * lanes * rows, d.samples * positions * rows)


def _extent(error: Error, base: int, ways: list[Way], nbytes: int) -> Extent:
    """Of `nbytes` bytes at each place that the ways lead to. A stride from 2**31 on is a step back."""
    steps = [(size - 1) * (stride - _SPACE if stride >= _SPACE // 2 else stride) for size, stride in ways]
    before, behind = sum(min(step, 0) for step in steps), sum(max(step, 0) for step in steps)
    return Extent(error, base + before, base + behind + nbytes)


def _product(config: AcceleratorConfig, d: Descriptor) -> Iterator[Extent]:
    if d.flags & Flag.STATIONARY_TABLE:
        yield _extent(Error.AXI_FETCH, d.stationary_table, [], 1)
    if d.flags & Flag.STREAM_TABLE:
        yield _extent(Error.AXI_FETCH, d.stream_table, [], d.samples)
    yield _gradient_stream(d) if d.opcode == Opcode.WGRAD else _stream(d)

    tile = config.weight_tile_beats * BEAT_BYTES
    digits = 1 if d.flags & Flag.STATIONARY_TABLE else -(-d.stationary_bits // DIGIT_BITS)
    blocks = d.row_blocks << d.log2_row_parts
    ways = [(d.samples, d.stationary_stride_n), (blocks, d.stationary_stride_m), (d.k_blocks, d.stationary_stride_k)]
    ways.append((digits, d.stationary_stride_d * WORD_BYTES or tile))
    yield _extent(Error.AXI_READ, d.stationary_base, ways, tile)

    nbytes = d.out_height * d.out_width * config.rows * Format(d.out_format).nbytes
    yield _extent(Error.AXI_WRITE, d.out_base, [(d.samples, d.out_stride_n), (blocks, d.out_stride_m)], nbytes)


def _planes(d: Descriptor) -> int:
    return 1 if d.flags & Flag.STREAM_TABLE else d.stream_bits


def _stream(d: Descriptor) -> Extent:
    flat, row = d.opcode == Opcode.FLAT, plane_beats(d.width) * BEAT_BYTES
    blocks = (d.k_blocks - 1) * TAPS + d.k_tail if flat else d.k_blocks
    # Rows below the last window are not read.
    under = (d.out_height - 1) * d.stride + 3 - d.pad_top
    height = 1 if flat else min(d.height, (under + 1) // 2 if d.stuffed else under)
    nbytes = _planes(d) * row
    ways = [(d.samples, d.stream_stride_n), (blocks, d.stream_stride_c), (height, d.stream_stride_y or nbytes)]
    return _extent(Error.AXI_READ, d.stream_base, ways, nbytes)


def _gradient_stream(d: Descriptor) -> Extent:
    """A k block has some rows of the images that lie side by side in a word, and the next ones where they are seen."""
    nbytes = _planes(d) * plane_beats(d.width) * BEAT_BYTES
    pitch, step = d.stream_stride_y or nbytes, d.stream_stride_k
    rows, pad = d.stream_block_rows, d.pad_top
    blocks = -(-d.height // rows)
    groups, side = -(-d.k_blocks // blocks), images_of_word(d.width)
    left = (d.images - (groups - 1) * side) & 0xFFFF
    images = (groups - 1) * side + (left if 0 < left < side else side)
    top = np.arange(min(blocks, d.k_blocks)) * rows
    first, last = np.maximum(top - pad, 0) - top, np.minimum(top + rows + pad, d.height) - top
    starts = np.arange(len(top)) * (step - _SPACE if step >= _SPACE // 2 else step)
    low, high = int((starts + first * pitch).min()), int((starts + (last - 1) * pitch).max())
    whole = _extent(
        Error.AXI_READ, d.stream_base, [(d.samples, d.stream_stride_n), (images, d.stream_stride_c)], nbytes
    )
    return whole._replace(start=whole.start + low, stop=whole.stop + high)


def _pass(d: Descriptor) -> Iterator[Extent]:
    row = plane_beats(d.width) * BEAT_BYTES

    def tensor(name: str, nbytes: int, error: Error, *more: Way) -> Extent:
        base, *strides = (getattr(d, f"{name}_{field}") for field in ("base", "stride_n", "stride_c", "stride_y"))
        return _extent(error, base, [*zip((d.samples, d.k_blocks, d.height), strides, strict=True), *more], nbytes)

    channels = d.k_blocks * WORD_CHANNELS
    samples = d.samples if d.vector_controls & Pass.EACH_SAMPLE else 1
    ways = [(samples, d.vector_coefficients_stride)]
    yield _extent(Error.AXI_READ, d.vector_coefficients, ways, channels * COEFFICIENTS_BYTES)
    if d.vector_source != Source.PLANES:
        nbytes = d.width * WORD_CHANNELS << d.vector_source
        yield tensor("u", nbytes, Error.AXI_READ, (d.parts_more + 1, d.parts_stride))
    for block, error in (*((read, Error.AXI_READ) for read in READS), *((write, Error.AXI_WRITE) for write in WRITES)):
        planes = getattr(d, f"{block.name}_planes")
        if planes and block.name == "q" and d.vector_sink == Sink.DIGITS:
            nbytes = d.width * BEAT_BYTES << bool(d.vector_controls & Pass.SPREAD)
            way = -(-planes // DIGIT_BITS), d.vector_stride_d * WORD_BYTES or WEIGHT_TILE_BYTES
            yield tensor("q", nbytes, error, way)
        elif planes:
            yield tensor(block.name, planes * row, error)
    if d.vector_controls & Pass.SUMS:
        yield _extent(Error.AXI_WRITE, d.vector_sums, [], samples * channels * SUMS_BYTES + 8)
