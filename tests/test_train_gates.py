"""Training whose samples choose their own precision, and planned switches: results, restarts, refusals."""

import json

import numpy as np
import pytest

from host.backends import open_board
from host.data.datasets import load_dataset
from host.data.subset import Subset
from host.nn.mixed import option_cp, parse_options
from host.nn.optim import cosine_lr
from host.train import main
from host.training.checkpoint import load_checkpoint
from host.training.config import TrainConfig
from host.training.gate_plot import block_bits
from host.training.learner import cost_push
from host.training.trainer import Trainer

#: 144 training samples in batches of 48: three iterations an epoch.
SETTINGS = {"board": "golden", "step": "host", "subset": "fraction=0.1", "batch": 48, "epochs": 3, "lr": 0.05}
OPTIONS = ["--board", "golden", "--step", "host", "--subset", "fraction=0.1", "--batch", "48", "--epochs", "3"]


@pytest.fixture(scope="module")
def dataset():
    return Subset.parse(SETTINGS["subset"]).of(load_dataset("digits"))


@pytest.fixture
def trainer(dataset, tmp_path):
    """Builds trainers of a run in tmp_path / name, each as a new process would."""

    def build(name, **changes):
        (tmp_path / name).mkdir(exist_ok=True)
        config = TrainConfig.of(**{**SETTINGS, **changes})
        return Trainer(config, open_board("golden"), dataset, tmp_path / name, checkpoint_seconds=1e9)

    return build


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def results(out):
    """All that a run leaves behind, without the seconds that it took and what the host did meanwhile."""
    arrays, meta = load_checkpoint(out / "checkpoint.npz")
    records = [{**record, "seconds": 0} for record in lines(out)]
    meta["progress"] = {**meta["progress"], "seconds": 0, "host_seconds": 0, "host_work": {}, "records": records}
    return {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}, meta, records


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "dfq", "cp": (2.6,)},
        {"schedule": "fractrain", "indicator": "loss", "switch": (2, 4, 7), "model": "resnet8", "options": "0,3/6,8/8"},
        {"schedule": "cpt", "cycles": 2},
        {"schedule": "dfq", "step": "device", "preset": "sim", "options": "3/6,6/8", "cp": (2.2,), "epochs": 1},
    ],
)
def test_a_run_stopped_after_every_batch_equals_the_whole_one(trainer, changes):
    whole = trainer("whole", **changes)
    assert whole.run()
    stops = 0
    while True:
        part = trainer("parts", **changes)
        if stops:
            part.resume()
        begun = part.progress.iteration
        if part.run(stop=lambda part=part, begun=begun: begun < part.progress.iteration < part.iterations):
            break
        stops += 1
    assert stops == whole.iterations - 1
    assert results(part.out) == results(whole.out)


def test_what_a_fractrain_run_writes(tmp_path, dataset):
    settings = ["--schedule", "fractrain", "--model", "resnet8", "--options", "0,3/6,8/8", "--cp", "1,2,3"]
    assert main([*OPTIONS, *settings, "--switch", "2,7", "--out", str(tmp_path)]) == 0
    records = lines(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(s["iteration"], s["cp"], s["forced"]) for s in summary["stage_switches"]] == [(2, 2, False), (7, 3, False)]
    windows = [window for record in records for window in record["gates"]]
    assert [window["iteration"] for window in windows] == list(range(1, 10))
    assert [window["target"] for window in windows] == [1, 1, 2, 2, 2, 2, 2, 3, 3]
    # By hand, forward MACs of a block: two 3x3 convolutions each, and the shortcuts.
    macs = np.array(
        [2 * 9 * 16 * 16 * 64, (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) * 16, 3 * 9 * 32 * 64 * 4 + 32 * 64 * 4]
    )
    costs = [option_cp(option) for option in parse_options("0,3/6,8/8", 4)]
    for window in windows:
        counts = np.array(list(window["counts"].values()))
        assert counts.sum(axis=1).tolist() == [window["samples"]] * 3
        assert window["cp"] == pytest.approx(macs @ (counts @ costs) / macs.sum() / window["samples"])
        assert window["push"] == cost_push(window["cp"], window["target"], 0.1)
    for record in records:
        cps, samples = zip(*((window["cp"], window["samples"]) for window in record["gates"]), strict=True)
        assert record["cp"] == pytest.approx(np.average(cps, weights=samples))
    bits = block_bits(windows, parse_options("0,3/6,8/8", 4))
    first = windows[0]["counts"]["group1_block1"]
    assert bits["group1_block1"][0] == pytest.approx((3 * first[1] + 8 * first[2]) / 48)
    assert 0 < summary["cc"] < summary["cc_static"]
    # Three projections and LSTM steps, forward and two gradients, for every sample of three epochs.
    steps = (16 + 16 + 32) * 16 + 3 * (32 * 64 + 16 * 3)
    assert summary["cc_gates"] == 3 * steps * 3 * len(dataset.train)
    assert (tmp_path / "gates.png").stat().st_size > 0
    assert not (tmp_path / "bits.png").exists()
    page = (tmp_path / "report.md").read_text()
    assert "cp 2 % from iteration 2; cp 3 % from iteration 7" in page
    assert "cp in the last epoch" in page


def test_the_gates_hold_their_target(tmp_path):
    common = ["--board", "golden", "--step", "host", "--schedule", "dfq", "--epochs", "8"]
    assert main([*common, "--cp", "2.4", "--out", str(tmp_path)]) == 0
    assert [record["cp"] for record in lines(tmp_path)[-3:]] == pytest.approx([2.4] * 3, rel=0.05)


def test_gates_learn_at_the_peak_rate_to_the_end(trainer):
    run = trainer("run", schedule="dfq", momentum=0.0, weight_decay=0.0)
    gate, last_layer = run.learner.model.gate, dict(run.learner.model.walk())["fc."]
    seen = []

    def look(loss, precision):
        seen.append(
            [(layer.params[name], layer.grads[name]) for layer, name in ((gate, "head"), (last_layer, "weight"))]
        )

    assert run.run(on_step=look)
    warmup = round(run.config.warmup * run.iterations)
    falling = cosine_lr(run.config.lr, run.iterations - 1, run.iterations, warmup)
    assert falling < run.config.lr / 20
    for (before, _), (after, gradient), rate in zip(seen[-2], seen[-1], (run.config.lr, falling), strict=True):
        assert np.any(gradient)
        np.testing.assert_allclose(after, before - rate * gradient, rtol=1e-6)


def test_cpt_trains_at_the_widths_of_its_cycles(tmp_path):
    assert main([*OPTIONS, "--schedule", "cpt", "--cycles", "2", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    # Nine iterations, cycles of four: 3, 3.73, 5.5, 7.27 and once more, then 3.
    switches = [(switch["iteration"], switch["fw"]) for switch in summary["stage_switches"]]
    assert switches == [(1, 4), (2, 6), (3, 7), (4, 3), (5, 4), (6, 6), (7, 7), (8, 3)]


def test_push_is_proportional_near_the_target():
    assert [cost_push(cp, 2.0, 0.1) for cp in (1.0, 1.75, 2.0, 2.25, 4.0)] == [-1, -1, 0, 1, 1]
    assert cost_push(1.9, 2.0, 0.1) == pytest.approx(-0.5)
    # The paper's sign alone.
    assert [cost_push(cp, 2.0, 0.0) for cp in (1.99, 2.0, 2.01)] == [-1, 1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "--schedule fractrain --cp 1.5,2,2.5,3",
            "--cp 1.5 cannot be reached: with --options 3/6,4/6,4/8,6/8,6/12 and",
        ),
        ("--schedule fractrain --cp 1.5,2,2.5,3", "the cost is 1.758 to 4.688 percent"),
        ("--schedule dfq --cp 5", "--cp 5 cannot be reached"),
        ("--schedule dfq --cp nan", "--cp nan cannot be reached"),
        ("--schedule dfq --cp 2,3", "--schedule dfq has one target, but --cp names 2"),
        ("--schedule pfq --cp 2", "--cp needs --schedule dfq or fractrain, not pfq"),
        ("--schedule dfq --options 3/6,4", "--options 3/6,4: '4' is neither 0 nor"),
        ("--schedule dfq --options 0,3/6", "--cp 3 cannot be reached"),
        ("--schedule dfq --options 0,3/6,8/8", "option 0 skips blocks, but conv2 of this model has no shortcut"),
        ("--schedule dfq --weight-bits 1", "--weight-bits is 1, must be 2 to 16 bits"),
        ("--schedule dfq --numerics affine", "--schedule dfq needs --numerics device, not affine"),
        ("--schedule dfq --fw 3,4 --bw 6,6", "--schedule dfq takes 1 of --fw and --bw each, not 2"),
        ("--schedule dfq --beta 0", "--beta is 0.0, must be positive"),
        ("--schedule dfq --band -1", "--band is -1.0, must be 0 or more"),
        ("--schedule cpt --fw 8 --bw 8", "--schedule cpt takes 2 of --fw and --bw each, not 1"),
        ("--schedule cpt --cycles 10", "10 cycles of precision do not fit into 9 iterations"),
        ("--switch 3,5", "--switch names 2 iterations; 4 stages take 3"),
        ("--switch 3,5,5", "--switch is (3, 5, 5), must rise from above 0"),
        ("--switch 3,5,9", "--switch 9 lies behind the end of the run, iteration 9"),
        ("--schedule static --guard 0.5", "--guard needs --schedule fractrain or pfq, not static"),
        ("--schedule static --switch 3", "--switch needs --schedule fractrain or pfq, not static"),
        ("--indicator peak", "--indicator is 'peak', must be cross-entropy or loss"),
        ("--lr-schedule linear", "--lr-schedule is 'linear', must be one of cosine, step"),
    ],
)
def test_bad_input_is_refused(tmp_path, capsys, given, message):
    assert main([*OPTIONS, *given.split(), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "checkpoint.npz").exists()


def test_an_unreachable_target_can_be_accepted(tmp_path):
    common = [*OPTIONS, "--schedule", "dfq", "--cp", "1.5", "--lr", "0.5", "--beta", "1"]
    assert main([*common, "--allow-unreachable-cp", "--out", str(tmp_path)]) == 0
    assert lines(tmp_path)[-1]["cp"] == pytest.approx(option_cp(parse_options("3/6", 4)[0]), rel=1e-3)


def test_a_network_without_gates_can_be_fine_tuned_with_some(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    assert main([*OPTIONS, "--model", "resnet8", "--schedule", "static", "--out", str(old)]) == 0
    gated = ["--model", "resnet8", "--schedule", "dfq", "--init-from", str(old), "--lr", "1e-9"]
    assert main([*OPTIONS, *gated, "--out", str(new)]) == 0
    (before, _), (after, _) = (load_checkpoint(out / "checkpoint.npz") for out in (old, new))
    for name in ("group1_block1.{}body.conv1.weight", "group2_block1.{}shortcut.conv.weight", "fc.weight"):
        np.testing.assert_allclose(
            after["model/" + name.format("block.")], before["model/" + name.format("")], atol=1e-6
        )
    # With gates it goes on from a checkpoint of its own.
    assert main([*OPTIONS, *gated[:4], "--init-from", str(new), "--out", str(tmp_path / "newer")]) == 0


def test_a_checkpoint_without_gates_is_of_another_run(tmp_path, capsys):
    assert main([*OPTIONS, "--schedule", "static", "--out", str(tmp_path)]) == 0
    before = (tmp_path / "checkpoint.npz").read_bytes()
    assert main([*OPTIONS, "--schedule", "dfq", "--resume", "--out", str(tmp_path)]) == 2
    assert "--schedule static (now dfq)" in capsys.readouterr().err
    gated = ["--schedule", "dfq", "--model", "resnet8", "--init-from", str(tmp_path)]
    assert main([*OPTIONS, *gated, "--out", str(tmp_path / "new")]) == 2
    assert "state of another model" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
