"""`python -m host.selftest --board zynq`: whether a board computes, answers and recovers as it should.

The report that it writes holds all that somebody needs who was not there.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from host import ops
from host.backends import open_board
from host.backends.memory import MemoryBoard
from host.errors import AcceleratorError
from host.qtensor import QTensor
from rtl.config import CHIP_BASE
from rtl.isa import VERSION, Descriptor, Error, Opcode

#: Bytes of a block whose way to the memory and back is timed.
BLOCK = 1 << 20
ROUND_TRIPS = 50
#: Bytes for `sound`.
SCRATCH = 16 << 10


class FailedError(Exception):
    """A check found something wrong; the message says what."""


def exactness(board: MemoryBoard, cases: int, seed: int) -> dict[str, Any]:
    """Random products of all kinds against the golden model, to the bit."""
    with closing(open_board("golden", config=board.config)) as golden:
        for case in range(cases):
            rng = np.random.default_rng((seed, case))
            stride, size = int(rng.integers(1, 3)), int(rng.integers(3, 12))
            n, c, m = (int(number) for number in rng.integers(1, (5, 40, 24)))
            x, w = _tensor(rng, (n, c, size, size)), _tensor(rng, (m, c, 3, 3))
            g = _tensor(rng, (n, m, (size - 1) // stride + 1, (size - 1) // stride + 1))
            a, b = _tensor(rng, (n, 7 * c)), _tensor(rng, (7 * c, m))
            for what, product in (
                ("convolution", lambda on, x=x, w=w, s=stride: ops.conv2d(on, x, w, s)),
                ("input gradient", lambda on, g=g, w=w, x=x, s=stride: ops.conv2d_input_grad(on, g, w, x.shape, s)),
                ("weight gradient", lambda on, g=g, x=x, w=w, s=stride: ops.conv2d_weight_grad(on, g, x, w.shape, s)),
                ("matrix product", lambda on, a=a, b=b: ops.matmul(on, a, b)),
            ):
                if not np.array_equal(product(board), product(golden)):
                    raise FailedError(f"the {what} of case {case} with seed {seed} is not that of the golden model")
    return {"products": 4 * cases, "seed": seed}


def _tensor(rng: np.random.Generator, shape: Sequence[int]) -> QTensor:
    bits, signed = int(rng.integers(2, 9)), bool(rng.integers(2))
    low = -(1 << bits - 1) if signed else 0
    return QTensor(rng.integers(low, low + (1 << bits), shape), bits, signed)


def bandwidth(board: MemoryBoard) -> dict[str, Any]:
    """The host's way to the memory and back, in MB/s; what comes back is what went."""
    nbytes = min(BLOCK, board.target.room // 2)
    region = board.memory.take(nbytes)
    data = np.random.default_rng(1).integers(0, 256, nbytes).astype(np.uint8)
    started = time.perf_counter()
    board.write(region.address, data)
    written = time.perf_counter()
    found = board.read(region.address, nbytes)
    ended = time.perf_counter()
    board.memory.release(region)
    if not np.array_equal(found, data):
        raise FailedError(f"{int((found != data).sum())} of {nbytes} bytes are not read as they were written")
    rates = {"write": nbytes / (written - started) / 1e6, "read": nbytes / (ended - written) / 1e6}
    return {"bytes": nbytes, **{f"{name}_mb_per_s": round(rate, 1) for name, rate in rates.items()}}


def sound(scratch: int) -> Descriptor:
    """A descriptor that reads operands of one bit at `scratch` and leaves a few sums at `scratch` + 8 KiB."""
    fields = {"stream_base": scratch, "stationary_base": scratch, "out_base": scratch + (8 << 10)}
    return Descriptor(opcode=Opcode.FLAT, stream_bits=1, stationary_bits=1, row_groups=3, **fields)


def interrupt(board: MemoryBoard, scratch: int) -> dict[str, Any]:
    """Runs of one small descriptor, each of which ends in an interrupt where there is one."""
    seconds = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        board.run([sound(scratch)])
        seconds.append(time.perf_counter() - started)
    return {"round_trips": ROUND_TRIPS, "median_us": round(1e6 * statistics.median(seconds), 1)}


def recovery(board: MemoryBoard, scratch: int) -> dict[str, Any]:
    """Wrong descriptors are refused, among them one with an address beyond the memory; what follows runs."""
    wrong = {Error.OPCODE: Descriptor(opcode=77)}
    if board.memory_bytes < CHIP_BASE:
        wrong[Error.AXI_WRITE] = sound(scratch)
        wrong[Error.AXI_WRITE].out_base = board.memory_bytes
    for error, descriptor in wrong.items():
        try:
            board.run([sound(scratch), descriptor])
        except AcceleratorError as raised:
            if (raised.code, raised.index) != (error, 1):
                raise FailedError(f"in place of {error.name} at descriptor 1 there was: {raised}") from None
        else:
            raise FailedError(f"a descriptor ran that is wrong: {error.name}")
        board.run([sound(scratch)])
    return {"refused": [error.name for error in wrong]}


def counters(board: MemoryBoard, scratch: int) -> dict[str, Any]:
    """Descriptors are counted, and cycles where there is a clock."""
    before = board.counters()
    board.run([sound(scratch)] * 5)
    grown = {name: value - before[name] for name, value in board.counters().items()}
    if grown["descriptors"] != 5:
        raise FailedError(f"5 descriptors were counted as {grown['descriptors']}")
    if grown.get("cycles", 1) <= 0:
        raise FailedError("the clock does not count")
    return {name: grown[name] for name in ("descriptors", "cycles") if name in grown}


def check(board: MemoryBoard, *, cases: int, seed: int) -> dict[str, Any]:
    """All checks, one after the other; the report."""
    scratch = board.memory.take(SCRATCH)
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "exactness": lambda: exactness(board, cases, seed),
        "bandwidth": lambda: bandwidth(board),
        "interrupt": lambda: interrupt(board, scratch.address),
        "recovery": lambda: recovery(board, scratch.address),
        "counters": lambda: counters(board, scratch.address),
    }
    report: dict[str, Any] = {
        "board": board.name,
        "host": {"system": platform.platform(), "machine": platform.machine(), "python": platform.python_version()},
        "version": f"{VERSION >> 16}.{VERSION & 0xFFFF}",
        "config": asdict(board.config),
        "memory_bytes": board.memory_bytes,
        "checks": {},
    }
    for name, run in checks.items():
        started = time.perf_counter()
        try:
            found = {"passed": True, **run()}
        except (FailedError, AcceleratorError, TimeoutError) as error:
            found = {"passed": False, "error": str(error)}
        found["seconds"] = round(time.perf_counter() - started, 2)
        report["checks"][name] = found
        rest = ", ".join(f"{key} {value}" for key, value in found.items() if key != "passed")
        print(f"{'pass' if found['passed'] else 'FAIL'}  {name:<10} {rest}", flush=True)
    board.memory.release(scratch)
    report["passed"] = all(found["passed"] for found in report["checks"].values())
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (a check failed) or 2 (bad input, or no such board here)."""
    parser = argparse.ArgumentParser(prog="python -m host.selftest", description="Check a board.")
    parser.add_argument("--board", default="zynq", help="board (default: zynq)")
    parser.add_argument("--preset", help="configuration (default: the board's)")
    parser.add_argument("--cases", type=int, default=40, help="random cases, of four products each (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the random cases (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("selftest.json"), help="report (default: selftest.json)")
    args = parser.parse_args(arguments)
    try:
        if args.cases < 1:
            raise ValueError(f"--cases is {args.cases}, must be at least 1")
        with closing(open_board(args.board, args.preset)) as board:
            if not isinstance(board, MemoryBoard):
                raise ValueError(f"board {args.board!r} has no memory and no descriptors to test")
            report = check(board, cases=args.cases, seed=args.seed)
        args.out.write_text(json.dumps(report, indent=2) + "\n")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.out}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
