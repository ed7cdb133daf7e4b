"""Whether the device step takes a run, and which engine computes it on a board."""

from __future__ import annotations

from collections.abc import Sequence

from host.backends.memory import MemoryBoard
from host.board import Board
from host.nn.layers import Layer
from host.quantise import Precision
from host.step.array_engine import ArrayEngine
from host.step.engine import Engine
from host.step.lowering import is_known
from host.step.memory_engine import MemoryEngine
from host.step.network import Network
from host.step.tensors import fits
from rtl.vector_block import MOST_WIDTH


def is_step_for(model: Layer, precisions: Sequence[Precision]) -> bool:
    """Whether the device step knows the model and takes these precisions."""
    try:
        Network.of(model)
    except ValueError:
        return False
    return all(map(fits, precisions))


def engine_for(board: Board, network: Network, image: tuple[int, int, int]) -> Engine:
    """The board's own, if it has a vector unit and that takes the network with images (C, H, W); else arrays."""
    if not isinstance(board, MemoryBoard) or not board.config.vector:
        return ArrayEngine(board, f"board {board.name} has no vector unit")
    if image[2] > MOST_WIDTH:
        return ArrayEngine(board, f"rows of {image[2]} pixels exceed the vector unit's {MOST_WIDTH}")
    for normed in network.convolutions:
        if not is_known(normed):
            return ArrayEngine(board, f"{normed.name} is a convolution that no descriptor computes")
    return MemoryEngine(board)
