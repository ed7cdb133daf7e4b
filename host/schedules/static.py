"""One precision for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from host.quantise import Precision
from host.schedules.base import Settings


class StaticSchedule:
    """One precision for the whole run, and with gates one target of their cost: DFQ."""

    def __init__(self, precision: Precision, cp: float | None = None):
        self.precision, self.cp = precision, cp

    def observe(self, loss: float, cost: float = 0.0) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ValueError("the state of another schedule")


@dataclass(frozen=True, kw_only=True)
class StaticSettings(Settings, name="static"):
    """FW8/BW8, the reference that all are compared with, or what `fw` and `bw` say."""

    WIDTHS = 1

    def build(self, total: int) -> StaticSchedule:
        return StaticSchedule(self.stages[0])
