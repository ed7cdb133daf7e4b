"""Two clusters in lockstep, with the table loader, against a plain model of their buffers."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from rtl.array import DRAIN_LATENCY, ClusterArray
from rtl.config import ACC_BITS, BEAT_WORDS, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.control import DRAIN_ROWS, ROW_BANKS, drain, step, stream_fill, weight_fill
from rtl.table import TableLoader, WeightSlot
from rtl.timing import array_timing
from sim.tests.array_model import ClusterModel, random_choice
from sim.tests.bench import compiled, run
from sim.tests.streams import StreamSource, start

CONFIG = AcceleratorConfig.preset("tiny", stream_depth=64)
STEP, DRAIN = step(CONFIG), drain(CONFIG)
FILLS = {"stream_fill": stream_fill(CONFIG), "weight_fill": weight_fill(CONFIG)}
POSITIONS = 12
ROUNDS = 6


class ArrayBench(wiring.Component):
    """Array and table loader, with the fill buses, the steps and the drain as ports."""

    def __init__(self, lanes: int):
        self._lanes = lanes
        super().__init__(
            {
                **{name: In(layout) for name, layout in FILLS.items()},
                "step": In(STEP),
                "weights": In(stream.Signature(WeightSlot)),
                "context_full": Out(1),
                "context_free": In(1),
                "drain_grant": Out(1),
                **{f"drain{lane}": In(DRAIN) for lane in range(lanes)},
                **{f"drain_request{lane}": In(1) for lane in range(lanes)},
                **{f"drained{lane}": Out(DRAIN_ROWS * ACC_BITS) for lane in range(lanes)},
                **{f"drained_valid{lane}": Out(1) for lane in range(lanes)},
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = ClusterArray(replace(CONFIG, managers=self._lanes))
        m.submodules.table = table = TableLoader(CONFIG)
        wiring.connect(m, wiring.flipped(self.weights), table.i)
        m.d.comb += [
            array.step.eq(self.step),
            array.table.eq(table.step),
            self.drain_grant.eq(array.drain_grant),
            self.context_full.eq(table.context_full),
            table.context_free.eq(self.context_free),
        ]
        m.d.comb += [getattr(array, name).eq(getattr(self, name)) for name in FILLS]
        for lane in range(self._lanes):
            m.d.comb += [
                array.drain[lane].eq(getattr(self, f"drain{lane}")),
                array.drain_request[lane].eq(getattr(self, f"drain_request{lane}")),
                getattr(self, f"drained{lane}").eq(array.drained[lane]),
                getattr(self, f"drained_valid{lane}").eq(array.drained_valid[lane]),
            ]
        return m


@pytest.mark.parametrize("lanes", [1, 2])
def test_array(lanes, case):
    run(compiled(ArrayBench, lanes), __name__, case, env={"LANES": lanes})


def packed(layout, values: dict) -> int:
    return layout.const(values).as_value().value


async def put_fill(dut, bus, **values):
    getattr(dut, bus).value = packed(FILLS[bus], {"valid": 1, **values})
    await RisingEdge(dut.clk)
    getattr(dut, bus).value = 0


async def fill_streams(dut, rng, models):
    """Random words into every address; some beats go to both clusters."""
    for bank in range(ROW_BANKS):
        for addr in range(CONFIG.stream_depth):
            takers = int(rng.integers(1, 4)) if addr % 8 else 3
            words = [int(w) for w in rng.integers(0, 1 << WORD_CHANNELS, BEAT_WORDS)]
            data = sum(word << WORD_CHANNELS * j for j, word in enumerate(words))
            addresses = [(addr + 5 * j) % CONFIG.stream_depth for j in range(BEAT_WORDS)]
            await put_fill(dut, "stream_fill", clusters=takers, row_bank=bank, addr=addresses, data=data)
            for i, model in enumerate(models):
                if takers >> i & 1:
                    model.words[bank, range(BEAT_WORDS), addresses] = words


async def fill_weights(dut, rng, models, slot, context, signed):
    """Digits of one context, different in each cluster."""
    low = -8 if signed else 0
    for i, model in enumerate(models):
        digits = rng.integers(low, low + 16, model.digits[context].shape)
        model.digits[context] = digits
        nibbles = (digits & 15).reshape(CONFIG.rows * TAPS, WORD_CHANNELS)
        for beat, row in enumerate(nibbles):
            data = sum(int(n) << 4 * c for c, n in enumerate(row))
            address = slot * CONFIG.weight_tile_beats + beat
            await put_fill(dut, "weight_fill", clusters=1 << i, addr=address, data=data)


def random_steps(rng, context, unsigned, clear):
    """Steps of one pass: positions in order, a few planes each."""
    for position in range(POSITIONS):
        planes = int(rng.integers(1, 4))
        for plane in range(planes):
            exponent = int(rng.integers(0, 16))
            yield {
                "valid": 1,
                "addr": rng.integers(0, CONFIG.stream_depth, (ROW_BANKS, BEAT_WORDS)).tolist(),
                **random_choice(rng, CONFIG),
                "context": context,
                "unsigned_digit": int(unsigned),
                "weight": (1 << exponent) * (-1 if rng.random() < 0.3 else 1),
                "upper": int(rng.random() < 0.3),
                "first": int(plane == 0),
                "clear": int(clear),
                "last": int(plane == planes - 1),
                "position": position,
            }


async def drainer(dut, lane, rng, wanted):
    """Asks for sums of a lane at random times; `wanted` is filled and emptied while steps run."""
    drain, drain_request = getattr(dut, f"drain{lane}"), getattr(dut, f"drain_request{lane}")
    while True:
        await RisingEdge(dut.clk)
        drain_request.value = 0
        if wanted and rng.random() < 0.7:
            drain.value = packed(DRAIN, dict(zip(("position", "cluster", "quad"), wanted[0], strict=True)))
            drain_request.value = 1
            await ReadOnly()
            if dut.drain_grant.value:
                wanted.pop(0)


async def collector(dut, lane, got):
    drained, valid = getattr(dut, f"drained{lane}"), getattr(dut, f"drained_valid{lane}")
    while True:
        await RisingEdge(dut.clk)
        await ReadOnly()
        if valid.value:
            raw = drained.value.to_unsigned()
            sums = [raw >> ACC_BITS * k & (1 << ACC_BITS) - 1 for k in range(DRAIN_ROWS)]
            got.append([s - (s >> ACC_BITS - 1 << ACC_BITS) for s in sums])


@cocotb.test()
async def passes_and_drains(dut):
    rng = np.random.default_rng(random.getrandbits(32))
    models = [ClusterModel(CONFIG) for _ in range(CONFIG.clusters)]
    lanes = int(os.environ["LANES"])
    drains = {f"{name}{lane}": 0 for name in ("drain", "drain_request") for lane in range(lanes)}
    await start(dut, stream_fill=0, weight_fill=0, step=0, context_free=0, **drains)
    weights = StreamSource(dut, "weights", idle=0.3)
    wanted, got, expected = ([[] for _ in range(lanes)] for _ in range(3))
    for lane in range(lanes):
        cocotb.start_soon(drainer(dut, lane, rng, wanted[lane]))
        cocotb.start_soon(collector(dut, lane, got[lane]))
    await fill_streams(dut, rng, models)
    for n in range(ROUNDS):
        context, signed, clear = n % 2, bool(rng.integers(2)), n % 3 == 0
        await fill_weights(dut, rng, models, n % 3, context, signed)
        weights.put(packed(WeightSlot, {"signed": signed}))
        while True:  # the context is full
            await ReadOnly()
            full = bool(dut.context_full.value)
            await RisingEdge(dut.clk)
            if full:
                break
        for s in random_steps(rng, context, not signed, clear):
            if s["first"] and rng.random() < 0.2:
                dut.step.value = 0
                await ClockCycles(dut.clk, int(rng.integers(1, 5)))
            dut.step.value = packed(STEP, s)
            await RisingEdge(dut.clk)
            for model in models:
                model.step(s)
        dut.step.value = 0
        await ClockCycles(dut.clk, array_timing(CONFIG).result_full)
        dut.context_free.value = 1
        await RisingEdge(dut.clk)
        dut.context_free.value = 0
        for position in rng.permutation(POSITIONS).tolist():
            for cluster in range(CONFIG.clusters):
                wanted[cluster % lanes].append((position, cluster // lanes, 0))
                expected[cluster % lanes].append([int(v) for v in models[cluster].sums[position]])
        if n % 3 == 2:  # these sums are not added to any more: draining may overlap with the next pass
            continue
        while any(wanted):
            await RisingEdge(dut.clk)
    while any(wanted):
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, DRAIN_LATENCY + 2)
    assert got == expected
