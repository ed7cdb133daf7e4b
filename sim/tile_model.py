"""The front end in plain Python: a descriptor's runs and tiles, and every field of the records that the tiler emits.

The testbench of the front end compares the records; the cycle model (`host.cycles.front`) puts times on the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rtl.config import BEAT_BYTES, DIGIT_BITS, AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Format, Opcode
from rtl.limits import MOST_GRADIENT_WIDTH, images_of_word, plane_beats, plane_pitch, words_of_row
from sim.golden import precisions
from sim.golden_memory import Memory

_SPACE = 1 << 32  # addresses wrap


class Run(NamedTuple):
    """Consecutive samples of one precision; a sample of 0 bits is a run by itself."""

    first: int
    samples: int
    bits: int


def runs(bits: Sequence[int], most: int) -> Iterator[Run]:
    """The runs of samples of so many bits, none longer than `most`."""
    n = 0
    while n < len(bits):
        count = 1
        while bits[n] and count < most and n + count < len(bits) and bits[n + count] == bits[n]:
            count += 1
        yield Run(n, count, bits[n])
        n += count


@dataclass(frozen=True)
class Tile:
    """A run of samples times a band of output rows.

    Attributes
    ----------
    descriptor : what it is a part of.
    first, samples : first sample, and their number.
    bits, digits : planes of the streaming operand, digits of the stationary one.
    band : number of the band of `descriptor.tile_rows` rows in each image.
    """

    descriptor: Descriptor
    first: int
    samples: int
    bits: int
    digits: int
    band: int

    @cached_property
    def slots(self) -> int:
        """Samples of one cluster."""
        return -(-self.samples // self.descriptor.sample_parts)

    @cached_property
    def y(self) -> int:
        """First output row."""
        return self.band * self.descriptor.tile_rows

    @cached_property
    def rows(self) -> int:
        """Output rows."""
        return min(self.descriptor.tile_rows, self.descriptor.out_height - self.y)

    @cached_property
    def area(self) -> int:
        """Positions of one sample."""
        return self.rows * self.descriptor.out_width

    @cached_property
    def corner(self) -> int:
        """Row of the first window's first row; negative in the padding."""
        return self.y * self.descriptor.stride - self.descriptor.pad_top

    @cached_property
    def first_row(self) -> int:
        """Image row that lies there or, of a stuffed image, there or behind the stuffing there."""
        return -(-self.corner // (1 + self.descriptor.stuffed))

    @cached_property
    def top(self) -> int:
        """First image row that is loaded; of a weight gradient each k block has its own."""
        if self.descriptor.opcode == Opcode.WGRAD:
            return 0
        return min(max(self.first_row, 0), self.descriptor.height - 1)

    @cached_property
    def row_beats(self) -> int:
        """Beats of an image row of one channel block."""
        return self.bits * plane_beats(self.descriptor.width)

    @cached_property
    def row_pitch(self) -> int:
        """Bytes from image row to image row."""
        return self.descriptor.stream_stride_y or self.row_beats * BEAT_BYTES

    @cached_property
    def runs(self) -> int:
        """Runs that the loaded rows of one channel block take."""
        d = self.descriptor
        return self.loaded if d.stream_stride_y or d.opcode == Opcode.WGRAD else 1

    @cached_property
    def run_beats(self) -> int:
        """Beats of such a run."""
        return self.loaded // self.runs * self.row_beats

    @cached_property
    def loaded(self) -> int:
        """Image rows that are loaded."""
        d = self.descriptor
        bottom = (self.corner + (self.rows - 1) * d.stride + 2) // (1 + d.stuffed)
        last = 0 if d.opcode == Opcode.FLAT else min(bottom, d.height - 1)
        return last - self.top + 1


def tiles_of_run(d: Descriptor, run: Run, stationary_bits: int) -> Iterator[Tile]:
    """The tiles of a run, band by band; none if it is skipped."""
    if run.bits:
        for band in range(-(-d.out_height // d.tile_rows)):
            yield Tile(d, *run, -(-stationary_bits // DIGIT_BITS), band)


def tiles_of(config: AcceleratorConfig, d: Descriptor, memory: np.ndarray) -> tuple[list[Tile], Error]:
    """The tiles of a descriptor and why it stopped.

    `memory` holds the precision bytes. A sample of a bad precision stops the descriptor; those before it are done.
    """
    stationary, bits, error = precisions(config, Memory(memory), d)
    found = runs(bits.tolist(), d.sample_parts * d.tile_samples)
    return [tile for run in found for tile in tiles_of_run(d, run, stationary)], error


def records(config: AcceleratorConfig, tile: Tile, index: int) -> dict[str, dict]:
    """The tile of descriptor number `index` as LOAD, EXEC and STORE are told of it: `rtl.tiles`, field by field."""
    d = tile.descriptor
    flat = d.opcode == Opcode.FLAT
    pitch = plane_pitch(d.width, d.opcode)
    words = words_of_row(min(d.width, MOST_GRADIENT_WIDTH))
    operands = {
        "flat": int(flat),
        "gradient": int(d.opcode == Opcode.WGRAD),
        "words": words,
        "padded": d.pad_top & 1,
        "height": d.height,
        "planes": tile.bits,
        "digits": tile.digits,
        "signed": int(bool(d.flags & Flag.STATIONARY_SIGNED)),
        "k_blocks": d.k_blocks,
        "k_tail": d.k_tail,
        "row_blocks": d.row_blocks,
        "plane_pitch": pitch,
        "row_words": tile.bits * pitch,
        "sample_words": tile.bits * pitch * d.row_groups,
    }
    side = images_of_word(d.width)
    clusters = {"samples": tile.samples, "parts": d.sample_parts, "log2_row_parts": d.log2_row_parts}
    above = tile.top * tile.row_pitch  # bytes of the image rows before the first loaded one
    load = {
        **operands,
        **clusters,
        "index": index,
        "first_bank": 0 if flat else max(-tile.first_row, 0),
        "runs": tile.runs,
        "run_beats": tile.run_beats,
        "plane_beats": plane_beats(d.width),
        "stream_addr": (d.stream_base + tile.first * d.stream_stride_n + above) % _SPACE,
        "stream_stride_n": d.stream_stride_n,
        "stream_stride_c": d.stream_stride_c,
        "stream_stride_y": d.stream_stride_y,
        "stream_stride_k": d.stream_stride_k,
        "side": side,
        "images": d.images,
        "block_rows": d.stream_block_rows % 16,
        "own_stationary": int(d.stationary_stride_n != 0),
        "order": d.stationary_order,
        "stationary_addr": (d.stationary_base + tile.first * d.stationary_stride_n) % _SPACE,
        "stationary_stride_n": d.stationary_stride_n,
        "stationary_stride_k": d.stationary_stride_k,
        "stationary_stride_m": d.stationary_stride_m,
        "stationary_stride_d": d.stationary_stride_d,
    }
    execute = {
        **operands,
        "stream_signed": int(bool(d.flags & Flag.STREAM_SIGNED)),
        "samples": tile.slots,
        "rows": tile.rows,
        "out_width": d.out_width,
        "stride": d.stride,
        "stuffed": d.stuffed,
        "top": tile.corner,
        "left": 0 if d.opcode == Opcode.WGRAD else d.pad_left,
        "width": d.width,
        "side": side,
        "block_words": d.stream_block_rows * words % 16,
        "height_words": d.height * words,
        "first_tap": (tile.corner + d.pad_top) % 16,
    }
    above = tile.y * d.out_width * config.rows * Format(d.out_format).nbytes  # and of the result rows
    store = {
        **clusters,
        "index": index,
        "end": 0,
        "vector": 0,
        "interrupt": int(bool(d.flags & Flag.INTERRUPT)),
        "format": d.out_format,
        "shift": d.out_shift,
        "row_blocks": d.row_blocks,
        "area": tile.area,
        "block_positions": tile.area * tile.slots,
        "out_addr": (d.out_base + tile.first * d.out_stride_n + above) % _SPACE,
        "out_stride_n": d.out_stride_n,
        "out_stride_m": d.out_stride_m,
    }
    return {"load": load, "execute": execute, "store": store}
