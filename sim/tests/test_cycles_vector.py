"""The cycle model against the RTL: every kind of vector pass that a training step makes, alone and beside products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from host.backends.driver import RegisterBoard
from host.bench import difference, print_table
from host.bench_step import kind, record, shape
from host.cycles.model import CycleModel
from host.quantise import Precision
from host.ring import RESERVED_BYTES
from rtl.config import AcceleratorConfig
from rtl.ddr import MEMORIES, Ddr
from rtl.isa import Descriptor, Flag, Opcode
from sim.tests.vector_passes import Space, drawn_pass
from sim.verilated import VerilatedTransport

#: Accepted error of the model in % of a program's cycles, and of those of all programs.
ACCEPTED = 2.0, 0.3
#: The same of a pass beside a product: who waits for whom is only modelled row by row and tile by tile.
BESIDE = 9.0, 2.0
#: The same where channels wait for each other because the memory carries no more: reads go before writes in the
#: simulated one, which shows in passes so short that buffers hold a good part of them.
EXHAUSTED = 9.0, 2.0
COLUMNS = {"work": "{work}", "RTL": "{rtl:,}", "model": "{model:,}", "error": "{error:+.2f}%"}
MEMORY = 1 << 28


def recorded(config: AcceleratorConfig, batch: int, precision: Precision) -> list[list[Descriptor]]:
    step = record(config, "resnet8", (3, 32, 32), batch, precision, memory_bytes=MEMORY)
    return [run.descriptors for run in step.runs]


def compare(
    config: AcceleratorConfig, ddr: Ddr, programs: Sequence[list[Descriptor]], accepted: tuple[float, float]
) -> None:
    """Each program alone, those that are equal but for places once; memory is such that no plane is skipped."""
    board = RegisterBoard("sim", VerilatedTransport(config, memory_bytes=MEMORY, ddr=ddr))
    model, rows, seen = CycleModel(config, ddr), [], set()
    ones = np.full(MEMORY // 4 - RESERVED_BYTES, 0xFF, np.uint8)
    for program in programs:
        what = tuple(model._key(d) for d in program)
        if what in seen:
            continue
        seen.add(what)
        if any(d.opcode != Opcode.VECTOR for d in program):
            board.write(RESERVED_BYTES, ones)
        before = board.counters()
        board.run(program)
        rtl, ours = difference(board.counters(), before), model.program(program)
        for name in ("read_bytes", "write_bytes", "exec_busy", "vector_busy"):
            assert getattr(ours, name) == rtl[name], name
        error = 100 * (ours.busy / rtl["busy"] - 1)
        work = ", ".join(f"{kind(d, of_host=False)} {shape(d)}" for d in program)
        rows.append({"work": work, "rtl": rtl["busy"], "model": ours.busy, "error": error})
    board.close()
    print_table(COLUMNS, rows)
    assert max(abs(row["error"]) for row in rows) <= accepted[0]
    assert sum(row["model"] for row in rows) == pytest.approx(sum(row["rtl"] for row in rows), rel=accepted[1] / 100)


def alone(d: Descriptor) -> list[Descriptor]:
    return [replace(d, flags=d.flags & ~Flag.FENCE)]


def passes(runs: list[list[Descriptor]]) -> list[list[Descriptor]]:
    return [alone(d) for run in runs for d in run if d.opcode == Opcode.VECTOR]


def mixed(runs: list[list[Descriptor]]) -> list[list[Descriptor]]:
    """Runs in which a pass and a product have no fence between them, in either order."""
    found = []
    for run in runs:
        for first, second in pairwise(run):
            kinds = {first.opcode == Opcode.VECTOR, second.opcode == Opcode.VECTOR}
            if kinds == {True, False} and not second.flags & Flag.FENCE:
                pair = [*alone(first), second]
                found += [pair, [*alone(second), *alone(first)]]
    return found


@pytest.mark.parametrize("managers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_every_pass_of_a_step_and_products_beside(managers):
    config = AcceleratorConfig.preset("vector", clusters=managers, managers=managers)
    runs = recorded(config, 2, Precision(4, 6))
    compare(config, MEMORIES["pl-ddr"], passes(runs), ACCEPTED)
    compare(config, MEMORIES["pl-ddr"], mixed(runs), BESIDE)


def test_random_passes():
    """Of all kinds that there are, most of them so short that single cycles count."""
    config = AcceleratorConfig.preset("vector", clusters=2, managers=2)
    programs = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        space = Space(rng, 1 << 20)
        space.take(RESERVED_BYTES)
        as_digits = {"vector_sink": 1, "width": 1 + seed % 16, "q_planes": 1 + seed % 15}
        programs.append([drawn_pass(rng, space, **(as_digits if seed % 2 else {"vector_sink": 0}))])
    compare(config, MEMORIES["pl-ddr"], programs, BESIDE)


def test_every_pass_with_a_memory_that_its_ports_exhaust():
    config = AcceleratorConfig.preset("vector", clusters=2, managers=2)
    runs = recorded(config, 4, Precision(8, 8))
    compare(config, MEMORIES["ps-ddr"], passes(runs), EXHAUSTED)


@pytest.mark.slow
@pytest.mark.parametrize("managers", [1, 2])
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_whole_step(managers, memory):
    """As it is submitted, fences and all."""
    config = AcceleratorConfig.preset("vector", clusters=managers, managers=managers)
    runs = recorded(config, 16, Precision(8, 8))
    exhausts = MEMORIES[memory].usable < 2 * managers * MEMORIES[memory].bandwidth
    programs = [run for run in runs if any(d.opcode == Opcode.VECTOR for d in run)]
    compare(config, MEMORIES[memory], programs, EXHAUSTED if exhausts else BESIDE)
