"""The front end in plain Python: what stops a descriptor, and the tiles that it becomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rtl.config import BEAT_BYTES, BEAT_WORDS, DIGIT_BITS, MAX_BITS, AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Format, Opcode
from sim.golden import check_fields, result_fits, stream_fits

_SPACE = 1 << 32  # addresses wrap


def tiles_of(
    config: AcceleratorConfig, d: Descriptor, index: int, memory: np.ndarray
) -> tuple[list[dict[str, dict]], Error]:
    """The tiles of descriptor number `index`, each `{"load": ..., "execute": ..., "store": ...}`, and why it stopped.

    `memory` holds the precision bytes. A sample of a bad precision stops the descriptor; those before it are done.
    """
    stationary, bits, error = _precisions(config, d, memory)
    made = []
    for n, count, planes in _runs(bits, d.sample_parts * d.tile_samples):
        for y in range(0, d.out_height, d.tile_rows):
            rows = min(d.tile_rows, d.out_height - y)
            made.append(_tile(config, d, index, n, count, planes, -(-stationary // DIGIT_BITS), y, rows))
    return made, error


def _precisions(config: AcceleratorConfig, d: Descriptor, memory: np.ndarray) -> tuple[int, list[int], Error]:
    """Stationary bits, streaming bits of each sample up to the one that stops the descriptor, and its error."""
    if error := check_fields(config, d):
        return 0, [], error
    stationary = int(memory[d.stationary_table]) if d.flags & Flag.STATIONARY_TABLE else d.stationary_bits
    if not stationary:
        return 0, [], Error.NONE
    if stationary > MAX_BITS:
        return 0, [], Error.PRECISION
    if not result_fits(config, d):
        return 0, [], Error.SHAPE
    bits: list[int] = []
    for n in range(d.samples):
        value = int(memory[d.stream_table + n]) if d.flags & Flag.STREAM_TABLE else d.stream_bits
        if value > MAX_BITS:
            return stationary, bits, Error.PRECISION
        if not stream_fits(config, d, value):
            return stationary, bits, Error.SHAPE
        bits.append(value)
    return stationary, bits, Error.NONE


def _runs(bits: Sequence[int], most: int) -> Iterator[tuple[int, int, int]]:
    """First sample, length and precision of each run of at most `most` equal bits; samples of 0 bits are skipped."""
    n = 0
    while n < len(bits):
        count = 1
        while bits[n] and count < most and n + count < len(bits) and bits[n + count] == bits[n]:
            count += 1
        if bits[n]:
            yield n, count, bits[n]
        n += count


def _tile(
    config: AcceleratorConfig,
    d: Descriptor,
    index: int,
    n: int,
    count: int,
    planes: int,
    digits: int,
    y: int,
    rows: int,
) -> dict[str, dict]:
    """The tile of `count` samples from n on and `rows` result rows from y on."""
    flat = d.opcode == Opcode.FLAT
    slots = -(-count // d.sample_parts)
    plane_beats = -(-d.width // BEAT_WORDS)
    pitch = plane_beats + flat
    top = y * d.stride - d.pad_top
    first = max(top, 0)
    last = 0 if flat else min(top + (rows - 1) * d.stride + 2, d.height - 1)
    operands = {
        "flat": int(flat),
        "planes": planes,
        "digits": digits,
        "signed": int(bool(d.flags & Flag.STATIONARY_SIGNED)),
        "k_blocks": d.k_blocks,
        "k_tail": d.k_tail,
        "row_blocks": d.row_blocks,
        "plane_pitch": pitch,
        "row_words": planes * pitch,
        "sample_words": planes * pitch * d.row_groups,
    }
    clusters = {"samples": count, "parts": d.sample_parts, "log2_row_parts": d.log2_row_parts}
    load = {
        **operands,
        **clusters,
        "index": index,
        "first_bank": 0 if flat else first - top,
        "run_beats": (last - first + 1) * planes * plane_beats,
        "plane_beats": plane_beats,
        "stream_addr": (d.stream_base + n * d.stream_stride_n + first * planes * plane_beats * BEAT_BYTES) % _SPACE,
        "stream_stride_n": d.stream_stride_n,
        "stream_stride_c": d.stream_stride_c,
        "own_stationary": int(d.stationary_stride_n != 0),
        "stationary_addr": (d.stationary_base + n * d.stationary_stride_n) % _SPACE,
        "stationary_stride_n": d.stationary_stride_n,
        "stationary_stride_k": d.stationary_stride_k,
        "stationary_stride_m": d.stationary_stride_m,
    }
    execute = {
        **operands,
        "stream_signed": int(bool(d.flags & Flag.STREAM_SIGNED)),
        "samples": slots,
        "rows": rows,
        "out_width": d.out_width,
        "stride": d.stride,
        "top": top,
        "left": d.pad_left,
        "height": d.height,
        "width": d.width,
    }
    above = y * d.out_width * config.rows * Format(d.out_format).nbytes  # bytes of the result rows before y
    store = {
        **clusters,
        "index": index,
        "end": 0,
        "interrupt": int(bool(d.flags & Flag.INTERRUPT)),
        "format": d.out_format,
        "row_blocks": d.row_blocks,
        "area": rows * d.out_width,
        "block_positions": rows * d.out_width * slots,
        "out_addr": (d.out_base + n * d.out_stride_n + above) % _SPACE,
        "out_stride_n": d.out_stride_n,
        "out_stride_m": d.out_stride_m,
    }
    return {"load": load, "execute": execute, "store": store}
