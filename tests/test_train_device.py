"""Training runs with the device step and with micro-batches: they learn, continue bit for bit, count what they clip."""

import json

import numpy as np
import pytest

from host import open_board
from host.data.datasets import load_dataset
from host.data.subset import Subset
from host.nn.float_layers import BatchNorm2d
from host.nn.layers import Context
from host.quantise import Precision
from host.train import main
from host.training.checkpoint import load_checkpoint
from host.training.config import TrainConfig
from host.training.micro import GradientSum, pieces
from host.training.trainer import Trainer

#: PFQ through all of its stages in 18 iterations; the last batch of an epoch is smaller.
SHORT = {"board": "golden", "subset": "fraction=0.1/test=0.2", "epochs": 6, "batch": 50, "guard": 0.5}
SOON = {"indicator_every": 1, **SHORT}
ON_DEVICE = {"step": "device", "micro_batch": 16}


def options(out, **settings):
    return [f"--out={out}", *(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())]


def left(out):
    """All arrays of a run, and its counts of clipped elements."""
    arrays, meta = load_checkpoint(out / "checkpoint.npz")
    return {name: array.tobytes() for name, array in arrays.items()}, meta["progress"]["saturated"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody interrupts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(options(out, **SOON, **ON_DEVICE)) == 0
    return out


def test_the_device_step_goes_through_pfq_s_stages_and_counts_what_it_clips(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert [switch["stage"] for switch in summary["stage_switches"]] == [1, 2, 3]
    assert summary["config"]["guard_bits"] == [3, 4, 1]
    assert summary["test_accuracy"] > 0.3  # ten classes
    counts = summary["saturated"]
    assert {name.partition(".")[0] for name in counts} == {"conv1", "conv2", "conv3"}
    assert {name.partition(".")[2] for name in counts} == {"y", "h", "dz", "dy", "m", "w"}
    images = SOON["epochs"] * 143
    assert counts["conv1.y"][1] == images * 16 * 8 * 8
    assert all(0 <= clipped < 0.01 * elements for clipped, elements in counts.values())


@pytest.mark.parametrize("calls", [1, 4, 9])
def test_a_stopped_run_continues_bit_for_bit(tmp_path, whole, calls):
    config = TrainConfig.of(**SOON, **ON_DEVICE)
    data = Subset.parse(config.subset).of(load_dataset(config.data))
    asked = iter(range(100))
    first = Trainer(config, open_board("golden"), data, tmp_path)
    assert not first.run(stop=lambda: next(asked) >= calls)
    second = Trainer(config, open_board("golden"), data, tmp_path)
    second.resume()
    assert second.run()
    assert left(tmp_path) == left(whole)


def test_torch_trains_to_the_same_bits(tmp_path, whole):
    pytest.importorskip("torch")
    assert main(options(tmp_path / "run", **{**SOON, "board": "torch"}, **ON_DEVICE)) == 0
    assert left(tmp_path / "run") == left(whole)


def test_a_run_begins_with_the_weights_of_another(tmp_path, whole):
    short = {**SOON, **ON_DEVICE, "epochs": 1, "schedule": "static", "lr": 1e-9}
    del short["guard"], short["indicator_every"]
    assert main(options(tmp_path / "run", **short, init_from=whole)) == 0
    (old, _), (new, _) = (load_checkpoint(out / "checkpoint.npz") for out in (whole, tmp_path / "run"))
    np.testing.assert_allclose(new["model/conv2.weight"], old["model/conv2.weight"], atol=1e-5)


@pytest.mark.parametrize(("preset", "scope"), [("vector", "whole training steps"), ("sim", "convolutions and matrix")])
def test_summary_says_what_cycles_are_of(tmp_path, preset, scope):
    assert main(options(tmp_path, **SHORT, preset=preset, step="device")) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["latency_scope"].startswith(scope)


def test_divergence_of_the_device_step_is_named(tmp_path, capsys):
    assert main(options(tmp_path, **SOON, **ON_DEVICE, lr=1e30, warmup=0)) == 1
    assert "error: training diverged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": "moon"}, "--step is 'moon', must be one of host, device"),
        ({"step": "device", "model": "mobilenetv2"}, "--step device does not know layer"),
        ({"step": "device", "schedule": "dfq", "weight_bits": 14, "cp": 6}, "up to FW13/BW16, not FW3/BW6/W14"),
        (
            {"micro_batch": 8, "schedule": "fractrain", "model": "resnet8"},
            "has gates: it takes no --micro-batch",
        ),
        ({"step": "device", "numerics": "affine"}, "--step device needs --numerics device, not affine"),
        ({"step": "device", "schedule": "static", "fw": 14}, "--step device takes up to FW13/BW16, not FW14/BW8"),
        ({"micro_batch": 1}, "--micro-batch is 1, must be 0 or at least 2"),
        ({"step": "host", "guard_bits": "3,4,1"}, "--guard-bits is (3, 4, 1), must be left out without --step device"),
        ({"step": "device", "guard_bits": "3,4"}, "--guard-bits is (3, 4), must be bits of y, h and dz"),
        ({"step": "device", "guard_bits": "3,0,1"}, "--guard-bits is 3,0,1, must be 0 to 4 for y, 1 to 4 for h"),
        ({"step": "device", "guard_bits": "3,4,3"}, "--guard-bits is 3,4,3, must be 0 to 4 for y, 1 to 4 for h"),
    ],
)
def test_what_the_device_step_does_not_take_is_refused(tmp_path, capsys, settings, message):
    assert main(options(tmp_path / "run", board="golden", **settings)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "step", "preset"),
    [
        ({}, "device", "vector"),
        ({"board": "sim"}, "device", "vector"),
        ({"preset": "vector", "model": "resnet8"}, "device", "vector"),
        ({"preset": "sim"}, "host", "sim"),
        ({"board": "torch"}, "host", "sim"),
        ({"board": "golden+cycles"}, "host", "zc706"),
        ({"model": "mobilenetv2"}, "host", "sim"),
        ({"numerics": "affine"}, "host", "sim"),
        ({"schedule": "fractrain", "model": "resnet8"}, "device", "vector"),
        ({"schedule": "dfq", "options": "3/6,14/8"}, "host", "sim"),
        ({"schedule": "static", "fw": (14,)}, "host", "sim"),
        ({"step": "host"}, "host", "sim"),
    ],
)
def test_the_device_step_is_the_default_where_all_of_it_runs(settings, step, preset):
    config = TrainConfig.of(**{"board": "golden", **settings})
    assert (config.step, config.preset) == (step, preset)


# Micro-batches in floating point ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "most", "sizes"),
    [(64, 0, [64]), (64, 16, [16] * 4), (29, 8, [8, 7, 7, 7]), (5, 8, [5]), (9, 8, [5, 4])],
)
def test_a_batch_is_cut_into_equal_pieces(samples, most, sizes):
    assert pieces(samples, most) == sizes


def test_gradients_add_up_by_the_share_of_their_micro_batch(rng):
    """Of a batch norm, whose gradients at its parameters are those of each micro-batch by itself."""
    layer, context = BatchNorm2d(3), Context(open_board("golden"), Precision(8, 8), share=0.5)
    x, dy = rng.standard_normal((2, 4, 3, 2, 2))
    sums, expected = GradientSum(layer), []
    for part, share in ((slice(0, 1), 0.25), (slice(1, 4), 0.75)):
        layer.forward(x[part], context)
        layer.backward(dy[part], context)
        expected.append(layer.grads["gain"] * share)
        sums.add(share)
    sums.store()
    np.testing.assert_allclose(layer.grads["gain"], expected[0] + expected[1])


def test_running_statistics_move_by_the_share_of_a_micro_batch(rng):
    layer, x = BatchNorm2d(3), rng.standard_normal((4, 3, 2, 2)) + 1
    layer.forward(x, Context(open_board("golden"), Precision(8, 8), share=0.25))
    np.testing.assert_allclose(layer.buffers["mean"], 0.025 * x.mean(axis=(0, 2, 3)))


def test_one_micro_batch_is_the_whole_batch_and_more_are_not(tmp_path):
    for name, most in (("whole", 0), ("one", 50), ("many", 10)):
        assert main(options(tmp_path / name, **{**SOON, "epochs": 1}, micro_batch=most)) == 0
    whole, one, many = (load_checkpoint(tmp_path / name / "checkpoint.npz")[0] for name in ("whole", "one", "many"))
    assert all(np.array_equal(array, one[name]) for name, array in whole.items())
    assert not np.array_equal(whole["model/conv1.weight"], many["model/conv1.weight"])
    np.testing.assert_allclose(whole["model/fc.weight"], many["model/fc.weight"], atol=0.2)
