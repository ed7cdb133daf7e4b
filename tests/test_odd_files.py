"""Files of a run that can be read and say odd things: whoever reads them names the file and what is wrong."""

import copy
import json
import re

import numpy as np
import pytest

from host import experiment, open_board
from host.data.datasets import load_dataset
from host.data.subset import Subset
from host.train import main
from host.training.checkpoint import load_checkpoint, save_checkpoint
from host.training.config import TrainConfig
from host.training.forms import check
from host.training.trainer import Trainer

SUBSET = "fraction=0.05"
#: 72 training samples in batches of 24: three iterations an epoch.
SETTINGS = ["--board", "golden", "--subset", SUBSET, "--batch", "24", "--epochs", "1", "--lr", "0.05"]


@pytest.fixture(scope="module", params=["pfq", "dfq"])
def finished(request, tmp_path_factory):
    """A run that has ended."""
    out = tmp_path_factory.mktemp("finished") / request.param
    assert main([*SETTINGS, "--schedule", request.param, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    folder = tmp_path / finished.name
    folder.mkdir()
    for path in finished.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(value, path, new):
    """Put `new` in the place that a path of keys and numbers names, or remove what is there if `new` is `remove`."""
    *outer, last = path
    for key in outer:
        value = value[key]
    if new is remove:
        del value[last]
    else:
        value[last] = new


def remove():
    """Stands for nothing."""


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (["format"], [], r"checkpoint format \[\], this program reads 1"),
        (["config"], remove, "the checkpoint lacks config"),
        (["config"], [3], r"the checkpoint.config is \[3\], must be dict"),
        (["config", "epochs"], "3", "the setting epochs is '3', must be int"),
        (["config", "epochs"], 0, "--epochs is 0, must be at least 1"),
        (["config", "fw"], [8, "x"], r"the setting fw\[1\] is 'x', must be int"),
        (["config", "seed"], remove, "the settings differ from this program's in: seed"),
        (["progress"], None, "the checkpoint.progress is None, must be dict"),
        (["progress", "luck"], 1, "the checkpoint.progress holds luck, which this program does not know"),
        (["progress", "batch"], remove, "the checkpoint.progress lacks batch"),
        (["progress", "epoch"], 7, "epoch 7 of 1, with records of 1"),
        (["progress", "batch"], -1, "iteration 3 in batch -1 of epoch 1; an epoch has 3 batches"),
        (["progress", "seconds"], float("nan"), "the checkpoint.progress.seconds is nan, must be float"),
        (["progress", "train"], {"macs": None}, "the checkpoint.progress.train.macs is None, must be int"),
        (
            ["progress", "saturated", "conv1.y", 0],
            remove,
            r"clipped elements of conv1.y are \[\d+\], must be those and",
        ),
        (["progress", "records", 0], {}, r"the checkpoint.progress.records\[0\] lacks bit_macs, bw, cycles"),
        (["progress", "records", 0, "loss"], True, r"records\[0\].loss is True, must be float"),
        (["schedule"], {"luck": 0}, "state of another schedule: "),
        (["gates"], [], r"the checkpoint.gates is \[\], must be dict"),
        (["gates", "open"], {"steps": 1}, "the checkpoint.gates.open is {'steps': 1}, must be"),
        (["noise"], {"bit_generator": "MT19937"}, "checkpoint.npz: "),
    ],
)
def test_odd_checkpoints_are_named(path, new, message, run, capsys):
    arrays, meta = load_checkpoint(run / "checkpoint.npz")
    change(meta, path, new)
    save_checkpoint(run / "checkpoint.npz", arrays, meta)
    assert main(["--out", str(run), "--resume"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {run / 'checkpoint.npz'}: ")
    assert re.search(message, errors)


@pytest.mark.parametrize(
    ("how", "name", "array", "message"),
    [
        *(
            (how, "model/fc.weight", array, message)
            for how in ("--resume", "--init-from")
            for array, message in (
                (None, "state of another model: fc.weight not in both"),
                (np.zeros(3, np.float32), r"state of another model: fc.weight is \(3,\)"),
                (np.zeros((10, 32), "U3"), "array 'model/fc.weight' is of <U3"),
            )
        ),
        ("--resume", "velocity/fc.weight", np.zeros(3, np.float32), r"optimiser state of another model: fc.weight is"),
        ("--resume", "luck/fc.weight", np.zeros(3, np.float32), "belongs to neither model nor velocity"),
    ],
)
def test_odd_arrays_are_named(how, name, array, message, run, capsys):
    arrays, meta = load_checkpoint(run / "checkpoint.npz")
    arrays.pop(name, None)
    if array is not None:
        arrays[name] = array
    save_checkpoint(run / "checkpoint.npz", arrays, meta)
    resume = ["--out", str(run), "--resume"]
    start = [*SETTINGS, "--schedule", run.name, "--init-from", str(run), "--out", str(run / "new")]
    assert main(resume if how == "--resume" else start) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {run / 'checkpoint.npz'}: ")
    assert re.search(message, errors)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (["schedule", "stage"], 4, "IndexError"),
        (["schedule", "stage"], 0.5, "the schedule's stage is 0.5, must be int"),
        (["schedule", "losses"], ["low"], r"the schedule's losses\[0\] is 'low', must be float"),
        (["schedule", "iteration"], 1, "the schedule is in iteration 1, the run in 3"),
    ],
)
def test_odd_schedules_are_named(path, new, message, tmp_path, capsys):
    assert main([*SETTINGS, "--out", str(tmp_path)]) == 0
    arrays, meta = load_checkpoint(tmp_path / "checkpoint.npz")
    change(meta, path, new)
    save_checkpoint(tmp_path / "checkpoint.npz", arrays, meta)
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--resume"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {tmp_path / 'checkpoint.npz'}: ")
    assert re.search(message, errors)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_checkpoints_of_other_content(content, run, capsys):
    """One array as .npy, and JSON that is no checkpoint's in an .npz."""
    with open(run / "checkpoint.npz", "wb") as file:
        np.save(file, np.zeros(3))
    assert main(["--out", str(run), "--resume"]) == 2
    assert "checkpoint.npz: not a checkpoint, or damaged" in capsys.readouterr().err
    with open(run / "checkpoint.npz", "wb") as file:
        np.savez(file, meta=np.array(content.decode("latin-1")))
    assert main(["--out", str(run), "--resume"]) == 2
    assert f"error: {run / 'checkpoint.npz'}: " in capsys.readouterr().err


ODD = [None, True, -1, 0, 10**30, 1e300, float("nan"), float("inf"), "", "8", [], {}, [None], {"a": 1}, remove]


def places(value, path=()):
    """Every place in a JSON value, as a path."""
    yield from ([path] if path else [])
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def refusal_of(trainer):
    """What it says instead of continuing; None if it does."""
    try:
        trainer.resume()
    except ValueError as error:
        return str(error)
    return None


def test_whatever_stands_in_a_checkpoint_it_is_refused_by_name_or_trained_on(run, rng):
    arrays, meta = load_checkpoint(run / "checkpoint.npz")
    # In the middle of a run: its last epoch is to be done again.
    meta["progress"] |= {"epoch": 0, "batch": 2, "iteration": 2, "records": []}
    dataset = Subset.parse(SUBSET).of(load_dataset("digits"))
    config = TrainConfig.from_json(meta["config"])
    everywhere = [path for path in places(meta) if path[0] not in ("config", "format")]
    for _ in range(25):
        odd = copy.deepcopy(meta)
        path, new = everywhere[rng.integers(len(everywhere))], ODD[rng.integers(len(ODD))]
        change(odd, path, new)
        print(path, new)
        save_checkpoint(run / "checkpoint.npz", arrays, odd)
        trainer = Trainer(config, open_board("golden"), dataset, run)
        message = refusal_of(trainer)
        if message is None:
            trainer.run()
        else:
            assert message.startswith(f"{run / 'checkpoint.npz'}: ")


# Summaries and metrics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "path", "new", "message"),
    [
        ("summary.json", ["epochs"], "1", "the summary.epochs is '1', must be int"),
        ("summary.json", ["cc"], None, "the summary.cc is None, must be float"),
        ("summary.json", ["config"], [], r"the summary.config is \[\], must be dict"),
        ("summary.json", ["config", "model"], [], r"the setting model is \[\], must be str"),
        ("summary.json", ["config", "model"], remove, "model"),
        ("summary.json", ["config", "model"], "vgg", "vgg"),
        ("summary.json", ["stage_switches"], [3], r"the summary.stage_switches\[0\] is 3, must be dict"),
        ("summary.json", ["board"], remove, "the summary lacks board"),
        ("metrics.jsonl", ["test_accuracy"], "high", "line 1.test_accuracy is 'high', must be float"),
        ("metrics.jsonl", ["bit_macs"], remove, "line 1 lacks bit_macs"),
    ],
)
def test_odd_summaries_are_named(file, path, new, message, run, capsys):
    value = json.loads((run / file).read_text())
    change(value, path, new)
    (run / file).write_text(json.dumps(value) + "\n")
    assert experiment.main(["--out", str(run.parent)]) == 2
    errors = capsys.readouterr().err
    assert f"{run} holds no complete run of host.train: " in errors
    assert re.search(message, errors)


@pytest.mark.parametrize("file", ["summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"[]\n", b"3\n", b"null\n", b"\xff\xfe\n", b"[" * 100_000])
def test_other_content_than_a_summary(file, content, run, tmp_path, capsys):
    (run / file).write_bytes(content)
    assert experiment.main(["--out", str(run.parent)]) == 2
    assert str(run / file) in capsys.readouterr().err
    if file == "summary.json":
        # An experiment that finds it in place of a finished run.
        (tmp_path / f"{run.name}.toml").write_text('board = "golden"\n')
        assert experiment.main([str(tmp_path / f"{run.name}.toml"), "--out", str(run.parent)]) == 2
        assert str(run / file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "form", "fits"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (True, float, False),
        (None, int | None, True),
        ([1, 2.5], list[float], True),
        ([[1]], list[float], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "1"}, dict[str, int], False),
    ],
)
def test_forms(value, form, fits):
    if fits:
        check(value, form, "it")
    else:
        with pytest.raises(ValueError, match=r"it.* is .*, must be "):
            check(value, form, "it")
