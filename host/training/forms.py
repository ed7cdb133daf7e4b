"""JSON from files, held against the types that a program expects; what is odd is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict


def check(value: Any, form: Any, where: str) -> None:
    """Raise ValueError if a JSON value is not of `form`; the message says where, what was found and what is wanted.

    Parameters
    ----------
    form : bool, int, float (a whole number is one too; finite), str, None, a list or dict of them such as
        `dict[str, int]`, a union, a TypedDict (keys beside its own are let through) or a dataclass (they are not;
        a field whose metadata has `later` may be missing: older files do not have it).
    where : what the value is called.
    """
    origin, inner = get_origin(form), get_args(form)
    if form is Any:
        return
    if origin is UnionType:
        if not any(_fits(value, part) for part in inner):
            raise ValueError(_message(value, form, where))
    elif origin in (list, tuple):
        _require(isinstance(value, list), value, list, where)
        for number, part in enumerate(value):
            check(part, inner[0], f"{where}[{number}]")
    elif origin is dict:
        _require(isinstance(value, dict), value, dict, where)
        for name, part in value.items():
            check(part, inner[1], f"{where}.{name}")
    elif is_typeddict(form) or is_dataclass(form):
        _require(isinstance(value, dict), value, dict, where)
        names = {field.name for field in fields(form)} if is_dataclass(form) else form.__required_keys__
        later = {field.name for field in fields(form) if "later" in field.metadata} if is_dataclass(form) else set()
        if missing := sorted(names - later - value.keys()):
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        if is_dataclass(form) and (strange := sorted(value.keys() - names)):
            raise ValueError(f"{where} holds {', '.join(strange)}, which this program does not know")
        for name, part in get_type_hints(form).items():
            if name in value:
                check(value[name], part, f"{where}.{name}")
    elif form is float:
        _require(_fits(value, int) or (isinstance(value, float) and isfinite(value)), value, form, where)
    elif form is int:
        _require(isinstance(value, int) and not isinstance(value, bool), value, form, where)
    else:
        _require(isinstance(value, form), value, form, where)


def _fits(value: Any, form: Any) -> bool:
    try:
        check(value, form, "")
    except ValueError:
        return False
    return True


def _require(holds: bool, value: Any, form: Any, where: str) -> None:
    if not holds:
        raise ValueError(_message(value, form, where))


def _message(value: Any, form: Any, where: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return f"{where} is {shown}, must be {form.__name__ if isinstance(form, type) else form}"


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the content of a file into a ValueError that names it.

    For the use of content whose form has been checked, but whose values may be no state of this program.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: {said}") from None
