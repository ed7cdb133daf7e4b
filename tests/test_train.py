"""Training runs: what they write, latency, refusals. On the golden board with a tiny data set."""

import json

import pytest
from runs import ITERATIONS, options

from host.backends.golden import GoldenBoard
from host.train import main
from host.training.checkpoint import load_checkpoint
from host.training.report import write_report
from host.training.summary import summarise
from host.training.trainer import DivergedError
from rtl.config import AcceleratorConfig


def test_what_a_run_writes(data, tmp_path, capsys):
    assert main(options(data, tmp_path)) == 0
    assert "test accuracy" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert summary["test_accuracy"] == records[-1]["test_accuracy"]
    assert (summary["board"], summary["epochs"], summary["iterations"]) == ("golden", 3, ITERATIONS)
    assert summary["cycles"] is summary["latency_static_cycles"] is summary["eval_cycles"] is None
    # Three stages forced after 1/2, 2/3 and 5/6 of nine iterations.
    assert [(switch["iteration"], switch["forced"]) for switch in summary["stage_switches"]] == [
        (5, True),
        (6, True),
        (8, True),
    ]
    assert summary["ddr_bytes"] is None
    for name in ("macs", "bit_macs"):
        assert summary[name] == sum(record[name] for record in records)
    # By hand, MACs a sample: conv1 16 x 9 x 16, conv2 32 x 144 x 4, conv3 32 x 288 x 4, fc 32 x 3; conv1 has no dx.
    image, rest = 16 * 9 * 16, 32 * 144 * 4 + 32 * 288 * 4 + 32 * 3
    assert summary["macs"] == 3 * 22 * (2 * image + 3 * rest)
    stages = [(3, 6)] * 5 + [(4, 6)] + [(6, 8)] * 2 + [(8, 8)]
    samples = [8, 8, 6] * 3
    cost = [
        n * ((image + rest) * f * f + (image + 2 * rest) * f * g) for n, (f, g) in zip(samples, stages, strict=True)
    ]
    assert summary["bit_macs"] == sum(cost)
    assert summary["cc"] == sum(cost) / 1024
    assert summary["cc_static"] == summary["macs"] / 16
    for name in ("loss.png", "accuracy.png", "bits.png", "report.md", "checkpoint.npz"):
        assert (tmp_path / name).stat().st_size > 0
    assert not (tmp_path / "cycles.png").exists()
    assert not list(tmp_path.glob("*.tmp"))


class ClockedBoard(GoldenBoard):
    """The golden board with a clock of one cycle per 100 bit-MACs, and a bus of one byte each way per MAC."""

    def __init__(self):
        super().__init__(AcceleratorConfig.preset("sim"))

    def counters(self):
        bus = {"read_bytes": self.macs, "write_bytes": self.macs}
        return {**super().counters(), **bus, "busy": self.bit_macs // 100}


def test_static_latency_is_measured_without_touching_the_run(trainer):
    run = trainer("static", board=ClockedBoard(), schedule="static", edge_bits=8)
    assert run.run()
    before = {name: array.tobytes() for name, array in run.learner.model.state().items()}
    noise = run.learner.noise.bit_generator.state
    summary = summarise(run.config, run.board, run.dataset, run.progress)
    # The clock rounds down at each reading: two batch sizes, so the result may be short by a cycle per iteration.
    assert abs(summary["latency_static_cycles"] - summary["cycles"]) <= ITERATIONS
    assert summary["cc"] == summary["cc_static"]
    assert summary["ddr_bytes"] == 2 * summary["macs"]
    assert summary["eval_cycles"] > 0
    # Two seconds, at 200 MHz.
    written = write_report(run.out, run.progress.records, {**summary, "cycles": 400_000_000})
    assert "cycles.png" in {path.name for path in written}
    page = (run.out / "report.md").read_text()
    assert "| Device seconds | 2.00 |" in page
    assert "| Machine | 1 cluster (sim), 6 B/cycle to and from memory, latency 50 cycles, 200 MHz assumed;" in page
    assert "convolutions and matrix products only" in page
    assert {name: array.tobytes() for name, array in run.learner.model.state().items()} == before
    assert run.learner.noise.bit_generator.state == noise


def test_divergence_keeps_the_checkpoint(trainer, data, tmp_path, capsys):
    run = trainer("diverged", lr=1e30, warmup=0.0)
    with pytest.raises(DivergedError, match=r"diverged in iteration \d+: .* a lower --lr may help"):
        run.run()
    load_checkpoint(run.out / "checkpoint.npz")
    assert main(options(data, tmp_path / "cli", lr=1e30, warmup=0.0)) == 1
    assert "error: training diverged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fw": "3,4", "bw": "6"}, "--fw names 2 stages and --bw 1"),
        ({"fw": "3,4"}, "--fw names 2 stages and --bw 4"),
        ({"fw": "1,4", "bw": "6,6"}, "--fw is (1, 4), must be 2 to 16 bits"),
        ({"fw": "3,x"}, "'3,x' is not a list of numbers"),
        ({"schedule": "static", "fw": "3,4", "bw": "6,6"}, "--schedule static takes 1 of --fw and --bw each, not 2"),
        ({"schedule": "dynamic"}, "--schedule is 'dynamic', must be one of cpt, dfq, fractrain, pfq, static"),
        ({"model": "vgg"}, "--model is 'vgg', must be one of cnn-small, resnet8"),
        ({"data": "cats"}, "no data set 'cats'"),
        ({"board": "toaster"}, "toaster"),
        ({"preset": "huge"}, "--preset is 'huge', must be one of tiny, sim, vector, z010, z020, zc706"),
        ({"clusters": 30}, "clusters is 30, must be 1 to 20"),
        ({"epochs": 0}, "--epochs is 0, must be at least 1"),
        ({"batch": 21}, "--batch 21 leaves one sample"),
        ({"batch": 1}, "--batch is 1, must be at least 2"),
        ({"lr": -1}, "--lr is -1.0, must be positive"),
        ({"guard": 2}, "--guard is 2.0"),
    ],
)
def test_bad_input_is_refused(data, tmp_path, capsys, changes, message):
    try:
        status = main(options(data, tmp_path / "out", **changes))
    except SystemExit as error:  # argparse's own way out
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_defaults_pass_all_stages_and_learn_the_digits(tmp_path, capsys, seed):
    assert main(["--board", "golden", "--out", str(tmp_path), "--seed", str(seed)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [switch["forced"] for switch in summary["stage_switches"]] == [False] * 3
    assert summary["test_accuracy"] >= 0.95
