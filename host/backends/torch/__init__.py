"""PyTorch as a board. The library is an extra, and is imported when the board is opened."""

from __future__ import annotations

from host.backends.registry import Backend, register
from host.board import Board
from rtl.config import AcceleratorConfig

MISSING = "{} needs PyTorch, which is not installed: pip install 'fractrain-fpga[torch]'"


def _open(config: AcceleratorConfig, device: str = "cpu") -> Board:
    try:
        from host.backends.torch.board import TorchBoard
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise RuntimeError(MISSING.format("board 'torch'")) from None
    return TorchBoard(config, device)


register(Backend("torch", _open, "the products in PyTorch, on a CPU or GPU", has_devices=True))
