"""What the files of a run hold: the lines of metrics.jsonl and summary.json. These types are their description."""

# Without postponed annotations, which would hide from Python 3.11 which keys of a TypedDict are required.

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from host.machine import Machine
from host.training.config import all_options
from host.training.folder import METRICS, SUMMARY
from host.training.forms import blamed_on, check


class StageSwitch(TypedDict):
    """A change of stage, in force from `iteration` on; `forced` if PFQ's guard made it. `cp` is None without gates."""

    iteration: int
    epoch: int
    stage: int
    fw: int
    bw: int
    cp: float | None
    forced: bool


class Lengthening(TypedDict):
    """More epochs for a run that had `epochs`, given when it had come to `iteration`."""

    iteration: int
    epochs: int


class Window(TypedDict):
    """Some iterations at one precision, the last of which is `iteration`; loss and accuracy are means over samples.

    In a run with gates fw and bw are of the layers without one. `cycles` are those of training up to there, None of a
    board without a clock.
    """

    iteration: int
    steps: int
    samples: int
    loss: float
    accuracy: float
    fw: int
    bw: int
    cycles: int | None


class GateWindow(TypedDict):
    """What the gates chose in some iterations, the last of which is `iteration`.

    Means of their cost `cp` (over samples, in percent) and of `push` (over steps), the `target`, and samples by block
    and option.
    """

    iteration: int
    steps: int
    samples: int
    cp: float
    push: float
    target: float
    counts: dict[str, list[int]]


class StepTraceState(TypedDict):
    """Windows of the run that have ended since the last epoch, and the one in progress, which still holds sums."""

    done: list[Window]
    open: Window | None


class GateTraceState(TypedDict):
    """The same of the gates."""

    done: list[GateWindow]
    open: GateWindow | None


class Epoch(TypedDict):
    """What every line of metrics.jsonl has had from the beginning.

    Iterations and seconds count from the beginning of the run, costs belong to the training of this epoch, fw and bw
    to its end. What a board cannot tell is None.
    """

    epoch: int
    iteration: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    fw: int
    bw: int
    cycles: int | None
    macs: int | None
    bit_macs: int | None
    ddr_bytes: int | None
    stage_switches: list[StageSwitch]
    seconds: float
    cp: NotRequired[float]
    gates: NotRequired[list[GateWindow]]


class Record(Epoch):
    """An epoch: a line of metrics.jsonl."""

    windows: list[Window]


class Trained(TypedDict):
    """What a run was trained on: shape (C, H, W) of an image, number of classes and of samples in an epoch."""

    image: list[int]
    classes: int
    samples: int


class Summary(TypedDict):
    """Of summary.json, what programs read again; see `host.training.summary` for the rest."""

    board: str
    dataset: Trained
    machine: Machine
    epochs: int
    iterations: int
    cycles: int | None
    host_seconds: float | None
    cc: float
    cc_static: float
    latency_static_cycles: int | None
    stage_switches: list[StageSwitch]
    config: dict[str, Any]


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of summary.json. Raises ValueError, naming the file, if that is no summary."""
    path = folder / SUMMARY
    with blamed_on(path):
        summary = json.loads(path.read_bytes())
        check(summary, Summary, "the summary")
        kinds = {option.name: option.kind for option in all_options().values()}
        for name, value in summary["config"].items():  # older runs may lack some
            check(value, kinds.get(name, Any), f"the setting {name}")
    return summary


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl. Raises ValueError, naming the file, if one is no record of an epoch."""
    path = folder / METRICS
    with blamed_on(path):
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        for number, record in enumerate(records, 1):
            check(record, Epoch, f"line {number}")
    return records
