"""Ranges that are known too late: how large tensors were in the step before, by which they are stored in this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np

#: Most attempts to find a range that no step before has left.
_ATTEMPTS = 8


class Ranges:
    """Largest magnitudes of stored tensors by name, in real values: float64, () or (C,).

    A step stores by those of the step before, whatever its micro-batches find and in which order they come.

    Attributes
    ----------
    last : of the latest step that was committed.
    """

    def __init__(self) -> None:
        self.last: dict[str, np.ndarray] = {}
        self._now: dict[str, list[Callable[[], np.ndarray | float]]] = {}

    def see(self, name: str, end: Callable[[], np.ndarray | float]) -> None:
        """What a micro-batch has found; `end` is asked for it when it is needed, so that no device is waited for."""
        self._now.setdefault(name, []).append(end)

    def commit(self) -> None:
        """The step has ended."""
        self.last |= {name: self._seen(name) for name in self._now}
        self._now = {}

    def _seen(self, name: str) -> np.ndarray:
        """What this step's micro-batches have found so far."""
        return reduce(np.maximum, (np.asarray(end(), np.float64) for end in self._now[name]))

    def load(self, last: Mapping[str, np.ndarray]) -> None:
        """Replace what was seen."""
        self.last, self._now = {name: np.asarray(value, np.float64) for name, value in last.items()}, {}

    def start(self, name: str, bound: np.ndarray | float, attempt: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """By what to store `name`: the range of the step before, or in a first step the one that attempts find.

        Parameters
        ----------
        bound : what no element exceeds.
        attempt : stores for a given range and answers what it has found. A device runs the pass again for it.
        """
        if name in self.last:
            return self.last[name]
        if name in self._now:
            return self._seen(name)
        taken = np.asarray(bound, np.float64)
        for _ in range(_ATTEMPTS):
            seen = np.minimum(attempt(taken), taken)
            if np.all(seen * 4 > taken):
                break
            taken = seen
        return taken


def found_in(largest: int, top: int, unit: float) -> np.ndarray:
    """The range of a stored tensor whose unit is one for all channels, see `found`."""
    return found(largest, largest, top, unit)


def found(low: np.ndarray | int, high: np.ndarray | int, top: int, unit: np.ndarray | float) -> np.ndarray:
    """The range of a stored tensor from the extremes of its codes, () or (C,), whose largest magnitude is `top`.

    A tensor that was clipped counts as twice as large, one of zeros as half a step.
    """
    end = np.maximum(np.maximum(np.abs(low), np.abs(high)), 0.5)
    return np.where(end >= top, 2.0 * top, end) * unit
