"""The summary of a run that has ended: its results and costs, beside those of the same run at static FW8/BW8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from host.board import Board
from host.data.datasets import Dataset
from host.machine import SCOPE, STEP_SCOPE, Machine
from host.step.memory_engine import MemoryEngine
from host.training.cc import FULL, gate_cc
from host.training.checkpoint import Progress
from host.training.config import TrainConfig
from host.training.learner import STATIC, static_reference
from host.training.meter import COUNTERS
from host.training.workload import network


def summarise(
    config: TrainConfig,
    board: Board,
    dataset: Dataset,
    progress: Progress,
    on_part: Callable[[int, int], None] = lambda done, total: None,
    *,
    step_by: str | None = None,
) -> dict[str, Any]:
    """The content of summary.json.

    The static reference is measured now, on `board`; `on_part` hears how many of how many iterations of it are done.
    `step_by` is what computed the device step.
    """
    train = progress.train
    static = static_reference(config, board, dataset, on_part)
    return {
        "board": config.board,
        "cycles_modelled": board.modelled,
        "dataset": {"image": list(dataset.image), "classes": dataset.classes, "samples": len(dataset.train)},
        "machine": asdict(Machine.of(config.preset, board.config)),
        "test_accuracy": progress.records[-1]["test_accuracy"],
        "epochs": progress.epoch,
        "iterations": progress.iteration,
        **{name: train.get(name) for name in COUNTERS},
        # Computational cost as in FracTrain, section 4.1: MACs * (bits_a / 32) * (bits_b / 32), all three passes.
        "cc": train["bit_macs"] / FULL,
        "cc_gates": _gate_cc(config, dataset, progress.epoch),  # on the host, beside what the board was charged
        "cc_static": static["bit_macs"] / FULL,
        "latency_static_cycles": static.get("cycles"),
        "latency_static_method": f"measured at {STATIC}: one iteration per batch size x number of iterations",
        "eval_cycles": progress.evaluation.get("cycles"),
        "stage_switches": progress.switches,
        "lengthened": progress.lengthened,
        "saturated": progress.saturated,  # of the device step, by tensor: elements clipped in training, and all
        # What computed the device step between its barriers, and what of it the host did itself, by kind: seconds of
        # this host, and bytes to and from the board. None of it counts for the accelerator.
        "step_by": step_by,
        "host_work": progress.host_work,
        "seed": config.seed,
        "latency_scope": STEP_SCOPE if step_by == MemoryEngine.name else SCOPE,
        # What training took on this host between them: measured here, and in no figure of cycles.
        "host_seconds": progress.host_seconds,
        "seconds": progress.seconds,
        "config": config.to_json(),
    }


def _gate_cc(config: TrainConfig, dataset: Dataset, epochs: int) -> float:
    """32-bit MACs of the gates over the run; they compute in floating point."""
    if (gates := config.schedule.gates) is None:
        return 0.0
    products = network(config.model, dataset.image, dataset.classes)
    return gate_cc(products, len(gates.gate_options)) * len(dataset.train) * epochs
