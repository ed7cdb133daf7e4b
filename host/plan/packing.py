"""Operands and results as they lie in DDR; the formats are defined in `rtl.isa`.

Codes come as integers of any type that holds them; negative codes become two's complement by masking.
"""

from __future__ import annotations

import numpy as np

from host.geometry import ceil_div
from rtl.config import BEAT_BYTES, BEAT_WORDS, DIGIT_BITS, FLAT_TAPS, LANES, TAPS, WORD_CHANNELS


def row_bytes(width: int) -> int:
    """Bytes of one plane of an image row."""
    return ceil_div(width, BEAT_WORDS) * BEAT_BYTES


def pack_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Streaming operand.

    Parameters
    ----------
    codes : integers (samples, height, width, channels); height 1 in flat mode.
    bits : planes.

    Returns
    -------
    ndarray
        uint8 (samples, channel blocks, height * bits * row_bytes(width)). Absent channels and columns are zero.
    """
    n, height, width, channels = codes.shape
    blocks, columns = ceil_div(channels, WORD_CHANNELS), ceil_div(width, BEAT_WORDS) * BEAT_WORDS
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    padded = np.zeros((n, height, columns, blocks * WORD_CHANNELS), kind)
    padded[:, :, :width, :channels] = codes
    words = np.empty((n, blocks, height, bits, columns), "<u2")
    for plane in range(bits):
        # Whole words leave no rest, so all bits go in one row: packbits is slow on short ones, and on wide integers.
        packed = np.packbits(padded & (1 << (bits - 1 - plane)) != 0, bitorder="little")
        words[:, :, :, plane] = packed.view("<u2").reshape(n, height, columns, blocks).transpose(0, 3, 1, 2)
    return words.view(np.uint8).reshape(n, blocks, -1)


def unpack_stream(raw: np.ndarray, shape: tuple[int, ...], bits: int, signed: bool) -> np.ndarray:
    """The inverse of `pack_stream`: int64 of `shape` (samples, height, width, channels)."""
    n, height, width, channels = shape
    blocks, columns = ceil_div(channels, WORD_CHANNELS), ceil_div(width, BEAT_WORDS) * BEAT_WORDS
    each = np.unpackbits(raw.reshape(-1), bitorder="little").reshape(n, blocks, height, bits, columns, WORD_CHANNELS)
    codes = np.zeros((n, blocks, height, columns, WORD_CHANNELS), np.int32)
    for plane in range(bits):
        codes += each[:, :, :, plane].astype(np.int32) << (bits - 1 - plane)
    if signed:
        codes -= each[:, :, :, 0].astype(np.int32) << bits
    whole = codes.transpose(0, 2, 3, 1, 4).reshape(n, height, columns, blocks * WORD_CHANNELS)
    return whole[:, :, :width, :channels].astype(np.int64)


def pack_stream_table(codes: np.ndarray, bits: int, table: np.ndarray) -> np.ndarray:
    """Streaming operand whose sample n has table[n] planes, at the strides of `bits` planes.

    Samples of 0 bits are left zero. Shapes as in `pack_stream`; table is uint8 (samples,), no entry above `bits`.
    """
    n, height, width, channels = codes.shape
    out = np.zeros((n, ceil_div(channels, WORD_CHANNELS), height * bits * row_bytes(width)), np.uint8)
    for value in np.unique(table[table > 0]).tolist():
        chosen = np.flatnonzero(table == value)
        packed = pack_stream(codes[chosen], value)
        out[chosen, :, : packed.shape[-1]] = packed
    return out


def window_lanes(kernel: np.ndarray) -> np.ndarray:
    """Kernel (rows, channels, 3, 3) as lanes (rows, k blocks, 9, 16)."""
    rows, channels = kernel.shape[:2]
    blocks = ceil_div(channels, WORD_CHANNELS)
    lanes = np.zeros((rows, blocks * WORD_CHANNELS, TAPS), kernel.dtype)
    lanes[:, :channels] = kernel.reshape(rows, channels, TAPS)
    return lanes.reshape(rows, blocks, WORD_CHANNELS, TAPS).transpose(0, 1, 3, 2)


def flat_lanes(matrix: np.ndarray) -> np.ndarray:
    """Matrix (rows, channels) as lanes (rows, k blocks, 9, 16)."""
    rows, channels = matrix.shape
    blocks = ceil_div(channels, LANES)
    padded = np.zeros((rows, blocks * LANES), matrix.dtype)
    padded[:, :channels] = matrix
    lanes = np.empty((rows, blocks, TAPS, WORD_CHANNELS), matrix.dtype)
    lanes[:, :, FLAT_TAPS] = padded.reshape(lanes.shape)
    return lanes


def pack_stationary(lanes: np.ndarray, bits: int, tile_rows: int, row_blocks: int, k_blocks: int) -> np.ndarray:
    """Stationary operand.

    Parameters
    ----------
    lanes : integers (rows, k blocks, 9, 16).
    bits : width; the codes are extended to whole digits by their sign, so a signed operand needs a signed type.
    tile_rows : rows of a cluster.
    row_blocks, k_blocks : blocks to write, at least those that `lanes` takes; the others are zero.

    Returns
    -------
    ndarray
        uint8 (row blocks, k blocks, digits * tile_rows * 72).
    """
    rows, blocks = lanes.shape[:2]
    digits = ceil_div(bits, DIGIT_BITS)
    padded = np.zeros((row_blocks * tile_rows, k_blocks, TAPS, WORD_CHANNELS), np.int32)
    padded[:rows, :blocks] = lanes
    padded = padded.reshape(row_blocks, tile_rows, k_blocks, TAPS, WORD_CHANNELS).transpose(0, 2, 1, 3, 4)
    out = np.empty((row_blocks, k_blocks, digits, tile_rows, TAPS, BEAT_BYTES), np.uint8)
    for digit in range(digits):
        nibbles = (padded >> (DIGIT_BITS * (digits - 1 - digit)) & 15).astype(np.uint8)
        out[:, :, digit] = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    return out.reshape(row_blocks, k_blocks, -1)


def pack_results(sums: np.ndarray, tile_rows: int, out_bytes: int) -> np.ndarray:
    """Results (n, rows, positions) as STORE writes them, uint8; rows that fill the last block are zero."""
    n, rows, positions = sums.shape
    blocks = ceil_div(rows, tile_rows)
    padded = np.zeros((n, blocks * tile_rows, positions), f"<i{out_bytes}")
    padded[:, :rows] = sums
    ordered = padded.reshape(n, blocks, tile_rows, positions).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(ordered).view(np.uint8).reshape(-1)


def unpack_results(raw: np.ndarray, samples: int, row_blocks: int, tile_rows: int, out_bytes: int) -> np.ndarray:
    """Results of `out_bytes` bytes in `raw` (uint8): int64 (samples, row_blocks * tile_rows, positions)."""
    stored = raw.view(f"<i{out_bytes}").reshape(samples, row_blocks, -1, tile_rows)
    results = np.empty((samples, row_blocks, tile_rows, stored.shape[2]), np.int64)
    results[...] = stored.transpose(0, 1, 3, 2)
    return results.reshape(samples, row_blocks * tile_rows, -1)
