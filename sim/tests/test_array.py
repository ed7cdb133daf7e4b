"""Two clusters in lockstep, with the table loader, against a plain model of their buffers."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from rtl.array import DRAIN_LATENCY, ClusterArray
from rtl.config import ACC_BITS, BEAT_WORDS, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.control import DRAIN_ROWS, ROW_BANKS, drain, fill, step
from rtl.table import TableLoader, WeightSlot
from rtl.timing import array_timing
from sim.tests.array_model import ClusterModel
from sim.tests.bench import compiled, run
from sim.tests.streams import StreamSource, start

CONFIG = AcceleratorConfig.preset("tiny", stream_depth=64)
STEP, FILL, DRAIN = step(CONFIG), fill(CONFIG), drain(CONFIG)
POSITIONS = 12
ROUNDS = 6


class ArrayBench(wiring.Component):
    """Array and table loader, with the fill bus, the steps and the drain as ports."""

    def __init__(self):
        super().__init__(
            {
                "fill": In(FILL),
                "step": In(STEP),
                "weights": In(stream.Signature(WeightSlot)),
                "context_full": Out(1),
                "context_free": In(1),
                "drain": In(DRAIN),
                "drain_request": In(1),
                "drain_grant": Out(1),
                "drained": Out(DRAIN_ROWS * ACC_BITS),
                "drained_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = ClusterArray(CONFIG)
        m.submodules.table = table = TableLoader(CONFIG)
        wiring.connect(m, wiring.flipped(self.weights), table.i)
        m.d.comb += [
            array.fill.eq(self.fill),
            array.step.eq(self.step),
            array.table.eq(table.step),
            array.drain.eq(self.drain),
            array.drain_request.eq(self.drain_request),
            self.drain_grant.eq(array.drain_grant),
            self.drained.eq(array.drained),
            self.drained_valid.eq(array.drained_valid),
            self.context_full.eq(table.context_full),
            table.context_free.eq(self.context_free),
        ]
        return m


def test_array(case):
    run(compiled(ArrayBench), __name__, case)


def packed(layout, values: dict) -> int:
    return layout.const(values).as_value().value


async def put_fill(dut, **values):
    dut.fill.value = packed(FILL, values)
    await RisingEdge(dut.clk)
    dut.fill.value = 0


async def fill_streams(dut, rng, models):
    """Random words into every address; some beats go to both clusters."""
    for bank in range(ROW_BANKS):
        for addr in range(CONFIG.stream_depth):
            takers = int(rng.integers(1, 4)) if addr % 8 else 3
            words = [int(w) for w in rng.integers(0, 1 << WORD_CHANNELS, BEAT_WORDS)]
            data = sum(word << WORD_CHANNELS * j for j, word in enumerate(words))
            addresses = [(addr + 5 * j) % CONFIG.stream_depth for j in range(BEAT_WORDS)]
            await put_fill(dut, clusters=takers, stream=1, row_bank=bank, addr=addresses, data=data)
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
            await put_fill(dut, clusters=1 << i, weight=1, weight_addr=address, data=data)


def random_steps(rng, context, unsigned, clear):
    """Steps of one pass: positions in order, a few planes each."""
    for position in range(POSITIONS):
        planes = int(rng.integers(1, 4))
        for plane in range(planes):
            exponent = int(rng.integers(0, 16))
            yield {
                "valid": 1,
                "addr": rng.integers(0, CONFIG.stream_depth, (ROW_BANKS, BEAT_WORDS)).tolist(),
                "column": int(rng.integers(BEAT_WORDS)),
                "row": int(rng.integers(ROW_BANKS)),
                "kill": int(rng.integers(1 << TAPS)) if rng.random() < 0.3 else 0,
                "context": context,
                "unsigned_digit": int(unsigned),
                "weight": (1 << exponent) * (-1 if rng.random() < 0.3 else 1),
                "upper": int(rng.random() < 0.3),
                "first": int(plane == 0),
                "clear": int(clear),
                "last": int(plane == planes - 1),
                "position": position,
            }


async def drainer(dut, rng, wanted, got):
    """Asks for sums at random times; `wanted` is filled and emptied while steps run."""
    while True:
        await RisingEdge(dut.clk)
        dut.drain_request.value = 0
        if wanted and rng.random() < 0.7:
            request = wanted[0]
            dut.drain.value = packed(DRAIN, dict(zip(("position", "cluster", "quad"), request, strict=True)))
            dut.drain_request.value = 1
            await ReadOnly()
            if dut.drain_grant.value:
                got["granted"].append(wanted.pop(0))


async def collector(dut, got):
    while True:
        await RisingEdge(dut.clk)
        await ReadOnly()
        if dut.drained_valid.value:
            raw = dut.drained.value.to_unsigned()
            sums = [raw >> ACC_BITS * k & (1 << ACC_BITS) - 1 for k in range(DRAIN_ROWS)]
            got["sums"].append([s - (s >> ACC_BITS - 1 << ACC_BITS) for s in sums])


@cocotb.test()
async def passes_and_drains(dut):
    rng = np.random.default_rng(random.getrandbits(32))
    models = [ClusterModel(CONFIG) for _ in range(CONFIG.clusters)]
    await start(dut, fill=0, step=0, context_free=0, drain=0, drain_request=0)
    weights = StreamSource(dut, "weights", idle=0.3)
    wanted, got = [], {"granted": [], "sums": []}
    cocotb.start_soon(drainer(dut, rng, wanted, got))
    cocotb.start_soon(collector(dut, got))
    await fill_streams(dut, rng, models)
    expected = []
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
                wanted.append((position, cluster, 0))
                expected.append([int(v) for v in models[cluster].sums[position]])
        if n % 3 == 2:  # these sums are not added to any more: draining may overlap with the next pass
            continue
        while wanted:
            await RisingEdge(dut.clk)
    while wanted:
        await RisingEdge(dut.clk)
    await ClockCycles(dut.clk, DRAIN_LATENCY + 2)
    assert len(got["sums"]) == len(expected)
    assert got["sums"] == expected
