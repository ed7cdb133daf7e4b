"""Boards with the cycles that they would take: `host.cycles` beside a board that has no clock.

So long runs on the golden model or in PyTorch report the latency that the accelerator of their configuration would
have.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from host.arrays import Array
from host.backends.memory import MemoryBoard, narrow
from host.board import Board
from host.cycles.bus import Ddr
from host.cycles.model import CycleModel
from host.cycles.pipeline import Cycles
from host.lowering import products
from host.qtensor import Operand, largest_code
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor

#: Memory of the modelled accelerator of a board that has none, in bytes; as large as the golden board's.
MEMORY_BYTES = 1 << 28

#: Samples of a run that is long: several tiles on every cluster.
_LONG_RUN = 40
#: Sums below these powers of two are alike to a program: results of 2, 4 or 8 bytes, or more than an accumulator.
_WIDTHS = (15, 31, 47)


class _Modelled(Board):
    """What the two kinds of boards with modelled cycles share; see `modelled`."""

    modelled = True

    def __init__(self, board: Board, ddr: Ddr | None):
        self.board, self.config = board, board.config
        self.name = f"{board.name}+cycles"
        self._model = CycleModel(board.config, ddr)
        self._total = Cycles()

    def counters(self) -> dict[str, int]:
        """The board's own counters, and the modelled ones under the names of the accelerator's."""
        own = {"cycles": self._total.busy, "macs": self.macs, "bit_macs": self.bit_macs}
        return {**self.board.counters(), **asdict(self._total), **own}

    def close(self) -> None:
        self.board.close()


class _ModelledMemory(_Modelled, MemoryBoard):
    """A `MemoryBoard` with modelled cycles."""

    def __init__(self, board: MemoryBoard, ddr: Ddr | None):
        super().__init__(board, ddr)
        self.memory_bytes = board.memory_bytes

    def write(self, address: int, data: np.ndarray) -> None:
        self.board.write(address, data)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        return self.board.read(address, nbytes)

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        self.board.run(descriptors)
        self._total += self._model.program(
            descriptors, lambda address, count: self.board.read(address, count).tobytes()
        )


class _Recorder(MemoryBoard):
    """A board that takes programs down and computes nothing."""

    name = "recorder"

    def __init__(self, config: AcceleratorConfig):
        self.config, self.memory_bytes = config, MEMORY_BYTES
        self.programs: list[list[Descriptor]] = []

    def write(self, address: int, data: np.ndarray) -> None:
        pass

    def read(self, address: int, nbytes: int) -> np.ndarray:
        return np.zeros(nbytes, np.uint8)

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        self.programs.append(list(descriptors))


@dataclass(frozen=True)
class _Lowered:
    """Programs of a product, and its cycles unless a precision table decides."""

    programs: list[list[Descriptor]]
    cycles: Cycles | None


class _ModelledDirect(_Modelled):
    """A board without a memory, with modelled cycles.

    A product is lowered, with the real operands, when its shapes, widths and the size of its sums are met first; the
    latter decides how wide results are stored. Later ones reuse those programs.
    """

    def __init__(self, board: Board, ddr: Ddr | None):
        super().__init__(board, ddr)
        self._known: dict[Hashable, _Lowered] = {}

    def place(self, array: Any) -> Any:
        return self.board.place(array)

    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int, table: np.ndarray | None) -> Any:
        self._lower(products.conv2d, (x, w), (stride, padding), _bound(w, (1, 2, 3), x), table)
        return self.board.conv2d(x, w, stride, padding, table)

    def conv2d_input_grad(self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int) -> Any:
        self._lower(products.conv2d_input_grad, (g, w), (tuple(input_shape), stride, padding), _bound(w, (0, 2, 3), g))
        return self.board.conv2d_input_grad(g, w, input_shape, stride, padding)

    def conv2d_weight_grad(self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int) -> Any:
        bound = min(_bound(g, (0, 2, 3), x), _bound(x, (0, 2, 3), g))
        self._lower(products.conv2d_weight_grad, (g, x), (tuple(kernel_shape), stride, padding), bound)
        return self.board.conv2d_weight_grad(g, x, kernel_shape, stride, padding)

    def matmul(self, a: Operand, b: Operand) -> Any:
        self._lower(products.matmul, (a, b), (), min(_bound(a, (1,), b), _bound(b, (0,), a)))
        return self.board.matmul(a, b)

    def _lower(
        self,
        product: Callable[..., np.ndarray],
        operands: tuple[Operand, Operand],
        geometry: tuple,
        bound: int,
        table: np.ndarray | None = None,
    ) -> None:
        """Add the cycles of a product of `host.lowering.products`."""
        shapes = tuple((tuple(o.codes.shape), o.bits, o.signed) for o in operands)
        key = (product.__name__, shapes, geometry, bound, table is None)
        if key not in self._known:
            recorder = _Recorder(self.config)
            codes = [narrow(o) for o in operands]
            # The programs do not depend on what a table says, and full width fits any codes.
            full = (
                ()
                if product is not products.conv2d
                else (None if table is None else np.full_like(table, codes[0].bits),)
            )
            product(recorder, *codes, *geometry, *full)
            cycles = None
            if table is None:
                cycles = sum((self._model.program(p) for p in recorder.programs), Cycles())
            self._known[key] = _Lowered(recorder.programs, cycles)
        known = self._known[key]
        if known.cycles is not None:
            self._total += known.cycles
        else:
            self._total += self._with_table(known.programs, table)

    def _with_table(self, programs: list[list[Descriptor]], table: np.ndarray) -> Cycles:
        """Cycles where the samples' widths are those of `table`, each perhaps for several patches or chunks."""
        total, start = Cycles(), 0
        samples = sum(program[0].samples for program in programs)
        whole = np.repeat(table, max(1, samples // len(table)))
        for program in programs:
            count = program[0].samples
            part = np.resize(whole[start % len(whole) :], count)
            total += self._of_runs(program, [(int(bits), len(list(run))) for bits, run in groupby(part)])
            start += count
        return total

    def _of_runs(self, program: list[Descriptor], runs: list[tuple[int, int]]) -> Cycles:
        """Cycles of a program for runs of (bits, samples), from those of single runs.

        Batches of gated networks hardly ever repeat, their runs do. A run hides part of the latency of the one before
        it; how much is taken from two long runs of the same widths. On the layers of ResNet-20 the sum is within 2 % of
        the model of the whole program.
        """
        total = sum((self._run_of(program, bits, count) for bits, count in runs), Cycles())
        long = min(program[0].samples, _LONG_RUN)
        for (before, _), (after, _) in pairwise(runs):
            both = self._tabled(program, bytes([before] * long + [after] * long))
            apart = self._run_of(program, before, long) + self._run_of(program, after, long)
            total -= apart - both
        return total

    def _run_of(self, program: list[Descriptor], bits: int, samples: int) -> Cycles:
        return self._tabled(program, bytes([bits] * samples))

    def _tabled(self, program: list[Descriptor], table: bytes) -> Cycles:
        return self._model.program([replace(d, samples=len(table)) for d in program], lambda address, n: table[:n])


def _bound(operand: Operand, axes: tuple[int, ...], other: Operand) -> int:
    """How many of `_WIDTHS` do not hold what sums over `axes` of the operand's codes times any of `other` may reach."""
    codes: Array = operand.codes
    xp = array_namespace(codes)
    sums = xp.sum(xp.abs(xp.astype(codes, xp.float32)), axis=axes, dtype=xp.float64)
    reach = float(xp.max(sums)) * largest_code(other)
    return sum(reach >= 1 << width for width in _WIDTHS)


def modelled(board: Board, ddr: Ddr | None = None) -> Board:
    """`board`, which computes as before, with the cycles and DDR bytes that its accelerator would take.

    Its name ends in `+cycles`, its attribute `modelled` is true, and its counters gain those of `Cycles`.
    """
    return _ModelledMemory(board, ddr) if isinstance(board, MemoryBoard) else _ModelledDirect(board, ddr)
