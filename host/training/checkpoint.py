"""Checkpoints: one .npz file without pickle, replaced as a whole or not at all."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from host.arrays import to_numpy
from host.step.account import Work
from host.training.config import TrainConfig
from host.training.forms import blamed_on, check
from host.training.records import GateTraceState, Lengthening, Record, StageSwitch, StepTraceState

#: Raised when arrays can no longer be taken from older files, for `--init-from`.
FORMAT = 1
#: The array that holds everything but arrays, as JSON text.
_META = "meta"


@dataclass
class Progress:
    """Where a run stands, as JSON values.

    `batch` counts the batches done in the current epoch, of which `loss_sum` and `correct` are sums over samples.
    `seconds` passed in all, `host_seconds` in training on the host, see `Board.stand_in_seconds`.
    `train` and `evaluation` are counters over the run, `epoch_start` is `train` when the epoch began. `lengthened`
    holds an entry for every time that the run got more epochs. `saturated` counts, for each tensor that the device step
    stores, the elements that were clipped in training, and all. `host_work` is what the host did of that step, by kind.
    """

    iteration: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    host_seconds: float = 0.0
    train: dict[str, int] = field(default_factory=dict)
    evaluation: dict[str, int] = field(default_factory=dict)
    epoch_start: dict[str, int] = field(default_factory=dict)
    switches: list[StageSwitch] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    lengthened: list[Lengthening] = field(default_factory=list)
    saturated: dict[str, list[int]] = field(default_factory=dict)
    host_work: dict[str, Work] = field(default_factory=dict, metadata={"later": True})


class _Meta(TypedDict):
    """What a checkpoint holds beside arrays."""

    config: dict[str, Any]
    progress: Progress
    schedule: dict[str, Any]
    steps: StepTraceState
    gates: GateTraceState
    noise: dict[str, Any]


@dataclass
class Checkpoint:
    """Everything from which a run continues bit for bit.

    Attributes
    ----------
    config : settings of the run.
    progress : where it stands.
    schedule : state of its schedule: numbers, and lists of numbers.
    steps, gates : states of the traces of the run and of its gates.
    noise : state of the generator of stochastic rounding.
    model, velocity : arrays of the network and of its optimiser by name; of any library when written, of numpy when
        read.
    device : arrays of the device step by name, none of another.
    """

    config: TrainConfig
    progress: Progress
    schedule: Mapping[str, Any]
    steps: Mapping[str, Any]
    gates: Mapping[str, Any]
    noise: Mapping[str, Any]
    model: Mapping[str, Any]
    velocity: Mapping[str, Any]
    device: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the file at `path`, atomically. Raises OSError that names it."""
        arrays = {f"model/{name}": array for name, array in self.model.items()}
        arrays |= {f"velocity/{name}": array for name, array in self.velocity.items()}
        arrays |= {f"device/{name}": array for name, array in self.device.items()}
        states = {"schedule": self.schedule, "steps": self.steps, "gates": self.gates, "noise": self.noise}
        meta = {"config": self.config.to_json(), "progress": asdict(self.progress), **states}
        save_checkpoint(path, arrays, meta)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read what `write` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, or of another version of this program; the message names the file and what is odd.
        """
        arrays, meta = load_checkpoint(path)
        with blamed_on(path):
            check(meta, _Meta, "the checkpoint")
            groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "velocity": {}, "device": {}}
            for name, array in arrays.items():
                group, _, rest = name.partition("/")
                if group not in groups:
                    raise ValueError(f"array {name!r} belongs to neither {' nor '.join(groups)}")
                groups[group][rest] = array
            return cls(
                TrainConfig.from_json(meta["config"]),
                Progress(**meta["progress"]),
                *(meta[name] for name in ("schedule", "steps", "gates", "noise")),
                **groups,
            )


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` so that a reader, or a kill or power cut at any moment, sees the old bytes or the new ones.

    Raises OSError that names `path`; the old bytes are then still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # its bytes may be what the disk lacks
            temporary.unlink()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def save_checkpoint(path: Path, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write arrays of any library and JSON values to `path`, atomically."""
    stream = io.BytesIO()
    text = json.dumps({"format": FORMAT, **meta})
    content: dict[str, Any] = {_META: np.array(text), **{name: to_numpy(array) for name, array in arrays.items()}}
    np.savez(stream, **content)
    write_atomically(path, stream.getvalue())


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: (arrays, meta).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or of another format; the message names it.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop(_META)))
        check(meta, dict[str, Any], _META)
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                raise ValueError(f"array {name!r} is of {array.dtype}, must be of floating-point numbers")
    except OSError:
        raise
    # A damaged container, or one that was not made here, goes wrong anywhere in the readers of zip, npy and JSON.
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint, or damaged ({error})") from None
    if meta.get("format") != FORMAT:
        raise ValueError(f"{path}: checkpoint format {meta.get('format')!r}, this program reads {FORMAT}")
    return arrays, meta
