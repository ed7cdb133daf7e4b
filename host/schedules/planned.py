"""Stages whose beginnings are known before the run, for schedules that want to be told or that count iterations."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from host.quantise import Precision
from host.schedules.base import Switch


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

    def observe(self, loss: float, cost: float = 0.0) -> Switch | None:
        before = self.stage
        self.iteration += 1
        if self.stage == before:
            return None
        return Switch(self.iteration, self.stage, self.precision, cp=self.cp)

    def state(self) -> dict[str, Any]:
        return {"iteration": self.iteration}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.iteration = state["iteration"]
