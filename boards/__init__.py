"""Boards that the accelerator is built for: a file here that has a `BOARD` is a build target; nothing else lists it."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from boards.board import Board


def boards() -> dict[str, Board]:
    """All boards by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    found = [module.BOARD for module in modules if hasattr(module, "BOARD")]
    return {board.name: board for board in sorted(found, key=lambda board: board.name)}


def board_named(name: str) -> Board:
    """The board of that name. Raises ValueError naming the known ones."""
    known = boards()
    if name not in known:
        raise ValueError(f"unknown board {name!r}; there are {', '.join(known)}")
    return known[name]
