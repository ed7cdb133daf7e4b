"""Memory that the processor and the accelerator share: a buffer of u-dma-buf, one piece at one physical address.

The accelerator's ports do not look into the processor's caches, so a cached buffer is handed over range by range. In an
uncached one this is only a barrier before the accelerator is told to look.
"""

from __future__ import annotations

import os

import numpy as np

from host.zynq.linux import Linux, MissingError

#: Caches are kept in lines of so many bytes at the most: 32 in a Cortex-A9.
LINE = 64

_CLASS = "/sys/class/u-dma-buf"
_TO_DEVICE, _FROM_DEVICE = 1, 2


class Buffer:
    """A buffer of the kernel module u-dma-buf.

    Parameters
    ----------
    linux : where the files lie.
    name : of the buffer, which the overlay gives it.
    cached : map it through the processor's caches, which is several times as fast.

    Attributes
    ----------
    address : physical address.
    nbytes : size, a multiple of 4 KiB.

    Raises
    ------
    MissingError
        If the module, the buffer or a permission is missing.
    """

    def __init__(self, linux: Linux, name: str, *, cached: bool = True):
        if not linux.path(_CLASS).is_dir():
            raise MissingError("the kernel module u-dma-buf is not loaded", "sudo modprobe u-dma-buf")
        folder = f"{_CLASS}/{name}"
        address, size = linux.read(f"{folder}/phys_addr"), linux.read(f"{folder}/size")
        if address is None or size is None:
            raise MissingError(
                f"there is no buffer {name!r}{_contiguous(linux)}", "add cma=256M to the kernel's command line"
            )
        self.address, self.nbytes = int(address, 0), int(size, 0) & ~0xFFF
        self._cached = cached
        self._device = linux.open(f"/dev/{name}", os.O_RDWR | (0 if cached else os.O_SYNC))
        self._opened = [self._device]
        try:
            self._to_device = self._attribute(linux, f"{folder}/sync_for_device")
            self._to_cpu = self._attribute(linux, f"{folder}/sync_for_cpu")
            self._bytes = np.frombuffer(self._device.map(self.nbytes), np.uint8)
        except BaseException:
            self.close()
            raise

    def _attribute(self, linux: Linux, name: str):
        opened = linux.open(name, os.O_WRONLY)
        self._opened.append(opened)
        return opened

    def write(self, offset: int, data: np.ndarray) -> None:
        """Copy `data` (uint8) to `offset`, where the accelerator finds it."""
        data = data.reshape(-1)
        end = offset + data.nbytes
        self._check(offset, end)
        if self._cached:
            # The rest of a line that is only written in part may be older here than what the accelerator left there.
            for edge in {offset, end}:
                if edge % LINE:
                    self.sync_for_cpu(edge - edge % LINE, LINE)
        self._bytes[offset:end] = data
        self.sync_for_device(offset, data.nbytes if self._cached else 1)

    def read(self, offset: int, nbytes: int) -> np.ndarray:
        """A copy of `nbytes` bytes as the accelerator left them, uint8."""
        self._check(offset, offset + nbytes)
        if self._cached:
            self.sync_for_cpu(offset, nbytes)
        return self._bytes[offset : offset + nbytes].copy()

    def sync_for_device(self, offset: int, nbytes: int) -> None:
        """What the processor wrote there goes to memory."""
        self._to_device.store(self._command(offset, nbytes, _TO_DEVICE))

    def sync_for_cpu(self, offset: int, nbytes: int) -> None:
        """What the processor has of it in its caches goes; it reads memory next."""
        self._to_cpu.store(self._command(offset, nbytes, _FROM_DEVICE))

    def _command(self, offset: int, nbytes: int, direction: int) -> str:
        """Range of whole lines, direction, and a bit that starts it, as one number."""
        first, end = offset // LINE * LINE, -(-(offset + nbytes) // LINE) * LINE
        return f"0x{first:08X}{end - first | direction << 2 | 1:08X}"

    def _check(self, offset: int, end: int) -> None:
        if offset < 0 or end > self.nbytes:
            raise ValueError(f"bytes {offset} to {end} do not lie in the buffer of {self.nbytes} bytes")

    def close(self) -> None:
        """May be called again."""
        self._bytes = np.empty(0, np.uint8)
        for each in self._opened:
            each.close()


def _contiguous(linux: Linux) -> str:
    """What the kernel has of contiguous memory, in words."""
    for line in (linux.read("/proc/meminfo") or "").splitlines():
        if line.startswith("CmaFree:"):
            return f", and the kernel has {int(line.split()[1]) // 1024} MiB of contiguous memory left for one"
    return ""
