"""Boards with a memory: an accelerator as this project builds it, or a model of one.

Their products are plans (`host.plan`): operands are packed into the memory, descriptors run on them, and the results
are read back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from host.arrays import Array, to_numpy
from host.board import Board
from host.operand import Operand
from host.plan import products
from host.plan.bound import Bound
from host.plan.memory import Memory
from host.plan.plan import Plan, Target
from host.qtensor import QTensor
from host.ring import RESERVED_BYTES
from rtl.config import CHIP_BASE
from rtl.isa import Descriptor


class MemoryBoard(Board):
    """Answers the products by running descriptors.

    The memory from `RESERVED_BYTES` on, below which the driver has its ring, belongs to `memory`: who writes there or
    runs descriptors of their own takes the addresses from it. What lies on the chip belongs to `chip`; the host neither
    writes nor reads it, as nothing leads there but the accelerator's own accesses.
    """

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

    def require_free(self, address: int, nbytes: int) -> None:
        """Raise ValueError unless so many bytes lie behind the driver's ring and in the memory."""
        if address < RESERVED_BYTES or address + nbytes > self.target.end:
            raise ValueError(
                f"{nbytes} bytes at address {address:#x} do not lie between the ring of {RESERVED_BYTES} bytes "
                f"and the end of the memory at {self.target.end:#x}"
            )

    @property
    def target(self) -> Target:
        """What plans for this board are made for."""
        return Target(self.config, self.memory_bytes)

    @property
    def memory(self) -> Memory:
        """Who lies where."""
        return self._addresses

    @cached_property
    def chip(self) -> Memory:
        """Who lies where in the memory on the chip; there is no room in it if the board has none."""
        return Memory(CHIP_BASE, CHIP_BASE + self.config.chip_bytes, self.target.burst_bytes)

    @cached_property
    def _addresses(self) -> Memory:
        return Memory(RESERVED_BYTES, self.target.end, self.target.burst_bytes)

    def put(self, address: int, data: np.ndarray) -> None:
        """`write`, counted."""
        self.write(address, data)
        self.host_write_bytes += data.nbytes

    def get(self, address: int, nbytes: int) -> np.ndarray:
        """`read`, counted."""
        self.host_read_bytes += nbytes
        return self.read(address, nbytes)

    def place(self, array: Array) -> np.ndarray:
        return to_numpy(array)

    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int) -> np.ndarray:
        return self._product(products.conv2d(self.target, x, w, stride, padding), x, w)

    def conv2d_input_grad(
        self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int
    ) -> np.ndarray:
        plan = products.conv2d_input_grad(self.target, g, w, tuple(input_shape), stride, padding)
        return self._product(plan, g, w)

    def conv2d_weight_grad(
        self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int
    ) -> np.ndarray:
        plan = products.conv2d_weight_grad(self.target, g, x, tuple(kernel_shape), stride, padding)
        return self._product(plan, g, x)

    def matmul(self, a: Operand, b: Operand) -> np.ndarray:
        return self._product(products.matmul(self.target, a, b), a, b)

    def _product(self, plan: Plan, *operands: Operand) -> np.ndarray:
        bound = Bound(plan, self)
        for name, operand in zip(plan.operands, operands, strict=True):
            bound.write(name, operand)
        bound.run()
        return bound.read()

    def release(self, tensor: QTensor) -> None:
        self.memory.forget(tensor)

    def counters(self) -> dict[str, int]:
        moved = {"host_write_bytes": self.host_write_bytes, "host_read_bytes": self.host_read_bytes}
        return {**moved, **super().counters()}
