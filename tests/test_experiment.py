"""Experiments: configuration files, runs that are skipped and continued, and the table of what they left."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from host import experiment
from host.machine import Machine
from host.train import INTERRUPTED
from host.training.comparison import write_comparison
from host.training.config import TrainConfig
from rtl.config import AcceleratorConfig

EXAMPLES = Path(__file__).parent.parent / "docs" / "experiments"
CC = {"static": 1000, "pfq": 500}
CYCLES = {"static": 2000, "pfq": 1100}


def config_file(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.toml").write_text(text)
    return folder / f"{name}.toml"


def fake_run(
    out: Path, *, cycles: int | None, cc: int, board: str = "golden", clusters=1, accuracies=(0.5, 0.8), **settings
):
    """The files of a run of two epochs."""
    config = TrainConfig.of(board="golden", **settings)
    machine = asdict(Machine.of("sim", AcceleratorConfig.preset("sim", clusters=clusters)))
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            **{"epoch": i, "iteration": 23 * (i + 1), "test_accuracy": accuracy, "stage_switches": []},
            **{
                "loss": 0.5,
                "train_accuracy": accuracy,
                "fw": config.schedule.fw[-1],
                "bw": config.schedule.bw[-1],
                "seconds": 1.5 * i,
            },
            **{"cycles": cycles, "ddr_bytes": cycles, "bit_macs": 1024 * cc, "macs": 16 * cc},
        }
        for i, accuracy in enumerate(accuracies)
    ]
    summary = {
        "dataset": {"image": [1, 8, 8], "classes": 10, "samples": 1438},
        **{
            "board": board,
            "machine": machine,
            "epochs": 2,
            "host_seconds": 2.5,
            "iterations": 46,
            "cycles": cycles,
            "stage_switches": [],
            "config": config.to_json(),
        },
        **{"cc": 2 * cc, "cc_static": 2 * CC["static"], "latency_static_cycles": cycles and 2 * CYCLES["static"]},
    }
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "summary.json").write_text(json.dumps(summary))


class FakeTrain:
    """In the place of `host.train.main`: notes its calls and leaves the files of a run."""

    def __init__(self, *statuses: int):
        self.statuses, self.calls = list(statuses), []

    def __call__(self, arguments) -> int:
        options = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
        self.calls.append(options)
        status = self.statuses.pop(0) if self.statuses else 0
        if status == 0:
            schedule = options.get("schedule", "pfq")
            fake_run(Path(options["out"]), cycles=CYCLES[schedule], cc=CC[schedule], schedule=schedule)
        return status


def runs_in(folder: Path) -> list[experiment.Run]:
    static = config_file(folder, "static", 'board = "golden"\nschedule = "static"\nmethod = "SBM"\n')
    return [experiment.read_run(path) for path in (static, config_file(folder, "pfq", 'board = "golden"\n'))]


def test_a_configuration_file_is_a_command_line(tmp_path):
    path = config_file(
        tmp_path, "a", 'method = "mine"\nboard = "golden"\nfw = [4, 8]\nbw = [6, 8]\nlr = 1\nepochs = 2\n'
    )
    run = experiment.read_run(path)
    assert (run.name, run.method, run.config.schedule.fw, run.config.lr) == ("a", "mine", (4, 8), 1)
    out = tmp_path / "out"
    wanted = [f"--out={out}", "--board=golden", "--fw=4,8", "--bw=6,8", "--lr=1", "--epochs=2"]
    assert experiment.arguments(run, out) == wanted
    out.mkdir()
    (out / "checkpoint.npz").touch()
    assert experiment.arguments(run, out) == [*wanted, "--resume"]
    assert experiment.read_run(path, {"board": "sim"}).config.board == "sim"


def test_all_runs_may_be_given_a_configuration(tmp_path, monkeypatch):
    path = config_file(tmp_path, "a", 'board = "golden+cycles"\n')
    assert (experiment.read_run(path).config.preset, experiment.read_run(path).config.clusters) == ("zc706", 20)
    given = []
    monkeypatch.setattr(experiment, "run_all", lambda runs, out: given.extend(runs) or 0)
    monkeypatch.setattr(experiment, "write_comparison", lambda out, names: [])
    assert experiment.main([str(path), "--preset", "sim", "--clusters", "4", "--out", str(tmp_path)]) == 0
    config = given[0].config
    assert (config.preset, config.clusters, config.accelerator.clusters) == ("sim", 4, 4)
    assert experiment.arguments(given[0], tmp_path)[-2:] == ["--preset=sim", "--clusters=4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"a\.toml: unknown setting 'epoch'; there are method, board, .*epochs"),
        ("epochs = 2.5", r"a\.toml: epochs is 2\.5, must be a value such as 10"),
        ("fw = 3", r"a\.toml: fw is 3, must be a value such as \[\]"),
        ("epochs = 0", r"a\.toml: --epochs is 0, must be at least 1"),
        ("epochs = true", r"a\.toml: epochs is True"),
        ("method = 3", r"a\.toml: method is 3, must be a text"),
        ("epochs 3", r"a\.toml: .*line 1"),
    ],
)
def test_wrong_configurations_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        experiment.read_run(config_file(tmp_path, "a", text))


def test_the_examples_are_sound():
    examples = sorted(EXAMPLES.glob("*/*.toml"))
    assert examples
    for path in examples:
        experiment.read_run(path)


def test_finished_runs_are_skipped_and_stopped_ones_continued(tmp_path, capsys):
    runs, out = runs_in(tmp_path / "configs"), tmp_path / "out"
    train = FakeTrain(0, INTERRUPTED)
    assert experiment.run_all(runs, out, train) == INTERRUPTED
    assert len(train.calls) == 2
    (out / "pfq" / "checkpoint.npz").touch()
    again = FakeTrain()
    assert experiment.run_all(runs, out, again) == 0
    assert [call["out"] for call in again.calls] == [str(out / "pfq")]
    assert "resume" in again.calls[0]
    assert experiment.run_all(runs, out, FakeTrain(1)) == 0
    assert "static: finished already" in capsys.readouterr().out


def test_a_failed_run_does_not_keep_the_others(tmp_path):
    runs, out = runs_in(tmp_path / "configs"), tmp_path / "out"
    assert experiment.run_all(runs, out, FakeTrain(1, 0)) == 1
    assert (out / "pfq" / "summary.json").exists()


def test_a_finished_run_with_other_settings_is_refused(tmp_path):
    runs, out = runs_in(tmp_path / "configs"), tmp_path / "out"
    fake_run(out / "pfq", cycles=1, cc=1, epochs=3)
    train = FakeTrain()
    with pytest.raises(ValueError, match=r"holds a finished run with epochs = 3 \(now 10\)"):
        experiment.run_all(runs, out, train)
    assert not train.calls


def test_the_table(tmp_path):
    runs, out = runs_in(tmp_path / "configs"), tmp_path / "out"
    experiment.run_all(runs, out, FakeTrain())
    written = write_comparison(out, ["static", "pfq"])
    assert [path.name for path in written] == [
        *("table.md", "table.json", "accuracy_epochs.png", "accuracy_cc.png", "accuracy_cycles.png"),
    ]
    static, pfq = json.loads((out / "table.json").read_text())
    assert (static["method"], pfq["method"], pfq["reference"]) == ("SBM", "pfq", "static")
    assert pfq["full"]["executed_saving"] == pytest.approx(0.5)
    assert pfq["full"]["cycles_saving"] == pytest.approx(0.45)
    assert pfq["full"]["conversion_executed"] == pytest.approx(0.9)
    assert pfq["full"]["paper_saving"] > 0.5  # FW3/BW6 for FW8/BW8 throughout
    assert static["full"]["conversion_executed"] is None
    text = (out / "table.md").read_text()
    assert text.startswith("## cnn-small on digits\n")
    assert "| SBM | 80.00% / 80.00% |" in text
    assert "| 50.0% | 45.0% | 0.900 |" in text
    assert text.endswith("* 1 cluster (sim), 6 B/cycle to and from memory, latency 50 cycles, 200 MHz assumed\n")
    assert "convolutions and matrix products only" in text


def test_cycles_of_different_machines_are_not_compared(tmp_path):
    static = {"cc": CC["static"], "schedule": "static"}
    fake_run(tmp_path / "one", cycles=CYCLES["static"], clusters=1, **static)
    fake_run(tmp_path / "four", cycles=CYCLES["static"] // 4, clusters=4, **static)
    fake_run(tmp_path / "pfq", cycles=300, cc=CC["pfq"], clusters=4)
    fake_run(tmp_path / "eight", cycles=300, cc=CC["pfq"], clusters=8)
    fake_run(tmp_path / "nowhere", cycles=None, cc=CC["pfq"])
    write_comparison(tmp_path)
    rows = {row["run"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert rows["pfq"]["reference"] == "four"
    assert rows["pfq"]["full"]["cycles_saving"] == pytest.approx(0.4)
    assert (rows["pfq"]["machine"]["clusters"], rows["eight"]["machine"]["clusters"]) == (4, 8)
    assert rows["eight"]["reference"] is None
    # A run without cycles has none to compare, and its computation is that of any machine.
    assert rows["nowhere"]["reference"] in ("one", "four")
    assert rows["nowhere"]["full"]["executed_saving"] == pytest.approx(0.5)


def test_runs_from_elsewhere(tmp_path):
    fake_run(tmp_path / "b", cycles=1000, cc=500, board="golden+cycles", accuracies=(0.9, 0.8))
    fake_run(tmp_path / "a", cycles=None, cc=500)
    (tmp_path / "unfinished").mkdir()
    assert experiment.main(["--out", str(tmp_path)]) == 0
    first, second = json.loads((tmp_path / "table.json").read_text())
    assert (first["run"], first["full"]["cycles"], first["reference"]) == ("a", None, None)
    assert (second["accuracy_best"], second["accuracy_final"]) == (0.9, 0.8)
    assert second["best"]["cycles"] == 1000
    assert second["full"]["device_seconds"] == pytest.approx(2000 / 200e6)
    # Without a static run, the run's own estimate of one is the reference.
    assert second["full"]["conversion_executed"] == pytest.approx(1.0)
    assert "2,000 (modelled)" in (tmp_path / "table.md").read_text()


def test_damaged_and_missing_files_are_named(tmp_path, capsys):
    assert experiment.main(["--out", str(tmp_path)]) == 2
    assert "holds no finished run yet" in capsys.readouterr().err
    fake_run(tmp_path / "a", cycles=1, cc=1)
    (tmp_path / "a" / "metrics.jsonl").write_text("{}\n")
    assert experiment.main(["--out", str(tmp_path)]) == 2
    assert "a holds no complete run of host.train" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(tmp_path, capsys):
    paths = [str(config_file(tmp_path / folder, "a", "epochs = 1")) for folder in ("x", "y")]
    assert experiment.main([*paths, "--out", str(tmp_path / "out")]) == 2
    assert "two configuration files are named a" in capsys.readouterr().err


def test_a_real_run_from_the_command_line(tmp_path, capsys):
    text = 'board = "golden"\nschedule = "static"\nfw = [3]\nbw = [3]\nepochs = 1\nbatch = 128\n'
    path = config_file(tmp_path, "tiny", text)
    arguments = [str(path), "--out", str(tmp_path / "out")]
    assert experiment.main(arguments) == 0
    assert (tmp_path / "out" / "tiny" / "summary.json").exists()
    (row,) = json.loads((tmp_path / "out" / "table.json").read_text())
    # All but the input gradient of the first layer, at the same widths.
    assert 0.9 < row["full"]["executed"] / row["full"]["paper"] < 1
    capsys.readouterr()
    assert experiment.main(arguments) == 0
    assert "tiny: finished already" in capsys.readouterr().out
