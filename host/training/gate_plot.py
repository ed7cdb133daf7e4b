"""The picture of what a run's gates did: cost and target, sign of beta, and bits of each block over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from host.nn.mixed import Option
from host.training.plots import save_figure


def block_bits(windows: Sequence[Mapping[str, Any]], options: Sequence[Option]) -> dict[str, list[float]]:
    """Mean activation bits of each block in each window of `host.training.trace`; to skip the block counts as 0."""
    widths = np.array([0 if option is None else option.fw for option in options])
    return {
        name: [float(np.dot(window["counts"][name], widths) / window["samples"]) for window in windows]
        for name in windows[0]["counts"]
    }


def plot_gates(path: Path, windows: Sequence[Mapping[str, Any]], options: Sequence[Option]) -> None:
    """Write the picture of all windows of a run, at least one."""
    ends = [window["iteration"] for window in windows]
    edges = [ends[0] - windows[0]["steps"], *ends]
    bits = block_bits(windows, options)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 5.5 + 0.12 * len(bits)), layout="constrained")
        heights = (3, 1, 1 + 0.15 * len(bits))
        cost, sign, blocks = figure.subplots(3, 1, sharex=True, height_ratios=heights)
        cost.stairs([window["cp"] for window in windows], edges, baseline=None, label="cp")
        targets = [window["target"] for window in windows]
        cost.stairs(targets, edges, baseline=None, label="target", linestyle="dashed")
        cost.set_ylabel("cost of the gated\nblocks (% of 32 bits)")
        cost.legend()
        sign.stairs([window["push"] for window in windows], edges, baseline=0, fill=True)
        sign.set_ylabel("mean sign\nof beta")
        sign.set_ylim(-1.05, 1.05)
        rows = np.arange(len(bits) + 1)
        mesh = blocks.pcolormesh(edges, rows, np.array(list(bits.values())), vmin=0, cmap="viridis")
        blocks.set_yticks(rows[:-1] + 0.5, list(bits), fontsize=6)
        blocks.invert_yaxis()
        blocks.set_xlabel("iteration")
        figure.colorbar(mesh, ax=blocks, label="activation bits", location="bottom", shrink=0.6)
        save_figure(figure, path)
