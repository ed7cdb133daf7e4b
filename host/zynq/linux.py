"""The files of Linux that lead to a device, and what to say where one is missing."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import struct
from pathlib import Path


class MissingError(RuntimeError):
    """Something that the kernel or its administrator has to provide; the message ends with the command that does."""

    def __init__(self, what: str, command: str):
        super().__init__(f"{what}; to mend it: {command}")


class Device:
    """An open file of a driver.

    Parameters
    ----------
    path : of the file.
    flags : as `os.open` takes them.

    Raises
    ------
    MissingError
        If it is not there, or not for this user.
    """

    def __init__(self, path: Path, flags: int = os.O_RDWR):
        try:
            self.fd = os.open(path, flags)
        except PermissionError:
            command = f"sudo chgrp $(id -g) {path} && sudo chmod g+rw {path} (docs/zynq.md has a rule that lasts)"
            raise MissingError(f"this user may not open {path}", command) from None
        except FileNotFoundError:
            raise MissingError(f"{path} is not there", "load the bitstream and its overlay (docs/zynq.md)") from None
        self.path = path

    def store(self, text: str) -> None:
        """Write an attribute of sysfs."""
        os.pwrite(self.fd, text.encode(), 0)

    def map(self, nbytes: int) -> memoryview:
        """The first `nbytes` bytes, shared."""
        return memoryview(mmap.mmap(self.fd, nbytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))

    def lock(self) -> None:
        """Keep others who ask for the lock away until the file is closed. Raises RuntimeError if one of them has it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another process uses {self.path}; `fuser {self.path}` names it") from None

    def unmask(self) -> None:
        """Let the next interrupt of a UIO device through; the kernel masks it each time that it comes."""
        os.write(self.fd, struct.pack("=I", 1))

    def interrupt(self, seconds: float) -> bool:
        """Wait for the interrupt of a UIO device, no longer than `seconds`; whether it came."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        os.read(self.fd, 4)  # the number of interrupts so far, which nobody needs
        return True

    def close(self) -> None:
        """May be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a mapping that is still there keeps the file, and with it the lock
            os.close(fd)


class Linux:
    """The file system.

    Parameters
    ----------
    root : what stands for `/`.
    """

    def __init__(self, root: str | Path = "/"):
        self.root = Path(root)

    def path(self, name: str) -> Path:
        """Where the file of an absolute name lies."""
        return self.root / name.lstrip("/")

    def open(self, name: str, flags: int = os.O_RDWR) -> Device:
        """Open a file of a driver."""
        return Device(self.path(name), flags)

    def read(self, name: str) -> str | None:
        """The text of a file without the space around it, or None if it is not there."""
        try:
            return self.path(name).read_text().strip()
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none if it is not there."""
        path = self.path(folder)
        return sorted(each.name for each in path.iterdir()) if path.is_dir() else []
