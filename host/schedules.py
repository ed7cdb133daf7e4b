"""Precision schedules: which FW/BW a training step uses, decided from the losses seen so far.

The training loop asks `precision` before each step and reports the step's loss to `observe` after it; nothing else of
the program knows how the decision is made.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from host.quantise import Precision


@dataclass(frozen=True)
class Switch:
    """A change of stage, in force from `iteration` on; `forced` if the guard made it and not the indicator.

    `cp` is the new target where samples choose their own precision, `precision` that of all other layers.
    """

    iteration: int
    stage: int
    precision: Precision
    forced: bool = False
    cp: float | None = None


class Schedule(Protocol):
    """What the training loop needs of a schedule."""

    @property
    def precision(self) -> Precision:
        """The precision of the next step; of layers without a gate, where samples choose their own."""

    @property
    def cp(self) -> float | None:
        """Target of the gates' cost in the next step (FracTrain's cp, in percent); None if there are no gates."""

    def observe(self, loss: float) -> Switch | None:
        """Take the mean loss of the step just done; return the switch it caused, if any."""

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON values."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""


class StaticSchedule:
    """One precision for the whole run, and with gates one target of their cost: DFQ."""

    def __init__(self, precision: Precision, cp: float | None = None):
        self.precision, self.cp = precision, cp

    def observe(self, loss: float) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ValueError("the state of another schedule")


@dataclass(frozen=True)
class Stage:
    """What is in force from iteration `start` on."""

    start: int
    precision: Precision
    cp: float | None = None


class PlannedSchedule:
    """Stages whose beginnings are known before the run: manual switches, or `cyclic_stages`.

    Parameters
    ----------
    stages : in the order of their beginnings, which differ; the first begins at 0.
    """

    def __init__(self, stages: Sequence[Stage]):
        self.stages, self.iteration = list(stages), 0
        self._starts = [stage.start for stage in stages]

    @property
    def stage(self) -> int:
        return bisect_right(self._starts, self.iteration) - 1

    @property
    def precision(self) -> Precision:
        return self.stages[self.stage].precision

    @property
    def cp(self) -> float | None:
        return self.stages[self.stage].cp

    def observe(self, loss: float) -> Switch | None:
        before = self.stage
        self.iteration += 1
        if self.stage == before:
            return None
        return Switch(self.iteration, self.stage, self.precision, cp=self.cp)

    def state(self) -> dict[str, Any]:
        return {"iteration": self.iteration}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.iteration = state["iteration"]


def cyclic_stages(low: Precision, high: Precision, cycles: int, total: int) -> list[Stage]:
    """Cyclic precision training: CPT, arXiv 2101.09868, equation 1, in the form of its released code.

    In iteration t of a cycle of T = total // cycles iterations a width is the whole number nearest to
    low + (high - low) * (1 - cos(pi * t / T)) / 2, of two the even one. The paper cycles the forward width and keeps
    the backward one: low.bw == high.bw.

    Raises
    ------
    ValueError
        If the cycles have no iteration each.
    """
    period = total // cycles
    if period < 1:
        raise ValueError(f"{cycles} cycles of precision do not fit into {total} iterations")
    stages: list[Stage] = []
    for iteration in range(total):
        part = (1 - math.cos(math.pi * (iteration % period) / period)) / 2
        fw, bw = (round(a + (b - a) * part) for a, b in ((low.fw, high.fw), (low.bw, high.bw)))
        if not stages or (fw, bw) != (stages[-1].precision.fw, stages[-1].precision.bw):
            stages.append(Stage(iteration, Precision(fw, bw)))
    return stages


class LossIndicator:
    """Tells when the loss has stopped to change: Algorithm 1 of FracTrain, in the form of its released code.

    After each epoch (here: any fixed number of iterations) with mean loss L_e,

    * S is the mean of the first min(e, 10) epoch losses, frozen from the tenth on;
    * a window holds the last five losses; once it is full, the epoch is a turning point if and only if
      |L_i - L_last| / S <= epsilon for all four older losses L_i;
    * at a turning point the window is cleared, and epsilon is multiplied by alpha after the first and the second.
    """

    WINDOW = 5
    NORMALISER = 10
    DECAYS = 2

    def __init__(self, epsilon: float, alpha: float):
        self.epsilon, self.alpha = epsilon, alpha
        self.first: list[float] = []
        self.window: list[float] = []
        self.turns = 0

    def update(self, loss: float) -> bool:
        """Take the loss of one epoch; return whether it is a turning point."""
        if len(self.first) < self.NORMALISER:
            self.first.append(loss)
        self.window = [*self.window[-(self.WINDOW - 1) :], loss]
        if len(self.window) < self.WINDOW:
            return False
        normaliser = sum(self.first) / len(self.first)
        # Multiplied out, so that a loss of exactly 0 divides nothing.
        if any(abs(older - loss) > self.epsilon * normaliser for older in self.window[:-1]):
            return False
        self.turn()
        return True

    def turn(self) -> None:
        """Begin the next stage."""
        self.window = []
        self.turns += 1
        if self.turns <= self.DECAYS:
            self.epsilon *= self.alpha


class PFQSchedule:
    """Progressive fractional quantisation: stages of rising precision, advanced by the loss indicator.

    Parameters
    ----------
    stages : precisions in order, at least one.
    epsilon, alpha : see `LossIndicator`.
    indicator_every : iterations in an epoch of the indicator. Incomplete epochs are not judged.
    total : iterations of the whole run.
    guard : the released code may end in an early stage. Here stage s = 0, 1, ... of n ends at the latest after
        total * (guard + (1 - guard) * s / (n - 1)) iterations, so the last stage is always reached: with 0.7 and four
        stages after 70, 80 and 90 % of the run at the latest. A forced switch decays the threshold like any other.
        1 turns the guard off.
    """

    #: No gates.
    cp: float | None = None

    def __init__(
        self,
        stages: Sequence[Precision],
        *,
        epsilon: float,
        alpha: float,
        indicator_every: int,
        total: int,
        guard: float,
    ):
        self.stages = list(stages)
        self.indicator = LossIndicator(epsilon, alpha)
        self.indicator_every, self.total, self.guard = indicator_every, total, guard
        self.stage = 0
        self.iteration = 0
        self.losses: list[float] = []

    @property
    def precision(self) -> Precision:
        return self.stages[self.stage]

    def observe(self, loss: float) -> Switch | None:
        self.iteration += 1
        if self.stage == len(self.stages) - 1:
            return None
        self.losses.append(loss)
        turned = False
        if len(self.losses) == self.indicator_every:
            turned = self.indicator.update(sum(self.losses) / len(self.losses))
            self.losses = []
        forced = not turned and self.iteration >= self._deadline()
        if not turned and not forced:
            return None
        if forced:
            self.indicator.turn()
            self.losses = []
        self.stage += 1
        return Switch(self.iteration, self.stage, self.precision, forced, self.cp)

    def _deadline(self) -> float:
        """The iteration after which the current stage must end."""
        if self.guard >= 1:
            return math.inf
        return self.total * (self.guard + (1 - self.guard) * self.stage / (len(self.stages) - 1))

    def state(self) -> dict[str, Any]:
        indicator = self.indicator
        return {
            "stage": self.stage,
            "iteration": self.iteration,
            "losses": self.losses,
            "epsilon": indicator.epsilon,
            "first": indicator.first,
            "window": indicator.window,
            "turns": indicator.turns,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.stage, self.iteration = state["stage"], state["iteration"]
        self.losses = list(state["losses"])
        self.indicator.epsilon, self.indicator.turns = state["epsilon"], state["turns"]
        self.indicator.first, self.indicator.window = list(state["first"]), list(state["window"])


class FracTrainSchedule(PFQSchedule):
    """Targets of the gates' cost that rise as PFQ's precision does: Algorithm 2 of FracTrain.

    Parameters
    ----------
    targets : of each stage, FracTrain's cp in percent.
    precision : of the layers without a gate.
    how : see `PFQSchedule`.
    """

    def __init__(self, targets: Sequence[float], precision: Precision, **how: Any):
        super().__init__([precision] * len(targets), **how)
        self.targets = list(targets)

    @property
    def cp(self) -> float:
        return self.targets[self.stage]
