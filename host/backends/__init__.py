"""The boards: each computes the products of training in its own way, and all give equal results.

Every module of this folder is imported, and those that are backends register themselves.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from host.backends.registry import Backend, board_names, find, register
from host.board import Board
from rtl.config import AcceleratorConfig

__all__ = ["Backend", "board_names", "discover", "find", "open_board", "register"]


def discover() -> None:
    """Import the modules of this folder."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


def open_board(name: str, config: AcceleratorConfig | str | None = None, **options) -> Board:
    """Open a board.

    Parameters
    ----------
    name : one of `board_names()`: `"golden"`, the numpy model; `"torch"`, the same products in PyTorch, on a CPU or
        GPU; `"sim"`, the RTL compiled into a simulator; `"zynq"`, the FPGA beside this processor;
        `"tcp://HOST:PORT"`, a board that `python -m host.serve` runs there; `"sharded:A,B,..."`, several boards
        as one; ... Boards without a clock report with `+cycles` after their name the accelerator's cycles by a model
        (`host.cycles.model`).
    config : the accelerator, or the name of a preset; by default `"sim"`, and for `"zynq"` and `"tcp://..."`
        whatever the hardware has.
    options : for `"golden"` `memory_bytes`; for `"torch"` `device`, by default `"cpu"`; for `"sim"` what
        `sim.verilated.VerilatedTransport` takes (`waves`, `ddr`, ...); for `"zynq"` `cached`, `bitstream`, ...; for
        `"tcp://..."` `keys`, `patience` and `wait`.

    Raises
    ------
    ValueError
        If there is no such board or preset.
    RuntimeError
        If its library, its tools or its device are missing.
    ConnectionError
        If there is no server there, or it does not let this client in.
    """
    backend = find(name)
    if config is None and not backend.built:
        config = "sim"
    return backend.open(AcceleratorConfig.preset(config) if isinstance(config, str) else config, **options)


discover()
