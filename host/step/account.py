"""What the host itself does of training steps: seconds, and bytes to and from the board, by kind of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from host.board import Board


class Work(TypedDict):
    """Of one kind: the host's seconds without the time in which it stood in for the accelerator, and bytes moved."""

    seconds: float
    write_bytes: int
    read_bytes: int


def add_work(a: Work, b: Work) -> Work:
    """Both together."""
    return {
        "seconds": a["seconds"] + b["seconds"],
        "write_bytes": a["write_bytes"] + b["write_bytes"],
        "read_bytes": a["read_bytes"] + b["read_bytes"],
    }


class Account:
    """Counts while a step goes on. Kinds exclude each other: of two, one inside the other, the inner one counts."""

    #: What a step does where nobody says otherwise.
    REST = "coefficients"

    def __init__(self, board: Board):
        self._board = board
        self._work: dict[str, Work] = {}
        self._now: str | None = None
        self._since = (0.0, 0, 0)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A part of a training step."""
        self._since, self._now = self._read(), self.REST
        try:
            yield
        finally:
            self._book()
            self._now = None

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """Work of this kind, if a step goes on."""
        before = self._now
        if before is None:
            yield
            return
        self._book()
        self._now = name
        try:
            yield
        finally:
            self._book()
            self._now = before

    def take(self) -> dict[str, Work]:
        """By kind; counting begins anew."""
        work, self._work = self._work, {}
        return work

    def _read(self) -> tuple[float, int, int]:
        board = self._board
        return time.monotonic() - board.stand_in_seconds, board.host_write_bytes, board.host_read_bytes

    def _book(self) -> None:
        """What was done since the last time belongs to the kind that it is now."""
        assert self._now is not None, "nothing is booked without a step"
        now = self._read()
        seconds, written, read = (new - old for new, old in zip(now, self._since, strict=True))
        self._since = now
        work: Work = {"seconds": seconds, "write_bytes": int(written), "read_bytes": int(read)}
        before = self._work.get(self._now)
        self._work[self._now] = add_work(before, work) if before else work
