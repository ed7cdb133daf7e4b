"""Options: fields of frozen dataclasses that are settings on the command line, in files and in checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, get_args, get_type_hints


def option(default: Any, help: str, shown: str = "") -> Any:
    """A field that is an option.

    Parameters
    ----------
    default : bool, int, float, str, or an empty tuple for a list of numbers, with an annotation to fit.
    help : what `--help` says of it.
    shown : the default in words, where the value says nothing by itself.
    """
    return field(default=default, metadata={"help": help, "shown": shown})


@dataclass(frozen=True)
class Option:
    """An option as the command line has it; `kind` is a type such as int or `tuple[int, ...]`."""

    name: str
    kind: Any
    default: Any
    help: str

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add it as `--name`; what is not given is left out of the result."""
        how: dict[str, Any] = {"default": argparse.SUPPRESS, "help": self.help}
        if self.kind is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            items = get_args(self.kind)
            how |= {"type": _list_of(items[0]) if items else self.kind, "metavar": self.name.upper()}
        parser.add_argument(f"--{self.name.replace('_', '-')}", **how)


def options_of(settings: type) -> dict[str, Option]:
    """The options that a dataclass has, by name."""
    kinds = get_type_hints(settings)
    found = {}
    for part in fields(settings):
        if "help" in part.metadata:
            shown = part.metadata["shown"] or ("none" if part.default in ((), "") else part.default)
            text = f"{part.metadata['help']} (default: {shown})"
            found[part.name] = Option(part.name, kinds[part.name], part.default, text)
    return found


def _list_of(kind: type) -> Callable[[str], tuple]:
    """Reads numbers with commas between them."""

    def read(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 3,4,6,8") from None

    return read


class Checked:
    """Settings that look after their values: `require` says what an option must be."""

    def require(self, holds: bool, name: str, want: str) -> None:
        """Raise ValueError unless the option `name` holds what it must."""
        if not holds:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)!r}, must be {want}")

    def require_finite(self) -> None:
        """Raise ValueError if a number is infinite or none."""
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            self.require(all(not isinstance(n, float) or isfinite(n) for n in numbers), name, "finite")

    def _set(self, name: str, value: Any) -> None:
        """Put a default that depends on other options in its place."""
        object.__setattr__(self, name, value)
