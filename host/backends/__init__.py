"""The boards: each computes the products of training in its own way, and all give equal results."""

from __future__ import annotations

from host.backends.driver import RegisterBoard
from host.backends.golden import GoldenBoard
from host.backends.modelled import Modelled
from host.board import Board
from rtl.config import AcceleratorConfig

BOARDS = ("golden", "sim", "torch", "zc706", "tcp://HOST:PORT")

#: Behind the name of a board that has no clock: report the cycles that its accelerator would take, see `modelled`.
WITH_CYCLES = "+cycles"

MISSING_TORCH = "{} needs PyTorch, which is not installed: pip install 'fractrain-fpga[torch]'"


def open_board(name: str, **options) -> Board:
    """Open a board.

    Parameters
    ----------
    name : `"golden"`, the numpy model; `"torch"`, the same products in PyTorch, on a CPU or GPU; or `"sim"`, the RTL
        compiled into a simulator.
        `"golden+cycles"` and `"torch+cycles"` report the accelerator's cycles by a model (`host.cycles.model`).
    options : for all, `config`: an `AcceleratorConfig` or the name of a preset, by default `"sim"`. For `"golden"`
        `memory_bytes`; for `"torch"` `device`, by default `"cpu"`; for `"sim"` what `sim.verilated.VerilatedTransport`
        takes (`waves`, `read_latency`, ...).

    Raises
    ------
    ValueError
        If there is no such board or preset.
    RuntimeError
        If the board is known but this release cannot drive it, or its library or device is missing.
    """
    if name == "zc706" or name.startswith("tcp://"):
        raise RuntimeError(
            f"board {name!r} needs the hardware and a driver for it, which this release does not contain; "
            "'golden', 'torch' and 'sim' run everywhere"
        )
    if name in ("golden" + WITH_CYCLES, "torch" + WITH_CYCLES):
        return Modelled(open_board(name.removesuffix(WITH_CYCLES), **options))
    if name not in BOARDS:
        raise ValueError(f"unknown board {name!r}; there are {', '.join(BOARDS)}")
    config = options.pop("config", "sim")
    if isinstance(config, str):
        config = AcceleratorConfig.preset(config)
    if name == "golden":
        return GoldenBoard(config, **options)
    if name == "torch":
        try:
            from host.backends.torch_board import TorchBoard
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise RuntimeError(MISSING_TORCH.format("board 'torch'")) from None
        return TorchBoard(config, **options)
    from sim.verilated import VerilatedTransport

    return RegisterBoard(name, VerilatedTransport(config, **options))
