"""The training loop: one `Trainer` takes a model from its initial weights to the end of the run, across restarts.

The state of a run is (model, optimiser, schedule, noise generator, `Progress`). It is complete between any two
iterations, is written to DIR/checkpoint.npz, and continues from there bit for bit: the order of the samples depends on
(seed, epoch) alone, stochastic rounding on a generator whose state is saved, and metrics.jsonl is rewritten from the
records in the checkpoint, so that no line is lost or doubled.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from host.arrays import Array, place, to_numpy
from host.augment import Augmentation
from host.baselines import NUMERICS
from host.board import Board
from host.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from host.config import TrainConfig
from host.data import Dataset
from host.emulated import emulate
from host.float_layers import softmax_cross_entropy
from host.layers import Context
from host.models import build_model
from host.optim import SGD, cosine_lr
from host.quantise import Precision

#: What is added up over a run, and the counters of a board that it is the sum of. A board that lacks one of them, as
#: golden lacks a clock and a bus, reports None. Cycles are those with a descriptor in flight: the board's clock runs on
#: while the host computes or reads counters, which would make the figure depend on when checkpoints are written.
COUNTERS = {
    "cycles": ("busy",),
    "macs": ("macs",),
    "bit_macs": ("bit_macs",),
    "ddr_bytes": ("read_bytes", "write_bytes"),
}
#: The static reference of the paper's figures.
STATIC = Precision(8, 8)
#: Images in a batch of the evaluation, whose activations share their ranges as in training.
EVALUATION_BATCH = 128

CHECKPOINT = "checkpoint.npz"
METRICS = "metrics.jsonl"


class DivergedError(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass
class Progress:
    """Where a run stands, as JSON values.

    `batch` counts the batches done in the current epoch, of which `loss_sum` and `correct` are sums over samples.
    `train` and `evaluation` are counters over the run, `epoch_start` is `train` when the epoch began.
    """

    iteration: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    train: dict[str, int] = field(default_factory=dict)
    evaluation: dict[str, int] = field(default_factory=dict)
    epoch_start: dict[str, int] = field(default_factory=dict)
    switches: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """A run of `config` on `board`, kept in the folder `out`.

    Parameters
    ----------
    checkpoint_seconds : time between two checkpoints inside an epoch; 0 writes one after every iteration. There is
        always one at the start, at the end of every epoch, and when `run` is stopped.
    """

    def __init__(
        self, config: TrainConfig, board: Board, dataset: Dataset, out: Path, *, checkpoint_seconds: float = 30.0
    ):
        self.config, self.board, self.dataset, self.out = config, board, dataset, out
        self.checkpoint_seconds = checkpoint_seconds
        self.model = build_model(
            config.model, dataset.image, dataset.classes, seed=config.seed, edge_bits=config.edge_bits
        )
        optimiser = SGD
        if build_numerics := NUMERICS[config.numerics]:
            numerics = build_numerics()
            emulate(self.model, numerics)
            optimiser = numerics.optimiser
        self._load(self.model.load_state, self.model.state())
        self.optimiser = optimiser(self.model, momentum=config.momentum, weight_decay=config.weight_decay)
        self.augmentation = Augmentation(config.seed, len(dataset.train)) if config.augment == "crop-flip" else None
        self.batches = -(-len(dataset.train) // config.batch)
        if len(dataset.train) % config.batch == 1:
            raise ValueError(f"--batch {config.batch} leaves one sample for the last batch, and batch norm needs two")
        self.iterations = config.epochs * self.batches
        self.schedule = config.build_schedule(self.iterations)
        self.noise = np.random.default_rng([config.seed, 2])
        self.progress = Progress()
        self._saved_at = 0.0
        self._counted: dict[str, int] = {}

    # Running --------------------------------------------------------------------------------------------------------

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        on_step: Callable[[float, Precision], None] = lambda loss, precision: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> bool:
        """Train to the end, or until `stop` answers true between two batches; return whether the end was reached.

        `on_step` receives the loss and the precision of each iteration, `on_epoch` each line of metrics.jsonl.

        Raises
        ------
        DivergedError
            If the loss or a gradient is not finite; the last checkpoint stays.
        """
        progress = self.progress
        self._counted = self._read_counters()
        started = time.monotonic() - progress.seconds
        self._save()
        while progress.epoch < self.config.epochs:
            order = np.random.default_rng([self.config.seed, 3, progress.epoch]).permutation(len(self.dataset.train))
            while progress.batch < self.batches and not stop():
                on_step(*self._train_batch(order))
                progress.seconds = time.monotonic() - started
                if time.monotonic() - self._saved_at >= self.checkpoint_seconds:
                    self._save()
            # The state is complete here, so a stop inside the evaluation merely repeats the evaluation on resuming.
            self._count(progress.train)
            accuracy = None if progress.batch < self.batches else self._evaluate(stop)
            if accuracy is None:
                self._counted = self._read_counters()
                self._save()
                return False
            self._count(progress.evaluation)
            progress.seconds = time.monotonic() - started
            self._finish_epoch(accuracy)
            self._save()
            on_epoch(progress.records[-1])
        return True

    def _train_batch(self, order: np.ndarray) -> tuple[float, Precision]:
        """One iteration; return its loss and precision."""
        config, progress = self.config, self.progress
        index = order[progress.batch * config.batch : (progress.batch + 1) * config.batch]
        precision = self.schedule.precision
        with self._divergence_explained():
            loss, correct = self._gradients(index, precision, self.noise)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss}")
            lr = cosine_lr(config.lr, progress.iteration, self.iterations, round(config.warmup * self.iterations))
            self.optimiser.step(lr)
        progress.iteration += 1
        progress.batch += 1
        progress.loss_sum += loss * len(index)
        progress.correct += correct
        if (switch := self.schedule.observe(loss)) is not None:
            progress.switches.append(
                {
                    "iteration": switch.iteration,
                    "epoch": progress.epoch,
                    "stage": switch.stage,
                    "fw": switch.precision.fw,
                    "bw": switch.precision.bw,
                    "forced": switch.forced,
                }
            )
        return loss, precision

    def _gradients(self, index: np.ndarray, precision: Precision, noise: np.random.Generator) -> tuple[float, int]:
        """Forward and backward of some training samples; return the mean loss and the number of right answers."""
        train = self.dataset.train
        context = Context(self.board, precision, training=True, rng=noise)
        labels = train.labels[index]
        codes = self.augmentation(train.codes, index, self.progress.epoch) if self.augmentation else train.codes[index]
        logits = self.model.forward(place(self.board, self.dataset.normalised(codes)), context)
        loss, gradient = softmax_cross_entropy(logits, place(self.board, labels))
        self.model.backward(gradient, context)
        return loss, int(np.sum(np.argmax(to_numpy(logits), axis=1) == labels))

    def _evaluate(self, stop: Callable[[], bool]) -> float | None:
        """Accuracy on the test split at the current stage's precision; None if stopped."""
        test = self.dataset.test
        context = Context(self.board, self.schedule.precision, training=False)
        correct = 0
        for start in range(0, len(test), EVALUATION_BATCH):
            if stop():
                return None
            part = slice(start, start + EVALUATION_BATCH)
            with self._divergence_explained():
                logits = self.model.forward(place(self.board, self.dataset.images(test, part)), context)
            correct += int(np.sum(np.argmax(to_numpy(logits), axis=1) == test.labels[part]))
        return correct / len(test)

    @contextmanager
    def _divergence_explained(self) -> Iterator[None]:
        """Raise DivergedError for numbers that are not finite any more."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                yield
        except FloatingPointError as error:
            raise DivergedError(
                f"training diverged in iteration {self.progress.iteration}: {error}. "
                f"The last checkpoint is kept in {self.out}; a lower --lr may help"
            ) from None

    def _finish_epoch(self, test_accuracy: float) -> None:
        """Add the line of metrics.jsonl and begin the next epoch."""
        progress, samples = self.progress, len(self.dataset.train)
        used = {name: total - progress.epoch_start.get(name, 0) for name, total in progress.train.items()}
        precision = self.schedule.precision
        progress.records.append(
            {
                "epoch": progress.epoch,
                "iteration": progress.iteration,
                "loss": progress.loss_sum / samples,
                "train_accuracy": progress.correct / samples,
                "test_accuracy": test_accuracy,
                "fw": precision.fw,
                "bw": precision.bw,
                **{name: used.get(name) for name in COUNTERS},
                "stage_switches": [switch for switch in progress.switches if switch["epoch"] == progress.epoch],
                "seconds": progress.seconds,
            }
        )
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.correct = 0, 0.0, 0
        progress.epoch_start = dict(progress.train)

    # Counters -------------------------------------------------------------------------------------------------------

    def _read_counters(self) -> dict[str, int]:
        counters = self.board.counters()
        return {
            name: sum(int(counters[part]) for part in parts)
            for name, parts in COUNTERS.items()
            if all(part in counters for part in parts)
        }

    def _count(self, totals: dict[str, int]) -> None:
        """Add what the board has done since the last call to `totals`."""
        now = self._read_counters()
        for name, value in now.items():
            totals[name] = totals.get(name, 0) + value - self._counted.get(name, 0)
        self._counted = now

    def static_latency(self) -> int | None:
        """Cycles of the same run at static FW8/BW8: one iteration measured per batch size, times their number.

        The run itself is left as it was. None on a board without a clock.
        """
        if "cycles" not in self._read_counters():
            return None
        state = self.model.state()
        sizes = Counter(
            min(self.config.batch, len(self.dataset.train) - batch * self.config.batch) for batch in range(self.batches)
        )
        total = 0
        for size, batches in sizes.items():
            before = self._read_counters()["cycles"]
            self._gradients(np.arange(size), STATIC, np.random.default_rng(self.config.seed))
            total += (self._read_counters()["cycles"] - before) * batches * self.config.epochs
        self.model.load_state(state)
        return total

    def summary(self) -> dict[str, Any]:
        """The content of summary.json; for a run that has reached its end."""
        progress, train = self.progress, self.progress.train
        return {
            "board": self.config.board,
            "cycles_modelled": getattr(self.board, "modelled", False),
            "test_accuracy": progress.records[-1]["test_accuracy"],
            "epochs": progress.epoch,
            "iterations": progress.iteration,
            **{name: train.get(name) for name in COUNTERS},
            # Computational cost as in FracTrain, section 4.1: MACs * (bits_a / 32) * (bits_b / 32), all three passes.
            "cc": train["bit_macs"] / 32**2,
            "cc_static": train["macs"] * STATIC.fw * STATIC.bw / 32**2,
            "latency_static_cycles": self.static_latency(),
            "latency_static_method": f"measured at {STATIC}: one iteration per batch size x number of iterations",
            "eval_cycles": progress.evaluation.get("cycles"),
            "stage_switches": progress.switches,
            "seed": self.config.seed,
            "seconds": progress.seconds,
            "config": self.config.to_json(),
        }

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write the checkpoint, then the metrics, which a resumed run can always rebuild from it."""
        self._count(self.progress.train)
        arrays = {f"model/{name}": array for name, array in self.model.state().items()}
        arrays |= {f"velocity/{name}": array for name, array in self.optimiser.state().items()}
        meta = {
            "config": self.config.to_json(),
            "progress": asdict(self.progress),
            "schedule": self.schedule.state(),
            "noise": self.noise.bit_generator.state,
        }
        save_checkpoint(self.out / CHECKPOINT, arrays, meta)
        self._write_metrics()
        self._saved_at = time.monotonic()

    def _write_metrics(self) -> None:
        text = "".join(json.dumps(record) + "\n" for record in self.progress.records)
        write_atomically(self.out / METRICS, text.encode())

    def _load(self, load: Callable[[dict[str, Array]], None], state: Mapping[str, Array]) -> None:
        """Call `load` with arrays where the host computes for the board."""
        load({name: place(self.board, array) for name, array in state.items()})

    def start_from(self, folder: Path) -> None:
        """Begin with the weights and running statistics of the run in `folder`, whose model must be the same.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is damaged, or belongs to another model.
        """
        arrays, _ = load_checkpoint(folder / CHECKPOINT)
        model = {name.removeprefix("model/"): array for name, array in arrays.items() if name.startswith("model/")}
        self._load(self.model.load_state, model)

    def resume(self) -> None:
        """Continue from the checkpoint in `out`.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged, or belongs to a run with other settings or another model.
        """
        arrays, meta = load_checkpoint(self.out / CHECKPOINT)
        TrainConfig.from_json(meta["config"]).resumed_with(self.config.to_json())
        groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "velocity": {}}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = array
        self._load(self.model.load_state, groups["model"])
        self._load(self.optimiser.load_state, groups["velocity"])
        self.schedule.load_state(meta["schedule"])
        self.noise.bit_generator.state = meta["noise"]
        self.progress = Progress(**meta["progress"])
