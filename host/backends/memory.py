"""Boards with a memory: an accelerator as this project builds it, or a model of one.

Operands are packed into the memory, descriptors run on them, and the results are read back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from host.arrays import Array, to_numpy
from host.board import Board
from host.lowering import products
from host.qtensor import Operand
from rtl.isa import Descriptor


class MemoryBoard(Board):
    """Answers the products by running descriptors.

    Attributes
    ----------
    memory_bytes : size of the memory; the first `RESERVED_BYTES` belong to the driver.
    """

    memory_bytes: int

    @abstractmethod
    def write(self, address: int, data: np.ndarray) -> None:
        """Copy `data` (uint8) to `address`. Raises ValueError if it does not fit the memory."""

    @abstractmethod
    def read(self, address: int, nbytes: int) -> np.ndarray:
        """A copy of `nbytes` bytes from `address`, uint8. Raises ValueError if they do not lie in the memory."""

    @abstractmethod
    def run(self, descriptors: Sequence[Descriptor]) -> None:
        """Execute descriptors and return when all have completed.

        Raises
        ------
        AcceleratorError
            If a descriptor is refused or meets a bus error. The board has been reset and runs later work.
        """

    def place(self, array: Array) -> np.ndarray:
        return to_numpy(array)

    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int, table: np.ndarray | None) -> np.ndarray:
        return products.conv2d(self, narrow(x), narrow(w), stride, padding, table)

    def conv2d_input_grad(
        self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int
    ) -> np.ndarray:
        return products.conv2d_input_grad(self, narrow(g), narrow(w), input_shape, stride, padding)

    def conv2d_weight_grad(
        self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int
    ) -> np.ndarray:
        return products.conv2d_weight_grad(self, narrow(g), narrow(x), kernel_shape, stride, padding)

    def matmul(self, a: Operand, b: Operand) -> np.ndarray:
        return products.matmul(self, narrow(a), narrow(b))


def narrow(operand: Operand) -> Operand:
    """The operand with codes in numpy's narrowest integers, which saves memory in all that follows."""
    kind = f"{'i' if operand.signed else 'u'}{1 if operand.bits <= 8 else 2}"
    return operand._replace(codes=to_numpy(operand.codes).astype(kind, copy=False))
