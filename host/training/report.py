"""The report of a run: plots of its metrics as PNG, and a page that shows them with the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from host.cycles.bus import seconds
from host.machine import Machine
from host.step.account import Work
from host.training.checkpoint import write_atomically
from host.training.config import TrainConfig
from host.training.folder import REPORT
from host.training.gate_plot import plot_gates
from host.training.plots import plot_run


def write_report(out: Path, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Path]:
    """Write loss.png, accuracy.png, bits.png, cycles.png and report.md into `out`; return their paths.

    A board without a clock gets no cycles.png; a run with gates gets gates.png in the place of bits.png.

    Parameters
    ----------
    records : the lines of metrics.jsonl, at least one.
    summary : the content of summary.json.
    """
    config = TrainConfig.from_json(summary["config"])
    machine, scope = str(Machine(**summary["machine"])), summary["latency_scope"]
    paths = plot_run(out, records, machine, scope, bits=config.schedule.gates is None)
    if gates := config.schedule.gates:
        paths.append(out / "gates.png")
        plot_gates(paths[-1], [window for record in records for window in record["gates"]], gates.gate_options)
    page = _page(config, summary, records, [path.name for path in paths])
    write_atomically(out / REPORT, page.encode())
    return [*paths, out / REPORT]


def _page(
    config: TrainConfig, summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], images: Sequence[str]
) -> str:
    switches = [
        (f"FW{switch['fw']}/BW{switch['bw']}" if switch["cp"] is None else f"cp {switch['cp']:g} %")
        + f" from iteration {switch['iteration']}"
        + " (forced)" * switch["forced"]
        for switch in summary["stage_switches"]
    ]
    rows = [
        ("Board", summary["board"]),
        ("Schedule", f"{config.schedule.name}: {config.schedule}"),
        ("Stage switches", "; ".join(switches) or "none"),
        *([("Lengthened", _lengthened(summary["lengthened"]))] if summary["lengthened"] else []),
        ("Test accuracy", f"{summary['test_accuracy']:.2%}"),
        ("Epochs, iterations", f"{summary['epochs']}, {summary['iterations']}"),
        ("Computational cost (32-bit MACs)", f"{summary['cc']:.4g}, at static FW8/BW8 {summary['cc_static']:.4g}"),
        ("CC saving", f"{1 - summary['cc'] / summary['cc_static']:.1%}"),
    ]
    if config.schedule.gates:
        rows.append(("Gates on the host (32-bit MACs)", f"{summary['cc_gates']:.4g}, not included above"))
        rows.append(("cp in the last epoch", f"{records[-1]['cp']:.3f} %"))
    if summary["ddr_bytes"] is not None:
        rows.append(("DDR bytes", f"{summary['ddr_bytes']:,}"))
    if summary["cycles"] is not None:
        static = summary["latency_static_cycles"]
        rows += [
            ("Machine", f"{Machine(**summary['machine'])}; no placed design has met that clock"),
            ("What cycles and seconds of the device are of", summary["latency_scope"]),
            ("Training cycles", f"{summary['cycles']:,}, at static FW8/BW8 {static:,}"),
            ("Device seconds", f"{seconds(summary['cycles']):,.2f}"),
            ("Host seconds between them, measured here", f"{summary['host_seconds']:,.2f}"),
            ("Latency saving", f"{1 - summary['cycles'] / static:.1%}"),
            ("Evaluation cycles", f"{summary['eval_cycles']:,}"),
        ]
    if step_by := summary.get("step_by"):
        rows.append(("Passes of the device step", f"computed by {step_by}"))
        rows.append(("What the host did of it itself, measured here", _host_work(summary["host_work"])))
    rows.append(("Seconds that the run took here", f"{summary['seconds']:.0f}"))
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    plots = "".join(f"\n![{Path(name).stem}]({name})\n" for name in images)
    return f"# {config.model} on {config.data}, seed {config.seed}\n\n| | |\n|---|---|\n{table}{plots}"


def _host_work(kinds: Mapping[str, Work]) -> str:
    return "; ".join(
        f"{name} {work['seconds']:,.2f} s, {work['write_bytes']:,} bytes to the board, {work['read_bytes']:,} from it"
        for name, work in kinds.items()
    )


def _lengthened(times: Sequence[Mapping[str, int]]) -> str:
    return "; ".join(f"from {time['epochs']} epochs at iteration {time['iteration']}" for time in times)
