"""A loop counter that knows its last round without a comparison."""

from __future__ import annotations

from amaranth.hdl import Signal, signed


class Countdown:
    """Counts the rounds of a loop down to a negative number, so that `last` is a register.

    Parameters
    ----------
    width : bits of the number of rounds.
    name : of the loop, for the signals' names.

    Attributes
    ----------
    last : this round is the last.
    """

    def __init__(self, width: int, name: str):
        self._left = Signal(signed(width + 1), name=f"{name}_left")  # rounds after the next one
        self._again = Signal(signed(width + 1), name=f"{name}_again")
        self.last = self._left[-1]

    def start(self, rounds):
        """Statements that begin a loop of `rounds` rounds, at least 1."""
        return [self._left.eq(rounds - 2), self._again.eq(rounds - 2)]

    def restart(self):
        """Statements that begin it with as many rounds as before."""
        return [self._left.eq(self._again)]

    def step(self):
        """Statements that go on to the next round."""
        return [self._left.eq(self._left - 1)]
