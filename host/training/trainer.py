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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from host.board import Board
from host.data.datasets import Dataset
from host.machine import Machine
from host.nn.optim import LR_SCHEDULES
from host.quantise import Precision
from host.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from host.training.config import TrainConfig
from host.training.cost import FULL, gate_cc
from host.training.folder import CHECKPOINT, METRICS, remove_results
from host.training.learner import STATIC, Learner, Step, static_reference
from host.training.meter import COUNTERS, Meter
from host.training.trace import GateTrace, mean_cp
from host.training.workload import network

#: Windows of the gates' decisions over a run.
WINDOWS = 200


class DivergedError(ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass
class Progress:
    """Where a run stands, as JSON values.

    `batch` counts the batches done in the current epoch, of which `loss_sum` and `correct` are sums over samples.
    `train` and `evaluation` are counters over the run, `epoch_start` is `train` when the epoch began. `lengthened`
    holds an entry for every time that the run got more epochs: the iteration it had reached and the epochs it had.
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
    lengthened: list[dict[str, int]] = field(default_factory=list)


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
        self.learner = Learner(config, board, dataset)
        self.batches = len(self.learner.batches)
        if self.learner.batches[-1] == 1:
            raise ValueError(f"--batch {config.batch} leaves one sample for the last batch, and batch norm needs two")
        self.iterations = config.epochs * self.batches
        self.schedule = config.build_schedule(self.iterations)
        self.trace = GateTrace(-(-self.iterations // WINDOWS))
        self.progress = Progress()
        self._saved_at = 0.0
        self._meter = Meter(board)

    # Running --------------------------------------------------------------------------------------------------------

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        on_step: Callable[[float, Precision], None] = lambda loss, precision: None,
        on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> bool:
        """Train to the end, or until `stop` answers true between two batches; return whether the end was reached.

        Of a run that lies in the folder, results are removed and the checkpoint replaced now, and not before.
        `on_step` receives the loss and the precision of each iteration, `on_epoch` each line of metrics.jsonl.

        Raises
        ------
        DivergedError
            If the loss or a gradient is not finite; the last checkpoint stays.
        """
        progress = self.progress
        self._meter.skip()
        started = time.monotonic() - progress.seconds
        remove_results(self.out)
        self._save()
        while progress.epoch < self.config.epochs:
            order = np.random.default_rng([self.config.seed, 3, progress.epoch]).permutation(len(self.dataset.train))
            while progress.batch < self.batches and not stop():
                on_step(*self._train_batch(order))
                progress.seconds = time.monotonic() - started
                if time.monotonic() - self._saved_at >= self.checkpoint_seconds:
                    self._save()
            # The state is complete here, so a stop inside the evaluation merely repeats the evaluation on resuming.
            self._meter.add_to(progress.train)
            accuracy = None if progress.batch < self.batches else self._evaluate(stop)
            if accuracy is None:
                self._meter.skip()
                self._save()
                return False
            self._meter.add_to(progress.evaluation)
            progress.seconds = time.monotonic() - started
            self._finish_epoch(accuracy)
            self._save()
            on_epoch(progress.records[-1])
        return True

    def _train_batch(self, order: np.ndarray) -> tuple[float, Precision]:
        """One iteration; return its loss and precision."""
        config, progress = self.config, self.progress
        index = order[progress.batch * config.batch : (progress.batch + 1) * config.batch]
        precision, target = self.schedule.precision, self.schedule.cp
        with self._divergence_explained():
            step = self.learner.gradients(index, progress.epoch, self.schedule)
            if not math.isfinite(step.loss):
                raise FloatingPointError(f"the loss is {step.loss}")
            warmup = round(config.warmup * self.iterations)
            rate = LR_SCHEDULES[config.lr_schedule](config.lr, progress.iteration, self.iterations, warmup)
            self.learner.optimiser.step(rate, controller_lr=config.lr)
        progress.iteration += 1
        progress.batch += 1
        progress.loss_sum += step.loss * len(index)
        progress.correct += step.correct
        if step.cp is not None:
            self.trace.add(progress.iteration, len(index), step, target)
        self._observe(step)
        return step.loss, precision

    def _observe(self, step: Step) -> None:
        """Tell the schedule what it wants to know, and note the switch that this may cause."""
        whole = self.config.indicator == "loss"
        if (switch := self.schedule.observe(step.loss + step.cost if whole else step.loss)) is None:
            return
        self.progress.switches.append(
            {
                "iteration": switch.iteration,
                "epoch": self.progress.epoch,
                "stage": switch.stage,
                "fw": switch.precision.fw,
                "bw": switch.precision.bw,
                "cp": switch.cp,
                "forced": switch.forced,
            }
        )

    def _evaluate(self, stop: Callable[[], bool]) -> float | None:
        """Accuracy on the test split at the current stage's precision; None if stopped."""
        with self._divergence_explained():
            return self.learner.accuracy(self.schedule.precision, stop)

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
        precision, windows = self.schedule.precision, self.trace.take()
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
                **({"cp": mean_cp(windows), "gates": windows} if windows else {}),
            }
        )
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.correct = 0, 0.0, 0
        progress.epoch_start = dict(progress.train)

    def summary(self) -> dict[str, Any]:
        """The content of summary.json; for a run that has reached its end."""
        progress, train = self.progress, self.progress.train
        static = static_reference(self.config, self.board, self.dataset)
        return {
            "board": self.config.board,
            "cycles_modelled": getattr(self.board, "modelled", False),
            "machine": asdict(Machine.of(self.config.preset, self.board.config)),
            "test_accuracy": progress.records[-1]["test_accuracy"],
            "epochs": progress.epoch,
            "iterations": progress.iteration,
            **{name: train.get(name) for name in COUNTERS},
            # Computational cost as in FracTrain, section 4.1: MACs * (bits_a / 32) * (bits_b / 32), all three passes.
            "cc": train["bit_macs"] / FULL,
            "cc_gates": self._gate_cc(),  # on the host, in floating point, beside what the board was charged
            "cc_static": static["bit_macs"] / FULL,
            "latency_static_cycles": static.get("cycles"),
            "latency_static_method": f"measured at {STATIC}: one iteration per batch size x number of iterations",
            "eval_cycles": progress.evaluation.get("cycles"),
            "stage_switches": progress.switches,
            "lengthened": progress.lengthened,
            "seed": self.config.seed,
            "seconds": progress.seconds,
            "config": self.config.to_json(),
        }

    def _gate_cc(self) -> float:
        """32-bit MACs of the gates over the run."""
        config, dataset = self.config, self.dataset
        if not config.gated:
            return 0.0
        works = network(config.model, dataset.image, dataset.classes)
        return gate_cc(works, len(config.gate_options)) * len(dataset.train) * self.progress.epoch

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write the checkpoint, then the metrics, which a resumed run can always rebuild from it."""
        self._meter.add_to(self.progress.train)
        learner = self.learner
        arrays = {f"model/{name}": array for name, array in learner.model.state().items()}
        arrays |= {f"velocity/{name}": array for name, array in learner.optimiser.state().items()}
        meta = {
            "config": self.config.to_json(),
            "progress": asdict(self.progress),
            "schedule": self.schedule.state(),
            "gates": self.trace.state(),
            "noise": learner.noise.bit_generator.state,
        }
        save_checkpoint(self.out / CHECKPOINT, arrays, meta)
        self._write_metrics()
        self._saved_at = time.monotonic()

    def _write_metrics(self) -> None:
        text = "".join(json.dumps(record) + "\n" for record in self.progress.records)
        write_atomically(self.out / METRICS, text.encode())

    def start_from(self, folder: Path) -> None:
        """Begin with the weights and running statistics of the run in `folder`, whose model must be the same.

        Gates that it does not have begin as in any other run.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is damaged, or belongs to another model.
        """
        arrays, _ = load_checkpoint(folder / CHECKPOINT)
        model = {name.removeprefix("model/"): array for name, array in arrays.items() if name.startswith("model/")}
        learner = self.learner
        if self.config.gated:
            model = learner.model.completed(model)
        learner.model.load_state(learner.placed(model))

    def resume(self) -> None:
        """Continue from the checkpoint in `out`, to the end that these settings give the run.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged, or belongs to a run with other settings or another model.
        """
        arrays, meta = load_checkpoint(self.out / CHECKPOINT)
        before = TrainConfig.from_json(meta["config"])
        before.resumed_with(self.config.to_json())
        groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "velocity": {}}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = array
        learner = self.learner
        learner.model.load_state(learner.placed(groups["model"]))
        learner.optimiser.load_state(learner.placed(groups["velocity"]))
        self.schedule.load_state(meta["schedule"])
        self.trace.load_state(meta["gates"])
        learner.noise.bit_generator.state = meta["noise"]
        self.progress = Progress(**meta["progress"])
        if self.config.epochs > before.epochs:
            self.progress.lengthened.append({"iteration": self.progress.iteration, "epochs": before.epochs})

    @property
    def has_ended(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epoch == self.config.epochs
