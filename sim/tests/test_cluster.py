"""One cluster driven at its own ports: every control input at the cycle that the cluster states."""

from __future__ import annotations

import random
from collections import defaultdict

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from rtl.cells import Accumulator, Select
from rtl.cluster import Cluster
from rtl.config import ACC_BITS, BEAT_WORDS, LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.control import DRAIN_ROWS, ROW_BANKS, Shift, step, stream_fill, table_step, weight_fill
from rtl.pe import processing_element
from rtl.result import ResultBank
from rtl.table import SubsetSums
from rtl.timing import array_timing
from sim.tests.array_model import ClusterModel, random_choice
from sim.tests.bench import compiled, run
from sim.tests.streams import start

CONFIG = AcceleratorConfig.preset("tiny", clusters=1, rows=16, stream_depth=64, vector=True)
STREAM, WEIGHT, TABLE = stream_fill(CONFIG), weight_fill(CONFIG), table_step(CONFIG)
BANKS = {name: step(CONFIG)[name].shape for name in ("addr", "column", "row")}
POSITIONS = 10
TIMING = array_timing(CONFIG)
LATENCY = processing_element(CONFIG).LATENCY
PORTS = [name for name, member in Cluster.ports(CONFIG).items() if name != "drained"]


def test_cluster(case):
    run(compiled(Cluster, CONFIG), __name__, case)


def packed(layout, values) -> int:
    return layout.const(values).as_value().value


class Script:
    """What each port carries in each cycle; 0 where nothing is said."""

    def __init__(self):
        self.values = defaultdict(dict)
        self.end = 0

    def at(self, cycle: int, port: str, value: int) -> None:
        assert port not in self.values[cycle], f"{port} is used twice in cycle {cycle}"
        self.values[cycle][port] = value
        self.end = max(self.end, cycle)


def write_tables(script: Script, cycle: int, context: int, signed: bool) -> int:
    """The table steps that turn weight tile 0 into a context, as `TableLoader` makes them. Returns the cycle after."""
    for row in range(CONFIG.rows):
        steps = defaultdict(dict)
        for tap in range(TAPS):
            steps[cycle + tap]["fetch_addr"] = row * TAPS + tap
            steps[cycle + tap + 1]["capture"] = 1 << tap
        first = cycle + TAPS + 2
        for entry in range(16):
            gray = entry ^ entry >> 1
            lane = (entry & -entry).bit_length() - 1 if entry else 0
            steps[first + entry] |= {"start": int(entry == 0), "lane": lane, "leave": int(not gray >> lane & 1)}
            steps[first + entry]["signed"] = int(signed)
            steps[first + entry + 1] |= {"write": 1 << row, "entry": gray, "context": context}
        for when, values in steps.items():
            script.at(when, "table", packed(TABLE, values))
        cycle = first + 17
    return cycle + SubsetSums.ENTRY_LATENCY  # on their way to the rows


@cocotb.test()
async def passes(dut):
    rng = np.random.default_rng(random.getrandbits(32))
    model = ClusterModel(CONFIG)
    script, cycle = Script(), 0
    for bank in range(ROW_BANKS):
        for addr in range(CONFIG.stream_depth):
            words = rng.integers(0, 1 << WORD_CHANNELS, BEAT_WORDS)
            data = sum(int(word) << WORD_CHANNELS * j for j, word in enumerate(words))
            values = {"valid": 1, "row_bank": bank, "addr": [addr] * BEAT_WORDS, "data": data}
            script.at(cycle, "stream_fill", packed(STREAM, values))
            script.at(cycle, "stream_take", int(addr != 7))  # another cluster's
            if addr != 7:
                model.words[bank, :, addr] = words
            cycle += 1
    checks = {}  # cycle -> four sums
    for n in range(3):
        signed, context = bool(n % 2), n % 2
        digits = rng.integers(-8 if signed else 0, 8 if signed else 16, (CONFIG.rows, LANES))
        for beat, nibbles in enumerate((digits & 15).reshape(-1, WORD_CHANNELS)):
            data = sum(int(v) << 4 * c for c, v in enumerate(nibbles))
            script.at(cycle, "weight_fill", packed(WEIGHT, {"valid": 1, "addr": beat, "data": data}))
            script.at(cycle, "weight_take", 1)
            cycle += 1
        model.digits[context] = digits
        cycle = write_tables(script, cycle, context, signed)
        for position in range(POSITIONS):
            planes = int(rng.integers(1, 4))
            for plane in range(planes):
                s = {
                    "addr": rng.integers(0, CONFIG.stream_depth, (ROW_BANKS, BEAT_WORDS)).tolist(),
                    **random_choice(rng, CONFIG),
                    "context": context,
                    "weight": int(rng.choice([-1, 1])) << int(rng.integers(16)),
                    "upper": int(rng.integers(2)),
                    "first": plane == 0,
                    "clear": n == 0,
                    "last": plane == planes - 1,
                    "position": position,
                }
                # addr 7 was never written here: its words are unknown
                s["addr"] = [[8 if a == 7 else a for a in row] for row in s["addr"]]
                script.at(cycle, "addr", packed(BANKS["addr"], s["addr"]))
                script.at(cycle + TIMING.column, "column", packed(BANKS["column"], s["column"]))
                script.at(cycle + TIMING.row, "row", packed(BANKS["row"], s["row"]))
                script.at(cycle + TIMING.row, "kill", s["kill"])
                script.at(cycle + TIMING.shift, "shift", Shift.const(s["shift"]).as_value().value)
                script.at(cycle + TIMING.context, "context", context)
                for working in range(LATENCY):
                    script.values[cycle + TIMING.context + working]["active"] = 1
                for working in range(Accumulator.LATENCY):
                    script.values[cycle + TIMING.weight + working]["accumulate"] = 1
                script.at(cycle + TIMING.bias, "unsigned_digit", int(not signed))
                script.at(cycle + TIMING.weight, "weight", s["weight"] & (1 << 18) - 1)
                script.at(cycle + TIMING.weight, "upper", s["upper"])
                if s["first"]:
                    script.at(cycle + TIMING.read, "read_addr", position)
                base = (Select.ZERO if s["clear"] else Select.C) if s["first"] else Select.ACC
                script.at(cycle + TIMING.select, "select", base.value)
                if s["last"]:
                    script.at(cycle + TIMING.store, "write", 1)
                    script.at(cycle + TIMING.store, "write_addr", position)
                model.step(s)
                # A pause now and then, shorter or longer than the elements are deep.
                cycle += 1 + (int(rng.integers(1, 2 * LATENCY)) if rng.random() < 0.2 else 0)
        cycle += TIMING.store + 2
        for position in range(POSITIONS):
            for quad in range(CONFIG.rows // DRAIN_ROWS):
                script.at(cycle, "read_addr", position)
                script.at(cycle + ResultBank.READ_LATENCY, "quad", quad)
                checks[cycle + Cluster.DRAIN_LATENCY] = [
                    int(v) for v in model.sums[position][quad * DRAIN_ROWS :][:DRAIN_ROWS]
                ]
                cycle += 1
        cycle += Cluster.DRAIN_LATENCY + 1
    await start(dut, **dict.fromkeys(PORTS, 0))
    for now in range(script.end + 5):
        for port in PORTS:
            getattr(dut, port).value = script.values[now].get(port, 0)
        await ReadOnly()
        if now in checks:
            raw = dut.drained.value.to_unsigned()
            sums = [raw >> ACC_BITS * k & (1 << ACC_BITS) - 1 for k in range(DRAIN_ROWS)]
            assert [s - (s >> ACC_BITS - 1 << ACC_BITS) for s in sums] == checks.pop(now)
        await RisingEdge(dut.clk)
    assert not checks
