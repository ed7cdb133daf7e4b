"""What finished runs take on other configurations, against runs that counted it themselves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from host.machine import Machine
from host.recost import batches, main, read_run, recost
from host.train import main as train
from rtl.config import AcceleratorConfig

RECORDED = Path(__file__).parent.parent / "docs" / "experiments" / "resnet20" / "recorded"
SHORT = ["--board", "golden+cycles", "--subset", "fraction=0.1", "--batch", "48", "--epochs", "2", "--preset", "sim"]


def costs(folder: Path, clusters: int) -> dict:
    return recost(*read_run(folder), "sim", AcceleratorConfig.preset("sim", clusters=clusters))


def test_runs_of_the_time_of_one_manager_are_read():
    summary, _ = read_run(RECORDED / "static")
    assert "managers" not in summary["machine"]
    assert Machine(**summary["machine"]).managers == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--schedule", "pfq", "--fw", "4,8", "--bw", "6,8", "--switch", "4"], 0.01),
        (["--schedule", "dfq", "--model", "resnet8", "--options", "0,3/6,8/8"], 0.02),
    ],
)
def test_the_same_configuration_costs_what_the_run_counted(tmp_path, options, error):
    assert train([*SHORT, *options, "--out", str(tmp_path)]) == 0
    summary, _ = read_run(tmp_path)
    again, more = costs(tmp_path, 1), costs(tmp_path, 4)
    assert again["cycles"] == pytest.approx(summary["cycles"], rel=error)
    assert again["static_cycles"] == pytest.approx(summary["latency_static_cycles"], rel=0.01)
    assert again["ddr_bytes"] == pytest.approx(summary["ddr_bytes"], rel=error)
    assert more["cycles"] < 0.9 * again["cycles"]
    assert (more["clusters"], more["recorded_clusters"]) == (4, 1)


def test_batches_of_an_epoch_end_with_what_is_left():
    # 10 samples in batches of 4: 4, 4, 2.
    assert batches(10, 4, 0, 6) == Counter({4: 4, 2: 2})
    assert batches(10, 4, 1, 3) == Counter({4: 1, 2: 1})
    assert batches(8, 4, 0, 3) == Counter({4: 3})


def test_the_published_runs_can_be_read():
    for name in ("static", "pfq", "fractrain"):
        summary, records = read_run(RECORDED / name)
        assert (summary["machine"]["clusters"], summary["iterations"], len(records)) == (1, 1955, 5)


@pytest.mark.slow
def test_the_published_run_costs_what_it_counted_on_one_cluster():
    summary, _ = read_run(RECORDED / "pfq")
    again = costs(RECORDED / "pfq", 1)
    # The accelerator's latencies have changed by a little since.
    assert again["cycles"] == pytest.approx(summary["cycles"], rel=0.03)
    assert again["ddr_bytes"] == pytest.approx(summary["ddr_bytes"], rel=1e-3)


def test_the_command_names_the_configuration(tmp_path, capsys):
    assert train([*SHORT, "--schedule", "static", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    table = tmp_path / "table.json"
    assert main([str(tmp_path / "run"), "--clusters", "1,20", "--json", str(table)]) == 0
    assert [row["clusters"] for row in json.loads(table.read_text())] == [1, 20]
    printed = capsys.readouterr().out
    assert "1 cluster (zc706)" in printed
    assert "20 clusters (zc706)" in printed
    assert "convolutions and matrix products only" in printed


def test_bad_input_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    assert main([str(tmp_path)]) == 2
    assert "summary.json: the summary lacks board, cc" in capsys.readouterr().err
    assert main([str(tmp_path), "--clusters", "40"]) == 2
    assert "clusters is 40, must be 1 to 20" in capsys.readouterr().err
