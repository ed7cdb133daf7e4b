"""Ctrl-C in a command before there is anything to stop in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: Exit status of a command stopped by Ctrl-C, as shells report it.
INTERRUPTED = 130


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Let Ctrl-C end the program at once and without a word: for the seconds in which libraries load.

    KeyboardInterrupt would surface somewhere inside of them, as a traceback or disguised as another error.
    """
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
