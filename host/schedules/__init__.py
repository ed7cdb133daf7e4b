"""Precision schedules: which FW/BW a training step uses, decided from the losses seen so far.

The training loop asks `precision` before each step and reports the step's loss to `observe` after it; nothing else of
the program knows how the decision is made. A schedule is one file of this folder: its class, and its `Settings`, whose
fields are its options on the command line. `host.schedules.base` describes both.
"""

from importlib import import_module
from pkgutil import iter_modules

from host.schedules.base import SCHEDULES, Schedule, Settings, Switch
from host.schedules.cpt import cyclic_stages
from host.schedules.fractrain import FracTrainSchedule
from host.schedules.indicator import LossIndicator
from host.schedules.pfq import PFQSchedule
from host.schedules.planned import PlannedSchedule, Stage
from host.schedules.static import StaticSchedule

__all__ = [
    "SCHEDULES",
    "FracTrainSchedule",
    "LossIndicator",
    "PFQSchedule",
    "PlannedSchedule",
    "Schedule",
    "Settings",
    "Stage",
    "StaticSchedule",
    "Switch",
    "cyclic_stages",
    "discover",
]


def discover() -> None:
    """Import every file of this folder, so that what it defines is in `SCHEDULES`."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()
