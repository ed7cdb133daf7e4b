"""What a run did over time, in windows of some iterations: the lines behind its plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from host.quantise import Precision
from host.training.learner import Choice, Step
from host.training.records import GateWindow, Window


class Trace:
    """Sums successive steps into windows.

    A window ends after `every` steps, before a step in which what belongs to the whole window is another, or where
    `take` ends it.

    Attributes
    ----------
    over_samples, over_steps : what of a window is summed up and divided by their number at its end.
    """

    over_samples: tuple[str, ...] = ()
    over_steps: tuple[str, ...] = ()

    def __init__(self, every: int):
        self.every = every
        self._done: list[Any] = []
        self._open: Any = None

    def _window(self, **whole: Any) -> Any:
        """The window of the next step, to which `whole` belongs."""
        if self._open and any(self._open[name] != value for name, value in whole.items()):
            self._close()
        if self._open is None:
            zeros = dict.fromkeys((*self.over_samples, *self.over_steps), 0.0)
            self._open = {"steps": 0, "samples": 0, **zeros, **whole}
        return self._open

    def _count(self, iteration: int, samples: int) -> None:
        """The step has been added; it ended with `iteration`."""
        window = self._open
        window["iteration"] = iteration
        window["steps"] += 1
        window["samples"] += samples
        if window["steps"] == self.every:
            self._close()

    def _close(self) -> None:
        window, self._open = self._open, None
        for names, number in ((self.over_samples, window["samples"]), (self.over_steps, window["steps"])):
            for name in names:
                window[name] /= number
        self._done.append(window)

    def take(self) -> list[Any]:
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


class StepTrace(Trace):
    """Loss, accuracy, widths and cycles: windows of the form `Window`."""

    over_samples = ("loss", "accuracy")

    def add(self, iteration: int, samples: int, step: Step, precision: Precision, cycles: int | None) -> None:
        """Take the step that ended with `iteration`, when training had cost `cycles`."""
        window: Window = self._window(fw=precision.fw, bw=precision.bw)
        window["loss"] += step.loss * samples
        window["accuracy"] += step.correct
        window["cycles"] = cycles
        self._count(iteration, samples)


class GateTrace(Trace):
    """What the gates chose: windows of the form `GateWindow`."""

    over_samples = ("cp",)
    over_steps = ("push",)

    def add(self, iteration: int, samples: int, choice: Choice) -> None:
        """Take what was chosen in the step that ended with `iteration`."""
        window: GateWindow = self._window(target=choice.target)
        window["cp"] += choice.cp * samples
        window["push"] += choice.push
        counts = window.setdefault("counts", {})
        for name, row in choice.counts.items():
            counts[name] = [a + b for a, b in zip(counts.get(name, [0] * len(row)), row, strict=True)]
        self._count(iteration, samples)


def mean_cp(windows: list[GateWindow]) -> float:
    """Cost over all samples of the windows, in percent."""
    return sum(w["cp"] * w["samples"] for w in windows) / sum(w["samples"] for w in windows)
