"""The table and the plots that compare training runs, from the files that `host.train` left in their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from host.machine import SCOPE, Machine
from host.training.cc import FULL
from host.training.checkpoint import write_atomically
from host.training.cost import Cost, conversion, run_cost, saving
from host.training.folder import METRICS, SUMMARY
from host.training.plots import save_figure
from host.training.records import read_records, read_summary
from host.training.workload import network

METHOD_FILE = "method.txt"
#: The static reference of the paper's figures.
REFERENCE = {"schedule": "static", "fw": [8], "bw": [8]}


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run.

    Attributes
    ----------
    full, best : costs of the whole run, and up to the epoch of its best test accuracy.
    """

    name: str
    method: str
    summary: dict[str, Any]
    records: list[dict[str, Any]]
    full: Cost
    best: Cost

    @property
    def task(self) -> tuple[str, str, str]:
        """Model, data set and part of it: runs of one task can be compared."""
        config = self.summary["config"]
        return config["model"], config["data"], config["subset"]

    @property
    def machine(self) -> Machine | None:
        """What the cycles were taken on; None for a board without a clock. Cycles of one machine can be compared."""
        return None if self.full.cycles is None else Machine(**self.summary["machine"])

    @property
    def is_reference(self) -> bool:
        return all(self.summary["config"][key] == value for key, value in REFERENCE.items())

    @property
    def modelled(self) -> bool:
        """Whether the cycles come from the cycle model."""
        return self.summary.get("cycles_modelled", self.summary["board"].endswith("+cycles"))


def read_result(folder: Path) -> Result:
    """The run in `folder`. Raises ValueError if its files are damaged or do not fit together."""
    try:
        summary, records = read_summary(folder), read_records(folder)
        if len(records) != summary["epochs"]:
            raise ValueError(f"{METRICS} has {len(records)} epochs, {SUMMARY} {summary['epochs']}")
        config, dataset = summary["config"], summary["dataset"]
        products = network(config["model"], tuple(dataset["image"]), dataset["classes"], config["edge_bits"])
        full = run_cost(records, summary, products, dataset["samples"])
        best = run_cost(records, summary, products, dataset["samples"], best=True)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds no complete run of host.train: {error}") from None
    method = (folder / METHOD_FILE).read_text().strip() if (folder / METHOD_FILE).exists() else folder.name
    return Result(folder.name, method, summary, records, full, best)


def _reference(result: Result, results: Sequence[Result]) -> Result | None:
    """The static FW8/BW8 run of the same task on the same machine; without a clock, on any."""
    for other in results:
        if other.is_reference and other.task == result.task and result.machine in (None, other.machine):
            return other
    return None


def row(result: Result, reference: Result | None) -> dict[str, Any]:
    """A row of the table. Savings are against `reference`, the static FW8/BW8 run of the same task, where there is one.

    Without one, those of the whole run are against what the run itself says of static FW8/BW8.
    """
    values = {
        "method": result.method,
        "run": result.name,
        "model": result.task[0],
        "data": result.task[1],
        "subset": result.task[2],
        "board": result.summary["board"],
        "host_seconds": result.summary["host_seconds"],
        "machine": None if result.machine is None else asdict(result.machine),
        "scope": result.summary.get("latency_scope", SCOPE),
        "cycles_modelled": result.modelled,
        "accuracy_best": result.best.accuracy,
        "accuracy_final": result.full.accuracy,
        "reference": None if reference is None else reference.name,
    }
    for when in ("full", "best"):
        cost: Cost = getattr(result, when)
        if reference is not None:
            against: Cost | None = getattr(reference, when)
        elif when == "full":
            against = _own_reference(result)
        else:
            against = None
        values[when] = {**asdict(cost), "device_seconds": cost.device_seconds, "joules_modelled": cost.joules}
        for name in ("executed", "paper", "cycles"):
            known = None if against is None else getattr(against, name)
            values[when][f"{name}_saving"] = saving(getattr(cost, name), known)
        for name in ("executed", "paper"):
            values[when][f"conversion_{name}"] = None if against is None else conversion(cost, against, name)
    return values


def _own_reference(result: Result) -> Cost:
    """The same run at static FW8/BW8 as its summary estimates it."""
    summary, full = result.summary, result.full
    return Cost(full.epochs, 0.0, None, summary["cc_static"], None, summary["latency_static_cycles"], None)


def _text(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


#: Heading and content of each column, like Table 3 of FracTrain.
COLUMNS = (
    ("Method", lambda r: r["method"]),
    ("Best / final accuracy", lambda r: f"{r['accuracy_best']:.2%} / {r['accuracy_final']:.2%}"),
    ("CC full run", lambda r: _text(r["full"]["paper"], ".3g")),
    ("executed", lambda r: _text(r["full"]["executed"], ".3g")),
    ("with digits", lambda r: _text(r["full"]["digits"], ".3g")),
    ("CC to best", lambda r: _text(r["best"]["paper"], ".3g")),
    ("executed to best", lambda r: _text(r["best"]["executed"], ".3g")),
    ("Clusters", lambda r: _text(r["machine"] and r["machine"]["clusters"], "")),
    ("Cycles", lambda r: _text(r["full"]["cycles"], ",") + " (modelled)" * r["cycles_modelled"]),
    ("to best", lambda r: _text(r["best"]["cycles"], ",")),
    ("Device seconds", lambda r: _text(r["full"]["device_seconds"], ",.1f")),
    ("Host seconds", lambda r: _text(r["host_seconds"], ",.1f")),
    ("DDR bytes", lambda r: _text(r["full"]["ddr_bytes"], ",")),
    ("CC saving", lambda r: _text(r["full"]["executed_saving"], ".1%")),
    ("Latency saving", lambda r: _text(r["full"]["cycles_saving"], ".1%")),
    ("Saving conversion", lambda r: _text(r["full"]["conversion_executed"], ".3f")),
    ("of paper's CC", lambda r: _text(r["full"]["conversion_paper"], ".3f")),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a table for each task."""
    parts = []
    for task in dict.fromkeys((r["model"], r["data"], r["subset"]) for r in rows):
        lines = [[heading for heading, _ in COLUMNS], ["---"] * len(COLUMNS)]
        lines += [[cell(r) for _, cell in COLUMNS] for r in rows if (r["model"], r["data"], r["subset"]) == task]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        name = " ".join(filter(None, (Path(task[1]).name, task[2])))
        parts.append(f"## {task[0]} on {name}\n\n{text}")
    machines = dict.fromkeys(str(Machine(**r["machine"])) for r in rows if r["machine"] is not None)
    note = (
        "CC in 32-bit MACs: as the paper counts it; as executed; and with stationary operands in whole 4-bit digits. "
        "Savings are those of the whole run against static FW8/BW8 on the same machine, the saving conversion is "
        "latency saving / CC saving, for the CC as executed and for the paper's. Cycles, seconds, latency and "
        f"conversion are of {_scope(rows)}, in training: what the host computes between them and evaluation are not "
        "included. Host seconds are what training took between them on the machine that ran it. No placed design has "
        "met the clock that device seconds assume.\n"
    )
    return "\n".join([*parts, note, *(f"* {machine}\n" for machine in machines)])


def _scope(rows: Sequence[Mapping[str, Any]]) -> str:
    """What cycles are of."""
    return "; or ".join(dict.fromkeys(row["scope"] for row in rows))


def _plot(path: Path, results: Sequence[Result], label: str, values, *, on_machine: bool = False) -> bool:
    """Test accuracy over `values(result)`, one number an epoch or None; return whether there was anything to draw.

    `on_machine` says that the values belong to the runs' machines, which are then named.
    """
    lines = {result: values(result) for result in results}
    lines = {result: xs for result, xs in lines.items() if xs is not None}
    if not lines:
        return False
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        for result, xs in lines.items():
            machine = result.machine if on_machine else None
            name = f"{result.method}, {machine.size}" if machine else result.method
            axes.plot(xs, [100 * r["test_accuracy"] for r in result.records], label=name, marker=".")
        machines = dict.fromkeys(str(result.machine) for result in lines) if on_machine else ()
        axes.set_xlabel("\n".join([label, *machines]))
        axes.set_ylabel("test accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend()
        save_figure(figure, path)
    return True


def _totals(key: str, scale: float = 1.0):
    def values(result: Result) -> list[float] | None:
        counts = [record[key] for record in result.records]
        return None if None in counts else [value * scale for value in accumulate(counts)]

    return values


def write_comparison(out: Path, first: Sequence[str] = ()) -> list[Path]:
    """Write table.md, table.json and plots of the finished runs in the folder `out`; return their paths.

    `first` names runs in the order in which they come; others follow by name. Runs without summary are left out.

    Raises
    ------
    ValueError
        If there is no finished run, or the files of one are damaged.
    """
    finished = sorted(path.parent.name for path in out.glob(f"*/{SUMMARY}"))
    names = [name for name in first if name in finished]
    names += [name for name in finished if name not in names]
    if not names:
        raise ValueError(f"{out} holds no finished run yet")
    results = [read_result(out / name) for name in names]
    rows = [row(result, _reference(result, results)) for result in results]
    written = [out / "table.md", out / "table.json"]
    write_atomically(written[0], table(rows).encode())
    write_atomically(written[1], (json.dumps(rows, indent=2) + "\n").encode())
    for name, label, values in (
        ("accuracy_epochs.png", "epoch", lambda result: [record["epoch"] + 1 for record in result.records]),
        ("accuracy_cc.png", "CC as executed (32-bit MACs)", _totals("bit_macs", 1 / FULL)),
        ("accuracy_cycles.png", f"training cycles, {_scope(rows)}", _totals("cycles")),
    ):
        if _plot(out / name, results, label, values, on_machine=name == "accuracy_cycles.png"):
            written.append(out / name)
    return written
