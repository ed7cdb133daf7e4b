"""A network on its board with everything that one step of training needs: data in, loss out, gradients applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from host.arrays import Array, to_numpy
from host.board import Board
from host.data.augment import Augmentation
from host.data.datasets import Dataset
from host.emulation.baselines import NUMERICS
from host.emulation.emulated import emulate
from host.nn.float_layers import softmax_cross_entropy
from host.nn.gated import GatedNetwork, add_gates
from host.nn.layers import Context
from host.nn.models import build_model
from host.nn.optim import SGD
from host.quantise import Precision
from host.schedules import Schedule
from host.schedules.static import StaticSettings
from host.step.account import Work
from host.step.device import DeviceStep
from host.training.config import TrainConfig
from host.training.meter import Meter
from host.training.micro import GradientSum, pieces

#: The static reference of the paper's figures.
STATIC = Precision(8, 8)
#: Images in a batch of the evaluation, whose activations share their ranges as in training.
EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Choice:
    """What the gates chose for a batch.

    Attributes
    ----------
    cp : its cost in percent, and `target` what it is to be.
    push : see `cost_push`.
    counts : samples by block and option.
    cost : what it adds to the loss.
    """

    cp: float
    target: float
    push: float
    counts: dict[str, list[int]]
    cost: float


@dataclass(frozen=True)
class Step:
    """What one pass over a batch gave: mean cross-entropy, right answers, and with gates their choice."""

    loss: float
    correct: int
    choice: Choice | None = None


class Learner:
    """The network of `config` on `board`, its optimiser and the noise of its stochastic rounding."""

    def __init__(self, config: TrainConfig, board: Board, dataset: Dataset):
        self.config, self.board, self.dataset = config, board, dataset
        model = build_model(config.model, dataset.image, dataset.classes, seed=config.seed, edge_bits=config.edge_bits)
        optimiser = SGD
        if build_numerics := NUMERICS[config.numerics]:
            numerics = build_numerics()
            emulate(model, numerics)
            optimiser = numerics.optimiser
        if gates := config.schedule.gates:
            rng = np.random.default_rng([config.seed, 5])
            model = add_gates(model, dataset.image, gates.gate_options, rng=rng)
        self.model = model
        rates = {"momentum": config.momentum, "weight_decay": config.weight_decay}
        self.device: DeviceStep | None = None
        if config.step == "device":
            self.device = DeviceStep(
                model,
                board,
                image=dataset.image,
                micro_batch=config.micro_batch,
                storage=config.storage,
                seed=config.seed,
                **rates,
            )
            self.optimiser = self.device.optimiser
        else:
            model.load_state(self.placed(model.state()))
            self.optimiser = optimiser(model, **rates)
        self.augmentation = Augmentation(config.seed, len(dataset.train)) if config.augment == "crop-flip" else None
        self.noise = np.random.default_rng([config.seed, 2])

    def placed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays where the host computes for the board; around the device step it computes in numpy."""
        if self.device:
            return dict(arrays)
        return {name: self.board.place(array) for name, array in arrays.items()}

    def gradients(self, index: np.ndarray, epoch: int, schedule: Schedule) -> Step:
        """Forward and backward of some training samples, int64 (N,)."""
        train = self.dataset.train
        codes = self.augmentation(train.codes, index, epoch) if self.augmentation else train.codes[index]
        images, labels = self.dataset.normalised(codes), train.labels[index]
        if self.device:
            loss, logits = self.device.gradients(
                images, labels, schedule.precision, lambda: self._cost_weight(self._choice(schedule))
            )
            return Step(loss, _right(logits, labels), self._choice(schedule))
        sums, steps, start = GradientSum(self.model), [], 0
        for size in pieces(len(labels), self.config.micro_batch):
            part, share = slice(start, start + size), size / len(labels)
            steps.append((share, self._part(images[part], labels[part], share, schedule)))
            sums.add(share)
            start += size
        sums.store()
        loss = sum(share * step.loss for share, step in steps)
        return Step(loss, sum(step.correct for _, step in steps), steps[0][1].choice)

    def _part(self, images: np.ndarray, labels: np.ndarray, share: float, schedule: Schedule) -> Step:
        """Forward and backward of a micro-batch, the layers computing on the host what surrounds their products."""
        context = Context(self.board, schedule.precision, training=True, rng=self.noise, share=share)
        logits = self.model.forward(self.board.place(images), context)
        loss, gradient = softmax_cross_entropy(logits, self.board.place(labels))
        choice = self._choice(schedule)
        self.model.backward(gradient, replace(context, cost_weight=self._cost_weight(choice)))
        return Step(loss, _right(logits, labels), choice)

    def _choice(self, schedule: Schedule) -> Choice | None:
        """What the gates chose in the latest forward pass; None without gates."""
        gates = self.config.schedule.gates
        if gates is None or not isinstance(self.model, GatedNetwork):
            return None
        target = schedule.cp
        assert target is not None, "a schedule for gates has a target"
        cp = self.model.cp()
        push = cost_push(cp, target, gates.band)
        return Choice(cp, target, push, self.model.counts(), push * gates.beta * cp)

    def _cost_weight(self, choice: Choice | None) -> float:
        """Weight of the gates' cost in the loss, for each percent."""
        gates = self.config.schedule.gates
        return choice.push * gates.beta if choice and gates else 0.0

    def accuracy(
        self, precision: Precision, stop: Callable[[], bool], on_part: Callable[[int, int], None]
    ) -> float | None:
        """Accuracy on the test split; None if stopped. `on_part` hears how many of how many images are done."""
        test = self.dataset.test
        context = Context(self.board, precision, training=False)
        correct = 0
        for start in range(0, len(test), EVALUATION_BATCH):
            on_part(start, len(test))
            if stop():
                return None
            part = slice(start, start + EVALUATION_BATCH)
            images = self.dataset.images(test, part)
            if self.device:
                logits = self.device.logits(images, precision)
            else:
                logits = self.model.forward(self.board.place(images), context)
            correct += _right(logits, test.labels[part])
        on_part(len(test), len(test))
        return correct / len(test)

    def saturated(self) -> dict[str, list[int]]:
        """What the device step has clipped since this was asked: elements, and all there were, by tensor."""
        return self.device.shared.saturation.take() if self.device else {}

    def host_work(self) -> dict[str, Work]:
        """What the host has done of the device step since this was asked, by kind."""
        return self.device.host_work() if self.device else {}

    @property
    def step_by(self) -> str | None:
        """What computes the device step; None where the host's layers do."""
        return self.device.engine.name if self.device else None

    def state(self) -> dict[str, Array]:
        """The model's arrays as they are now."""
        if self.device:
            self.device.publish()
        return self.model.state()

    def load_model(self, state: Mapping[str, Array]) -> None:
        """Replace the model's arrays; see `Layer.load_state`."""
        self.model.load_state(self.placed(state))
        if self.device:
            self.device.restart()

    @property
    def batches(self) -> list[int]:
        """Samples of each batch of an epoch."""
        samples, batch = len(self.dataset.train), self.config.batch
        return [min(batch, samples - start) for start in range(0, samples, batch)]


def cost_push(cp: float, target: float, band: float) -> float:
    """How the cost of the gates' choice, cp percent, enters the loss, as a factor of beta from -1 to 1.

    FracTrain, section 3.3: above the target the cost is a penalty, below it a reward, so the gates are held from both
    sides. The gates add up what pushes them, and a push of one size would let them swing: so it is proportional to the
    distance as long as that is at most `band` times the target. 0 gives the sign alone, as in the paper.
    """
    distance = cp / target - 1
    if abs(distance) >= band:
        return -1.0 if distance < 0 else 1.0
    return distance / band


def _right(logits: Array, labels: np.ndarray) -> int:
    return int(np.sum(np.argmax(to_numpy(logits), axis=1) == labels))


def static_reference(
    config: TrainConfig, board: Board, dataset: Dataset, on_part: Callable[[int, int], None]
) -> dict[str, Any]:
    """Counters of the run of `config` at static FW8/BW8: one iteration measured per batch size, times their number.

    `on_part` hears how many of how many iterations are done.
    """
    reference = StaticSettings(fw=(STATIC.fw,), bw=(STATIC.bw,))
    static = replace(config, schedule=reference, numerics="device", augment="none")
    learner, schedule = Learner(static, board, dataset), reference.build(1)
    meter, total = Meter(board), Counter()
    sizes = Counter(learner.batches)
    for done, (size, number) in enumerate(sizes.items()):
        on_part(done, len(sizes))
        used: dict[str, int] = {}
        learner.gradients(np.arange(size), 0, schedule)
        meter.add_to(used)
        total.update({name: value * number * config.epochs for name, value in used.items()})
    on_part(len(sizes), len(sizes))
    return dict(total)
