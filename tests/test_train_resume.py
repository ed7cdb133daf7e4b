"""Runs that are stopped, killed or out of room, and go on bit for bit. On the golden board with a tiny data set."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import options, results

from host.train import INTERRUPTED, main
from host.training import checkpoint
from host.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically

ROOT = Path(__file__).parent.parent


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


#: The second one has its weights in a board's memory.
LONG = [{"epochs": 40}, {"epochs": 8, "preset": "vector", "step": "device"}]


@pytest.mark.parametrize("long", LONG, ids=["step on the host", "step on the device"])
def test_killed_process_resumes(data, tmp_path, capsys, long):
    process = start(options(data, tmp_path / "killed", **long, checkpoint_seconds=0))
    wait_for_iteration(process, tmp_path / "killed", 4)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert main(["--out", str(tmp_path / "killed"), "--resume"]) == 0
    assert main(options(data, tmp_path / "whole", **long)) == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("killed", "whole")]
    for summary in summaries:
        del summary["seconds"], summary["host_seconds"], summary["host_work"]
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
