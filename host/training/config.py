"""What a training run is: its settings, checked once, those of its precision schedule among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from host.backends import board_names, find
from host.data.subset import Subset
from host.emulation.baselines import NUMERICS
from host.machine import default_preset
from host.nn.models import MODELS, build_model
from host.nn.optim import LR_SCHEDULES
from host.options import Checked, Option, option, options_of
from host.quantise import Precision
from host.schedules import SCHEDULES, Settings
from host.schedules.pfq import PFQSettings
from host.step.choice import is_step_for
from host.step.tensors import Storage
from host.training.forms import check
from rtl.config import MAX_BITS, PRESETS, AcceleratorConfig

#: The option whose value says which other options there are.
SCHEDULE = "schedule"
#: What may compute a training step around its products.
STEPS = ("host", "device")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """Settings of a run; equal settings on equal boards give equal results, bit for bit.

    The help of each field says what it is. `schedule` holds the settings of the precision schedule; `of` takes them
    all together, as they are on the command line. An edge of 2 bits follows the schedule, as the first convolution
    does in FracTrain's code: on the digits PFQ ends alike with 2 and with 8, while a first convolution that fills one
    of 16 channels would at 8 bits take the time of a whole layer.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the option as on the command line.
    """

    board: str = option("sim", f"one of {', '.join(board_names())}")
    preset: str = option(
        "",
        f"configuration of the accelerator that runs or is modelled: {', '.join(PRESETS)}",
        "zc706 where cycles are modelled, vector where the device step runs, else sim",
    )
    clusters: int = option(0, "clusters of it", "the preset's")
    device: str = option("cpu", "where the board torch computes: cpu, cuda, cuda:1, ...")
    data: str = option(
        "digits", "digits, a folder (MNIST and its kin, CIFAR-10, CIFAR-100), or an .npz file of JPEG images"
    )
    subset: str = option(
        "", "part of the data set, as classes=0-4/fraction=0.5, the rest=0.5 that this leaves, or test=0.1"
    )
    augment: str = option("none", "none, or crop-flip: random crops and flips of the training images")
    init_from: str = option("", "folder of a run whose weights this one begins with")
    numerics: str = option(
        "device", f"device, or emulated on the host: {', '.join(name for name in NUMERICS if name != 'device')}"
    )
    step: str = option(
        "",
        "what computes a step around its products: host, in floating point; or device, the accelerator's integers",
        "device on the boards sim, golden and zynq with a vector unit, where it takes the run",
    )
    micro_batch: int = option(0, "most samples that share statistics and ranges", "the whole batch")
    guard_bits: tuple[int, ...] = option(
        (), "device step: bits by which results, their sums and gradients are stored wider than operands", "3,4,1"
    )
    nearest_gradients: bool = option(False, "device step: round stored gradients to nearest, not stochastically")
    model: str = option("cnn-small", f"network: {', '.join(MODELS)}")
    schedule: Settings = field(default_factory=PFQSettings)
    epochs: int = option(10, "passes over the training split")
    batch: int = option(64, "samples in a batch; the last of an epoch holds what is left")
    lr: float = option(0.2, "peak learning rate")
    warmup: float = option(0.05, "fraction of the run in which the learning rate rises")
    lr_schedule: str = option(
        "cosine", "cosine, or step: a tenth after half and after three quarters of the run, as in FracTrain's code"
    )
    momentum: float = option(0.9, "momentum of SGD")
    weight_decay: float = option(1e-4, "L2 weight decay")
    edge_bits: int = option(2, "narrowest operand of the first convolution and of the last layer")
    seed: int = option(0, "seed of the initial weights, the order of the samples and stochastic rounding")

    def __post_init__(self) -> None:
        require = self.require
        require(self.on_torch or self.device == "cpu", "device", "cpu for every board but torch")
        self._set("step", self.step or self._default_step())
        self._set("preset", self.preset or default_preset(self.board, step=self.step))
        require(self.preset in PRESETS, "preset", "one of " + ", ".join(PRESETS))
        self._set("clusters", self.clusters or PRESETS[self.preset].clusters)
        _ = self.accelerator  # refuses what cannot be built
        Subset.parse(self.subset)
        require(self.augment in ("none", "crop-flip"), "augment", "none or crop-flip")
        require(self.numerics in NUMERICS, "numerics", "one of " + ", ".join(NUMERICS))
        emulates = not find(self.board).counts_cycles
        require(emulates or self.numerics == "device", "numerics", "device on boards that count cycles")
        if self.schedule.gates and self.numerics != "device":
            raise ValueError(f"--schedule {self.schedule.name} needs --numerics device, not {self.numerics}")
        self._check_step()
        require(self.model in MODELS, "model", "one of " + ", ".join(MODELS))
        require(self.epochs >= 1, "epochs", "at least 1")
        require(self.batch >= 2, "batch", "at least 2: batch norm needs a variance")
        require(self.lr > 0, "lr", "positive")
        require(0 <= self.warmup < 1, "warmup", "from 0 to below 1")
        require(self.lr_schedule in LR_SCHEDULES, "lr_schedule", "one of " + ", ".join(LR_SCHEDULES))
        require(0 <= self.momentum < 1, "momentum", "from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", "0 or more")
        require(2 <= self.edge_bits <= MAX_BITS, "edge_bits", f"2 to {MAX_BITS} bits")
        require(self.seed >= 0, "seed", "0 or more")
        self.require_finite()

    def _default_step(self) -> str:
        """The device's, where all of it runs there."""
        runs = find(self.board).runs_descriptors and self.numerics == "device"
        fits = not self.preset or (self.preset in PRESETS and PRESETS[self.preset].vector)
        if not (runs and fits and self.model in MODELS):
            return "host"
        model = build_model(self.model, (3, 32, 32), 10, seed=0, edge_bits=2)
        return "device" if is_step_for(model, self._precisions) else "host"

    @property
    def _precisions(self) -> list[Precision]:
        """All that layers may have."""
        gates = self.schedule.gates
        return [*self.schedule.stages, *filter(None, gates.gate_options if gates else ())]

    def _check_step(self) -> None:
        require = self.require
        require(self.step in STEPS, "step", "one of " + ", ".join(STEPS))
        require(self.micro_batch == 0 or self.micro_batch >= 2, "micro_batch", "0 or at least 2")
        on_device = self.step == "device"
        require(on_device or not self.guard_bits, "guard_bits", "left out without --step device")
        require(on_device or not self.nearest_gradients, "nearest_gradients", "left out without --step device")
        if on_device:
            self._set("guard_bits", self.guard_bits or Storage().guard_bits)
            require(len(self.guard_bits) == 3, "guard_bits", "bits of y, h and dz such as 3,4,1")
            _ = self.storage
        if self.micro_batch and self.schedule.gates:
            raise ValueError(f"--schedule {self.schedule.name} has gates: it takes no --micro-batch")
        if on_device and self.numerics != "device":
            raise ValueError(f"--step device needs --numerics device, not {self.numerics}")

    @property
    def accelerator(self) -> AcceleratorConfig:
        """The configuration that runs, or whose cycles are modelled."""
        return AcceleratorConfig.preset(self.preset, clusters=self.clusters)

    @property
    def storage(self) -> Storage:
        """How the device step stores tensors."""
        return Storage(*self.guard_bits, nearest=self.nearest_gradients)

    @property
    def on_torch(self) -> bool:
        """Whether the board takes a device to compute on."""
        return find(self.board).has_devices

    @classmethod
    def of(cls, **options: Any) -> TrainConfig:
        """The settings of options as on the command line: `schedule` by its name, and its options beside the others.

        Lists may be tuples. An option that the schedule does not have raises ValueError.
        """
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        kind = schedule_called(options.pop(SCHEDULE, PFQSettings.name))
        general = options_of(cls)
        own = {name: options.pop(name) for name in list(options) if name not in general}
        for name in own:
            if name not in options_of(kind):
                raise ValueError(_misplaced(name, kind))
        return cls(schedule=kind(**own), **options)

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values, from which `from_json` builds an equal object."""
        general = {part.name: getattr(self, part.name) for part in fields(self)}
        options = {**general, SCHEDULE: self.schedule.name, **asdict(self.schedule)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Rebuild settings; ones that this program does not have, or of another type, raise ValueError."""
        check(values, dict[str, Any], "the settings")
        known = options_of(cls) | options_of(schedule_called(values.get(SCHEDULE, "")))
        if strange := sorted((values.keys() - {SCHEDULE}) ^ known.keys()):
            raise ValueError(f"the settings differ from this program's in: {', '.join(strange)}")
        for name, known_option in known.items():
            check(values[name], known_option.kind, f"the setting {name}")
        return cls.of(**values)

    def resumed_with(self, given: Mapping[str, Any]) -> TrainConfig:
        """These settings with those given anew, which must be the same; only epochs may have become more.

        Raises
        ------
        ValueError
            Naming every setting that differs, its value in the checkpoint and the value given.
        """
        ours = self.to_json()
        theirs: Mapping[str, Any] = {**ours, **given}
        if theirs[SCHEDULE] == ours[SCHEDULE]:
            theirs = TrainConfig.of(**theirs).to_json()
        differing = [
            f"--{name.replace('_', '-')} {ours.get(name)} (now {theirs[name]})"
            for name in theirs
            if ours.get(name) != theirs[name] and not (name == "epochs" and theirs[name] > ours[name])
        ]
        if differing:
            raise ValueError("the checkpoint belongs to a run with " + ", ".join(differing))
        return replace(self, epochs=theirs["epochs"])


def schedule_called(name: Any) -> type[Settings]:
    """The settings of a schedule. Raises ValueError if there is none of that name."""
    if name not in SCHEDULES:
        raise ValueError(f"--schedule is {name!r}, must be one of {', '.join(sorted(SCHEDULES))}")
    return SCHEDULES[name]


def _misplaced(name: str, kind: type[Settings]) -> str:
    """What to say of an option that a schedule does not have."""
    shown = f"--{name.replace('_', '-')}"
    having = [other for other in sorted(SCHEDULES) if name in options_of(SCHEDULES[other])]
    return f"{shown} needs --schedule {' or '.join(having)}, not {kind.name}" if having else f"there is no {shown}"


def all_options() -> dict[str, Option]:
    """The options of runs and of all schedules, by name. Raises ValueError if two schedules disagree on a type."""
    text = f"precision schedule: {', '.join(sorted(SCHEDULES))} (default: {PFQSettings.name})"
    found = options_of(TrainConfig) | {SCHEDULE: Option(SCHEDULE, str, PFQSettings.name, text)}
    having: dict[str, list[str]] = {}
    for schedule in sorted(SCHEDULES):
        for name, own in options_of(SCHEDULES[schedule]).items():
            having.setdefault(name, []).append(schedule)
            if own.kind != found.setdefault(name, own).kind:
                raise ValueError(f"--{name} of schedule {schedule} is {own.kind}, elsewhere {found[name].kind}")
    for name in having.keys() - options_of(Settings):
        found[name] = replace(found[name], help=f"{', '.join(having[name])}: {found[name].help}")
    return found
