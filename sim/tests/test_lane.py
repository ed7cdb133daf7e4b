"""A lane of the vector unit against `host.step.rules`: all modes, corners of every operand, changing coefficients."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from host.step import rules
from rtl.lane import A_BITS, B_BITS, C_BITS, MOST_SHIFT, RESULT_BITS, U_BITS, V_BITS, Coefficients, Lane, Mode
from rtl.noise import NOISE_BITS
from sim.tests.bench import compiled, run
from sim.tests.streams import start

PASSES, GROUPS = 60, 8


def test_lane(case):
    run(compiled(Lane), __name__, case)


def drawn(rng: np.random.Generator, bits: int, count: int = 1) -> np.ndarray:
    """Signed numbers of up to `bits` bits, of all magnitudes, ends included."""
    end = 1 << (bits - 1)
    size = 1 << int(rng.integers(bits))
    values = rng.integers(-min(size, end), min(size, end - 1) + 1, count)
    return np.where(rng.random(count) < 0.1, rng.choice([-end, end - 1, 0, -1], count), values)


@cocotb.test()
async def elements(dut):
    rng = np.random.default_rng(random.getrandbits(32))
    await start(dut, u=0, v=0, mask=0, noise=0, mode=0, coefficients=0)
    clipped = 0
    for _ in range(PASSES):
        shift = int(rng.integers(MOST_SHIFT + 1))
        low, high = sorted(int(end) for end in drawn(rng, RESULT_BITS, 2))
        relu, masked, stochastic = (bool(rng.integers(2)) for _ in range(3))
        raised = int(rng.integers(1 << int(rng.integers(RESULT_BITS)))) if rng.random() < 0.5 else 0
        settings = {"relu": relu, "masked": masked, "stochastic": stochastic, "shift": shift, "raised": raised}
        dut.mode.value = Mode.const(settings | {"low": low, "high": high}).as_value().value
        inputs, expected = {}, {}  # by cycle
        cycle = 0
        for _ in range(GROUPS):
            count = int(rng.integers(1, 7))
            # The lane is promised sums of 47 bits.
            k = rules.Coefficients(*(drawn(rng, bits) for bits in (A_BITS, C_BITS, min(B_BITS, 46))), shift=shift)
            u, v = drawn(rng, U_BITS, count), drawn(rng, V_BITS, count)
            mask, noisy = rng.integers(0, 2, count).astype(bool), rng.integers(0, 1 << NOISE_BITS, count)
            shape = (count, 1, 1, 1)
            found = rules.lane(
                k,
                u.reshape(shape),
                v.reshape(shape),
                low=low,
                high=high,
                relu=relu,
                mask=mask.reshape(shape) if masked and not relu else None,
                noise=noisy.reshape(shape) if stochastic else None,
                raised=raised,
            )
            clipped += found.saturated
            coefficients = Coefficients.const({"a": int(k.a[0]), "c": int(k.c[0]), "b": int(k.b[0])})
            passes = np.ones(count, bool) if found.mask is None else found.mask.ravel()
            for i in range(count):
                at = inputs.setdefault(cycle, {})
                at |= {"u": int(u[i]), "v": int(v[i]), "mask": int(mask[i])}
                at["coefficients"] = coefficients.as_value().value
                inputs.setdefault(cycle + Lane.NOISE_DELAY, {})["noise"] = int(noisy[i])
                expected[cycle + Lane.LATENCY] = int(found.codes.ravel()[i]), bool(passes[i])
                cycle += 1
        saturated = 0
        for now in range(cycle + Lane.LATENCY):
            for name, value in inputs.get(now, {}).items():
                getattr(dut, name).value = value
            await ReadOnly()
            if now in expected:
                q, positive = expected[now]
                assert dut.q.value.to_signed() == q, f"{settings} {low} {high}"
                assert bool(dut.positive.value) == positive
                saturated += int(dut.clipped.value)
            await RisingEdge(dut.clk)
        clipped -= saturated
    assert clipped == 0
