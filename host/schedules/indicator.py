"""The loss indicator, and the settings of the schedules that it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from host.options import option
from host.schedules.base import Settings
from host.schedules.planned import PlannedSchedule, Stage


class LossIndicator:
    """Tells when the loss has stopped changing: Algorithm 1 of FracTrain, in the form of its released code.

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


@dataclass(frozen=True, kw_only=True)
class IndicatedSettings(Settings):
    """Of schedules whose stages the indicator begins, a guard, or a plan."""

    #: Epochs of the indicator in a run, unless their length is given. The paper has 160 (of 400 iterations); in short
    #: runs the indicator needs at least 15 for three switches, and a window still has to average over some iterations.
    EPOCHS: ClassVar[int] = 50

    epsilon: float = option(0.05, "threshold of the loss indicator")
    alpha: float = option(0.3, "factor of the threshold after the first and the second switch")
    indicator_every: int = option(0, "iterations in an epoch of the indicator", "a fiftieth of the run")
    guard: float = option(0.8, "fraction of the run after which stages not reached yet are forced; 1: never")
    indicator: str = option("cross-entropy", "what the indicator sees, cross-entropy or loss (with the gates' cost)")
    switch: tuple[int, ...] = option((), "iterations in which the later stages begin, instead of the indicator")

    def check(self) -> None:
        super().check()
        self.require(self.epsilon > 0, "epsilon", "positive")
        self.require(0 < self.alpha <= 1, "alpha", "above 0, at most 1")
        self.require(self.indicator_every >= 0, "indicator_every", "positive, or 0 for a fiftieth of the run")
        self.require(0 < self.guard <= 1, "guard", "above 0, at most 1")
        self.require(self.indicator in ("cross-entropy", "loss"), "indicator", "cross-entropy or loss")
        if not self.switch:
            return
        stages = len(self.stages) * len(self.targets)
        if len(self.switch) != stages - 1:
            raise ValueError(f"--switch names {len(self.switch)} iterations; {stages} stages take {stages - 1}")
        if any(b <= a for a, b in zip((0, *self.switch), self.switch, strict=False)):
            raise ValueError(f"--switch is {self.switch!r}, must rise from above 0")

    def planned(self, total: int) -> PlannedSchedule:
        """The stages as `switch` has them. Raises ValueError if the run ends before the last one."""
        if self.switch[-1] >= total:
            raise ValueError(f"--switch {self.switch[-1]} lies behind the end of the run, iteration {total}")
        parts = [(precision, target) for precision in self.stages for target in self.targets]
        return PlannedSchedule([Stage(start, *part) for start, part in zip((0, *self.switch), parts, strict=True)])

    def how(self, total: int) -> dict[str, Any]:
        """The keyword arguments of `PFQSchedule`."""
        return {
            "epsilon": self.epsilon,
            "alpha": self.alpha,
            "indicator_every": self.indicator_every or max(total // self.EPOCHS, 1),
            "total": total,
            "guard": self.guard,
            "sees_cost": self.indicator == "loss",
        }
