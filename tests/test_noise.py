"""Noise of stochastic rounding: its definition, what it may not depend on, and whether it looks random.

Nothing is drawn here: keys are those of the first streams, and the same bits come every time.
"""

import numpy as np
import pytest

from host.arrays import to_numpy
from host.step import noise as module
from host.step.noise import noise, noise_key

LENGTH = 1 << 18
KEYS = [noise_key(seed, 5, 2) for seed in range(4)]
#: Standard deviations that none of some hundred statistics exceeds but once in thousands of such sets.
LIMIT = 5.0


def of(key, length=LENGTH):
    """The noise of `length` elements in the order of their numbers."""
    return noise(key, (1, 16, 1, length // 16), like=np.zeros(0))[0, :, 0].T.ravel()


def deviation(values, bins):
    """Chi-square of equally likely values, in standard deviations from what is expected."""
    counts = np.bincount(values, minlength=bins)
    expected = len(values) / bins
    return (np.sum((counts - expected) ** 2 / expected) - (bins - 1)) / np.sqrt(2 * (bins - 1))


def joint(a, b):
    """The upper four bits of two numbers, and their lower four, as one number each."""
    return (a >> 12) << 4 | b >> 12, (a & 15) << 4 | b & 15


def worst(a, b):
    """The largest deviation of two sequences that ought to be independent."""
    return max(abs(deviation(a ^ b, 1 << 16)), *(abs(deviation(part, 256)) for part in joint(a, b)))


def test_it_is_the_cipher_s_rounds():
    def turned(word, by):
        return (word << by | word >> (16 - by)) & 0xFFFF

    def plain(key, n, c, y, x):
        word = ((n * blocks + c // 16) * height + y) * width + x
        pair = 8 * word + c % 16 // 2
        x, y = (pair >> 16) & 0xFFFF, pair & 0xFFFF
        for number in range(16):
            f = turned(x, 1) & turned(x, 8) ^ turned(x, 2)
            x, y = y ^ f ^ key[number % 4] ^ number, x
        return x if c % 2 else y

    for first, channels in ((12345, 35), (0, 5)):
        shape, blocks, height, width = (2, channels, 3, 2), -(-channels // 16), 3, 2
        found = noise(KEYS[1], shape, like=np.zeros(0), first=first)
        assert found.shape == shape
        for (n, *place), value in np.ndenumerate(found):
            assert value == plain(KEYS[1], first + n, *place)


def test_neither_tiles_nor_the_library_change_it():
    torch = pytest.importorskip("torch")
    whole = noise(KEYS[0], (9, 3, 5, 1), like=np.zeros(0))
    assert np.array_equal(to_numpy(noise(KEYS[0], (9, 3, 5, 1), like=torch.zeros(0))), whole)
    for first, count in ((0, 1), (1, 3), (4, 5)):
        part = noise(KEYS[0], (count, 3, 5, 1), like=np.zeros(0), first=first)
        assert np.array_equal(part, whole[first : first + count])


def test_keys_are_those_of_their_stream():
    streams = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 1), (0, 1, 2, 3)]
    keys = [noise_key(*stream) for stream in streams]
    assert len(set(keys)) == len(keys)
    assert keys[0] == noise_key(0, 1, 2)
    assert all(0 <= word < 1 << 16 for key in keys for word in key)


@pytest.mark.parametrize("key", KEYS)
def test_all_values_are_equally_likely(key):
    words = of(key)
    assert abs(deviation(words, 1 << 16)) < LIMIT
    assert abs(deviation(words >> 8, 256)) < LIMIT
    assert abs(deviation(words & 255, 256)) < LIMIT
    # Of a uniform number the standard deviation is 2**16 / sqrt(12).
    assert abs(np.mean(words) - (2**16 - 1) / 2) < LIMIT * 2**16 / np.sqrt(12 * LENGTH)


@pytest.mark.parametrize("key", KEYS)
def test_neighbours_are_independent(key):
    """From channel to channel, along a row, from row to row and from sample to sample of usual shapes."""
    words = of(key)
    for distance in (1, 2, 3, 8, 16, 32, 64, 256, 1024, 4096, 16384, 65536):
        assert worst(words[distance:], words[:-distance]) < LIMIT


@pytest.mark.parametrize("other", [(1, 5, 2), (0, 6, 2), (0, 5, 3)])
def test_seeds_steps_and_streams_are_independent(other):
    assert worst(of(KEYS[0]), of(noise_key(*other))) < LIMIT


def sensitivity(bit):
    """How far the noise of two keys that differ in one bit is from independent."""
    changed = list(KEYS[0])
    changed[bit // 16] ^= 1 << bit % 16
    return worst(of(KEYS[0], 1 << 17), of(tuple(changed), 1 << 17))


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_the_key_matters(bit):
    assert sensitivity(bit) < LIMIT


def test_too_few_rounds_would_be_found(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 10)
    assert max(sensitivity(bit) for bit in range(64)) > 100 * LIMIT
