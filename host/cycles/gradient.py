"""Timing of weight gradients where it is not that of other products: LOAD reads row by row, through the corner."""

from __future__ import annotations

from rtl.config import BEAT_BYTES
from rtl.corner import SIDE, Corner
from rtl.gradient_blocks import SETTLED
from rtl.isa import Opcode
from rtl.limits import images_of_word, plane_beats
from sim.tile_model import Tile

#: Cycles in which LOAD works out the sizes of a k block.
BLOCK = SETTLED


def is_gradient(tile: Tile) -> bool:
    return tile.descriptor.opcode == Opcode.WGRAD


def images_and_rows(tile: Tile, block: int) -> tuple[int, int, int, int]:
    """First image and images of a k block, its first row that is loaded and their number."""
    d = tile.descriptor
    side = images_of_word(d.width)
    group, part = divmod(block, -(-d.height // d.stream_block_rows))
    left = (d.images - group * side) & 0xFFFF
    top = part * d.stream_block_rows
    first, end = max(top - d.pad_top, 0), min(top + d.stream_block_rows + d.pad_top, d.height)
    return group * side, left if 0 < left < side else side, first, end - first


def gradient_runs(tile: Tile, block: int) -> list[tuple[int, int]]:
    """As `host.cycles.units.stream_runs`."""
    d = tile.descriptor
    image, images, first, rows = images_and_rows(tile, block)
    part = block % -(-d.height // d.stream_block_rows)
    base = d.stream_base + image * d.stream_stride_c + part * d.stream_stride_k
    base += (first - part * d.stream_block_rows) * tile.row_pitch
    last = tile.first + tile.samples - 1
    return [
        (
            (base + sample * d.stream_stride_n + row * tile.row_pitch + each * d.stream_stride_c) // BEAT_BYTES,
            (row == rows - 1 and each == images - 1) * (1 + (sample == last)),
        )
        for sample in range(tile.first, last + 1)
        for row in range(rows)
        for each in range(images)
    ]


def turned(tile: Tile) -> int:
    """Cycles by which a slot is full later: its last words leave the corner."""
    beats = plane_beats(tile.descriptor.width)
    backlog = (tile.bits - 1) * max(0, SIDE - beats) if beats < SIDE else 0
    return Corner.LATENCY + SIDE - 1 + backlog
