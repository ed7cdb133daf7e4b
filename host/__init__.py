"""Host of the accelerator: boards, exact products on them, and training.

`open_board` gives a board, `QTensor` holds operands, `ops` multiplies them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from host import ops
    from host.backends import open_board
    from host.qtensor import QTensor

__all__ = ["QTensor", "open_board", "ops"]

_HOMES = {"QTensor": "host.qtensor", "open_board": "host.backends"}


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that a command can get ready for Ctrl-C before numpy and all that follows.
    if name == "ops":
        return import_module("host.ops")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
