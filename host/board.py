"""What every board is: it answers the four products of training and keeps account of its work.

`host.ops` checks operands, charges the work and calls the board. How a board computes is its own affair: an accelerator
with a memory runs descriptors (`host.backends.memory`), others compute straight from arrays. All results are equal.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any

from host.operand import Operand
from host.qtensor import QTensor
from rtl.config import AcceleratorConfig


class Board(ABC):
    """A board.

    Codes of operands come from `place` and are integers in value, whatever their dtype; no operand or result has a size
    of zero. Results are exact, in an integer or a floating-point dtype. What even int64 may not hold raises
    OverflowError.

    Attributes
    ----------
    name : what `open_board` was asked for.
    config : parameters of the accelerator; of one that does not run there, those to compute its cost with.
    memory_bytes : size of its memory, or of that accelerator's.
    macs, bit_macs : work charged so far, in multiply-accumulates and in MACs * bits * bits.
    host_write_bytes, host_read_bytes : bytes of operands and results that went over to the memory and back; none where
        there is no memory.
    stand_in_seconds : time that passed so far in the place of the accelerator: running, simulating or modelling it, or
        computing its products. All other time of a training step is the host's.
    """

    name: str
    config: AcceleratorConfig
    memory_bytes: int = 1 << 28
    macs: int = 0
    bit_macs: int = 0
    host_write_bytes: int = 0
    host_read_bytes: int = 0
    stand_in_seconds: float = 0.0
    #: Whether cycles and bytes come from a model and not from running the accelerator.
    modelled = False
    #: Whether the board is much faster than a model that follows every tile of its work.
    quick = False

    @abstractmethod
    def place(self, array: Any) -> Any:
        """The numbers of an array of any library in this board's library, where it computes; the dtype stays."""

    @abstractmethod
    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int) -> Any:
        """(N, M, H', W') of x (N, C, H, W) and w (M, C, kh, kw); zeros for images of 0 bits."""

    @abstractmethod
    def conv2d_input_grad(self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int) -> Any:
        """`input_shape` of g (N, M, H', W') and w (M, C, kh, kw)."""

    @abstractmethod
    def conv2d_weight_grad(self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int) -> Any:
        """`kernel_shape` of g (N, M, H', W') and x (N, C, H, W)."""

    @abstractmethod
    def matmul(self, a: Operand, b: Operand) -> Any:
        """(M, N) of a (M, K) and b (K, N)."""

    def charge(self, macs: int, bits_a: int, bits_b: int) -> None:
        """Add work to the account: so many multiply-accumulates of operands of `bits_a` and `bits_b` bits."""
        macs = index(macs)  # the account stays one of Python's integers, whatever sizes were given
        self.macs += macs
        self.bit_macs += macs * bits_a * bits_b

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Add the time until the end of the block to `stand_in_seconds`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.stand_in_seconds += time.monotonic() - started

    def release(self, tensor: QTensor) -> None:  # noqa: B027
        """Forget what the board keeps of a tensor, if anything; a tensor that is gone is forgotten anyway."""

    def counters(self) -> dict[str, int]:
        """Totals since the board was opened: the board's own counters, `macs` and `bit_macs`."""
        return {"macs": self.macs, "bit_macs": self.bit_macs}

    def close(self) -> None:  # noqa: B027
        """Give the board back; nothing to do unless a subclass says so."""
