"""A state machine with a register for each state."""

from __future__ import annotations

from contextlib import contextmanager

from amaranth.hdl import Module, Signal


class States:
    """One-hot states: what happens in a state hangs on a register, where `m.FSM` would decode one first.

    Parameters
    ----------
    m : the module whose states these are.
    names : of the states; the first is that after reset.

    Attributes
    ----------
    at : for each name the signal that is set in that state.
    """

    def __init__(self, m: Module, *names: str):
        self._m = m
        self.at = {name: Signal(name="at_" + name.lower().replace(" ", "_"), init=name == names[0]) for name in names}
        self._here = ""

    @contextmanager
    def state(self, name: str):
        """What is said inside happens in state `name`."""
        self._here = name
        with self._m.If(self.at[name]):
            yield

    def go(self, name: str) -> None:
        """The next state is `name`. Say it once for each case: no later word takes it back."""
        self._m.d.sync += [self.at[self._here].eq(0), self.at[name].eq(1)]
