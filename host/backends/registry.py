"""The backends by name. A new one is a file in this folder, or anywhere else, that calls `register`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from host.backends.modelled import Modelled
from host.board import Board
from rtl.config import AcceleratorConfig
from rtl.ddr import Ddr

#: Behind the name of a board that has no clock: with modelled cycles, see `host.backends.modelled`.
WITH_CYCLES = "+cycles"


@dataclass(frozen=True)
class Backend:
    """A kind of board.

    Attributes
    ----------
    name : as `open_board` is asked for it.
    open : makes a board of an `AcceleratorConfig` and the options of this backend.
    help : what it is, in a few words.
    has_clock : the board's counters count cycles.
    has_devices : it takes the option `device`, which says where it computes.
    modelled : its cycles come from the model.
    runs_descriptors : a training step may be descriptors over its memory.
    built : its configuration is that of the hardware, which `open` checks against one that is asked for, or takes.
    shown : where `name` is what the names of such boards begin with: the form of a whole one, for lists. `open` then
        takes the whole name as `name`.
    """

    name: str
    open: Callable[..., Board]
    help: str
    has_clock: bool = False
    has_devices: bool = False
    modelled: bool = False
    runs_descriptors: bool = False
    built: bool = False
    shown: str = ""

    @property
    def counts_cycles(self) -> bool:
        """Whether its counters have cycles, from wherever. Work that goes past such a board would be missing there."""
        return self.has_clock or self.modelled

    def with_cycles(self) -> Backend:
        """The same with modelled cycles."""

        def opened(config: AcceleratorConfig, ddr: Ddr | None = None, **options: Any) -> Board:
            return Modelled(self.open(config, **options), ddr)

        changes = {"name": self.name + WITH_CYCLES, "open": opened, "help": f"{self.help}, with modelled cycles"}
        return replace(self, **changes, modelled=True, runs_descriptors=False)


_BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Make a backend known to `open_board`; where it has no clock, with modelled cycles too. Raises ValueError if its
    name is taken."""
    added = [backend] if backend.has_clock else [backend, backend.with_cycles()]
    for each in added:
        if each.name in _BACKENDS:
            raise ValueError(f"there is a board {each.name!r} already")
    _BACKENDS.update({each.name: each for each in added})


def board_names() -> tuple[str, ...]:
    """The boards that can be opened: names, then the forms of those that have many."""
    forms = sorted(backend.shown for backend in _BACKENDS.values() if backend.shown)
    return (*sorted(name for name, backend in _BACKENDS.items() if not backend.shown), *forms)


def find(name: str) -> Backend:
    """The backend of this name. Raises ValueError, naming those that there are."""
    for known, backend in _BACKENDS.items():
        if backend.shown and name.startswith(known):
            return replace(backend, name=name, open=partial(backend.open, name=name), shown="")
    if name not in _BACKENDS:
        raise ValueError(f"unknown board {name!r}; there are {', '.join(board_names())}")
    return _BACKENDS[name]
