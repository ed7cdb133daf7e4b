"""What the host needs of a board, and how to open one.

There are two kinds. A `MemoryBoard` is an accelerator as this project builds it, or a model of one: operands are packed
into its memory and descriptors run on them. A `DirectBoard` computes the same exact products in another way, straight
from arrays of its own library. `host.ops` runs on both, and the results are equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from host.driver import RING_BYTES, RegisterBoard
from host.errors import AcceleratorError
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor

if TYPE_CHECKING:
    from host.program import Operand

#: Bytes at the start of every board's memory that belong to its driver. Operands and results go above.
RESERVED_BYTES = RING_BYTES

BOARDS = ("golden", "sim", "torch", "zc706", "tcp://HOST:PORT")

#: Behind the name of a board that has no clock: report the cycles that its accelerator would take (`host.cycles`).
WITH_CYCLES = "+cycles"

MISSING_TORCH = "{} needs PyTorch, which is not installed: pip install 'fractrain-fpga[torch]'"


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


class GoldenBoard:
    """The golden model as a board.

    It has no clock and no bus: of the counters of `rtl.isa` it gives `descriptors` and `overflows` alone.

    Parameters
    ----------
    config : the accelerator to model.
    memory_bytes : size of its memory; only what is written takes memory of the host.
    """

    name = "golden"

    def __init__(self, config: AcceleratorConfig, memory_bytes: int = 1 << 28):
        self.config = config
        self.memory_bytes = memory_bytes
        self.macs = self.bit_macs = 0
        self._memory = np.zeros(memory_bytes, np.uint8)
        self._counters = {"descriptors": 0, "overflows": 0}

    def write(self, address: int, data: np.ndarray) -> None:
        self._slice(address, data.nbytes)[:] = data.reshape(-1)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        return self._slice(address, nbytes).copy()

    def _slice(self, address: int, nbytes: int) -> np.ndarray:
        if address < 0 or address + nbytes > self.memory_bytes:
            raise ValueError(
                f"{nbytes} bytes at address {address:#x} do not lie in the memory of {self.memory_bytes} bytes"
            )
        return self._memory[address : address + nbytes]

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        from sim.golden import execute

        done = execute(self.config, self._memory, descriptors)
        self._counters["descriptors"] += done.completed
        self._counters["overflows"] += done.overflows
        if done.index is not None:
            raise AcceleratorError(done.error, done.index)

    def counters(self) -> dict[str, int]:
        return {**self._counters, "macs": self.macs, "bit_macs": self.bit_macs}

    def close(self) -> None:
        self._memory = np.zeros(0, np.uint8)
        self.memory_bytes = 0


def open_board(name: str, **options) -> Board:
    """Open a board.

    Parameters
    ----------
    name : `"golden"`, the numpy model; `"torch"`, the same products in PyTorch, on a CPU or GPU; or `"sim"`, the RTL
        compiled into a simulator.
        `"golden+cycles"` and `"torch+cycles"` report the accelerator's cycles by a model (`host.cycles`).
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
        from host.cycles import modelled

        return modelled(open_board(name.removesuffix(WITH_CYCLES), **options))
    if name not in BOARDS:
        raise ValueError(f"unknown board {name!r}; there are {', '.join(BOARDS)}")
    config = options.pop("config", "sim")
    if isinstance(config, str):
        config = AcceleratorConfig.preset(config)
    if name == "golden":
        return GoldenBoard(config, **options)
    if name == "torch":
        try:
            from host.torch_board import TorchBoard
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise RuntimeError(MISSING_TORCH.format("board 'torch'")) from None
        return TorchBoard(config, **options)
    from sim.verilated import VerilatedTransport

    return RegisterBoard(name, VerilatedTransport(config, **options))
