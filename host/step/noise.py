"""Noise of stochastic rounding: a hash of a key and an element's place, 16 bits an element.

An element's noise depends on nothing else, so neither tiles nor the order of samples change it, and any model can
compute it again. A pair of neighbouring channels shares 32 bits: the pair's number goes through 16 rounds of a Feistel
network whose function is that of the cipher Simon32 (ePrint 2013/404), x <- y ^ (x<<<1 & x<<<8) ^ x<<<2 ^ key. A round
is one table of five inputs a bit, 16 of them for two elements, and no carry or multiplier (`rtl.noise`). Thirteen
rounds pass the tests of `tests/test_noise.py`; twelve and fewer fail those of keys that are alike.
"""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array
from host.geometry import ceil_div
from rtl.config import WORD_CHANNELS
from rtl.noise import ROUNDS

_WORD = 0xFFFF
#: Pairs of channels in a word of a tensor.
_PAIRS = WORD_CHANNELS // 2

#: Four words of 16 bits.
Key = tuple[int, int, int, int]


def noise_key(*stream: int) -> Key:
    """The key of a stream of noise, from numbers that name it such as seed, step and layer, none negative."""
    words = np.random.SeedSequence(stream).generate_state(2, np.uint32)
    low, high = (int(word) for word in words)
    return low & _WORD, low >> 16, high & _WORD, high >> 16


def hashed(key: Key, numbers: Array) -> tuple[Array, Array]:
    """Of each pair's number the noise of the even channel and of the odd one: int32 of its shape, 0 to 2**16 - 1."""
    xp = array_namespace(numbers)
    x, y = (xp.astype((numbers >> by) & _WORD, xp.int32) for by in (16, 0))  # what is shifted out does not count
    for number in range(ROUNDS):
        twice = x | (x << 16)  # bits 16 - k to 31 - k are the word turned left by k
        mixed = ((twice >> 15) & (twice >> 8)) ^ (twice >> 14) ^ y ^ (key[number % 4] ^ number)
        x, y = mixed & _WORD, x
    return y, x


def noise(key: Key, shape: tuple[int, ...], like: Array, first: int = 0) -> Array:
    """Noise of the elements of a tensor, int64 0 to 2**16 - 1, of the library and device of `like`.

    Words, 16 channels at one position, are numbered in the order (n, channel block, y, x); a pair's number is eight
    times its word's plus its own.

    Parameters
    ----------
    key : of the stream.
    shape : (N, C, H, W).
    first : number of the first sample; those before it are elements of the same stream.
    """
    xp = array_namespace(like)
    n, channels, height, width = shape
    blocks = ceil_div(channels, WORD_CHANNELS)
    pairs = min(ceil_div(channels, 2), _PAIRS)  # no more than are needed
    place = device(like)
    sample = blocks * height * width
    words = xp.arange(first * sample, (first + n) * sample, dtype=xp.int64, device=place)
    numbers = words[:, None] * _PAIRS + xp.arange(pairs, dtype=xp.int64, device=place)[None, :]
    both = xp.reshape(xp.stack(hashed(key, numbers), axis=-1), (n, blocks, height, width, 2 * pairs))
    whole = xp.reshape(xp.permute_dims(both, (0, 1, 4, 2, 3)), (n, 2 * pairs * blocks, height, width))
    return xp.astype(whole[:, :channels], xp.int64)
