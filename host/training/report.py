"""The report of a run: plots of its metrics as PNG, and a page that shows them with the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from host.cycles.bus import seconds
from host.machine import SCOPE, Machine
from host.training.config import TrainConfig
from host.training.gate_plot import plot_gates

#: (file name, y axis, {legend: key of metrics.jsonl}).
_PLOTS = (
    ("loss", "training loss (mean cross-entropy)", {"training": "loss"}),
    ("accuracy", "accuracy", {"training": "train_accuracy", "test": "test_accuracy"}),
    ("bits", "bits at the end of the epoch", {"forward (FW)": "fw", "backward (BW)": "bw"}),
    ("cycles", f"training cycles so far,\n{SCOPE}", {"cycles": "cycles"}),
)


def write_report(out: Path, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Path]:
    """Write loss.png, accuracy.png, bits.png, cycles.png and report.md into `out`; return their paths.

    A board without a clock gets no cycles.png; a run with gates gets gates.png in the place of bits.png.

    Parameters
    ----------
    records : the lines of metrics.jsonl, at least one.
    summary : the content of summary.json.
    """
    config = TrainConfig.from_json(summary["config"])
    epochs = [record["epoch"] + 1 for record in records]
    paths = []
    for name, label, series in _PLOTS:
        if name == "bits" and config.gated:
            continue
        lines = {legend: [record[key] for record in records] for legend, key in series.items()}
        if any(value is None for values in lines.values() for value in values):
            continue
        if name == "cycles":
            lines = {legend: list(accumulate(values)) for legend, values in lines.items()}
        paths.append(out / f"{name}.png")
        title = str(Machine(**summary["machine"])) if name == "cycles" else ""
        _plot(paths[-1], epochs, lines, label, title=title, steps=name == "bits")
    if config.gated:
        paths.append(out / "gates.png")
        plot_gates(paths[-1], [window for record in records for window in record["gates"]], config.gate_options)
    paths.append(out / "report.md")
    paths[-1].write_text(_page(config, summary, records, [path.name for path in paths[:-1]]))
    return paths


def _plot(
    path: Path, epochs: list[int], lines: Mapping[str, list[float]], label: str, *, title: str, steps: bool
) -> None:
    # A Figure of its own, without pyplot, needs no display and leaves no global state behind.
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        for legend, values in lines.items():
            axes.plot(epochs, values, label=legend, marker=".", drawstyle="steps-post" if steps else "default")
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_xlim(0, epochs[-1] + 0.5)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
        figure.savefig(path, dpi=120)


def _page(
    config: TrainConfig, summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], images: Sequence[str]
) -> str:
    stages = ", ".join(map(str, config.stages))
    if config.gated:
        targets = ", ".join(f"{target:g} %" for target in config.cp)
        stages = f"cp {targets} of {config.options} with {config.weight_bits}-bit weights; elsewhere {stages}"
    switches = [
        (f"FW{switch['fw']}/BW{switch['bw']}" if switch["cp"] is None else f"cp {switch['cp']:g} %")
        + f" from iteration {switch['iteration']}"
        + " (forced)" * switch["forced"]
        for switch in summary["stage_switches"]
    ]
    rows = [
        ("Board", summary["board"]),
        ("Schedule", f"{config.schedule}: {stages}"),
        ("Stage switches", "; ".join(switches) or "none"),
        *([("Lengthened", _lengthened(summary["lengthened"]))] if summary["lengthened"] else []),
        ("Test accuracy", f"{summary['test_accuracy']:.2%}"),
        ("Epochs, iterations", f"{summary['epochs']}, {summary['iterations']}"),
        ("Computational cost (32-bit MACs)", f"{summary['cc']:.4g}, at static FW8/BW8 {summary['cc_static']:.4g}"),
        ("CC saving", f"{1 - summary['cc'] / summary['cc_static']:.1%}"),
    ]
    if config.gated:
        rows.append(("Gates on the host (32-bit MACs)", f"{summary['cc_gates']:.4g}, not included above"))
        rows.append(("cp in the last epoch", f"{records[-1]['cp']:.3f} %"))
    if summary["ddr_bytes"] is not None:
        rows.append(("DDR bytes", f"{summary['ddr_bytes']:,}"))
    if summary["cycles"] is not None:
        static = summary["latency_static_cycles"]
        rows += [
            ("Machine", f"{Machine(**summary['machine'])}; no placed design has met that clock"),
            ("What cycles and seconds of the device are of", SCOPE),
            ("Training cycles", f"{summary['cycles']:,}, at static FW8/BW8 {static:,}"),
            ("Device seconds", f"{seconds(summary['cycles']):,.2f}"),
            ("Latency saving", f"{1 - summary['cycles'] / static:.1%}"),
            ("Evaluation cycles", f"{summary['eval_cycles']:,}"),
        ]
    rows.append(("Seconds that the run took here", f"{summary['seconds']:.0f}"))
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    plots = "".join(f"\n![{Path(name).stem}]({name})\n" for name in images)
    return f"# {config.model} on {config.data}, seed {config.seed}\n\n| | |\n|---|---|\n{table}{plots}"


def _lengthened(times: Sequence[Mapping[str, int]]) -> str:
    return "; ".join(f"from {time['epochs']} epochs at iteration {time['iteration']}" for time in times)
