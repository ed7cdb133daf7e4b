"""FracTrain (arXiv 2012.13113): DFQ whose targets rise as PFQ's precision does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from host.quantise import Precision
from host.schedules.base import Schedule
from host.schedules.gated import GatedSettings
from host.schedules.indicator import IndicatedSettings
from host.schedules.pfq import PFQSchedule


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


@dataclass(frozen=True, kw_only=True)
class FracTrainSettings(IndicatedSettings, GatedSettings, name="fractrain"):
    """Four targets. The paper's 1.5, 2, 2.5, 3 begin below what its cheapest option costs, 1.758; these end where it
    does."""

    TARGETS = (1.8, 2.2, 2.6, 3.0)

    def build(self, total: int) -> Schedule:
        return self.planned(total) if self.switch else FracTrainSchedule(self.cp, self.stages[0], **self.how(total))
