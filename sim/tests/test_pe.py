"""The processing elements against numpy: both kinds, contexts written while the other is read."""

from __future__ import annotations

import random

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from rtl.config import LANES, AcceleratorConfig
from rtl.pe import PopcountPE, TablePE
from sim.tests.array_model import pack_entries, subset_sums
from sim.tests.bench import compiled, run
from sim.tests.streams import start

ROUNDS = 24
IDLE = dict.fromkeys(TablePE.ports(AcceleratorConfig.preset("tiny")).keys() - {"sum"}, 0)


@pytest.mark.parametrize("unit", [TablePE, PopcountPE])
def test_pe(unit, case):
    run(compiled(unit, AcceleratorConfig.preset("tiny")), __name__, case)


@cocotb.test()
async def planes_meet_digits(dut):
    """Random planes on one context while the other one is written, signed and unsigned digits alternating."""
    rng = np.random.default_rng(random.getrandbits(32))
    await start(dut, **IDLE)
    digits = {}  # context -> (digits, signed)
    presented = []  # (whether the digits are signed, expected sum, no plane), one a cycle
    loading = 0
    for _ in range(ROUNDS):
        signed = bool(rng.integers(2))
        low, high = (-8, 8) if signed else (0, 16)
        extreme = rng.random() < 0.3
        new = rng.choice([low, high - 1], LANES) if extreme else rng.integers(low, high, LANES)
        entries = subset_sums(new, signed)
        order = rng.permutation(16)
        reading = 1 - loading
        for entry in order:
            await RisingEdge(dut.clk)
            dut.write.value, dut.entry_context.value, dut.entry_address.value = 1, loading, int(entry)
            dut.entries.value = pack_entries(entries[entry])
            present(dut, rng, digits, reading, presented)
            await check(dut, presented)
        digits[loading] = (new, signed)
        loading = reading
    assert len(presented) == 16 * ROUNDS
    assert {pause for _, _, pause in presented} == {True, False}


def present(dut, rng, digits, context, presented):
    """A plane for this cycle or, now and then, none, and the bias of the one presented four cycles ago."""
    plane = rng.integers(0, 2, LANES) if rng.random() < 0.8 else np.full(LANES, rng.integers(2))
    known, signed = digits.get(context, (None, True))
    dut.plane.value = sum(int(bit) << lane for lane, bit in enumerate(plane))
    dut.context.value = context
    # Pauses are longer than the element is deep, now and then.
    paused = presented and presented[-1][2] and rng.random() < 0.9
    valid = not paused and rng.random() < 0.95
    presented.append((signed, int(known @ plane) if valid and known is not None else None, not valid))
    dut.enable.value = int(not all(pause for _, _, pause in presented[-TablePE.LATENCY :]))
    if len(presented) > TablePE.BIAS_DELAY:
        dut.unsigned_digit.value = int(not presented[-1 - TablePE.BIAS_DELAY][0])


async def check(dut, presented):
    await ReadOnly()
    if len(presented) > TablePE.LATENCY:
        _, expected, _ = presented[-1 - TablePE.LATENCY]
        if expected is not None:
            assert dut.sum.value.to_signed() == expected
