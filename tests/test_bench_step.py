"""The whole training step by the cycle model: what is recorded is what a board is given, and everything is charged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from host.backends.golden import GoldenBoard
from host.bench import main
from host.bench_step import Host, kind, modelled, record
from host.cycles.model import CycleModel
from host.nn.models import build_model
from host.quantise import Precision
from host.step.device import DeviceStep
from host.step.tensors import Storage
from rtl.config import AcceleratorConfig
from rtl.ddr import MEMORIES
from rtl.isa import Descriptor, Opcode

CONFIG = AcceleratorConfig.preset("vector", clusters=3, managers=2)
IMAGE = (3, 16, 16)


class Watched(GoldenBoard):
    """The golden model, which remembers what it was given."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(config, 1 << 26)
        self.given: list[list[Descriptor]] = []

    def run(self, descriptors) -> None:
        self.given.append(list(descriptors))
        super().run(descriptors)


def test_a_recorded_step_is_what_a_board_is_given():
    """Of the second step, by all that takes time."""
    board, rng = Watched(CONFIG), np.random.default_rng(3)
    step = DeviceStep(
        build_model("resnet8", IMAGE, 10, seed=0, edge_bits=2),
        board,
        image=IMAGE,
        micro_batch=2,
        storage=Storage(),
        seed=0,
        momentum=0.9,
        weight_decay=1e-4,
    )
    for _ in range(2):
        board.given.clear()
        step.gradients(rng.standard_normal((4, *IMAGE)).astype(np.float32), rng.integers(0, 10, 4), Precision(4, 6))
        step.optimiser.step(0.1)
    recorded = record(CONFIG, "resnet8", IMAGE, 4, Precision(4, 6), micro_batch=2, memory_bytes=1 << 26)
    model = CycleModel(CONFIG)
    assert [[model._key(d) for d in run.descriptors] for run in recorded.runs] == [
        [model._key(d) for d in run] for run in board.given
    ]


@pytest.fixture(scope="module")
def recorded():
    return record(CONFIG, "resnet8", IMAGE, 6, Precision(8, 8))


def test_rows_and_what_bounds_them_add_up(recorded):
    step = modelled(CONFIG, MEMORIES["ps-ddr"], recorded, Host(barrier_us=5))
    model = CycleModel(CONFIG, MEMORIES["ps-ddr"])
    busy = sum(row.cycles.busy for row in step.rows)
    programs = [model.program(run.descriptors) for run in recorded.runs]
    assert busy == pytest.approx(sum(cycles.busy for cycles in programs), rel=0.003)
    assert step.ddr_bytes == sum(cycles.read_bytes + cycles.write_bytes for cycles in programs)
    host = len(recorded.runs) * 5 * 200 + 6 * 10 * 200
    assert step.cycles == pytest.approx(busy + host)
    report = step.report(Host(barrier_us=5), "ps-ddr")
    assert sum(report["bound_by"].values()) == pytest.approx(1)
    assert report["images_per_second"] * report["cycles_per_image"] == pytest.approx(200e6)
    assert 0 < report["roof_fraction"] < 1
    assert report["host"]["bytes"]["coefficients"]["write_bytes"] > 0
    kinds = {kind(d, of_host=given) for run in recorded.runs for d, given in zip(*run, strict=True)}
    assert kinds > {"forward", "input gradient", "store y", "ReLU", "ReLU of a sum", "dy", "store dz", "momentum"}


def test_a_pass_of_many_samples_takes_what_follows_from_a_few(recorded):
    """`segments` puts it together; the whole is what `program` finds."""
    model = CycleModel(CONFIG, MEMORIES["ps-ddr"])
    passes = {model._key(d): d for run in recorded.runs for d in run.descriptors if d.opcode == Opcode.VECTOR}
    for d in passes.values():
        if d.width == 16 and d.height > 1:
            d.samples = 37
            [segment] = model.segments([d])
            whole = model.program([d])
            assert segment.cycles.busy == pytest.approx(whole.busy, rel=0.005)
            assert (segment.cycles.read_bytes, segment.cycles.write_bytes) == (whole.read_bytes, whole.write_bytes)


def test_the_command(tmp_path, capsys):
    options = ["--step", "--net", "cnn-small", "--image", "1x8x8", "--batch", "4", "--clusters", "2"]
    reports = []
    for more in ([], ["--memory", "pl-ddr", "--barrier-us", "0", "--micro-batch", "2", "--preset", "z020"]):
        assert main([*options, *more, "--json", str(tmp_path / "step.json")]) == 0
        reports.append(json.loads((tmp_path / "step.json").read_text()))
    printed = capsys.readouterr().out
    assert printed.count("with a vector unit, which preset") == printed.count("which preset z020 does not have") == 1
    assert "images/s at 200 MHz" in printed
    first, second = (report["step"] for report in reports)
    assert (first["memory"], second["memory"]) == ("ps-ddr", "pl-ddr")
    assert first["bound_by"]["barriers"] > 0 == second["bound_by"]["barriers"]
    assert second["host"]["barriers"] > first["host"]["barriers"]
    assert reports[1]["machine"]["shared_bytes_per_cycle"] > reports[0]["machine"]["shared_bytes_per_cycle"] > 16


def test_a_step_that_no_unit_computes(capsys):
    with pytest.raises(SystemExit):
        main(["--step", "--net", "cnn-small", "--image", "1x8x80"])
    error = capsys.readouterr().err
    assert (
        "the device does not compute steps of cnn-small, but arrays of the host, as rows of 80 pixels exceed" in error
    )


def test_memories_of_boards_that_have_their_own(capsys):
    with pytest.raises(SystemExit):
        main(["--board", "golden", "--memory", "ps-ddr"])
    assert "--memory is for modelled and simulated memories, not for board golden" in capsys.readouterr().err
