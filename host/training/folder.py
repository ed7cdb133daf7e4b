"""The folder of a run: the names of its files, which folder a run gets, and that only one process is at work there."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path

CHECKPOINT = "checkpoint.npz"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
REPORT = "report.md"
#: What a run writes when it has ended. A board without a clock gives no cycles.png; gates.png is of runs with gates.
RESULTS = (SUMMARY, REPORT, "loss.png", "accuracy.png", "bits.png", "cycles.png", "gates.png")
LOCK = "run.lock"
#: Where a run lies that is given no folder; the second one and later ones lie beside it, as build/train-2.
DEFAULT = Path("build/train")


class FolderInUseError(RuntimeError):
    """Another process is at work in the folder."""


def holds_run(folder: Path) -> bool:
    """Whether a run has left anything in `folder`."""
    return any((folder / name).exists() for name in (CHECKPOINT, METRICS, *RESULTS))


def remove_results(folder: Path) -> None:
    """Remove what stands for a run that has ended, the summary first."""
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)


class Claim:
    """A folder that belongs to this process alone until `release`, made if there is none. Use it with `with`.

    The lock is the kernel's, so it ends with the process, however that ends.

    Raises
    ------
    FolderInUseError
        If another process has it; the message names that process.
    NotADirectoryError
        If it is a file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._made = not folder.exists()
        while not self._try():
            pass

    def _try(self) -> bool:
        """Take the lock; False if the folder or the lock was removed meanwhile, by an owner that has left."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            with suppress(FileNotFoundError):  # a folder that was there and is gone again
                if not stat.S_ISDIR(self.folder.lstat().st_mode):
                    raise NotADirectoryError(f"{self.folder} is a file, must be a folder") from None
            return False
        path = self.folder / LOCK
        try:
            self._file = open(path, "a+")  # noqa: SIM115, closed by `release`
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read() or "another process"
            self._file.close()
            raise FolderInUseError(
                f"{self.folder} is in use by {owner}; wait for its end, or choose another --out"
            ) from None
        except OSError as error:  # a file system without locks
            self._file.close()
            raise OSError(error.errno, error.strerror, str(path)) from None
        try:
            is_current = os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        except FileNotFoundError:
            is_current = False
        if not is_current:
            self._file.close()
            return False
        self._file.truncate(0)
        with suppress(OSError):  # a full disk: then the owner has no name
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M}")
            self._file.flush()
        return True

    def release(self) -> None:
        """Give the folder back, and remove it if it was made here and nothing came of it."""
        (self.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self._file.close()
        if self._made:
            with suppress(OSError):
                self.folder.rmdir()

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *error: object) -> None:
        self.release()


def claim(out: Path | None, *, resume: bool, replace: bool) -> Claim:
    """Take the folder of a run; no file of a run that lies there is touched.

    Parameters
    ----------
    out : None for `DEFAULT`: to resume, the last of its folders that holds a run, else the first one after all that
        hold one.
    resume, replace : continue the run that lies in the folder, or begin anew in its place.

    Raises
    ------
    FolderInUseError
        If another process has the folder.
    FileExistsError
        If it holds a run that is neither to be continued nor to be replaced.
    FileNotFoundError
        If it holds a run without the checkpoint from which it could be continued.
    """
    if out is None and not resume:
        return _new_default()
    mine = Claim(out or _numbered(max(_used(), default=1)))
    try:
        if resume and holds_run(mine.folder) and not (mine.folder / CHECKPOINT).exists():
            raise FileNotFoundError(f"{mine.folder} holds a run, but not {CHECKPOINT}, from which it would continue")
        if not (resume or replace) and holds_run(mine.folder):
            raise FileExistsError(
                f"{mine.folder} holds a run: choose another --out, continue it with --resume (and with more --epochs "
                f"after its end), or give --replace to lose it"
            )
    except OSError:
        mine.release()
        raise
    return mine


def _new_default() -> Claim:
    for number in count(max(_used(), default=0) + 1):
        try:
            mine = Claim(_numbered(number))
        except FolderInUseError:
            continue
        if not holds_run(mine.folder):
            return mine
        mine.release()
    raise AssertionError("numbers do not end")


def _numbered(number: int) -> Path:
    return DEFAULT if number == 1 else DEFAULT.with_name(f"{DEFAULT.name}-{number}")


def _used() -> list[int]:
    """Numbers of the default folders that hold a run."""
    texts = [path.name.removeprefix(f"{DEFAULT.name}-") for path in DEFAULT.parent.glob(f"{DEFAULT.name}-*")]
    return [n for n in (1, *(int(text) for text in texts if text.isdecimal())) if holds_run(_numbered(n))]
