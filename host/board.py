"""What the host needs of a board.

There are two kinds. A `MemoryBoard` is an accelerator as this project builds it, or a model of one: operands are packed
into its memory and descriptors run on them. A `DirectBoard` computes the same exact products in another way, straight
from arrays of its own library. `host.ops` runs on both, and the results are equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from host.qtensor import Operand
from rtl.config import AcceleratorConfig
from rtl.isa import DESCRIPTOR_BYTES, Descriptor

#: Descriptors of the ring, which lies at the start of every board's memory. Operands and results go above.
RING_ENTRIES = 64
RESERVED_BYTES = RING_ENTRIES * DESCRIPTOR_BYTES


class Board(Protocol):
    """What every board has.

    Attributes
    ----------
    name : what `open_board` was asked for.
    config : parameters of the accelerator; of one that does not run there, those to compute its cost with.
    macs, bit_macs : work charged so far by `host.ops`, in multiply-accumulates and in MACs * bits * bits.
    """

    name: str
    config: AcceleratorConfig
    macs: int
    bit_macs: int

    def counters(self) -> dict[str, int]:
        """Totals since the board was opened: the board's own counters, `macs` and `bit_macs`."""

    def close(self) -> None:
        """Give the board back."""


class MemoryBoard(Board, Protocol):
    """An accelerator with its memory.

    Attributes
    ----------
    memory_bytes : size of the memory; the first `RESERVED_BYTES` belong to the driver.
    """

    memory_bytes: int

    def write(self, address: int, data: np.ndarray) -> None:
        """Copy `data` (uint8) to `address`. Raises ValueError if it does not fit the memory."""

    def read(self, address: int, nbytes: int) -> np.ndarray:
        """A copy of `nbytes` bytes from `address`, uint8. Raises ValueError if they do not lie in the memory."""

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        """Execute descriptors and return when all have completed.

        Raises
        ------
        AcceleratorError
            If a descriptor is refused or meets a bus error. The board has been reset and runs later work.
        """


class DirectBoard(ABC):
    """A board that takes arrays as they are; what `Board` says holds for it.

    The four products are those of `host.ops`, which has checked the operands, found no size of zero and charged the
    work. Codes come from `place` and are integers in value, whatever their dtype; results are exact, in an integer or a
    floating-point dtype. What even int64 may not hold raises OverflowError.
    """

    name: str
    config: AcceleratorConfig
    macs: int
    bit_macs: int

    @abstractmethod
    def place(self, array: Any) -> Any:
        """The numbers of an array of any library in this board's library, where it computes; the dtype stays."""

    @abstractmethod
    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int, table: np.ndarray | None) -> Any:
        """(N, M, H', W') of x (N, C, H, W) and w (M, C, kh, kw); zeros for images whose entry of `table` is 0."""

    @abstractmethod
    def conv2d_input_grad(self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int) -> Any:
        """`input_shape` of g (N, M, H', W') and w (M, C, kh, kw)."""

    @abstractmethod
    def conv2d_weight_grad(self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int) -> Any:
        """`kernel_shape` of g (N, M, H', W') and x (N, C, H, W)."""

    @abstractmethod
    def matmul(self, a: Operand, b: Operand) -> Any:
        """(M, N) of a (M, K) and b (K, N)."""

    def counters(self) -> dict[str, int]:
        return {"macs": self.macs, "bit_macs": self.bit_macs}

    def close(self) -> None:  # noqa: B027
        """Nothing to give back, unless a subclass says so."""
