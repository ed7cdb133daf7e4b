"""Boards that the accelerator is built for, by name: the module that describes each."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

#: A board's module has DEVICE, CAPACITY, CLOCK_MHZ, PRESET, `Top(config)`, `constraints(clock_mhz)`,
#: `vendor_script(name)`, TOOL and `vendor_result(directory)`.
BOARDS = {"zc706": "boards.zc706"}


def board_module(name: str) -> ModuleType:
    """The module of a board. Raises ValueError naming the known ones."""
    if name not in BOARDS:
        raise ValueError(f"unknown board {name!r}; there are {', '.join(BOARDS)}")
    return import_module(BOARDS[name])
