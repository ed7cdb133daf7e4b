"""What finished runs take on other configurations: `python -m host.recost RUN ... --clusters 1,20`.

Nothing is trained again. A run's folder says which layers it has, which precision they had in which iteration and, of
a gated run, how many samples chose what in which block; the cycle model says what that takes on another accelerator.
Operands are random codes, and a batch whose samples differ in precision counts as parts of uniform batches. Printed
beside it is what the run itself counted, on the machine that its summary names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from host.arrays import Array
from host.backends.modelled import Modelled
from host.bench import print_table
from host.board import Board
from host.cycles.bus import seconds
from host.geometry import out_size
from host.machine import SCOPE, Machine
from host.nn.products import Product
from host.operand import Operand
from host.quantise import Precision
from host.training.cc import chosen_products
from host.training.cost import saving, segments
from host.training.folder import METRICS
from host.training.forms import blamed_on, check
from host.training.learner import STATIC
from host.training.records import read_summary
from host.training.workload import network, task
from rtl.config import AcceleratorConfig

#: (batch size, product, its precision) and how many times all its passes ran so; gates give fractions.
Parts = Counter[tuple[int, Product, Precision]]


class Chosen(TypedDict):
    """What samples chose: how many there were, and how many of them by block and option."""

    samples: int
    counts: dict[str, list[int]]


class Epoch(TypedDict, total=False):
    """Of a line of metrics.jsonl, what costs are made of: the windows of a gated run."""

    gates: list[Chosen]


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and metrics of a finished run. Raises OSError, or ValueError if the files are damaged."""
    path = folder / METRICS
    with blamed_on(path):
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        for number, record in enumerate(records, 1):
            check(record, Epoch, f"line {number}")
    return read_summary(folder), records


class _Idle(Board):
    """A board that computes nothing: every result is zero. For its modelled cycles alone."""

    name = "idle"

    def __init__(self, config: AcceleratorConfig):
        self.config = config

    def place(self, array: Any) -> Array:
        return np.asarray(array)

    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int) -> Array:
        return np.zeros((x.shape[0], w.shape[0], *out_size(x.shape[2:], w.shape[2:], stride, padding)))

    def conv2d_input_grad(self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int) -> Array:
        return np.zeros(input_shape)

    def conv2d_weight_grad(
        self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int
    ) -> Array:
        return np.zeros(kernel_shape)

    def matmul(self, a: Operand, b: Operand) -> Array:
        return np.zeros((a.shape[0], b.shape[1]))


class _Bell:
    """Draws codes as the quantisers give them: normal numbers, the largest of which has the largest code.

    How wide results are stored depends on the sums that codes can reach, and uniform codes reach more than real ones.
    """

    def __init__(self):
        self._rng = np.random.default_rng(0)

    def integers(self, low: int, high: int, /, size: Any, dtype: Any) -> np.ndarray:
        """Integers from `low` up to, but not including, `high`."""
        numbers = self._rng.standard_normal(size, dtype=np.float32)
        if low == 0:
            numbers = np.abs(numbers)
        return np.clip(np.rint(numbers * ((high - 1) / np.abs(numbers).max())), low, high - 1).astype(dtype)


@cache
def product_cost(config: AcceleratorConfig, product: Product, precision: Precision, batch: int) -> tuple[int, int]:
    """(cycles, DDR bytes) of all passes of a product over one batch, by the cycle model."""
    board, rng = Modelled(_Idle(config)), _Bell()
    for which in product.passes:
        task(product, which, batch, precision, rng)(board)
    counters = board.counters()
    return counters["busy"], counters["read_bytes"] + counters["write_bytes"]


def batches(samples: int, batch: int, first: int, last: int) -> Counter[int]:
    """Number of batches of each size among the iterations from `first` up to, but not including, `last`."""
    per_epoch = -(-samples // batch)
    ends = sum(1 for iteration in range(first, last) if iteration % per_epoch == per_epoch - 1)
    sizes = Counter({batch: last - first - ends})
    sizes[samples - batch * (per_epoch - 1)] += ends
    return sizes


def run_parts(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], products: Sequence[Product]) -> Parts:
    """What the training iterations of a run executed."""
    config = summary["config"]
    parts: Parts = Counter()
    windows = [window for record in records for window in record.get("gates", ())]
    if windows:
        rest = Precision(config["fw"][0], config["bw"][0])
        for samples, product, precision in chosen_products(products, config, windows, rest):
            parts[config["batch"], product, precision] += samples / config["batch"]
        return parts
    begin = 0
    for count, precision in segments(summary, 0, summary["iterations"]):
        parts += uniform_parts(summary, products, begin, begin + count, precision)
        begin += count
    return parts


def uniform_parts(
    summary: Mapping[str, Any], products: Sequence[Product], first: int, last: int, scheduled: Precision
) -> Parts:
    """The parts of the iterations from `first` up to, but not including, `last`, at one precision for all samples."""
    sizes = batches(summary["dataset"]["samples"], summary["config"]["batch"], first, last)
    return Counter({(size, p, p.precision(scheduled)): times for size, times in sizes.items() for p in products})


def total_cost(parts: Parts, config: AcceleratorConfig) -> tuple[int, int]:
    """(cycles, DDR bytes) of all of it."""
    cycles = ddr_bytes = 0.0
    for (size, product, precision), times in parts.items():
        # Products of one shape cost the same, wherever they belong.
        alike = replace(product, name="", always=False)
        cost = product_cost(config, alike, precision, size)
        cycles, ddr_bytes = cycles + times * cost[0], ddr_bytes + times * cost[1]
    return round(cycles), round(ddr_bytes)


def recost(
    summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], preset: str, config: AcceleratorConfig
) -> dict[str, Any]:
    """The figures of a run on another configuration, as JSON values.

    Savings are against the same iterations at static FW8/BW8, `conversion` is latency saving / CC saving, the CC as
    executed with the gates.
    """
    own, dataset = summary["config"], summary["dataset"]
    products = network(own["model"], tuple(dataset["image"]), dataset["classes"], own["edge_bits"])
    cycles, ddr_bytes = total_cost(run_parts(summary, records, products), config)
    static_cycles, _ = total_cost(uniform_parts(summary, products, 0, summary["iterations"], STATIC), config)
    latency = saving(cycles, static_cycles)
    computation = saving(summary["cc"] + summary.get("cc_gates", 0), summary["cc_static"])
    machine = Machine.of(preset, config)
    return {
        "machine": str(machine),
        "clusters": config.clusters,
        "cycles": cycles,
        "device_seconds": seconds(cycles),
        "ddr_bytes": ddr_bytes,
        "static_cycles": static_cycles,
        "latency_saving": latency,
        "cc_saving": computation,
        "conversion": latency / computation if latency is not None and computation else None,
        "recorded_cycles": summary["cycles"],
        "recorded_clusters": summary["machine"]["clusters"],
    }


COLUMNS = {
    "run": "{run}",
    "clusters": "{clusters}",
    "cycles": "{cycles:,}",
    "device seconds": "{device_seconds:,.1f}",
    "DDR bytes": "{ddr_bytes:,}",
    "CC saving": "{cc_saving:.1%}",
    "latency saving": "{latency_saving:.1%}",
    "conversion": "{conversion_text}",
    "counted by the run": "{recorded_text}",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 or 2 (bad input)."""
    parser = argparse.ArgumentParser(prog="python -m host.recost", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("run", nargs="+", type=Path, help="folder of a finished run of host.train")
    parser.add_argument("--preset", default="zc706", help="configuration (default: %(default)s)")
    parser.add_argument("--clusters", default="", help="clusters, as 1,20 (default: the preset's)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    given = parser.parse_args(arguments)
    rows = []
    try:
        preset = AcceleratorConfig.preset(given.preset)
        clusters = [int(number) for number in given.clusters.split(",")] if given.clusters else [preset.clusters]
        configs = [replace(preset, clusters=number) for number in clusters]
        for folder in given.run:
            run = read_run(folder)
            rows += [{"run": folder.name, **recost(*run, given.preset, config)} for config in configs]
        if given.json:
            given.json.write_text(json.dumps(rows, indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(COLUMNS, [_printable(row) for row in rows])
    print(f"{SCOPE}, in training. " + "; ".join(dict.fromkeys(row["machine"] for row in rows)))
    return 0


def _printable(row: Mapping[str, Any]) -> dict[str, Any]:
    conversion, recorded = row["conversion"], row["recorded_cycles"]
    return {
        **row,
        "conversion_text": "-" if conversion is None else f"{conversion:.2f}",
        "recorded_text": "-" if recorded is None else f"{recorded:,} on {row['recorded_clusters']}",
    }


if __name__ == "__main__":
    sys.exit(main())
