"""Training runs: results, restarts bit for bit, refusals. All on the golden board with a tiny data set."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from host import open_board
from host.backends.golden import GoldenBoard
from host.data.datasets import load_dataset
from host.train import INTERRUPTED, main
from host.training import checkpoint
from host.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from host.training.config import TrainConfig
from host.training.report import write_report
from host.training.summary import summarise
from host.training.trainer import DivergedError, Trainer
from rtl.config import AcceleratorConfig

ROOT = Path(__file__).parent.parent
#: Iterations of `SETTINGS`: 3 epochs of 22 samples in batches of 8, 8 and 6.
ITERATIONS = 9
SETTINGS = {"board": "golden", "epochs": 3, "batch": 8, "lr": 0.05}
#: With PFQ, the default schedule, all stages come in so few iterations.
SOON = {"guard": 0.5, "indicator_every": 1}


def settings(changes: dict) -> dict:
    """`SETTINGS` with changes."""
    return {**SETTINGS, **({} if "schedule" in changes else SOON), **changes}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An IDX folder of 22 training and 10 test images of 4 x 4 pixels: three classes, a bright row each."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(50)
    for prefix, count in (("train", 22), ("t10k", 10)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = rng.integers(0, 100, (count, 4, 4)).astype(np.uint8)
        images[np.arange(count), labels] += 120
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    return str(folder)


@pytest.fixture
def trainer(data, tmp_path):
    """Builds trainers of the same run in tmp_path / name, each as a new process would."""

    def build(name, board=None, checkpoint_seconds=1e9, **changes):
        config = TrainConfig.of(**settings({"data": data, **changes}))
        (tmp_path / name).mkdir(exist_ok=True)
        board = board or open_board("golden")
        return Trainer(config, board, load_dataset(data), tmp_path / name, checkpoint_seconds=checkpoint_seconds)

    return build


def results(out):
    """All that a run leaves behind, without the seconds that it took."""
    arrays, meta = load_checkpoint(out / "checkpoint.npz")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert records == meta["progress"]["records"]
    for record in (*records, meta["progress"]):
        record.pop("seconds")
    meta["progress"].pop("host_seconds")
    meta["progress"].pop("records")
    return {name: array.tobytes() for name, array in arrays.items()}, meta, records


@pytest.fixture
def whole(trainer):
    """The results of a run that nobody interrupts."""
    run = trainer("whole")
    assert run.run()
    return results(run.out)


class CallsUntil:
    """A stop request that comes with the n-th question."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self):
        self.calls -= 1
        return self.calls < 0


# An epoch asks before each of its three batches and before its evaluation; so 3 and 7 stop inside an evaluation.
@pytest.mark.parametrize("calls", [0, 1, 3, 4, 6, 7, 9])
def test_resumed_run_equals_the_uninterrupted_one(trainer, whole, calls):
    first = trainer("cut")
    assert not first.run(stop=CallsUntil(calls))
    second = trainer("cut")
    second.resume()
    assert second.run()
    assert results(second.out) == whole


def test_run_stopped_after_every_batch_equals_the_uninterrupted_one(trainer, whole):
    run = trainer("steps")
    while not run.run(stop=CallsUntil(2)):
        run = trainer("steps")
        run.resume()
    assert results(run.out) == whole


def test_a_line_too_many_after_a_kill_is_mended(trainer, whole):
    first = trainer("cut")
    first.run(stop=CallsUntil(6))
    metrics = first.out / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": 1, "half a li')
    second = trainer("cut")
    second.resume()
    second.run()
    assert results(second.out) == whole


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*names):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("full", ["checkpoint.npz", "metrics.jsonl", "summary.json", "bits.png", "report.md"])
def test_a_full_disk_names_the_file_and_the_way_on(data, tmp_path, monkeypatch, capsys, full, whole):
    out = tmp_path / "out"
    fsync, seen = os.fsync, []

    def fill(number):
        name = Path(os.readlink(f"/proc/self/fd/{number}")).name
        seen.append(name)
        # Checkpoint and metrics are first written when the run begins.
        if name == f"{full}.tmp" and seen.count(name) == (2 if full in ("checkpoint.npz", "metrics.jsonl") else 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(checkpoint.os, "fsync", fill)
    assert main(options(data, out)) == 1
    again = f"once that is mended, continue with: python -m host.train --out {out} --resume"
    assert f"error: [Errno 28] No space left on device: '{out / full}'; {again}\n" in capsys.readouterr().err
    assert not list(out.glob("*.tmp"))
    monkeypatch.undo()
    assert main(["--out", str(out), "--resume"]) == 0
    assert results(out) == whole
    assert {path.name for path in out.iterdir()} >= {"summary.json", "bits.png", "report.md"}


def options(data, out, /, **changes):
    given = settings({"data": data, "out": out, **changes})
    return [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "host.train", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def wait_for_iteration(process, out, iteration):
    """Until the checkpoint of a running process has come that far."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "checkpoint.npz").exists():
            _, meta = load_checkpoint(out / "checkpoint.npz")
            if meta["progress"]["iteration"] >= iteration:
                return
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"iteration {iteration} not reached: {process.communicate()[1]}")


def test_killed_process_resumes(data, tmp_path, capsys):
    long = {"epochs": 40, "checkpoint_seconds": 0}
    process = start(options(data, tmp_path / "killed", **long))
    wait_for_iteration(process, tmp_path / "killed", 4)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert main(["--out", str(tmp_path / "killed"), "--resume"]) == 0
    assert main(options(data, tmp_path / "whole", epochs=40)) == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("killed", "whole")]
    for summary in summaries:
        del summary["seconds"], summary["host_seconds"]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_resume(data, tmp_path, number):
    out = tmp_path / "stopped"
    process = start(options(data, out, epochs=1000, checkpoint_seconds=0))
    wait_for_iteration(process, out, 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert f"continue with: python -m host.train --out {out} --resume" in errors
    _, meta = load_checkpoint(out / "checkpoint.npz")
    assert f"stopped after {meta['progress']['iteration']} of 3000 iterations" in errors


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
        ({"preset": "huge"}, "--preset is 'huge', must be one of tiny, sim, zc706"),
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


def test_checkpoint_of_another_run_is_refused(data, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(options(data, out)) == 0
    for changes, message in (
        ({"model": "resnet8"}, "--model cnn-small (now resnet8)"),
        ({"epochs": 2, "seed": 1}, "--epochs 3 (now 2), --seed 0 (now 1)"),
    ):
        assert main([*options(data, out, **changes), "--resume"]) == 2
        assert f"the checkpoint belongs to a run with {message}" in capsys.readouterr().err


def test_damaged_checkpoint_is_refused(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(options(data, out)) == 0
    path = out / "checkpoint.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert main(["--out", str(out), "--resume"]) == 2
    assert "checkpoint.npz: not a checkpoint, or damaged" in capsys.readouterr().err
    path.write_bytes(b"")
    assert main(["--out", str(out), "--resume"]) == 2
    save_checkpoint(path, {}, {"format": 0})
    assert main(["--out", str(out), "--resume"]) == 2
    assert "checkpoint format 0, this program reads 1" in capsys.readouterr().err


def test_resuming_what_never_began_starts_from_the_beginning(data, tmp_path, capsys, whole):
    assert main([*options(data, tmp_path / "new"), "--resume"]) == 0
    assert "holds no checkpoint yet" in capsys.readouterr().err
    assert results(tmp_path / "new") == whole


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_defaults_pass_all_stages_and_learn_the_digits(tmp_path, capsys, seed):
    assert main(["--board", "golden", "--out", str(tmp_path), "--seed", str(seed)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [switch["forced"] for switch in summary["stage_switches"]] == [False] * 3
    assert summary["test_accuracy"] >= 0.95
