"""Noise of stochastic rounding: a hash of a key and an element's place, for two elements a cycle.

The number of a pair of elements goes through 16 rounds of a Feistel network whose function is that of the cipher
Simon32 (ePrint 2013/404), x <- y ^ (x<<<1 & x<<<8) ^ x<<<2 ^ key: a table of five inputs a bit, and no carry. Nothing
but the place counts, so neither tiles nor the order of the work change the noise.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Bits of noise of one element.
NOISE_BITS = 16
ROUNDS = 16
#: Bits of the number of a word, which is 16 channels at one position; its pairs follow each other.
NUMBER_BITS = 24
#: Words of the key.
KEY_WORDS = 4


class Noise(wiring.Component):
    """The hash, a new pair every cycle.

    Members
    -------
    pair : In(32)
        Number of the pair, in cycle t.
    key : In(4 * 16)
        Constant while pairs are under way.
    o : Out(2 * 16)
        Noise of the even element, and of the odd one above it, in cycle t + `LATENCY`.
    """

    LATENCY = ROUNDS

    def __init__(self):
        super().__init__({"pair": In(2 * NOISE_BITS), "key": In(KEY_WORDS * NOISE_BITS), "o": Out(2 * NOISE_BITS)})

    def elaborate(self, platform):
        m = Module()
        x, y = self.pair[NOISE_BITS:], self.pair[:NOISE_BITS]
        for number in range(ROUNDS):
            key = self.key.word_select(number % KEY_WORDS, NOISE_BITS)
            mixed = y ^ (x.rotate_left(1) & x.rotate_left(8)) ^ x.rotate_left(2) ^ key ^ number
            # One round between two registers: with more, synthesis tears them apart and takes twice the tables.
            left = Signal(NOISE_BITS, name=f"left{number + 1}", reset_less=True)
            right = Signal(NOISE_BITS, name=f"right{number + 1}", reset_less=True)
            m.d.sync += [left.eq(mixed), right.eq(x)]
            x, y = left, right
        m.d.comb += self.o.eq(Cat(y, x))
        return m
