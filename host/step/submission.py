"""Descriptors that run together: they wait until the host needs something of what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from host.backends.memory import MemoryBoard
from host.plan.memory import Region
from rtl.isa import Descriptor, Flag


class Submission:
    """Descriptors for `board`, in order. Nobody gets a region that one of them needs before they have run."""

    def __init__(self, board: MemoryBoard):
        self._board = board
        self._descriptors: list[Descriptor] = []
        self._held: list[Region] = []
        self._written: set[int] = set()  # addresses, since the last fence

    def add(self, descriptors: Sequence[Descriptor], reads: Sequence[Region], writes: Sequence[Region]) -> None:
        """Descriptors that may run side by side."""
        first, *others = descriptors
        if any(region.address in self._written for region in reads):
            first = replace(first, flags=first.flags | Flag.FENCE)
            self._written.clear()
        self._descriptors += [first, *others]
        self._written |= {region.address for region in writes}
        for region in (*reads, *writes):
            region.users += 1
            self._held.append(region)

    def run(self) -> None:
        """Run what waits. Raises AcceleratorError."""
        waiting, self._descriptors = self._descriptors, []
        try:
            if waiting:
                self._board.run(waiting)
        finally:
            for region in self._held:
                self._board.memory.release(region)
            self._held.clear()
            self._written.clear()
