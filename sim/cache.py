"""Build results kept by content: a directory for each key, made once, by one process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Where build results are kept: `FRACTRAIN_CACHE`, or a folder of the user's cache."""
    return Path(os.environ.get("FRACTRAIN_CACHE") or Path.home() / ".cache" / "fractrain-fpga")


def digest(*parts: str | bytes) -> str:
    """A key for `parts`; each counts with its length, so that no two lists collide by shifting a boundary."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()[:32]


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The directory `kind/key` of the cache, filled by `make(directory)` if it is not there yet.

    A second process that wants the same key waits for the first. The directory appears under its name only when
    `make` has returned, so an interrupted build leaves nothing that looks finished.
    """
    final = cache_dir() / kind / key
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with open(final.parent / f"{key}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=final.parent))
            try:
                make(work)
                work.rename(final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return final
