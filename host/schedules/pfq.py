"""PFQ, FracTrain's progressive fractional quantisation (arXiv 2012.13113)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from host.quantise import Precision
from host.schedules.base import Schedule, Switch
from host.schedules.indicator import IndicatedSettings, LossIndicator


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
    sees_cost : whether the indicator sees the loss with the gates' cost, as in FracTrain's code, or without.
    """

    def __init__(
        self,
        stages: Sequence[Precision],
        *,
        epsilon: float,
        alpha: float,
        indicator_every: int,
        total: int,
        guard: float,
        sees_cost: bool = False,
    ):
        self.stages = list(stages)
        self.indicator = LossIndicator(epsilon, alpha)
        self.indicator_every, self.total, self.guard, self.sees_cost = indicator_every, total, guard, sees_cost
        self.stage = 0
        self.iteration = 0
        self.losses: list[float] = []

    @property
    def precision(self) -> Precision:
        return self.stages[self.stage]

    @property
    def cp(self) -> float | None:
        """None: no gates."""
        return None

    def observe(self, loss: float, cost: float = 0.0) -> Switch | None:
        self.iteration += 1
        if self.stage == len(self.stages) - 1:
            return None
        self.losses.append(loss + cost if self.sees_cost else loss)
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


@dataclass(frozen=True, kw_only=True)
class PFQSettings(IndicatedSettings, name="pfq"):
    """FracTrain's four stages.

    With the defaults, over 14 seeds on the digits, the indicator alone starts the later stages in iterations 68 to 96,
    108 to 152 and 156 to 184 of 230; the guard would have acted at 184, 199 and 215.
    """

    STAGES = (Precision(3, 6), Precision(4, 6), Precision(6, 8), Precision(8, 8))

    def build(self, total: int) -> Schedule:
        return self.planned(total) if self.switch else PFQSchedule(self.stages, **self.how(total))
