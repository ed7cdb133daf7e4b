"""Several boards as one: each product is split by samples, and each board computes a part.

All that is not a product stays in one process, so a run is that of a single board, bit for bit. Which boards there are,
and how many, changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from host.arrays import to_numpy
from host.backends.registry import Backend, register
from host.board import Board
from host.operand import Operand
from host.plan import sums
from host.qtensor import QTensor
from rtl.config import AcceleratorConfig

PREFIX = "sharded:"
#: Counters that several boards have together, where all of them have them. Cycles are none: boards run side by side.
AMOUNTS = ("host_write_bytes", "host_read_bytes", "read_bytes", "write_bytes", "descriptors", "overflows")


class ShardedBoard(Board):
    """`boards` as one. Samples are spread evenly; a board whose share is none rests.

    The configuration is that of the first. A weight gradient is the sum of the parts, in int64.

    Parameters
    ----------
    name : of all together.
    boards : at least two; closed together with this one.
    """

    def __init__(self, name: str, boards: Sequence[Board]):
        self.name, self.boards = name, tuple(boards)
        self.config, self.memory_bytes = boards[0].config, min(board.memory_bytes for board in boards)
        self._threads = [ThreadPoolExecutor(1, f"board {number}") for number in range(len(boards))]
        self._parts: WeakKeyDictionary[QTensor, list[Operand]] = WeakKeyDictionary()

    def place(self, array: Any) -> np.ndarray:
        return to_numpy(array)

    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int) -> np.ndarray:
        parts = self._split(x)

        def product(board: Board, part: Operand) -> Any:
            return board.conv2d(part, _whole(board, w), stride, padding)

        # Samples of 0 bits are no work; a part of nothing else is none for any board.
        found = self._each(product, [part if part.table is None or part.table.any() else None for part in parts])
        shape = next(result.shape for result in found if result is not None)[1:]
        pairs = zip(found, parts, strict=True)
        return np.concatenate([np.zeros((len(part.codes), *shape), np.int64) if y is None else y for y, part in pairs])

    def conv2d_input_grad(
        self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int
    ) -> np.ndarray:
        def product(board: Board, part: Operand) -> Any:
            shape = len(part.codes), *input_shape[1:]
            return board.conv2d_input_grad(part, _whole(board, w), shape, stride, padding)

        return np.concatenate(self._each(product, self._split(g)))

    def conv2d_weight_grad(
        self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int
    ) -> np.ndarray:
        # Of the whole batch: the parts alone might fit where their sum does not.
        sums.reach(sums.weight_grad(g, x, kernel_shape[2:], stride, padding))

        def product(board: Board, parts: tuple[Operand, Operand]) -> Any:
            return board.conv2d_weight_grad(*parts, kernel_shape, stride, padding)

        return np.sum(self._each(product, list(zip(self._split(g), self._split(x), strict=True))), axis=0)

    def matmul(self, a: Operand, b: Operand) -> np.ndarray:
        def product(board: Board, part: Operand) -> Any:
            return board.matmul(part, _whole(board, b))

        return np.concatenate(self._each(product, self._split(a)))

    def _split(self, operand: Operand) -> list[Operand]:
        """Samples for each board that has any; a tensor is split once, so boards may keep what is theirs."""
        if isinstance(operand.origin, QTensor) and operand.origin in self._parts:
            return self._parts[operand.origin]
        count = len(operand.codes)
        ends = [count * number // len(self.boards) for number in range(len(self.boards) + 1)]
        busy = [(start, stop) for start, stop in pairwise(ends) if start < stop]
        parts = [
            Operand(
                board.place(operand.codes[start:stop]),
                operand.bits,
                operand.signed,
                None if operand.table is None else operand.table[start:stop],
            )
            for board, (start, stop) in zip(self.boards, busy, strict=False)
        ]
        if isinstance(operand.origin, QTensor):
            self._parts[operand.origin] = parts
        return parts

    def _each(self, product: Callable[[Board, Any], Any], parts: Sequence[Any]) -> list[Any]:
        """The products of the parts, int64 in numpy, all at a time; None where there is no part. Raises what a board
        raises, when all have come to an end.
        """
        with self.standing_in():
            work = [
                None if part is None else thread.submit(product, board, part)
                for thread, board, part in zip(self._threads, self.boards, parts, strict=False)
            ]
            wait([each for each in work if each])
            return [each and to_numpy(each.result()).astype(np.int64, copy=False) for each in work]

    def release(self, tensor: QTensor) -> None:
        self._parts.pop(tensor, None)
        for board in self.boards:
            board.release(tensor)

    def counters(self) -> dict[str, int]:
        found = [board.counters() for board in self.boards]
        shared = [name for name in AMOUNTS if all(name in counters for counters in found)]
        return {**{name: sum(counters[name] for counters in found) for name in shared}, **super().counters()}

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown()
        for board in self.boards:
            board.close()


def _whole(board: Board, operand: Operand) -> Operand:
    """An operand that all boards need."""
    return Operand(board.place(operand.codes), operand.bits, operand.signed, operand.table, operand.origin)


def _open(config: AcceleratorConfig | None = None, *, name: str) -> Board:
    """The boards whose names follow, with commas between. Raises ValueError unless there are several, and what
    `open_board` raises.
    """
    from host.backends import open_board  # which has read this file by then

    names = name.removeprefix(PREFIX).split(",")
    if len(names) < 2 or not all(names):
        raise ValueError(f"{name!r} names no boards, must be {PREFIX}A,B,... of at least two")
    boards: list[Board] = []
    try:
        for each in names:
            boards.append(open_board(each, config))
    except BaseException:
        for board in boards:
            board.close()
        raise
    return ShardedBoard(name, boards)


register(
    Backend(
        PREFIX,
        _open,
        "several boards as one, each with some of the samples",
        has_clock=True,
        built=True,
        shown=f"{PREFIX}A,B,...",
    )
)
