"""What a training run is: its settings, checked once, and the schedule they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Any, get_type_hints

from host.backends import find
from host.data.subset import Subset
from host.emulation.baselines import NUMERICS
from host.machine import default_preset
from host.nn.mixed import Option, option_cp, parse_options
from host.nn.models import MODELS
from host.nn.optim import LR_SCHEDULES
from host.quantise import Precision
from host.schedules import (
    FracTrainSchedule,
    PFQSchedule,
    PlannedSchedule,
    Schedule,
    Stage,
    StaticSchedule,
    cyclic_stages,
)
from host.training.forms import check
from rtl.config import MAX_BITS, PRESETS, AcceleratorConfig

#: Default widths (fw, bw) of each schedule: FracTrain's four stages, CPT's narrowest and widest, else the reference
#: that all are compared with, which DFQ and FracTrain give to the layers that have no gate.
SCHEDULES = {
    "static": ((8,), (8,)),
    "pfq": ((3, 4, 6, 8), (6, 6, 8, 8)),
    "dfq": ((8,), (8,)),
    "fractrain": ((8,), (8,)),
    "cpt": ((3, 8), (8, 8)),
}
#: Default targets of the schedules whose samples choose for themselves. The paper's 1.5, 2, 2.5, 3 begin below what its
#: cheapest option costs, 1.758; these end where they do.
TARGETS = {"dfq": (3.0,), "fractrain": (1.8, 2.2, 2.6, 3.0)}
#: Epochs of the loss indicator in a run, unless their length is given. The paper has 160 (of 400 iterations); in short
#: runs the indicator needs at least 15 for its three switches, and a window still has to average over some iterations.
INDICATOR_EPOCHS = 50
#: How many widths schedules take that do not take any number.
_WIDTHS = {"static": 1, "dfq": 1, "fractrain": 1, "cpt": 2}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; equal settings on equal boards give equal results, bit for bit.

    Attributes
    ----------
    board, data, model, schedule : names as on the command line.
    preset, clusters : the accelerator that runs, or whose cycles are modelled; empty and 0 for the board's own, see
        `host.machine.default_preset`, and for as many clusters as the preset has.
    device : where the board `torch` computes, such as `cpu` or `cuda`.
    subset : part of the data set, see `host.data.subset.Subset`; empty for all of it.
    augment : `none`, or `crop-flip` for random crops and flips of the training images.
    init_from : folder of a run whose weights this one begins with; empty for random weights.
    numerics : `device`, what the board computes exactly, or a method that is emulated on the host.
    fw, bw : forward and backward widths of each stage; empty for the schedule's default. Of DFQ and FracTrain, those of
        the layers without a gate; of CPT, of the narrowest and of the widest.
    epsilon, alpha, guard : see `PFQSchedule`.
    indicator_every : iterations in an epoch of the loss indicator; 0 for a fiftieth of the run.
    indicator : what it sees: `cross-entropy`, or `loss` with the gates' cost, as in FracTrain's code.
    switch : iterations in which the second and later stages begin, in place of the indicator and the guard.
    cycles : of CPT.
    options, weight_bits : what a sample may choose for a block, see `parse_options`, and the width of weights there.
    cp : target of the gates' cost in each stage, in percent of 32 bits; empty for the schedule's default.
    beta : weight of the gates' cost in the loss, for each percent. The paper's 1e-3, of a sum over samples and blocks,
        comes to 0.069 for ResNet-38 in batches of 128.
    band : distance from the target, as a part of it, from which on the cost has its full weight; 0 for all distances.
    allow_unreachable_cp : accept targets that no choice of options meets; the gates then keep to the nearest one.
    epochs, batch : length of the run. The last batch of an epoch holds what is left.
    lr, warmup : peak learning rate, and the fraction of the run that rises to it.
    lr_schedule : what follows: `cosine`, half a cosine down to 0, or `step`, a tenth after half of the run and again
        after three quarters, as in FracTrain's code.
    momentum, weight_decay : of the optimiser.
    edge_bits : narrowest operand of the first convolution and of the last layer. At 2 both follow the schedule, as the
        first convolution does in FracTrain's code. On the digits PFQ ends at 98.0 % with 2 and with 8, while a first
        convolution that fills one of 16 channels would at 8 bits take the time of a whole layer. A run that stays at 3
        bits throughout gains about two points from 8.
    seed : of the initial weights, the order of the samples and stochastic rounding.

    With the defaults, over 14 seeds, the indicator alone starts the later stages in iterations 68 to 96, 108 to 152 and
    156 to 184 of 230; the guard would have acted at 184, 199 and 215. Test accuracy 96.7 to 98.9 %, 98.1 % on average.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the option as on the command line.
    """

    board: str = "sim"
    preset: str = ""
    clusters: int = 0
    device: str = "cpu"
    data: str = "digits"
    subset: str = ""
    augment: str = "none"
    init_from: str = ""
    numerics: str = "device"
    model: str = "cnn-small"
    schedule: str = "pfq"
    fw: tuple[int, ...] = ()
    bw: tuple[int, ...] = ()
    epsilon: float = 0.05
    alpha: float = 0.3
    indicator_every: int = 0
    guard: float = 0.8
    indicator: str = "cross-entropy"
    switch: tuple[int, ...] = ()
    cycles: int = 8
    options: str = "3/6,4/6,4/8,6/8,6/12"
    weight_bits: int = 4
    cp: tuple[float, ...] = ()
    beta: float = 0.1
    band: float = 0.1
    allow_unreachable_cp: bool = False
    epochs: int = 10
    batch: int = 64
    lr: float = 0.2
    warmup: float = 0.05
    lr_schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    edge_bits: int = 2
    seed: int = 0

    def __post_init__(self):
        def check(ok: bool, name: str, want: str):
            if not ok:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)!r}, must be {want}")

        check(self.on_torch or self.device == "cpu", "device", "cpu for every board but torch")
        object.__setattr__(self, "preset", self.preset or default_preset(self.board))
        check(self.preset in PRESETS, "preset", "one of " + ", ".join(PRESETS))
        object.__setattr__(self, "clusters", self.clusters or PRESETS[self.preset].clusters)
        _ = self.accelerator  # refuses what cannot be built
        Subset.parse(self.subset)
        check(self.augment in ("none", "crop-flip"), "augment", "none or crop-flip")
        check(self.numerics in NUMERICS, "numerics", "one of " + ", ".join(NUMERICS))
        emulates = not find(self.board).counts_cycles
        check(emulates or self.numerics == "device", "numerics", "device on boards that count cycles")
        check(self.model in MODELS, "model", "one of " + ", ".join(MODELS))
        check(self.schedule in SCHEDULES, "schedule", "one of " + ", ".join(SCHEDULES))
        for name, default in zip(("fw", "bw"), SCHEDULES[self.schedule], strict=True):
            object.__setattr__(self, name, tuple(getattr(self, name)) or default)
        if len(self.fw) != len(self.bw):
            raise ValueError(
                f"--fw names {len(self.fw)} stages and --bw {len(self.bw)}; give one width per stage in each"
            )
        if self.schedule in _WIDTHS and len(self.fw) != _WIDTHS[self.schedule]:
            raise ValueError(
                f"--schedule {self.schedule} takes {_WIDTHS[self.schedule]} of --fw and --bw each, not {len(self.fw)}"
            )
        if self.schedule == "cpt":
            for name in ("fw", "bw"):
                low, high = getattr(self, name)
                check(low <= high, name, "the least width and then the most for --schedule cpt")
        for name in ("fw", "bw", "edge_bits"):
            value = getattr(self, name)
            widths = value if isinstance(value, tuple) else (value,)
            check(all(2 <= bits <= MAX_BITS for bits in widths), name, f"2 to {MAX_BITS} bits")
        check(self.epsilon > 0, "epsilon", "positive")
        check(0 < self.alpha <= 1, "alpha", "above 0, at most 1")
        check(self.indicator_every >= 0, "indicator_every", "positive, or 0 for a fiftieth of the run")
        check(0 < self.guard <= 1, "guard", "above 0, at most 1")
        check(self.indicator in ("cross-entropy", "loss"), "indicator", "cross-entropy or loss")
        check(self.cycles >= 1, "cycles", "at least 1")
        check(2 <= self.weight_bits <= MAX_BITS, "weight_bits", f"2 to {MAX_BITS} bits")
        check(self.beta > 0, "beta", "positive")
        check(self.band >= 0, "band", "0 or more")
        self._check_gates()
        self._check_switches()
        check(self.epochs >= 1, "epochs", "at least 1")
        check(self.batch >= 2, "batch", "at least 2: batch norm needs a variance")
        check(self.lr > 0, "lr", "positive")
        check(0 <= self.warmup < 1, "warmup", "from 0 to below 1")
        check(self.lr_schedule in LR_SCHEDULES, "lr_schedule", "one of " + ", ".join(LR_SCHEDULES))
        check(0 <= self.momentum < 1, "momentum", "from 0 to below 1")
        check(self.weight_decay >= 0, "weight_decay", "0 or more")
        check(self.seed >= 0, "seed", "0 or more")
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            check(all(not isinstance(number, float) or isfinite(number) for number in numbers), name, "finite")

    def _check_gates(self) -> None:
        options = self.gate_options
        if not self.gated:
            if self.cp:
                raise ValueError(f"--cp needs --schedule {' or '.join(TARGETS)}, not {self.schedule}")
            return
        object.__setattr__(self, "cp", tuple(float(target) for target in self.cp) or TARGETS[self.schedule])
        if self.numerics != "device":
            raise ValueError(f"--schedule {self.schedule} needs --numerics device, not {self.numerics}")
        if self.schedule == "dfq" and len(self.cp) > 1:
            raise ValueError(f"--schedule dfq has one target, but --cp names {len(self.cp)}; fractrain has several")
        costs = [option_cp(option) for option in options]
        if self.allow_unreachable_cp:
            return
        for target in self.cp:
            if not min(costs) <= target <= max(costs):
                raise ValueError(
                    f"--cp {target:g} cannot be reached: with --options {self.options} and --weight-bits "
                    f"{self.weight_bits} the cost is {min(costs):.4g} to {max(costs):.4g} percent; choose a target "
                    f"between, or give --allow-unreachable-cp to stay at the nearest"
                )

    def _check_switches(self) -> None:
        if not self.switch:
            return
        stages = len(self.cp) if self.schedule == "fractrain" else len(self.fw)
        if self.schedule not in ("pfq", "fractrain"):
            raise ValueError(f"--switch needs --schedule pfq or fractrain, not {self.schedule}")
        if len(self.switch) != stages - 1:
            raise ValueError(f"--switch names {len(self.switch)} iterations; {stages} stages take {stages - 1}")
        if any(b <= a for a, b in zip((0, *self.switch), self.switch, strict=False)):
            raise ValueError(f"--switch is {self.switch!r}, must rise from above 0")

    @property
    def gated(self) -> bool:
        """Whether samples choose the precision of each block for themselves."""
        return self.schedule in TARGETS

    @property
    def gate_options(self) -> tuple[Option, ...]:
        """What they choose from."""
        return parse_options(self.options, self.weight_bits)

    @property
    def accelerator(self) -> AcceleratorConfig:
        """The configuration that runs, or whose cycles are modelled."""
        return AcceleratorConfig.preset(self.preset, clusters=self.clusters)

    @property
    def on_torch(self) -> bool:
        """Whether the board takes a device to compute on."""
        return find(self.board).has_devices

    @property
    def stages(self) -> tuple[Precision, ...]:
        """The precision of each stage."""
        return tuple(Precision(fw, bw) for fw, bw in zip(self.fw, self.bw, strict=True))

    def build_schedule(self, total: int) -> Schedule:
        """The schedule of a run of `total` iterations. Raises ValueError if they are too few for it."""
        if self.schedule == "static":
            return StaticSchedule(self.stages[0])
        if self.schedule == "dfq":
            return StaticSchedule(self.stages[0], self.cp[0])
        if self.schedule == "cpt":
            return PlannedSchedule(cyclic_stages(*self.stages, self.cycles, total))
        fractrain = self.schedule == "fractrain"
        if self.switch:
            if self.switch[-1] >= total:
                raise ValueError(f"--switch {self.switch[-1]} lies behind the end of the run, iteration {total}")
            starts = (0, *self.switch)
            precisions = self.stages * len(starts) if fractrain else self.stages
            targets = self.cp if fractrain else (None,) * len(starts)
            return PlannedSchedule([Stage(*part) for part in zip(starts, precisions, targets, strict=False)])
        how = {
            "epsilon": self.epsilon,
            "alpha": self.alpha,
            "indicator_every": self.indicator_every or max(total // INDICATOR_EPOCHS, 1),
            "total": total,
            "guard": self.guard,
        }
        if fractrain:
            return FracTrainSchedule(self.cp, self.stages[0], **how)
        return PFQSchedule(self.stages, **how)

    def out_of_reach(self, total: int) -> list[str]:
        """Stages in which a run of `total` iterations cannot train, even if the loss stops changing at once."""
        schedule, reached = self.build_schedule(total), set()
        for _ in range(total):
            reached.add((schedule.precision, schedule.cp))
            schedule.observe(1.0)
        targets = self.cp or (None,)
        wanted = [(precision, target) for precision in self.stages for target in targets]
        return [
            str(precision) if target is None else f"cp {target:g} %"
            for precision, target in wanted
            if (precision, target) not in reached
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` builds an equal object."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Rebuild settings; ones that this program does not have, or of another type, raise ValueError."""
        check(values, dict[str, Any], "the settings")
        if strange := sorted(values.keys() ^ {field.name for field in fields(cls)}):
            raise ValueError(f"the settings differ from this program's in: {', '.join(strange)}")
        for name, kind in get_type_hints(cls).items():
            check(values[name], kind, f"the setting {name}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def resumed_with(self, given: Mapping[str, Any]) -> TrainConfig:
        """These settings with those given anew, which must be the same; only epochs may have become more.

        Raises
        ------
        ValueError
            Naming every setting that differs, its value in the checkpoint and the value given.
        """
        wanted = replace(self, **given)
        ours, theirs = self.to_json(), wanted.to_json()
        differing = [
            f"--{name.replace('_', '-')} {ours[name]} (now {theirs[name]})"
            for name in ours
            if ours[name] != theirs[name] and not (name == "epochs" and theirs[name] > ours[name])
        ]
        if differing:
            raise ValueError("the checkpoint belongs to a run with " + ", ".join(differing))
        return wanted
