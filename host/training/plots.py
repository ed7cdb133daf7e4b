"""The plots of a run, from its windows: more than one point of every curve, even of a run of one epoch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from host.training.checkpoint import write_atomically


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically. Raises OSError that names it."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=120, format="png")
    write_atomically(path, stream.getvalue())


def plot_run(out: Path, records: Sequence[Mapping[str, Any]], machine: str, scope: str, *, bits: bool) -> list[Path]:
    """Write loss.png, accuracy.png, bits.png and cycles.png into `out`; return their paths.

    Parameters
    ----------
    records : the lines of metrics.jsonl, at least one.
    machine, scope : whose cycles they are, and of what; a board without a clock gets no cycles.png.
    bits : whether the widths of the stages are those that were trained, and not what samples chose for themselves.
    """
    windows = [window for record in records for window in record["windows"]]
    epoch = records[0]["iteration"]
    ends = [window["iteration"] / epoch for window in windows]
    edges = [0.0, *ends]
    paths = []
    with _axes(out / "loss.png", "training loss (mean cross-entropy)", paths) as axes:
        axes.plot(ends, [window["loss"] for window in windows], marker=".")
    with _axes(out / "accuracy.png", "accuracy", paths) as axes:
        axes.plot(ends, [window["accuracy"] for window in windows], label="training", marker=".")
        tested = [record["iteration"] / epoch for record in records]
        axes.plot(tested, [record["test_accuracy"] for record in records], label="test", marker="o")
        axes.legend()
    if bits:
        with _axes(out / "bits.png", "bits", paths) as axes:
            axes.stairs([window["fw"] for window in windows], edges, baseline=None, label="forward (FW)")
            axes.stairs([window["bw"] for window in windows], edges, baseline=None, label="backward (BW)", ls="dashed")
            axes.legend()
    if windows[-1]["cycles"] is not None:
        with _axes(out / "cycles.png", f"training cycles so far,\n{scope}", paths) as axes:
            axes.plot(edges, [0, *(window["cycles"] for window in windows)], marker=".")
            axes.set_title(machine, fontsize=8)
    return paths


@contextmanager
def _axes(path: Path, label: str, paths: list[Path]) -> Iterator[Axes]:
    """Axes over the epochs, written to `path` at the end, which is added to `paths`."""
    # A Figure of its own, without pyplot, needs no display and leaves no global state behind.
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        yield axes
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        save_figure(figure, path)
    paths.append(path)
