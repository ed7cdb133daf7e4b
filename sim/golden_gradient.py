"""The weight gradient's operand in numpy: positions of images as lanes, channels at taps as positions."""

from __future__ import annotations

import numpy as np

from rtl.config import BEAT_BYTES, BEAT_WORDS, TAPS, WORD_CHANNELS
from rtl.isa import Descriptor, Error, Flag, Order
from rtl.limits import MOST_GRADIENT_WIDTH, WORD_POSITIONS
from sim.golden_memory import Memory


def gradient_agrees(d: Descriptor) -> bool:
    """Whether sizes of a weight gradient that are sound by themselves are so together."""
    words, pad = -(-d.width // WORD_POSITIONS), int(d.out_height == TAPS)
    return (
        (d.out_height, d.out_width) in ((1, WORD_CHANNELS), (TAPS, WORD_CHANNELS))
        and d.pad_top == d.pad_left == pad
        and d.stride == d.k_tail == 1
        and not d.stuffed
        and d.width <= MOST_GRADIENT_WIDTH
        and d.images > 0
        and 0 < d.stream_block_rows * words <= TAPS
        and (d.stream_block_rows + 2 * pad) * words <= 3 * d.row_groups
        and d.stationary_order == Order.WORDS
    )


def gradient_operand(memory: Memory, d: Descriptor, samples: np.ndarray, bits: int) -> np.ndarray:
    """(samples, positions (tap, channel), lanes (k block, word, position)), integers."""
    beats = -(-d.width // BEAT_WORDS)
    words = -(-d.width // WORD_POSITIONS)
    columns = next((size for size in (4, 8) if d.width <= size), words * WORD_POSITIONS)  # of an image side by side
    side_by_side = max(1, WORD_POSITIONS // columns)
    rows, blocks = d.stream_block_rows, -(-d.height // d.stream_block_rows)
    pad = d.pad_top
    found = np.zeros((len(samples), d.out_height, WORD_CHANNELS, d.k_blocks, TAPS * WORD_POSITIONS), np.int64)
    for k in range(d.k_blocks):
        group, block = divmod(k, blocks)
        left = (d.images - group * side_by_side) & 0xFFFF
        images = left if 0 < left < side_by_side else side_by_side
        top = block * rows
        first, last = max(top - pad, 0), min(top + rows + pad, d.height)
        base = d.stream_base + group * side_by_side * d.stream_stride_c + block * d.stream_stride_k
        pitch = d.stream_stride_y or bits * beats * BEAT_BYTES
        planes = memory.read(
            base + samples * d.stream_stride_n + (first - top) * pitch,
            (images, last - first, bits, beats * BEAT_BYTES),
            (d.stream_stride_c, pitch, beats * BEAT_BYTES, 1),
            Error.AXI_READ,
        )
        pixels = _codes(planes, d, bits)  # (samples, images, rows, columns, channels)
        padded = np.zeros((len(samples), side_by_side, rows + 2 * pad, columns + 2 * pad, WORD_CHANNELS), np.int64)
        there = padded[:, :images, first - top + pad : last - top + pad, pad : pad + pixels.shape[3]]
        there[:] = pixels
        here = min(rows, d.height - top)  # beyond the image's last row nothing counts
        for tap in range(d.out_height):
            y, x = divmod(tap, 3)
            seen = padded[:, :, y : y + here, x : x + columns]  # (samples, images, rows, columns, channels)
            lanes = seen.transpose(0, 4, 2, 1, 3).reshape(len(samples), WORD_CHANNELS, -1)
            found[:, tap, :, k, : lanes.shape[-1]] = lanes
    return found.reshape(len(samples), d.out_height * WORD_CHANNELS, -1).astype(np.int32)


def _codes(planes: np.ndarray, d: Descriptor, bits: int) -> np.ndarray:
    """The numbers of planes (..., plane, bytes): (..., column, channel)."""
    each = np.unpackbits(planes, axis=-1, bitorder="little").astype(np.int64)
    weights = 1 << np.arange(bits - 1, -1, -1)
    if d.flags & Flag.STREAM_SIGNED:
        weights[0] = -weights[0]
    codes = np.einsum("p,...pb->...b", weights, each)
    return codes.reshape(*codes.shape[:-1], -1, WORD_CHANNELS)
