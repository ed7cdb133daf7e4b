"""Registers, memory and interrupt of the accelerator in a Zynq, as Linux on its processor reaches them."""

from __future__ import annotations

import numpy as np

from host.zynq.buffer import Buffer
from host.zynq.linux import Linux, MissingError
from rtl.aperture import BASE, SIZE
from rtl.isa import CSR_ADDRESS_BITS

_UIO = "/sys/class/uio"
_MANAGER = "/sys/class/fpga_manager/fpga0/state"
#: Where the registers of the aperture begin.
_APERTURE = 1 << CSR_ADDRESS_BITS


class ZynqTransport:
    """The `host.backends.driver.Transport` of a Zynq.

    Parameters
    ----------
    linux : where the files lie.
    name : of the UIO device; the buffer is `name`-buffer. The overlay that the build writes gives both.
    cached : map the buffer through the processor's caches.
    patience : seconds that a run may take.

    Raises
    ------
    RuntimeError
        If the FPGA is not configured, if something is missing (the message says what, and the command that mends it),
        or if another process has the device.
    """

    def __init__(self, linux: Linux, name: str, *, cached: bool = True, patience: float = 60.0):
        self._patience = patience
        state = linux.read(_MANAGER)
        if state != "operating":  # a read from an FPGA that is not configured would stop the processor for good
            found = "there is no FPGA manager" if state is None else f"the FPGA is not configured (state {state!r})"
            raise MissingError(found, "sudo python3 -m host.zynq.load BUILD")
        device = self._find(linux, name)
        self._device = linux.open(f"/dev/{device}")
        self._buffer: Buffer | None = None
        try:
            self._device.lock()
            # One aligned access of 32 bits each: other ways to index mapped memory read before they write.
            nbytes = int(linux.read(f"{_UIO}/{device}/maps/map0/size") or "0x1000", 0)
            self._words = self._device.map(nbytes).cast("I")
            self._buffer = Buffer(linux, f"{name}-buffer", cached=cached)
        except BaseException:
            self.close()
            raise
        self.memory_bytes = self._buffer.nbytes

    @staticmethod
    def _find(linux: Linux, name: str) -> str:
        if not linux.path(_UIO).is_dir():
            command = "sudo modprobe uio_pdrv_genirq of_id=generic-uio"
            raise MissingError("the kernel module uio_pdrv_genirq is not loaded", command)
        for device in linux.names(_UIO):
            if linux.read(f"{_UIO}/{device}/name") == name:
                return device
        raise MissingError(f"there is no UIO device {name!r}", "sudo python3 -m host.zynq.load BUILD")

    def open_aperture(self) -> None:
        """Let the accelerator reach the buffer and nothing else. Raises RuntimeError if the FPGA has no aperture."""
        assert self._buffer is not None
        for register, value in ((BASE, self._buffer.address), (SIZE, self._buffer.nbytes)):
            self.csr_write(_APERTURE + register, value)
            found = self.csr_read(_APERTURE + register)
            if found != value:
                raise RuntimeError(
                    f"the aperture does not take {value:#x}, it has {found:#x}: this bitstream is older than this "
                    "host, or the buffer does not begin at a multiple of 4 KiB"
                )

    def csr_read(self, address: int) -> int:
        return self._words[address >> 2]

    def csr_write(self, address: int, value: int) -> None:
        self._words[address >> 2] = int(value)

    def memory_write(self, address: int, data: np.ndarray) -> None:
        assert self._buffer is not None
        self._buffer.write(address, data)

    def memory_read(self, address: int, nbytes: int) -> np.ndarray:
        assert self._buffer is not None
        return self._buffer.read(address, nbytes)

    def wait(self) -> None:
        # The pin keeps its level, so an interrupt from before the unmasking comes as well.
        self._device.unmask()
        if not self._device.interrupt(self._patience):
            raise TimeoutError(f"no interrupt within {self._patience:g} s")

    def close(self) -> None:
        """May be called again."""
        if self._buffer:
            self._buffer.close()
        self._device.close()
