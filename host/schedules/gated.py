"""Settings of the schedules whose samples choose the precision of each block for themselves, see `host.nn.gated`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from host.nn.mixed import Option, option_cp, parse_options
from host.options import option
from host.schedules.base import Settings
from rtl.config import MAX_BITS


@dataclass(frozen=True, kw_only=True)
class GatedSettings(Settings):
    """What they choose from, and what keeps them at their cost. `fw` and `bw` are those of the layers without a gate.

    The weight of the cost: the paper's 1e-3, of a sum over samples and blocks, comes to 0.069 for ResNet-38 in batches
    of 128.
    """

    WIDTHS = 1
    #: Targets unless `cp` is given.
    TARGETS: ClassVar[tuple[float, ...]]

    options: str = option(
        "3/6,4/6,4/8,6/8,6/12", "activation/gradient bits that a sample may choose for a block; 0 skips the block"
    )
    weight_bits: int = option(4, "bits of weights in blocks with a gate")
    cp: tuple[float, ...] = option(
        (), "target of each stage, cost of the gated blocks in percent of 32 bits, as 1.8,2.2,2.6,3", "the schedule's"
    )
    beta: float = option(0.1, "weight of the cost in the loss, for each percent")
    band: float = option(0.1, "distance from the target, as a part of it, that gives the cost its full weight")
    allow_unreachable_cp: bool = option(False, "accept targets that no choice of options meets; stay at the nearest")

    def __post_init__(self) -> None:
        self._set("cp", tuple(float(target) for target in self.cp) or self.TARGETS)
        super().__post_init__()

    def check(self) -> None:
        super().check()
        self.require(2 <= self.weight_bits <= MAX_BITS, "weight_bits", f"2 to {MAX_BITS} bits")
        self.require(self.beta > 0, "beta", "positive")
        self.require(self.band >= 0, "band", "0 or more")
        costs = [option_cp(option) for option in self.gate_options]
        if self.allow_unreachable_cp:
            return
        for target in self.cp:
            if not min(costs) <= target <= max(costs):
                raise ValueError(
                    f"--cp {target:g} cannot be reached: with --options {self.options} and --weight-bits "
                    f"{self.weight_bits} the cost is {min(costs):.4g} to {max(costs):.4g} percent; choose a target "
                    f"between, or give --allow-unreachable-cp to stay at the nearest"
                )

    @property
    def gates(self) -> GatedSettings:
        return self

    @property
    def gate_options(self) -> tuple[Option, ...]:
        """What samples choose from."""
        return parse_options(self.options, self.weight_bits)

    @property
    def targets(self) -> tuple[float, ...]:
        return self.cp

    def __str__(self) -> str:
        targets = ", ".join(f"{target:g} %" for target in self.cp)
        return f"cp {targets} of {self.options} with {self.weight_bits}-bit weights; elsewhere {super().__str__()}"
