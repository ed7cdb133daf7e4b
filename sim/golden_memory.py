"""The memories of the golden model as the accelerator addresses them: DDR, and the memory on the chip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rtl.config import CHIP_BASE
from rtl.isa import Error

#: Addresses are modulo this.
_SPACE = 1 << 32


class Stop(Exception):
    """The ring stops at the current descriptor."""

    def __init__(self, error: Error):
        super().__init__(error.name)
        self.error = error


class Memory:
    """Bytes by address. What lies in neither memory is a bus error.

    Parameters
    ----------
    ddr : uint8, shape (bytes,), up to 2 GiB, from address 0 on.
    chip : likewise, from `rtl.config.CHIP_BASE` on; None if there is none.
    """

    def __init__(self, ddr: np.ndarray, chip: np.ndarray | None = None):
        chip = np.zeros(0, np.uint8) if chip is None else chip
        for memory in (ddr, chip):
            if memory.dtype != np.uint8 or memory.ndim != 1:
                raise ValueError(f"memory is {memory.dtype}{memory.shape}, must be one dimension of uint8")
        self._parts = ((0, ddr), (CHIP_BASE, chip))

    def byte(self, address: int) -> int:
        """A byte of a precision table. Raises Stop(AXI_FETCH) if it lies outside."""
        return int(self.read(np.array([address]), (), (), Error.AXI_FETCH)[0])

    def read(self, starts: np.ndarray, shape: tuple, strides: tuple, error: Error) -> np.ndarray:
        """Equal regions of bytes with the given strides, one from each of `starts` on: uint8 (starts, *shape).

        Raises Stop(error) if anything lies outside.
        """
        if whole := self._whole(starts, shape, strides):
            view, where = whole
            return view[where]
        found = np.empty((len(starts), *shape), np.uint8)
        for view, part in self._pieces(starts, strides, found, error):
            part[...] = view
        return found

    def write(self, starts: np.ndarray, values: np.ndarray, strides: tuple, error: Error) -> None:
        """Bytes `values` (starts, *shape) to such regions. Raises Stop(error), then nothing is written."""
        if whole := self._whole(starts, values.shape[1:], strides):
            view, where = whole
            view[where] = values
            return
        for view, part in list(self._pieces(starts, strides, values, error)):
            view[...] = part

    def _whole(self, starts: np.ndarray, shape: tuple, strides: tuple) -> tuple[np.ndarray, np.ndarray] | None:
        """If all lies in one memory: a view of everything that has this shape, and the places of the wanted in it.

        Addresses are sums modulo 2**32, so a stride from 2**31 on is a step back.
        """
        steps = [stride - _SPACE if stride >= _SPACE // 2 else stride for stride in strides]
        ways = [(size - 1) * step for size, step in zip(shape, steps, strict=True)]
        before, behind = sum(min(way, 0) for way in ways), sum(max(way, 0) for way in ways)
        for base, memory in self._parts:
            places = starts.astype(np.int64) % _SPACE - base + before
            if places.min() >= 0 and places.max() - before + behind < memory.size:
                return as_strided(memory[-before:], (memory.size + before - behind, *shape), (1, *steps)), places
        return None

    def _pieces(
        self, starts: np.ndarray, strides: tuple, values: np.ndarray, error: Error
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Views of the memories and what of `values` belongs there, for regions that are in one memory or the other."""
        for start, value in zip(starts, values, strict=True):
            yield from self._split(int(start) % _SPACE, strides, value, error)

    def _split(
        self, start: int, strides: tuple, value: np.ndarray, error: Error
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if whole := self._whole(np.array([start]), value.shape, strides):
            view, [place] = whole
            yield view[place], value
        elif not strides:
            raise Stop(error)
        else:
            for index in range(len(value)):
                at = (start + index * strides[0]) % _SPACE
                yield from self._split(at, strides[1:], value[index, ...], error)
