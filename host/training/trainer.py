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
from pathlib import Path

import numpy as np

from host.board import Board
from host.data.datasets import Dataset
from host.nn.gated import GatedNetwork
from host.nn.optim import LR_SCHEDULES
from host.quantise import Precision
from host.step.account import add_work
from host.training.checkpoint import Checkpoint, Progress, load_checkpoint, write_atomically
from host.training.config import TrainConfig
from host.training.folder import CHECKPOINT, METRICS, remove_results
from host.training.forms import blamed_on, check
from host.training.learner import Learner, Step
from host.training.meter import Meter
from host.training.records import Lengthening, Record
from host.training.trace import GateTrace, StepTrace, mean_cp

#: Windows of a run, in which its plots show what it did.
WINDOWS = 200


class DivergedError(ArithmeticError):
    """The loss is no longer a finite number."""


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
        self.schedule = config.schedule.build(self.iterations)
        every = -(-self.iterations // WINDOWS)
        self.steps, self.gates = StepTrace(every), GateTrace(every)
        self.progress = Progress()
        self._saved_at = 0.0
        self._meter = Meter(board)

    # Running --------------------------------------------------------------------------------------------------------

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        on_step: Callable[[float, Precision], None] = lambda loss, precision: None,
        on_test: Callable[[int, int], None] = lambda done, total: None,
        on_epoch: Callable[[Record], None] = lambda record: None,
    ) -> bool:
        """Train to the end, or until `stop` answers true between two batches; return whether the end was reached.

        Of a run that lies in the folder, results are removed and the checkpoint replaced now, and not before.
        `on_step` receives the loss and the precision of each iteration, `on_test` how many of how many test images have
        been evaluated, from 0 on, and `on_epoch` each line of metrics.jsonl.

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
            accuracy = None if progress.batch < self.batches else self._evaluate(stop, on_test)
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
        precision = self.schedule.precision
        begun = time.monotonic() - self.board.stand_in_seconds
        with self._divergence_explained():
            step = self.learner.gradients(index, progress.epoch, self.schedule)
            if not math.isfinite(step.loss):
                raise FloatingPointError(f"the loss is {step.loss}")
            warmup = round(config.warmup * self.iterations)
            rate = LR_SCHEDULES[config.lr_schedule](config.lr, progress.iteration, self.iterations, warmup)
            self.learner.optimiser.step(rate, controller_lr=config.lr)
        progress.host_seconds += time.monotonic() - self.board.stand_in_seconds - begun
        progress.iteration += 1
        progress.batch += 1
        progress.loss_sum += step.loss * len(index)
        progress.correct += step.correct
        self._meter.add_to(progress.train)
        for name, counts in self.learner.saturated().items():
            before = progress.saturated.get(name, [0, 0])
            progress.saturated[name] = [old + new for old, new in zip(before, counts, strict=True)]
        for name, work in self.learner.host_work().items():
            before = progress.host_work.get(name)
            progress.host_work[name] = add_work(before, work) if before else work
        self.steps.add(progress.iteration, len(index), step, precision, progress.train.get("cycles"))
        if step.choice:
            self.gates.add(progress.iteration, len(index), step.choice)
        self._observe(step)
        return step.loss, precision

    def _observe(self, step: Step) -> None:
        """Tell the schedule what it wants to know, and note the switch that this may cause."""
        cost = step.choice.cost if step.choice else 0.0
        if (switch := self.schedule.observe(step.loss, cost)) is None:
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

    def _evaluate(self, stop: Callable[[], bool], on_test: Callable[[int, int], None]) -> float | None:
        """Accuracy on the test split at the current stage's precision; None if stopped."""
        with self._divergence_explained():
            return self.learner.accuracy(self.schedule.precision, stop, on_test)

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
        record: Record = {
            "epoch": progress.epoch,
            "iteration": progress.iteration,
            "loss": progress.loss_sum / samples,
            "train_accuracy": progress.correct / samples,
            "test_accuracy": test_accuracy,
            "fw": precision.fw,
            "bw": precision.bw,
            "cycles": used.get("cycles"),
            "macs": used.get("macs"),
            "bit_macs": used.get("bit_macs"),
            "ddr_bytes": used.get("ddr_bytes"),
            "stage_switches": [switch for switch in progress.switches if switch["epoch"] == progress.epoch],
            "seconds": progress.seconds,
            "windows": self.steps.take(),
        }
        if gates := self.gates.take():
            record["cp"], record["gates"] = mean_cp(gates), gates
        progress.records.append(record)
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.correct = 0, 0.0, 0
        progress.epoch_start = dict(progress.train)

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write the checkpoint, then the metrics, which a resumed run can always rebuild from it."""
        learner = self.learner
        Checkpoint(
            config=self.config,
            progress=self.progress,
            schedule=self.schedule.state(),
            steps=self.steps.state(),
            gates=self.gates.state(),
            noise=learner.noise.bit_generator.state,
            model=learner.state(),
            velocity=learner.optimiser.state(),
            device=learner.device.state() if learner.device else {},
        ).write(self.out / CHECKPOINT)
        lines = "".join(json.dumps(record) + "\n" for record in self.progress.records)
        write_atomically(self.out / METRICS, lines.encode())
        self._saved_at = time.monotonic()

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
        path = folder / CHECKPOINT
        arrays, _ = load_checkpoint(path)
        model = {name.removeprefix("model/"): array for name, array in arrays.items() if name.startswith("model/")}
        learner = self.learner
        with blamed_on(path):
            if isinstance(learner.model, GatedNetwork):
                model = learner.model.completed(model)
            learner.load_model(model)

    def resume(self) -> None:
        """Continue from the checkpoint in `out`, to the end that these settings give the run.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged, or belongs to a run with other settings or another model.
        """
        path = self.out / CHECKPOINT
        saved, learner = Checkpoint.read(path), self.learner
        saved.config.resumed_with(self.config.to_json())
        with blamed_on(path):
            self._check(saved)
            learner.load_model(saved.model)
            learner.optimiser.load_state(learner.placed(saved.velocity))
            if learner.device:
                learner.device.load_state(saved.device, saved.velocity)
            self.schedule.load_state(saved.schedule)
            learner.noise.bit_generator.state = saved.noise
            _ = self.schedule.precision, self.schedule.cp  # of a stage that there is
        self.steps.load_state(saved.steps)
        self.gates.load_state(saved.gates)
        self.progress = saved.progress
        if self.config.epochs > saved.config.epochs:
            lengthening: Lengthening = {"iteration": saved.progress.iteration, "epochs": saved.config.epochs}
            self.progress.lengthened.append(lengthening)

    def _check(self, saved: Checkpoint) -> None:
        """Raise ValueError if the numbers of a checkpoint do not fit together."""
        progress = saved.progress
        if not 0 <= progress.epoch <= saved.config.epochs or len(progress.records) != progress.epoch:
            raise ValueError(
                f"epoch {progress.epoch} of {saved.config.epochs}, with records of {len(progress.records)}"
            )
        if (
            not 0 <= progress.batch <= self.batches
            or progress.iteration != progress.epoch * self.batches + progress.batch
        ):
            raise ValueError(
                f"iteration {progress.iteration} in batch {progress.batch} of epoch {progress.epoch}; an epoch has "
                f"{self.batches} batches"
            )
        for name, counts in progress.saturated.items():
            if len(counts) != 2:
                raise ValueError(f"the counts of clipped elements of {name} are {counts}, must be those and all")
        own, theirs = self.schedule.state(), saved.schedule
        if own.keys() != theirs.keys():
            raise ValueError(f"state of another schedule: {', '.join(sorted(own.keys() ^ theirs.keys()))} not in both")
        for name, value in own.items():
            check(theirs[name], list[float] if isinstance(value, list) else type(value), f"the schedule's {name}")
        if theirs.get("iteration", progress.iteration) != progress.iteration:
            raise ValueError(f"the schedule is in iteration {theirs['iteration']}, the run in {progress.iteration}")

    @property
    def has_ended(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epoch == self.config.epochs
