"""Noise of stochastic rounding: a hash of a key and an element's place, 16 bits an element.

An element's noise depends on nothing else, so neither tiles nor the order of samples change it, and any model can
compute it again. A block of 32 bits holds the noise of two neighbours: the block's number goes through 16 rounds of a
Feistel network whose function is that of the cipher Simon32 (ePrint 2013/404), x <- y ^ (x<<<1 & x<<<8) ^ x<<<2 ^ key.
A round is one table of five inputs a bit, 16 of them for two elements, and no carry or multiplier (`rtl.noise`).
Thirteen rounds pass the tests of `tests/test_noise.py`; twelve and fewer fail those of keys that are alike.
"""

from __future__ import annotations

from math import prod

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array
from rtl.noise import ROUNDS

_WORD = 0xFFFF

#: Four words of 16 bits.
Key = tuple[int, int, int, int]


def noise_key(*stream: int) -> Key:
    """The key of a stream of noise, from numbers that name it such as seed, step and layer, none negative."""
    words = np.random.SeedSequence(stream).generate_state(2, np.uint32)
    low, high = (int(word) for word in words)
    return low & _WORD, low >> 16, high & _WORD, high >> 16


def noise(key: Key, shape: tuple[int, ...], like: Array, first: int = 0) -> Array:
    """Noise of the elements of an array in C order, int64 0 to 2**16 - 1, of the library and device of `like`.

    Parameters
    ----------
    key : of the stream.
    shape : of the array, its samples along the first axis.
    first : number of the first sample; those before it are elements of the same stream.
    """
    xp = array_namespace(like)
    start, count = first * prod(shape[1:]), prod(shape)
    blocks = xp.arange(start >> 1, ((start + count) >> 1) + 1, dtype=xp.int64, device=device(like))
    x, y = (xp.astype((blocks >> by) & _WORD, xp.int32) for by in (16, 0))  # what is shifted out does not count
    for number in range(ROUNDS):
        twice = x | (x << 16)  # bits 16 - k to 31 - k are the word turned left by k
        mixed = ((twice >> 15) & (twice >> 8)) ^ (twice >> 14) ^ y ^ (key[number % 4] ^ number)
        x, y = mixed & _WORD, x
    words = xp.reshape(xp.stack([y, x], axis=-1), (-1,))
    odd = start & 1
    return xp.astype(xp.reshape(words[odd : odd + count], shape), xp.int64)
