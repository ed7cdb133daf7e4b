"""The RTL, compiled into a simulator, as a board."""

from __future__ import annotations

from host.backends.driver import RegisterBoard
from host.backends.registry import Backend, register
from host.board import Board
from rtl.config import AcceleratorConfig


def _open(config: AcceleratorConfig, **options) -> Board:
    from sim.verilated import VerilatedTransport  # looks for its tools, which only this board needs

    return RegisterBoard("sim", VerilatedTransport(config, **options))


register(Backend("sim", _open, "the RTL in a simulator", has_clock=True, runs_descriptors=True))
