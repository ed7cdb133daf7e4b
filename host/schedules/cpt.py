"""CPT, arXiv 2101.09868: a forward width that rises and falls in cosines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from host.options import option
from host.quantise import Precision
from host.schedules.base import Settings
from host.schedules.planned import PlannedSchedule, Stage


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


@dataclass(frozen=True, kw_only=True)
class CPTSettings(Settings, name="cpt"):
    """`fw` and `bw` name the narrowest precision and the widest."""

    STAGES = (Precision(3, 8), Precision(8, 8))
    WIDTHS = 2

    cycles: int = option(8, "cycles of the forward width")

    def check(self) -> None:
        super().check()
        for name in ("fw", "bw"):
            low, high = getattr(self, name)
            self.require(low <= high, name, "the least width and then the most for --schedule cpt")
        self.require(self.cycles >= 1, "cycles", "at least 1")

    def build(self, total: int) -> PlannedSchedule:
        low, high = self.stages
        return PlannedSchedule(cyclic_stages(low, high, self.cycles, total))
