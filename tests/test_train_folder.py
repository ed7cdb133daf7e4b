"""The folder of a run: nobody loses one, and nobody shares one."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from host.train import INTERRUPTED, main
from host.training import checkpoint
from host.training.checkpoint import load_checkpoint
from host.training.folder import LOCK, RESULTS, Claim, FolderInUseError, claim

ROOT = Path(__file__).parent.parent
#: 143 training samples in batches of 48: three iterations an epoch.
SHORT = ["--board", "golden", "--subset", "fraction=0.1", "--batch", "48", "--epochs", "1", "--schedule", "static"]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The files of a run that has ended."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main([*SHORT, "--out", str(out)]) == 0
    return content(out)


@pytest.fixture
def old(finished, tmp_path):
    """A folder with that run."""
    (tmp_path / "old").mkdir()
    for name, data in finished.items():
        (tmp_path / "old" / name).write_bytes(data)
    return tmp_path / "old"


@pytest.mark.parametrize("how", [[], ["--replace"], ["--resume"]])
@pytest.mark.parametrize(
    "wrong",
    [
        ["--board", "foo"],
        ["--data", "nowhere"],
        ["--init-from", "nowhere"],
        ["--schedule", "pfq", "--switch", "1,2,999"],
        ["--schedule", "dfq", "--options", "0,3/6,8/8"],
        ["--batch", "71"],
        ["--lr", "inf"],
    ],
)
def test_a_start_that_fails_touches_nothing(how, wrong, old, finished, capsys):
    assert main([*SHORT, "--out", str(old), *how, *wrong]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert "training in" not in errors
    assert content(old) == finished


def test_a_start_that_fails_leaves_no_folder(tmp_path):
    assert main([*SHORT, "--out", str(tmp_path / "new"), "--board", "foo"]) == 2
    assert not (tmp_path / "new").exists()


def test_a_run_is_not_replaced_unasked(old, finished, capsys):
    assert main([*SHORT, "--seed", "1", "--out", str(old)]) == 2
    message = capsys.readouterr().err
    assert f"{old} holds a run: choose another --out" in message
    assert "--resume" in message
    assert "--replace" in message
    assert content(old) == finished


def test_replacing_leaves_nothing_of_the_old_run(old, finished):
    (old / "gates.png").write_bytes(b"of an older one")
    assert main([*SHORT, "--seed", "1", "--replace", "--out", str(old)]) == 0
    assert json.loads((old / "summary.json").read_text())["seed"] == 1
    assert content(old).keys() == finished.keys()
    assert "gates.png" not in finished


def test_a_beginning_cut_short_loses_nothing(old, finished, monkeypatch, capsys):
    """Where even the first checkpoint of a new run cannot be written, the old one is still there."""

    def fail(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    assert main([*SHORT, "--seed", "1", "--replace", "--out", str(old)]) == 1
    assert "No space left on device: " in capsys.readouterr().err
    monkeypatch.undo()
    assert not (old / "summary.json").exists()
    assert main([*SHORT, "--resume", "--out", str(old)]) == 0
    again = content(old)
    assert again.keys() == finished.keys()
    assert all(again[name] == finished[name] for name in ("summary.json", "metrics.jsonl", "report.md"))


def test_a_run_begins_in_place_of_the_one_whose_weights_it_takes(old):
    assert main([*SHORT, "--replace", "--init-from", str(old), "--lr", "1e-9", "--out", str(old)]) == 0


def test_every_run_gets_a_folder_by_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(SHORT) == 0
    first = content(tmp_path / "build" / "train")
    assert main([*SHORT, "--seed", "1"]) == 0
    assert content(tmp_path / "build" / "train") == first
    assert json.loads(Path("build/train-2/summary.json").read_text())["seed"] == 1
    assert "report in build/train-2" in capsys.readouterr().out
    # What lies between has no say, and the last one is continued.
    Path("build/train-old").mkdir()
    Path("build/train-old/summary.json").touch()
    assert main([*SHORT, "--epochs", "2", "--seed", "1", "--resume"]) == 0
    assert json.loads(Path("build/train-2/summary.json").read_text())["epochs"] == 2
    assert not Path("build/train-3").exists()


def test_default_folders_in_use_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with claim(None, resume=False, replace=False) as first, claim(None, resume=False, replace=False) as second:
        assert (str(first), str(second)) == ("build/train", "build/train-2")


def test_a_finished_run_can_be_lengthened(old, finished, tmp_path, capsys):
    assert main([*SHORT, "--resume", "--out", str(old)]) == 0
    assert f"the run in {old} has ended; more --epochs would lengthen it" in capsys.readouterr().out
    assert content(old) == finished
    assert main([*SHORT, "--resume", "--epochs", "3", "--out", str(old)]) == 0
    summary = json.loads((old / "summary.json").read_text())
    assert (summary["epochs"], summary["iterations"], summary["config"]["epochs"]) == (3, 9, 3)
    assert summary["lengthened"] == [{"iteration": 3, "epochs": 1}]
    records = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    (first,) = [json.loads(line) for line in finished["metrics.jsonl"].decode().splitlines()]
    assert records[0] == first
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert "| Lengthened | from 1 epochs at iteration 3 |" in (old / "report.md").read_text()
    # It does not get shorter again.
    assert main([*SHORT, "--resume", "--epochs", "2", "--out", str(old)]) == 2
    assert "--epochs 3 (now 2)" in capsys.readouterr().err


def test_a_lengthened_run_has_not_ended(old):
    """Stopped after its old end, it keeps no results of the shorter run, and goes on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "host.train", *SHORT, "--resume", "--epochs", "500", "--out", old], cwd=ROOT
    )
    wait_until(lambda: load_checkpoint(old / "checkpoint.npz")[1]["progress"]["epoch"] > 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == INTERRUPTED
    assert not [name for name in RESULTS if (old / name).exists()]


def test_a_run_without_its_checkpoint_is_neither_continued_nor_replaced(old, capsys):
    (old / "checkpoint.npz").unlink()
    before = content(old)
    assert main([*SHORT, "--resume", "--out", str(old)]) == 2
    assert "holds a run, but not checkpoint.npz" in capsys.readouterr().err
    assert content(old) == before


def test_an_out_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*SHORT, "--out", str(tmp_path / "file")]) == 2
    assert "file is a file, must be a folder" in capsys.readouterr().err


# Two runs, one folder -----------------------------------------------------------------------------------------------


def wait_until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(tmp_path, capsys):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "host.train", *SHORT, "--epochs", "100000", "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until((out / "checkpoint.npz").exists)
    for how in ([], ["--resume"], ["--replace"]):
        assert main([*SHORT, *how, "--out", str(out)]) == 2
        assert f"{out} is in use by process {process.pid} on " in capsys.readouterr().err
    # The lock of a killed run is none.
    process.kill()
    process.wait()
    assert (out / LOCK).exists()
    assert main([*SHORT, "--replace", "--out", str(out)]) == 0
    assert not (out / LOCK).exists()


def test_a_lock_without_a_name_counts_too(tmp_path):
    with open(tmp_path / LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FolderInUseError, match="in use by another process"):
            Claim(tmp_path)


def _owns_alone(folder, path, times):
    for _ in range(times):
        while True:
            try:
                mine = Claim(folder)
                break
            except FolderInUseError:
                pass
        with mine:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # fails if another one is inside
            os.unlink(path)


def test_one_owner_at_a_time(tmp_path):
    """Owners that come and go, each removing the lock's file and the folder with it."""
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "shared", str(tmp_path / "inside"), 200)
    processes = [context.Process(target=_owns_alone, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_folder_that_is_removed_while_it_is_taken(tmp_path, monkeypatch):
    """The last owner removes the folder between the refusal to make it again and the look at what stands there."""
    folder, make, refused = tmp_path / "shared", os.mkdir, []

    def mkdir(path, *mode, **options):
        if not refused:
            refused.append(path)
            raise FileExistsError(path)
        make(path, *mode, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with Claim(folder):
        assert folder.is_dir()
    assert refused == [folder]


def test_link_to_nothing(tmp_path):
    folder = tmp_path / "shared"
    folder.symlink_to(tmp_path / "nothing")
    with pytest.raises(NotADirectoryError, match="shared"):
        Claim(folder)
