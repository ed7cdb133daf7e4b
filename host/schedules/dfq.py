"""DFQ, FracTrain's dynamic fractional quantisation (arXiv 2012.13113): one target of the gates' cost."""

from __future__ import annotations

from dataclasses import dataclass

from host.schedules.gated import GatedSettings
from host.schedules.static import StaticSchedule


@dataclass(frozen=True, kw_only=True)
class DFQSettings(GatedSettings, name="dfq"):
    """One target, 3 % unless `cp` says otherwise."""

    TARGETS = (3.0,)

    def check(self) -> None:
        super().check()
        if len(self.cp) > 1:
            raise ValueError(f"--schedule dfq has one target, but --cp names {len(self.cp)}; fractrain has several")

    def build(self, total: int) -> StaticSchedule:
        return StaticSchedule(self.stages[0], self.cp[0])
