"""DDR formats against a reading of their definition, one element at a time."""

import numpy as np
import pytest

from host.plan.packing import (
    flat_lanes,
    pack_results,
    pack_stationary,
    pack_stream,
    pack_stream_table,
    unpack_results,
    unpack_stream,
    window_lanes,
)
from host.qtensor import code_range
from rtl.config import FLAT_TAPS


def codes_of(rng, shape, bits, signed):
    low, high = code_range(bits, signed)
    return rng.integers(low, high + 1, shape)


@pytest.mark.parametrize("bits", [1, 3, 8, 9, 16, 24])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 17), (1, 1, 8, 16), (3, 2, 1, 1)])
def test_stream_words(rng, bits, signed, shape):
    codes = codes_of(rng, shape, bits, signed)
    n, height, width, channels = shape
    blocks, columns = -(-channels // 16), -(-width // 4) * 4
    words = pack_stream(codes, bits).view("<u2").reshape(n, blocks, height, bits, columns)
    expected = np.zeros_like(words)
    for i, y, x, c in np.ndindex(shape):
        for plane in range(bits):  # plane 0 is the most significant bit
            bit = int(codes[i, y, x, c]) >> (bits - 1 - plane) & 1
            expected[i, c // 16, y, plane, x] |= bit << (c % 16)
    assert np.array_equal(words, expected)
    assert np.array_equal(unpack_stream(words.view(np.uint8), shape, bits, signed), codes)


def test_stream_table_packs_every_sample_at_its_own_precision(rng):
    table = np.array([3, 0, 5, 1], np.uint8)
    codes = np.stack([codes_of(rng, (2, 6, 20), int(bits), False) if bits else np.zeros((2, 6, 20)) for bits in table])
    codes = codes.astype(np.int64)
    packed = pack_stream_table(codes, 5, table)
    for n, bits in enumerate(table.tolist()):
        if bits:
            alone = pack_stream(codes[n : n + 1], bits)[0]
            assert np.array_equal(packed[n, :, : alone.shape[1]], alone)
            assert not packed[n, :, alone.shape[1] :].any()
        else:
            assert not packed[n].any()


@pytest.mark.parametrize("bits", [1, 4, 5, 8, 13, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_stationary_nibbles(rng, bits, signed):
    rows, channels, tile_rows, row_blocks, k_blocks = 5, 20, 4, 3, 2
    kernel = codes_of(rng, (rows, channels, 3, 3), bits, signed)
    digits = -(-bits // 4)
    raw = pack_stationary(window_lanes(kernel), bits, tile_rows, row_blocks, k_blocks)
    tiles = raw.reshape(row_blocks, k_blocks, digits, tile_rows, 9, 8)
    for row, channel, ky, kx in np.ndindex(row_blocks * tile_rows, k_blocks * 16, 3, 3):
        inside = row < rows and channel < channels
        value = 0
        for digit in range(digits):  # most significant first
            byte = tiles[row // tile_rows, channel // 16, digit, row % tile_rows, 3 * ky + kx, channel % 16 // 2]
            nibble = int(byte) >> (4 * (channel % 2)) & 15
            if signed and digit == 0 and nibble >= 8:
                nibble -= 16
            value = 16 * value + nibble
        assert value == (kernel[row, channel, ky, kx] if inside else 0)


def test_flat_lanes_put_channel_blocks_at_their_taps(rng):
    matrix = rng.integers(1, 100, (3, 200))
    lanes = flat_lanes(matrix)
    assert lanes.shape == (3, 2, 9, 16)
    for row, channel in np.ndindex(3, 288):
        block, word = divmod(channel, 144)
        tap = 3 * (word // 16 % 3) + word // 16 // 3
        assert lanes[row, block, tap, channel % 16] == (matrix[row, channel] if channel < 200 else 0)
    assert sorted(FLAT_TAPS) == list(range(9))


@pytest.mark.parametrize("out_bytes", [2, 4, 8])
def test_results(rng, out_bytes):
    results = rng.integers(-(1 << 15), 1 << 15, (2, 3, 7, 4)).astype(f"<i{out_bytes}")  # (n, block, position, row)
    unpacked = unpack_results(results.reshape(-1).view(np.uint8), 2, 3, 4, out_bytes)
    for n, block, position, row in np.ndindex(results.shape):
        assert unpacked[n, 4 * block + row, position] == results[n, block, position, row]
    packed = pack_results(unpacked[:, :10], 4, out_bytes)
    results[:, 2, :, 2:] = 0
    assert np.array_equal(packed, results.reshape(-1).view(np.uint8))
