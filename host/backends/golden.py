"""The golden model as a board."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from host.backends.memory import MemoryBoard
from host.backends.registry import Backend, register
from host.errors import AcceleratorError
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor
from sim.golden import execute


class GoldenBoard(MemoryBoard):
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
        self._memory = np.zeros(memory_bytes, np.uint8)
        self._chip = np.zeros(config.chip_bytes, np.uint8)
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
        with self.standing_in():
            done = execute(self.config, self._memory, descriptors, self._chip)
        self._counters["descriptors"] += done.completed
        self._counters["overflows"] += done.overflows
        if done.index is not None:
            raise AcceleratorError(done.error, done.index)

    def counters(self) -> dict[str, int]:
        return {**self._counters, **super().counters()}

    def close(self) -> None:
        self._memory = np.zeros(0, np.uint8)
        self.memory_bytes = 0


register(Backend("golden", GoldenBoard, "the numpy model", runs_descriptors=True))
