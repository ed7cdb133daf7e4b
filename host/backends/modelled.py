"""Boards with the cycles that they would take: `host.cycles` beside a board that has no clock.

So long runs on the golden model or in PyTorch report the latency that the accelerator of their configuration would
have. The model reads the plans of the products; nothing is packed for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from host.board import Board
from host.cycles.model import CycleModel
from host.cycles.pipeline import Cycles
from host.operand import Operand
from host.plan import products
from host.plan.plan import Plan, Target
from host.qtensor import QTensor
from rtl.ddr import Ddr


class Modelled(Board):
    """`board`, which computes as before, with the cycles and DDR bytes that its accelerator would take.

    Its name ends in `+cycles`, its attribute `modelled` is true, and its counters gain those of `Cycles`. A batch whose
    samples differ in width is followed whole, or put together from its runs if the board is `quick`.
    """

    modelled = True

    def __init__(self, board: Board, ddr: Ddr | None = None):
        self.board, self.config, self.memory_bytes = board, board.config, board.memory_bytes
        self.name = f"{board.name}+cycles"
        self._target = Target(board.config, board.memory_bytes)
        self._model = CycleModel(board.config, ddr)
        self._total = Cycles()

    def place(self, array: Any) -> Any:
        return self.board.place(array)

    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int) -> Any:
        result = self.board.conv2d(x, w, stride, padding)
        self._add(products.conv2d(self._target, x, w, stride, padding), x)
        return result

    def conv2d_input_grad(self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int) -> Any:
        result = self.board.conv2d_input_grad(g, w, input_shape, stride, padding)
        self._add(products.conv2d_input_grad(self._target, g, w, tuple(input_shape), stride, padding))
        return result

    def conv2d_weight_grad(self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int) -> Any:
        result = self.board.conv2d_weight_grad(g, x, kernel_shape, stride, padding)
        self._add(products.conv2d_weight_grad(self._target, g, x, tuple(kernel_shape), stride, padding))
        return result

    def matmul(self, a: Operand, b: Operand) -> Any:
        result = self.board.matmul(a, b)
        self._add(products.matmul(self._target, a, b))
        return result

    def _add(self, plan: Plan, x: Operand | None = None) -> None:
        with self.standing_in():
            if x is None or x.table is None:
                self._total += self._model.plan(plan)
            elif self.board.quick:
                self._total += self._model.plan_by_runs(plan, x.table)
            else:
                self._total += self._model.plan(plan, x.table)

    def standing_in(self) -> AbstractContextManager[None]:
        return self.board.standing_in()

    @property
    def stand_in_seconds(self) -> float:
        return self.board.stand_in_seconds

    @property
    def host_write_bytes(self) -> int:
        return self.board.host_write_bytes

    @property
    def host_read_bytes(self) -> int:
        return self.board.host_read_bytes

    def release(self, tensor: QTensor) -> None:
        self.board.release(tensor)

    def counters(self) -> dict[str, int]:
        """The board's own counters, and the modelled ones under the names of the accelerator's."""
        own = {"cycles": self._total.busy, "macs": self.macs, "bit_macs": self.bit_macs}
        return {**self.board.counters(), **asdict(self._total), **own}

    def close(self) -> None:
        self.board.close()
