"""Cycles of a network on a board: `python -m host.bench`.

Every layer and pass runs with random codes that use the whole range of their bits, so that no plane is skipped. The
counters of the accelerator give the cycles from the first descriptor to the last result, with loading and storing.
`--pairs` measures the cycles per slot of pairs of operand widths instead, `--step` models the whole training step of a
build with a vector unit, see `host.bench_step`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from host import QTensor, bench_step, ops
from host.backends import board_names, find, open_board
from host.board import Board
from host.machine import SCOPE, Machine, default_preset
from host.nn.models import MODELS
from host.nn.products import Product
from host.qtensor import code_range
from host.quantise import Precision
from host.training.workload import network, task
from rtl.config import LANES, AcceleratorConfig
from rtl.ddr import MEMORIES

#: Operand widths that FracTrain's schedules meet.
PAIRS = ((3, 3), (3, 6), (4, 4), (4, 8), (6, 6), (6, 8), (6, 12), (8, 8), (8, 12), (8, 16))
STALLS = ("exec_stall_stream", "exec_stall_table", "exec_stall_result")


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


def measured(board: Board, run) -> dict[str, float]:
    """Counters of one run, and the seconds it took here."""
    before, start = board.counters(), time.monotonic()
    run(board)
    seconds = time.monotonic() - start
    return {**difference(board.counters(), before), "seconds": seconds}


def figures(board: Board, counts: dict[str, float]) -> dict[str, float]:
    """The figures of a row. Slot utilisation: bit-MACs that the work needs, over those that the array had time for."""
    room = counts["busy"] * board.config.bit_macs_per_cycle
    return {
        "macs": counts["macs"],
        "bit_macs": counts["bit_macs"],
        "cycles": counts["busy"],
        "plane_cycles": counts["exec_busy"],
        "utilisation": counts["bit_macs"] / room if room else 0.0,
        "ddr_bytes": counts["read_bytes"] + counts["write_bytes"],
        **{name: counts[name] for name in STALLS},
        "seconds": counts["seconds"],
    }


def bench_network(board: Board, products: list[Product], batch: int, precision: Precision) -> list[dict]:
    """A row for each layer and pass. Each pass runs twice: as asked, and at FW8/BW8 for the ratio."""
    rng = np.random.default_rng(0)
    rows = []
    jobs = [(product, which) for product in products for which in product.passes]
    for product, which in tqdm(jobs, desc=f"{precision}", unit="pass", disable=None):
        row = figures(board, measured(board, task(product, which, batch, precision, rng)))
        full = Precision(8, 8)
        same = precision == full
        reference = row if same else figures(board, measured(board, task(product, which, batch, full, rng)))
        rows.append({"layer": product.name, "pass": which, **row, "cycles_fw8_bw8": reference["cycles"]})
    return rows


def total(rows: list[dict], board: Board) -> dict:
    sums = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("layer", "pass", "utilisation")}
    room = sums["cycles"] * board.config.bit_macs_per_cycle
    return {"layer": "total", "pass": "", **sums, "utilisation": sums["bit_macs"] / room}


def bench_pairs(board: Board) -> list[dict]:
    """Cycles per slot of a large matrix product and of a 16-channel 3x3 convolution, for each pair of widths.

    A slot is one position of one k block on one cluster: `rows` x 144 multiply-accumulates. The array needs
    min(ceil(a / 4) * b, ceil(b / 4) * a) plane-cycles a slot if it may choose the stationary operand.
    """
    rng = np.random.default_rng(0)

    def tensor(shape, bits, signed):
        low, high = code_range(bits, signed)
        return QTensor(rng.integers(low, high + 1, shape, dtype=np.int32), bits, signed)

    rows_of_array, clusters = board.config.rows, board.config.clusters
    m, k, n = 8 * rows_of_array * clusters, 8 * LANES, 640
    rows = []
    for a, b in tqdm(PAIRS, desc="pairs", unit="pair", disable=None):
        bound = min(-(-a // 4) * b, -(-b // 4) * a)
        left, right = tensor((m, k), a, True), tensor((k, n), b, True)
        image, kernel = tensor((8 * clusters, 16, 32, 32), b, True), tensor((16, 16, 3, 3), a, True)
        works = {
            "product": (lambda board, x=left, y=right: ops.matmul(board, x, y), m * k * n),
            "convolution": (lambda board, x=image, y=kernel: ops.conv2d(board, x, y), 8 * clusters * 1024 * 16 * LANES),
        }
        for name, (run, macs) in works.items():
            slots = macs / (rows_of_array * LANES * clusters)
            counts = measured(board, run)
            row = figures(board, counts)
            row["plane_cycles_per_slot"] = row["plane_cycles"] / slots
            row["cycles_per_slot"] = row["cycles"] / slots
            rows.append({"pair": f"({a},{b})", "work": name, "bound": bound, **row})
    return rows


def print_table(columns: dict[str, str], rows: list[dict], out=sys.stdout) -> None:
    """Columns map a heading to a format of the row."""
    cells = [list(columns), *([text.format(**row) for text in columns.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)), file=out)


NETWORK_COLUMNS = {
    "layer": "{layer}",
    "pass": "{pass}",
    "MMAC": "{macs_m:.3f}",
    "bit-GMAC": "{bit_macs_g:.3f}",
    "cycles": "{cycles:,.0f}",
    "slot util": "{utilisation:.1%}",
    "DDR KiB": "{ddr_kib:,.0f}",
    "of FW8/BW8": "{ratio:.3f}",
}
PAIR_COLUMNS = {
    "pair": "{pair}",
    "work": "{work}",
    "bound": "{bound}",
    "plane-cycles/slot": "{plane_cycles_per_slot:.3f}",
    "cycles/slot": "{cycles_per_slot:.3f}",
    "slot util": "{utilisation:.1%}",
    "wait data": "{wait_stream:.1%}",
    "wait table": "{wait_table:.1%}",
    "wait result": "{wait_result:.1%}",
}


def printable(row: dict) -> dict:
    cycles = row["cycles"] or 1
    return {
        **row,
        "macs_m": row["macs"] / 1e6,
        "bit_macs_g": row["bit_macs"] / 1e9,
        "ddr_kib": row["ddr_bytes"] / 1024,
        "ratio": row["cycles"] / (row.get("cycles_fw8_bw8") or cycles),
        **{f"wait_{name.rsplit('_', 1)[1]}": row[name] / cycles for name in STALLS},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m host.bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--board", default="sim", help=f"one of {', '.join(board_names())} (default: sim)")
    parser.add_argument(
        "--preset", help="configuration of the accelerator (default: zc706 where cycles are modelled, else sim)"
    )
    parser.add_argument("--clusters", type=int, help="clusters of it (default: the preset's)")
    parser.add_argument("--net", default="resnet8", choices=sorted(MODELS), help="network (default: resnet8)")
    parser.add_argument("--image", default="3x32x32", help="channels x height x width (default: 3x32x32)")
    parser.add_argument("--fw", type=int, default=8, help="forward bits (default: 8)")
    parser.add_argument("--bw", type=int, default=8, help="backward bits (default: 8)")
    parser.add_argument("--batch", type=int, default=4, help="images (default: 4)")
    parser.add_argument("--pairs", action="store_true", help="measure pairs of widths instead of a network")
    parser.add_argument("--step", action="store_true", help="model the whole training step instead; no board is opened")
    parser.add_argument("--micro-batch", type=int, default=0, metavar="N", help="with --step: images of a micro-batch")
    parser.add_argument(
        "--memory", choices=sorted(MEMORIES), help="the memory (default: ps-ddr with --step, else hp-150)"
    )
    parser.add_argument(
        "--barrier-us",
        type=float,
        default=bench_step.Host.barrier_us,
        help="with --step: microseconds of the host whenever the accelerator waits for it (default: %(default)g)",
    )
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args(arguments)
    try:
        image = tuple(int(size) for size in args.image.split("x"))
        if len(image) != 3 or min(image) < 1:
            raise ValueError(f"--image is {args.image!r}, must be channels x height x width, such as 3x32x32")
        if args.batch < 1:
            raise ValueError(f"--batch is {args.batch}, must be at least 1")
        precision = Precision(args.fw, args.bw)
        if min(args.micro_batch, args.barrier_us) < 0:
            raise ValueError("--micro-batch and --barrier-us must be at least 0")
        preset = args.preset or ("zc706" if args.step else default_preset(args.board))
        changes = {} if args.clusters is None else {"clusters": args.clusters}
        config = AcceleratorConfig.preset(preset, **changes)
        if args.step:
            return _bench_step(args, preset, config, image, precision)
        ddr = MEMORIES[args.memory] if args.memory else None
        if ddr and not (find(args.board).modelled or args.board == "sim"):
            raise ValueError(f"--memory is for modelled and simulated memories, not for board {args.board}")
        board = open_board(args.board, config=config, **({"ddr": ddr} if ddr else {}))
        if "busy" not in board.counters():
            raise ValueError(f"board {args.board!r} has no clock; take one that counts cycles, such as sim")
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    start = time.monotonic()
    if args.pairs:
        rows, columns = bench_pairs(board), PAIR_COLUMNS
    else:
        rows = bench_network(board, network(args.net, image, 10), args.batch, precision)
        rows.append(total(rows, board))
        columns = NETWORK_COLUMNS
    seconds = time.monotonic() - start
    cycles = board.counters()["cycles"]
    machine = Machine.of(preset, board.config, ddr)
    print(f"{machine}; {SCOPE}")
    print_table(columns, [printable(row) for row in rows])
    print(f"{cycles:,} cycles in {seconds:.1f} s: {cycles / seconds:,.0f} cycles/s with all host work")
    if args.json:
        what = {"pairs": True} if args.pairs else {"net": args.net, "image": image, "batch": args.batch}
        what |= {"board": args.board, "machine": asdict(machine), "fw": args.fw, "bw": args.bw}
        _write(args.json, {**what, "rows": rows, "seconds": seconds})
    board.close()
    return 0


def _bench_step(
    args: argparse.Namespace,
    preset: str,
    config: AcceleratorConfig,
    image: tuple[int, int, int],
    precision: Precision,
) -> int:
    """The whole training step. Raises ValueError if there is none of this network."""
    start = time.monotonic()
    memory, host = args.memory or "ps-ddr", bench_step.Host(barrier_us=args.barrier_us)
    with_unit = replace(config, vector=True)
    recorded = bench_step.record(with_unit, args.net, image, args.batch, precision, micro_batch=args.micro_batch)
    step = bench_step.modelled(with_unit, MEMORIES[memory], recorded, host)
    machine = Machine.of(preset, with_unit, MEMORIES[memory])
    report = step.report(host, memory)
    unit = "" if config.vector else f"; with a vector unit, which preset {preset} does not have"
    print(f"{machine}; whole training step, modelled{unit}")
    print_table(bench_step.COLUMNS, step.table())
    for line in step.lines(host):
        print(line)
    print(f"modelled in {time.monotonic() - start:.1f} s")
    if args.json:
        what = {"net": args.net, "image": image, "batch": args.batch, "micro_batch": args.micro_batch}
        what |= {"machine": asdict(machine), "fw": args.fw, "bw": args.bw}
        _write(args.json, {**what, "step": report, "rows": [asdict(row) for row in step.rows]})
    return 0


def _write(path: Path, report: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
