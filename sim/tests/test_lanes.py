"""Lanes under random back-pressure against `host.step.rules`: blocks of channels one after the other."""

from __future__ import annotations

import gc
import random
import warnings

import cocotb
import numpy as np
import pytest
from amaranth.hdl import UnusedElaboratable
from cocotb.triggers import RisingEdge

from host.step import rules
from host.step.noise import hashed, noise_key
from rtl.config import AcceleratorConfig
from rtl.lane import A_BITS, C_BITS, MOST_SHIFT, RESULT_BITS, U_BITS, V_BITS, Coefficients, Mode
from rtl.lanes import VectorLanes, Word, elements, factors, result
from rtl.noise import NOISE_BITS, NUMBER_BITS
from rtl.reduction import X_BITS, Sums
from sim.tests.bench import compiled, run
from sim.tests.streams import StreamSink, StreamSource, start
from sim.tests.test_lane import drawn

CONFIG, LANES = AcceleratorConfig(vector=True), 4
PASSES = 12


def test_lanes(case):
    run(compiled(VectorLanes, CONFIG, LANES), __name__, case)


@pytest.mark.parametrize("lanes", [0, 3])
def test_odd_numbers_are_refused(lanes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)  # the component that was refused
        with pytest.raises(ValueError, match=f"lanes is {lanes}, must be even"):
            VectorLanes(CONFIG, lanes)
        gc.collect()


def packed(layout, values) -> int:
    return layout.const(values).as_value().value


def noise_of(key, number: int, shape) -> np.ndarray:
    """The noise of words from `number` on, shape (words, LANES, 1, 1)."""
    pairs = LANES // 2
    numbers = np.arange(number * pairs, (number + shape[0]) * pairs)
    return np.stack(hashed(key, numbers), axis=-1).reshape(shape).astype(np.int64)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def blocks(dut):
    rng = np.random.default_rng(random.getrandbits(32))
    inputs = "i", "coefficients", "elements", "factors"
    idle = {f"{name}__valid": 0 for name in inputs} | {"o__ready": 0, "sums__ready": 0}
    await start(dut, mode=0, squares=0, key=0, clear=0, **idle)
    sources = words, coefficients, operands, others = [StreamSource(dut, name) for name in inputs]
    results, sums = StreamSink(dut, "o"), StreamSink(dut, "sums")
    for _ in range(PASSES):
        for source in sources:
            source.idle = float(rng.choice([0, 0.3, 0.8]))
        results.stall, sums.stall = rng.choice([0, 0.3, 0.8], 2).tolist()
        low, high = sorted(int(end) for end in drawn(rng, RESULT_BITS, 2))
        settings = {name: bool(rng.integers(2)) for name in ("relu", "masked", "stochastic")}
        settings |= {"shift": int(rng.integers(MOST_SHIFT + 1)), "raised": 0, "low": low, "high": high}
        squares = bool(rng.integers(2)) and max(-low, high) < 1 << (X_BITS - 1)
        key = noise_key(int(rng.integers(1 << 31)))
        dut.mode.value = packed(Mode, settings)
        dut.squares.value = int(squares)
        dut.key.value = sum(part << NOISE_BITS * i for i, part in enumerate(key))
        dut.clear.value = 1
        await RisingEdge(dut.clk)
        dut.clear.value = 0
        expected, expected_sums, clipped = [], [], 0
        for _ in range(int(rng.integers(1, 6))):
            count, number = int(rng.integers(1, 40)), int(rng.integers(1 << (NUMBER_BITS - 1)))
            k = rules.Coefficients(*(drawn(rng, bits, LANES) for bits in (A_BITS, C_BITS, 46)), shift=settings["shift"])
            for lane in range(LANES):
                values = {name: int(getattr(k, name)[lane]) for name in "acb"}
                coefficients.put(packed(Coefficients, values))
            u, v, x = (
                np.stack([drawn(rng, bits, count) for _ in range(LANES)], axis=1)[:, :, None, None]
                for bits in (U_BITS, V_BITS, X_BITS)
            )
            mask = rng.integers(0, 2, u.shape).astype(bool)
            found = rules.lane(
                k,
                u,
                v,
                low=low,
                high=high,
                relu=settings["relu"],
                mask=mask if settings["masked"] and not settings["relu"] else None,
                noise=noise_of(key, number, u.shape) if settings["stochastic"] else None,
            )
            clipped += found.saturated
            passed = np.ones(u.shape, bool) if found.mask is None else found.mask
            for i in range(count):
                words.put(packed(Word, {"number": number + i, "first": i == 0, "last": i == count - 1}))
                bits = sum(int(bit) << lane for lane, bit in enumerate(mask[i].ravel()))
                values = {"u": u[i].ravel().tolist(), "v": v[i].ravel().tolist(), "mask": bits}
                operands.put(packed(elements(LANES), values))
                others.put(packed(factors(LANES), x[i].ravel().tolist()))
                shown = sum(int(bit) << lane for lane, bit in enumerate(passed[i].ravel()))
                expected.append(packed(result(LANES), {"q": found.codes[i].ravel().tolist(), "mask": shown}))
            stats = rules.statistics(found.codes, found.codes if squares else x)
            for lane in range(LANES):
                values = {name: int(part[lane]) for name, part in zip(Sums.members, stats, strict=True)}
                expected_sums.append(packed(Sums, values))
        assert await results.wait(len(expected)) == expected
        assert await sums.wait(len(expected_sums)) == expected_sums
        for _ in range(4):
            await RisingEdge(dut.clk)
        assert int(dut.clipped.value) == clipped
        assert not any(source.pending for source in sources)
        results.items.clear(), sums.items.clear()
