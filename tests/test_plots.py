"""What a run draws and what it tells while it goes on."""

import pytest

from host import open_board
from host.data.datasets import load_dataset
from host.data.subset import Subset
from host.train import main
from host.training import plots
from host.training.config import TrainConfig
from host.training.summary import summarise
from host.training.trainer import Trainer

SUBSET = "fraction=0.1"
#: 143 training samples in batches of 16, the last one of 15: nine iterations an epoch.
SETTINGS = {"board": "golden", "subset": SUBSET, "batch": 16, "epochs": 1}


@pytest.fixture
def trainer(tmp_path):
    def build(**changes):
        config = TrainConfig.of(**{**SETTINGS, **changes})
        return Trainer(config, open_board(config.board), Subset.parse(SUBSET).of(load_dataset("digits")), tmp_path)

    return build


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, by name."""
    drawn = {}
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.update({path.stem: figure.axes[0]}))
    return drawn


def test_one_epoch_gives_curves(trainer, figures, tmp_path):
    run = trainer(board="golden+cycles", preset="tiny", switch=(2, 3, 7))
    assert run.run()
    records = run.progress.records
    assert plots.plot_run(tmp_path, records, "tiny", "all", bits=True) == [
        tmp_path / f"{name}.png" for name in ("loss", "accuracy", "bits", "cycles")
    ]
    ends = [i / 9 for i in range(1, 10)]
    (loss,) = figures["loss"].lines
    assert loss.get_xdata().tolist() == ends
    samples = [16] * 8 + [15]
    assert sum(n * y for n, y in zip(samples, loss.get_ydata(), strict=True)) / 143 == pytest.approx(records[0]["loss"])
    training, test = figures["accuracy"].lines
    assert sum(n * y for n, y in zip(samples, training.get_ydata(), strict=True)) == pytest.approx(
        143 * records[0]["train_accuracy"]
    )
    assert (test.get_xdata().tolist(), test.get_ydata().tolist()) == ([1], [records[0]["test_accuracy"]])
    # What was trained, and not what the run ended with.
    widths = {step.get_label(): step.get_data() for step in figures["bits"].patches}
    assert widths["forward (FW)"].values.tolist() == [3, 3, 4, 6, 6, 6, 6, 8, 8]
    assert widths["backward (BW)"].values.tolist() == [6, 6, 6, 8, 8, 8, 8, 8, 8]
    assert widths["forward (FW)"].edges.tolist() == [0, *ends]
    (cycles,) = figures["cycles"].lines
    assert cycles.get_xdata().tolist() == [0, *ends]
    assert (cycles.get_ydata()[0], cycles.get_ydata()[-1]) == (0, records[0]["cycles"])
    assert sorted(set(cycles.get_ydata())) == cycles.get_ydata().tolist()


def test_windows_end_with_the_precision_they_are_of(trainer, monkeypatch):
    monkeypatch.setattr("host.training.trainer.WINDOWS", 3)  # of six iterations
    run = trainer(epochs=2, switch=(2, 10, 14))
    assert run.run()
    windows = [window for record in run.progress.records for window in record["windows"]]
    assert [(w["iteration"], w["steps"], w["samples"], w["fw"]) for w in windows] == [
        (2, 2, 32, 3),
        (8, 6, 96, 4),
        (9, 1, 15, 4),
        (10, 1, 16, 4),
        (14, 4, 64, 6),
        (18, 4, 63, 8),
    ]


def test_evaluation_and_reference_tell_how_far_they_are(trainer):
    run, tested, measured = trainer(schedule="static"), [], []
    assert run.run(on_test=lambda done, total: tested.append((done, total)))
    assert tested == [(0, 359), (128, 359), (256, 359), (359, 359)]
    summarise(run.config, run.board, run.dataset, run.progress, lambda done, total: measured.append((done, total)))
    assert measured == [(0, 2), (1, 2), (2, 2)]


def test_they_are_shown(tmp_path, capsys):
    assert main(["--board", "golden", "--subset", SUBSET, "--epochs", "1", "--out", str(tmp_path)]) == 0
    errors = capsys.readouterr().err
    assert "test split:   0%|" in errors
    assert "static FW8/BW8 reference:   0%|" in errors


@pytest.mark.parametrize(("batch", "warned"), [("12", True), ("5", False)])
def test_a_run_too_short_for_its_schedule_says_so_first(batch, warned, tmp_path, capsys):
    given = ["--board", "golden", "--subset", SUBSET, "--batch", batch, "--epochs", "1"]
    assert main([*given, "--out", str(tmp_path)]) == 0
    errors = capsys.readouterr().err
    warning = (
        "warning: 12 iterations are too few for --schedule pfq: nothing will be trained at FW8/BW8; give more "
        "--epochs, a smaller --batch, or other stages\ntraining in "
    )
    assert errors.startswith(warning if warned else "training in ")
