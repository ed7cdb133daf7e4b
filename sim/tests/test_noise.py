"""The noise of stochastic rounding against `host.step.noise`, a new pair every cycle."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from host.step.noise import hashed, noise_key
from rtl.noise import NOISE_BITS, Noise
from sim.tests.bench import compiled, run
from sim.tests.streams import start

PAIRS = 64


def test_noise(case):
    run(compiled(Noise), __name__, case)


@cocotb.test()
async def pairs(dut):
    await start(dut, pair=0, key=0)
    for _ in range(8):
        words = noise_key(random.getrandbits(32), random.getrandbits(20))
        dut.key.value = sum(word << NOISE_BITS * i for i, word in enumerate(words))
        first = random.choice([0, random.getrandbits(31), (1 << 32) - PAIRS])
        expected = np.stack(hashed(words, np.arange(first, first + PAIRS)), axis=-1)
        for now in range(PAIRS + Noise.LATENCY):
            dut.pair.value = (first + min(now, PAIRS - 1)) & 0xFFFF_FFFF
            await ReadOnly()
            if now >= Noise.LATENCY:
                even, odd = (int(word) for word in expected[now - Noise.LATENCY])
                assert dut.o.value.to_unsigned() == odd << NOISE_BITS | even
            await RisingEdge(dut.clk)
