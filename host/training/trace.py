"""What the gates of a run chose over time, in windows of some iterations: the lines behind the plots of a DFQ run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from host.training.learner import Step


class GateTrace:
    """Sums the decisions of successive steps into windows.

    A window is a dict of JSON values: `iteration` behind its last step, number of `steps` and `samples`, means `cp`
    (over samples, in percent) and `push` (over steps), the `target`, and `counts`, samples by block and option. It ends
    after `every` steps, with the target, or where `take` ends it.
    """

    def __init__(self, every: int):
        self.every = every
        self._done: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def add(self, iteration: int, samples: int, step: Step, target: float) -> None:
        """Take the step that ended with `iteration`."""
        if self._open and self._open["target"] != target:
            self._close()
        if self._open is None:
            counts = {name: [0] * len(row) for name, row in step.counts.items()}
            self._open = {"steps": 0, "samples": 0, "cp": 0.0, "push": 0.0, "target": target, "counts": counts}
        window = self._open
        window["iteration"] = iteration
        window["steps"] += 1
        window["samples"] += samples
        window["cp"] += step.cp * samples
        window["push"] += step.push
        for name, row in step.counts.items():
            window["counts"][name] = [a + b for a, b in zip(window["counts"][name], row, strict=True)]
        if window["steps"] == self.every:
            self._close()

    def _close(self) -> None:
        window, self._open = self._open, None
        window["cp"] /= window["samples"]
        window["push"] /= window["steps"]
        self._done.append(window)

    def take(self) -> list[dict[str, Any]]:
        """End the window in progress; return all windows since the last call."""
        if self._open:
            self._close()
        done, self._done = self._done, []
        return done

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON values."""
        return {"done": self._done, "open": self._open}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self._done, self._open = list(state["done"]), state["open"]


def mean_cp(windows: list[dict[str, Any]]) -> float:
    """Cost over all samples of the windows, in percent."""
    return sum(w["cp"] * w["samples"] for w in windows) / sum(w["samples"] for w in windows)
