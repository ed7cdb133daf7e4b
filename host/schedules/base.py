"""What a schedule is, and what it is asked for: the base of the files beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from host.options import Checked, option
from host.quantise import Precision
from rtl.config import MAX_BITS

if TYPE_CHECKING:
    from host.schedules.gated import GatedSettings

#: Settings of every schedule by its name on the command line; `Settings` registers its subclasses here.
SCHEDULES: dict[str, type[Settings]] = {}


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
        ...

    @property
    def cp(self) -> float | None:
        """Target of the gates' cost in the next step (FracTrain's cp, in percent); None if there are no gates."""

    def observe(self, loss: float, cost: float = 0.0) -> Switch | None:
        """Take the mean cross-entropy of the step just done, and what the cost of its gates adds to the loss.

        Returns the switch that this caused, if any.
        """

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON values."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""


@dataclass(frozen=True, kw_only=True)
class Settings(Checked, ABC):
    """What a schedule is asked for; `class Mine(Settings, name="mine")` makes `--schedule mine` known.

    Fields are options, made by `host.options.option`. What other schedules have too is said once,
    in a base class without a name.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the option as on the command line.
    """

    #: The name on the command line.
    name: ClassVar[str] = ""
    #: Precisions of the stages unless `fw` and `bw` are given.
    STAGES: ClassVar[tuple[Precision, ...]] = (Precision(8, 8),)
    #: How many widths `fw` and `bw` name; None for any number.
    WIDTHS: ClassVar[int | None] = None

    fw: tuple[int, ...] = option((), "forward bits of each stage, as 3,4,6,8", "the schedule's")
    bw: tuple[int, ...] = option((), "backward bits of each stage, as 6,6,8,8", "the schedule's")

    def __init_subclass__(cls, name: str = "", **how: Any):
        super().__init_subclass__(**how)
        cls.name = name
        if name and SCHEDULES.setdefault(name, cls) is not cls:
            raise ValueError(f"two schedules are called {name!r}")

    def __post_init__(self) -> None:
        self._set("fw", tuple(self.fw) or tuple(precision.fw for precision in self.STAGES))
        self._set("bw", tuple(self.bw) or tuple(precision.bw for precision in self.STAGES))
        self.check()
        self.require_finite()

    def check(self) -> None:
        """Raise ValueError for what is out of range; subclasses add to it."""
        if len(self.fw) != len(self.bw):
            raise ValueError(
                f"--fw names {len(self.fw)} stages and --bw {len(self.bw)}; give one width per stage in each"
            )
        if self.WIDTHS not in (None, len(self.fw)):
            raise ValueError(f"--schedule {self.name} takes {self.WIDTHS} of --fw and --bw each, not {len(self.fw)}")
        for name in ("fw", "bw"):
            self.require(all(2 <= bits <= MAX_BITS for bits in getattr(self, name)), name, f"2 to {MAX_BITS} bits")

    @property
    def stages(self) -> tuple[Precision, ...]:
        """The precision of each stage."""
        return tuple(Precision(fw, bw) for fw, bw in zip(self.fw, self.bw, strict=True))

    @property
    def gates(self) -> GatedSettings | None:
        """What samples choose from that choose the precision of each block for themselves; None if they do not."""
        return None

    @property
    def targets(self) -> tuple[float | None, ...]:
        """Targets of the gates' cost in the order of the stages; None where there are no gates."""
        return (None,)

    def __str__(self) -> str:
        return ", ".join(map(str, self.stages))

    @abstractmethod
    def build(self, total: int) -> Schedule:
        """The schedule of a run of `total` iterations. Raises ValueError if they are too few for it."""

    def out_of_reach(self, total: int) -> list[str]:
        """Stages in which a run of `total` iterations cannot train, even if the loss stops changing at once."""
        schedule, reached = self.build(total), set()
        for _ in range(total):
            reached.add((schedule.precision, schedule.cp))
            schedule.observe(1.0)
        return [
            str(precision) if target is None else f"cp {target:g} %"
            for precision in self.stages
            for target in self.targets
            if (precision, target) not in reached
        ]
