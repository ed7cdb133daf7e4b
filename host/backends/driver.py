"""A board behind registers: the CSRs and the descriptor ring of the accelerator, over any transport."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from host.backends.memory import MemoryBoard
from host.errors import AcceleratorError
from host.ring import RING_ENTRIES
from rtl.isa import (
    COUNTER_NAMES,
    CSR,
    DESCRIPTOR_BYTES,
    ID,
    VERSION,
    Control,
    Descriptor,
    Flag,
    Irq,
    Status,
    config_from_words,
)

_COUNT_MASK = (1 << 32) - 1  # HEAD, TAIL and COMPLETED wrap at 32 bits
_COUNTER_MASK = (1 << 48) - 1


class Transport(Protocol):
    """Registers, memory and interrupt of one accelerator.

    Attributes
    ----------
    memory_bytes : size of the memory that host and accelerator share, at the accelerator's address 0.
    """

    memory_bytes: int

    def csr_read(self, address: int) -> int:
        """The 32-bit register at byte address `address`."""
        ...

    def csr_write(self, address: int, value: int) -> None:
        """Write a 32-bit register."""
        ...

    def memory_write(self, address: int, data: np.ndarray) -> None:
        """Copy `data` (uint8) into the memory."""
        ...

    def memory_read(self, address: int, nbytes: int) -> np.ndarray:
        """Bytes of the memory, uint8."""
        ...

    def wait(self) -> object:
        """Return when the interrupt is raised. Raises TimeoutError when the transport's own patience is at an end."""
        ...

    def close(self) -> None:
        """Release what the transport holds."""
        ...


class RegisterBoard(MemoryBoard):
    """An accelerator over a transport.

    Parameters
    ----------
    name : name of the board.
    transport : how to reach it; closed together with the board, and if the board is refused.
    timeout : seconds that a reset may take.

    Raises
    ------
    RuntimeError
        If the registers are not those of this accelerator in a version that this host knows.
    """

    def __init__(self, name: str, transport: Transport, timeout: float = 600.0):
        self.name = name
        self.memory_bytes = transport.memory_bytes
        self._transport = transport
        self._timeout = timeout
        try:
            self._identify()
            self._reset()
        except BaseException:
            transport.close()
            raise
        self._opening = self._hardware_counters()

    def _identify(self) -> None:
        found, version = self._transport.csr_read(CSR.ID), self._transport.csr_read(CSR.VERSION)
        if found != ID:
            raise RuntimeError(f"board {self.name!r} has ID {found:#010x}, the accelerator's is {ID:#010x}")
        if version >> 16 != VERSION >> 16:
            raise RuntimeError(
                f"board {self.name!r} has version {version >> 16}.{version & 0xFFFF}, "
                f"this host drives {VERSION >> 16}.x"
            )
        read = self._transport.csr_read
        words = (read(CSR.CONFIG0), read(CSR.CONFIG1), read(CSR.CONFIG2))
        try:
            self.config = config_from_words(words)
        except ValueError as error:
            raise RuntimeError(f"board {self.name!r} has an unknown configuration: {error}") from error

    def _reset(self) -> None:
        """Soft reset, then start with an empty ring."""
        write, read = self._transport.csr_write, self._transport.csr_read
        write(CSR.CONTROL, Control.RESET)
        deadline = time.monotonic() + self._timeout
        while read(CSR.CONTROL) & Control.RESET:
            if time.monotonic() > deadline:
                raise TimeoutError(f"board {self.name!r} does not finish its reset in {self._timeout} s")
        write(CSR.RING_BASE, 0)
        write(CSR.RING_MASK, RING_ENTRIES - 1)
        write(CSR.IRQ, Irq.DONE | Irq.ERROR)
        write(CSR.IRQ_ENABLE, Irq.DONE | Irq.ERROR)
        write(CSR.CONTROL, Control.ENABLE)
        self._tail = read(CSR.TAIL)

    def write(self, address: int, data: np.ndarray) -> None:
        self.require_free(address, data.nbytes)
        self._transport.memory_write(address, data)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        self.require_free(address, nbytes)
        return self._transport.memory_read(address, nbytes)

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        # A batch fills the ring at most, so the ring is empty whenever a batch begins.
        with self.standing_in():
            for first in range(0, len(descriptors), RING_ENTRIES):
                self._run_batch(descriptors[first : first + RING_ENTRIES], first)

    def _run_batch(self, batch: Sequence[Descriptor], first: int) -> None:
        write, read = self._transport.csr_write, self._transport.csr_read
        begin = self._tail
        last = replace(batch[-1], flags=batch[-1].flags | Flag.INTERRUPT)
        for i, descriptor in enumerate([*batch[:-1], last]):
            slot = (begin + i) % RING_ENTRIES
            self._transport.memory_write(slot * DESCRIPTOR_BYTES, descriptor.pack())
        self._tail = (begin + len(batch)) & _COUNT_MASK
        write(CSR.TAIL, self._tail)

        while True:
            try:
                self._transport.wait()
            except TimeoutError as error:
                done = (read(CSR.COMPLETED) - begin) & _COUNT_MASK
                status = read(CSR.STATUS)
                self._reset()
                raise TimeoutError(
                    f"board {self.name!r} completed {done} of {len(batch)} descriptors, then nothing happened: {error} "
                    f"(status {status:#x}); it has been reset"
                ) from error
            write(CSR.IRQ, read(CSR.IRQ))
            if read(CSR.STATUS) & Status.ERROR:
                code, index = read(CSR.ERROR_CODE), first + ((read(CSR.ERROR_INDEX) - begin) & _COUNT_MASK)
                self._reset()
                raise AcceleratorError(code, index)
            if read(CSR.COMPLETED) == self._tail:
                return

    def _hardware_counters(self) -> list[int]:
        # Reading the low word latches the high one, so a pair is consistent in this order.
        read = self._transport.csr_read
        addresses = range(CSR.COUNTERS, CSR.COUNTERS + 8 * len(COUNTER_NAMES), 8)
        return [read(address) | read(address + 4) << 32 for address in addresses]

    def counters(self) -> dict[str, int]:
        pairs = zip(self._hardware_counters(), self._opening, strict=True)
        values = [(now - then) & _COUNTER_MASK for now, then in pairs]
        return {**dict(zip(COUNTER_NAMES, values, strict=True)), **super().counters()}

    def close(self) -> None:
        self._transport.close()
