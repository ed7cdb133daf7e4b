"""What a run costs on its board: counters that are added up over training and over evaluation, across restarts."""

from __future__ import annotations

from host.board import Board

#: What is added up over a run, and the counters of a board that it is the sum of. A board that lacks one of them, as
#: golden lacks a clock and a bus, reports None. Cycles are those with a descriptor in flight: the board's clock runs on
#: while the host computes or reads counters, which would make the figure depend on when checkpoints are written.
COUNTERS = {
    "cycles": ("busy",),
    "macs": ("macs",),
    "bit_macs": ("bit_macs",),
    "ddr_bytes": ("read_bytes", "write_bytes"),
}


class Meter:
    """Tells what a board has done between two readings."""

    def __init__(self, board: Board):
        self.board = board
        self.skip()

    def _read(self) -> dict[str, int]:
        counters = self.board.counters()
        return {
            name: sum(int(counters[part]) for part in parts)
            for name, parts in COUNTERS.items()
            if all(part in counters for part in parts)
        }

    def skip(self) -> None:
        """What the board has done so far does not count."""
        self._last = self._read()

    def add_to(self, totals: dict[str, int]) -> None:
        """Add what the board has done since the last reading to `totals`; what it cannot tell is missing there."""
        now = self._read()
        for name, value in now.items():
            totals[name] = totals.get(name, 0) + value - self._last.get(name, 0)
        self._last = now
