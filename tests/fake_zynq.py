"""Linux on a Zynq without one: a folder for its files, the compiled RTL behind the registers, a cache before the DDR.

What stands for a driver is a subclass of `Device`, file by file; all else are plain files, opened, mapped and locked as
the real ones. The buffer's file is what the processor sees. The memory is the simulated one, and nothing but a sync
moves lines between the two. The aperture's registers are modelled here, as the compiled RTL ends where they begin.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from host.zynq.linux import Device, Linux
from rtl.isa import CSR_ADDRESS_BITS
from sim.verilated import VerilatedTransport

BUFFER_BYTES = 1 << 20
PHYSICAL = 0x1830_0000
CACHE_LINE = 32  # of a Cortex-A9


def lay_out(root: Path) -> None:
    """The files of a board whose FPGA is configured, below `root`."""
    files = {
        "sys/class/fpga_manager/fpga0/state": b"operating\n",
        "sys/class/uio/uio0/name": b"other\n",
        "sys/class/uio/uio1/name": b"fractrain\n",
        "sys/class/uio/uio1/maps/map0/size": b"0x00001000\n",
        "sys/class/u-dma-buf/fractrain-buffer/phys_addr": f"{PHYSICAL:#010x}\n".encode(),
        "sys/class/u-dma-buf/fractrain-buffer/size": f"{BUFFER_BYTES}\n".encode(),
        "sys/class/u-dma-buf/fractrain-buffer/sync_for_device": b"0\n",
        "sys/class/u-dma-buf/fractrain-buffer/sync_for_cpu": b"0\n",
        "proc/meminfo": b"MemTotal: 1000 kB\nCmaFree:  126976 kB\n",
        "dev/uio1": bytes(4096),
        "dev/fractrain-buffer": bytes(BUFFER_BYTES),
    }
    for name, contents in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)


class FakeZynq(Linux):
    """The files of a board whose FPGA is configured.

    Attributes
    ----------
    rtl : the accelerator, by default of the preset `tiny`.
    syncs : (name of the attribute, first byte, bytes) of all syncs that were asked for.
    lost : names of the attributes whose syncs do nothing.
    """

    def __init__(self, root: Path, preset: str = "tiny"):
        super().__init__(root)
        lay_out(root)
        self.rtl = VerilatedTransport(preset, memory_bytes=BUFFER_BYTES)
        self.memory = np.memmap(self.path("/dev/fractrain-buffer"), np.uint8, "r+")
        self.aperture = [0, 0]
        self.syncs: list[tuple[str, int, int]] = []
        self.lost: set[str] = set()
        self.masked = True
        self.uncached = False

    def open(self, name: str, flags: int = os.O_RDWR) -> Device:
        if name.startswith("/dev/uio"):
            return _Uio(self, self.path(name), flags)
        if "/sync_for_" in name:
            return _Sync(self, self.path(name), flags)
        if name == "/dev/fractrain-buffer":
            self.uncached = bool(flags & os.O_SYNC)
        return super().open(name, flags)

    def sync(self, attribute: str, first: int, nbytes: int) -> None:
        """Whole lines go to the memory, or what the cache has of them goes."""
        first, end = first // CACHE_LINE * CACHE_LINE, -(-(first + nbytes) // CACHE_LINE) * CACHE_LINE
        self.syncs.append((attribute, first, nbytes))
        if self.uncached or attribute in self.lost:
            return
        if attribute == "sync_for_device":
            self.rtl.memory_write(first, self.memory[first:end])
        else:
            self.memory[first:end] = self.rtl.memory_read(first, end - first)


class _Uio(Device):
    """Registers and interrupt. The interrupt comes once for each time that it is unmasked."""

    def __init__(self, linux: FakeZynq, path: Path, flags: int):
        super().__init__(path, flags)
        self._linux = linux

    def map(self, nbytes: int):
        assert nbytes == 4096
        return _Page(self._linux)

    def unmask(self) -> None:
        self._linux.masked = False

    def interrupt(self, seconds: float) -> bool:
        linux = self._linux
        assert not linux.masked, "the kernel would keep the interrupt back"
        assert linux.aperture == [PHYSICAL, BUFFER_BYTES], "the accelerator would be refused"
        if linux.uncached:
            linux.rtl.memory_write(0, linux.memory)
        linux.rtl.wait()
        if linux.uncached:
            linux.memory[:] = linux.rtl.memory_read(0, BUFFER_BYTES)
        linux.masked = True
        return True


class _Page:
    """The mapped registers; each access is one on the bus of the RTL."""

    def __init__(self, linux: FakeZynq):
        self._linux = linux

    def cast(self, kind: str) -> _Page:
        assert kind == "I"
        return self

    def __getitem__(self, index: int) -> int:
        own = index - (1 << CSR_ADDRESS_BITS) // 4
        return self._linux.rtl.csr_read(4 * index) if own < 0 else self._linux.aperture[own]

    def __setitem__(self, index: int, value: int) -> None:
        own = index - (1 << CSR_ADDRESS_BITS) // 4
        if own < 0:
            self._linux.rtl.csr_write(4 * index, value)
        else:
            self._linux.aperture[own] = value & ~0xFFF


class _Sync(Device):
    """One of the attributes that sync: `0x`, eight digits of the offset, eight of size, direction and start."""

    def __init__(self, linux: FakeZynq, path: Path, flags: int):
        super().__init__(path, flags)
        self._linux = linux

    def store(self, text: str) -> None:
        value = int(text, 16)
        low = value & 0xFFFF_FFFF
        assert low & 1, "nothing would be synced"
        assert low >> 2 & 3 == {"sync_for_device": 1, "sync_for_cpu": 2}[self.path.name]
        self._linux.sync(self.path.name, value >> 32, low & ~0xF)
