"""Training options on data and numerics: parts of a data set, augmentation, first weights, emulated numerics."""

import json

import numpy as np
import pytest

from host.emulation.baselines import NUMERICS
from host.train import main
from host.training.checkpoint import load_checkpoint


def train(out, *options):
    status = main(["--board", "golden", "--batch", "50", "--schedule", "static", "--out", str(out), *options])
    assert status == 0
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("numerics", [name for name in NUMERICS if name != "device"])
def test_emulated_numerics_train_and_are_charged(numerics, tmp_path):
    summary = train(tmp_path / "run", "--numerics", numerics, "--epochs", "1", "--subset", "fraction=0.2")
    assert summary["config"]["numerics"] == numerics
    assert summary["cc"] >= summary["cc_static"]
    assert summary["cycles"] is None


def test_emulated_numerics_need_a_board_without_a_clock(tmp_path, capsys):
    assert main(["--board", "sim", "--numerics", "affine", "--out", str(tmp_path)]) == 2
    assert "--numerics is 'affine', must be device on boards that count cycles" in capsys.readouterr().err


def test_adaptation_begins_with_the_weights_of_another_run(tmp_path):
    train(tmp_path / "old", "--epochs", "2", "--subset", "classes=0-4", "--fw", "8", "--bw", "8")
    new = tmp_path / "new"
    begun = train(new, "--epochs", "1", "--subset", "classes=5-9", "--init-from", str(tmp_path / "old"), "--lr", "1e-9")
    # The old classes are all that this model knows, and it has had no time to learn others.
    assert begun["test_accuracy"] < 0.1
    (old, _), (now, _) = (load_checkpoint(tmp_path / name / "checkpoint.npz") for name in ("old", "new"))
    np.testing.assert_allclose(now["model/conv2.weight"], old["model/conv2.weight"], atol=1e-6)


def test_first_weights_must_be_of_this_model(tmp_path, capsys):
    train(tmp_path / "old", "--epochs", "1", "--subset", "fraction=0.2")
    common = ["--board", "golden", "--out", str(tmp_path / "new"), "--init-from"]
    assert main([*common, str(tmp_path / "old"), "--model", "resnet8"]) == 2
    assert "state of another model" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_augmented_runs_continue_bit_for_bit(tmp_path):
    common = ["--augment", "crop-flip", "--epochs", "2", "--subset", "fraction=0.2"]
    whole = train(tmp_path / "whole", *common)
    again = train(tmp_path / "again", *common)
    plain = train(tmp_path / "plain", *common[2:])
    arrays = [load_checkpoint(tmp_path / name / "checkpoint.npz")[0] for name in ("whole", "again", "plain")]
    assert whole["test_accuracy"] == again["test_accuracy"]
    assert all(np.array_equal(array, arrays[1][name]) for name, array in arrays[0].items())
    assert not np.array_equal(arrays[0]["model/conv1.weight"], arrays[2]["model/conv1.weight"])
    assert plain["config"]["augment"] == "none"


def test_a_run_names_its_configuration(tmp_path):
    short = ["--board", "golden+cycles", "--epochs", "1", "--subset", "fraction=0.2"]
    whole, one = train(tmp_path / "whole", *short), train(tmp_path / "one", *short, "--preset", "sim")
    assert whole["machine"] == {
        **{"preset": "zc706", "clusters": 20, "bytes_per_cycle": 6.0, "latency": 50, "clock_mhz": 200},
        **{"managers": 2, "shared_bytes_per_cycle": 17.0},
    }
    assert (one["machine"]["preset"], one["machine"]["clusters"]) == ("sim", 1)
    assert whole["cycles"] < 0.7 * one["cycles"]
    assert whole["latency_static_cycles"] == pytest.approx(whole["cycles"], rel=0.01)  # on the same configuration
    assert 0 < whole["host_seconds"] < whole["seconds"]
    assert whole["latency_scope"] == "convolutions and matrix products only"
    _, meta = load_checkpoint(tmp_path / "whole" / "checkpoint.npz")
    assert (meta["config"]["preset"], meta["config"]["clusters"]) == ("zc706", 20)
    assert "Machine | 20 clusters (zc706)" in (tmp_path / "whole" / "report.md").read_text()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--subset", "cats", "subset 'cats'"),
        ("--subset", "classes=12", "class 12, digits has 0 to 9"),
        ("--augment", "mix", "--augment is 'mix', must be none or crop-flip"),
        ("--numerics", "magic", "--numerics is 'magic', must be one of device, affine"),
    ],
)
def test_bad_options_are_named(option, value, message, tmp_path, capsys):
    assert main(["--board", "golden", "--out", str(tmp_path), option, value]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--checkpoint-seconds nan", "argument --checkpoint-seconds: is nan, must be a number of seconds, 0 or more"),
        ("--checkpoint-seconds -1", "argument --checkpoint-seconds: is -1, must be a number of seconds, 0 or more"),
        ("--out=", "argument --out: is empty, must name a folder"),
        ("--data=", "the name of the data set is empty"),
        ("--lr inf", "--lr is inf, must be finite"),
        ("--epsilon inf", "--epsilon is inf, must be finite"),
        ("--weight-decay inf", "--weight-decay is inf, must be finite"),
        ("--schedule dfq --allow-unreachable-cp --cp nan", "--cp is (nan,), must be finite"),
        ("--schedule cpt --fw 8,3", "--fw is (8, 3), must be the least width and then the most for --schedule cpt"),
        ("--schedule cpt --bw 8,6", "--bw is (8, 6), must be the least width and then the most for --schedule cpt"),
        ("--resume --replace", "argument --replace: not allowed with argument --resume"),
    ],
)
def test_values_that_mean_nothing_are_refused(given, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["--board", "golden", *given.split()])
    except SystemExit as error:  # argparse's own way out
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.*"))
