"""Levels of logic between registers, counted on a synthesised netlist: what holds the clock back, without a placer.

    python -m rtl.levels --unit tiler --preset zc706     one unit, synthesised alone
    python -m rtl.levels build/zc706/zc706.json          the whole netlist that `python -m rtl.build` has written

A path begins at a register, a block RAM, a DSP slice or a port, and ends at the next one. Its levels are

* one for a LUT, and for an asynchronous read of LUTRAM or of a shift register;
* one for a carry chain, whatever its length, and one for a run of MUXF7 and MUXF8;
* one for a net of more than `CROWD` sinks: the way to all of them;
* those of `rtl.netlist` for block RAM and DSP slices whose own registers are not used.

A module that is instantiated many times is analysed once and stands for all of its instances.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .config import PRESETS, AcceleratorConfig
from .hierarchy import rtlil
from .netlist import Bit, Cell, Module, read
from .yosys import run_script

#: Sinks of a net above which it costs a level.
CROWD = 30


@dataclass(frozen=True)
class Route:
    """The worst path from a net on: levels of logic, CARRY4 cells among them, and where it ends."""

    levels: int
    carry: int
    end: str
    unit: str


@dataclass(frozen=True)
class WorstPath:
    """The longest path that ends in a unit. Attributes as in `Route`; `start` is the register that it starts from."""

    levels: int
    carry: int
    start: str
    end: str


class Analysis:
    """The routes of one module, given those of the modules that it instantiates.

    Attributes
    ----------
    inward : for each bit of an input port its worst route to a register inside; absent where there is none.
    outward : for each bit of an output port the (levels, start) of its latest signal.
    loads : sinks of each bit of an input port.
    worst : for each unit its worst path between registers of this module.
    """

    def __init__(self, module: Module, children: Mapping[str, Analysis], top: bool):
        self._module, self._children, self._top = module, children, top
        self._arcs = self._all_arcs()
        order = self._order()
        self._routes = self._backward(order)
        self._arrivals = self._forward(order)
        self.inward, self.loads, self.outward = {}, {}, {}
        for port, (direction, bits) in module.ports.items():
            for i, bit in enumerate(bits):
                at = port if len(bits) == 1 else f"{port}{i}"
                if direction == "input":
                    self.loads[at] = self._load(bit)
                    if bit in self._routes:
                        self.inward[at] = self._routes[bit]
                elif bit in self._arrivals:
                    self.outward[at] = self._arrivals[bit]
        self.worst = self._worst()

    def _all_arcs(self) -> dict[Bit, list[tuple[Bit, int, int]]]:
        """For each bit the (bit, levels, carry) that it leads to through a cell."""
        arcs: dict[Bit, list[tuple[Bit, int, int]]] = {}
        for cell in self._module.cells:
            for pin, source, _, sink in cell.arcs():
                arcs.setdefault(source, []).append((sink, self._cost(cell, pin, source), int(cell.kind == "CARRY4")))
        return arcs

    def _cost(self, cell: Cell, pin: str, source: Bit) -> int:
        driver = self._module.driver.get(source)
        joined = {"CARRY4": ("CI", "CARRY4"), "MUXF8": ("I", "MUXF7")}.get(cell.kind)
        if joined and driver and pin.startswith(joined[0]) and driver[0].kind == joined[1]:
            return 0
        return 1

    def _order(self) -> list[Bit]:
        """All bits, each before those that it leads to. Raises ValueError if the netlist has a combinational loop."""
        waiting: dict[Bit, int] = {}
        for targets in self._arcs.values():
            for sink, _, _ in targets:
                waiting[sink] = waiting.get(sink, 0) + 1
        ready = [bit for bit in {*self._arcs, *self._module.sinks, *self._module.driver} if not waiting.get(bit)]
        done = []
        while ready:
            bit = ready.pop()
            done.append(bit)
            for sink, _, _ in self._arcs.get(bit, ()):
                waiting[sink] -= 1
                if not waiting[sink]:
                    ready.append(sink)
        if stuck := [bit for bit, count in waiting.items() if count]:
            raise ValueError(f"{self._module.name} has a combinational loop through {self._module.name_of(stuck[0])}")
        return done

    def _load(self, bit: Bit) -> int:
        return sum(
            self._children[cell.kind].loads.get(pin, 0) if cell.kind in self._children else 1
            for cell, pin in self._module.sinks.get(bit, ())
        )

    def _crowd(self, bit: Bit) -> int:
        return int(self._load(bit) > CROWD)

    def _ends(self, bit: Bit) -> Iterator[Route]:
        for cell, pin in self._module.sinks.get(bit, ()):
            if cell.kind in self._children:
                if route := self._children[cell.kind].inward.get(pin):
                    yield route
            elif (levels := cell.end(pin)) is not None:
                end = self._module.end_name(cell)
                yield Route(levels, 0, end, self._unit(end))

    def _unit(self, name: str) -> str:
        """The part of the accelerator that a name belongs to; in any other module the module itself."""
        if not self._top:
            return self._module.name
        parts = name.split(".")
        if "accelerator" in parts[:-1]:
            parts = parts[parts.index("accelerator") + 1 :]
        # A unit whose name is taken in its parent gets a number: `table$271`.
        return parts[0].partition("$")[0] or "top" if len(parts) > 1 else "top"

    def _backward(self, order: Sequence[Bit]) -> dict[Bit, Route]:
        """The worst route from each bit to a register, the crowd of its own net included."""
        outputs = {bit for direction, bits in self._module.ports.values() if direction == "output" for bit in bits}
        routes: dict[Bit, Route] = {}
        for bit in reversed(order):
            found = list(self._ends(bit))
            if self._top and bit in outputs:
                name = self._module.name_of(bit)
                found.append(Route(0, 0, name, self._unit(name)))
            for sink, levels, carry in self._arcs.get(bit, ()):
                if then := routes.get(sink):
                    found.append(Route(then.levels + levels, then.carry + carry, then.end, then.unit))
            if found:
                route = max(found, key=lambda route: (route.levels, route.carry))
                # The crowd of a port's net is counted where its driver is known.
                crowd = self._crowd(bit) if self._top or bit in self._module.driver else 0
                routes[bit] = Route(route.levels + crowd, route.carry, route.end, route.unit)
        return routes

    def _starts(self) -> Iterator[tuple[Bit, int, str]]:
        """(bit, levels, name) of everything that a path begins at."""
        for cell in self._module.cells:
            if cell.kind in self._children:
                outward = self._children[cell.kind].outward
                for pin, bit in cell.outputs:
                    if pin in outward:
                        yield bit, outward[pin][0], f"{cell.name}.{outward[pin][1]}"
            elif cell.start is not None:
                for _, bit in cell.outputs:
                    yield bit, cell.start, self._module.name_of(bit)
        if self._top:
            for port, (direction, bits) in self._module.ports.items():
                if direction == "input":
                    yield from ((bit, 0, port) for bit in bits)

    def _forward(self, order: Sequence[Bit]) -> dict[Bit, tuple[int, str]]:
        """The (levels, start) of each bit's latest signal from a register of this module."""
        arrivals: dict[Bit, tuple[int, str]] = {}
        for bit, levels, name in self._starts():
            arrivals[bit] = max(arrivals.get(bit, (levels, name)), (levels, name))
        for bit in order:
            if bit not in arrivals:
                continue
            levels, start = arrivals[bit]
            for sink, cost, _ in self._arcs.get(bit, ()):
                at = levels + self._crowd(bit) + cost
                if sink not in arrivals or at > arrivals[sink][0]:
                    arrivals[sink] = at, start
        return arrivals

    def _worst(self) -> dict[str, WorstPath]:
        worst: dict[str, WorstPath] = {}
        for bit, levels, start in self._starts():
            if route := self._routes.get(bit):
                path = WorstPath(route.levels + levels, route.carry, start, route.end)
                known = worst.get(route.unit)
                if known is None or (path.levels, path.carry) > (known.levels, known.carry):
                    worst[route.unit] = path
        return worst


def analyse(netlist: Mapping, top: str) -> dict[str, WorstPath]:
    """The worst path of each unit of a netlist, the longest first.

    Parameters
    ----------
    netlist : what Yosys' `write_json` wrote.
    top : name of the top module.
    """
    modules = read(netlist)
    done: dict[str, Analysis] = {}

    def visit(name: str) -> Analysis:
        if name not in done:
            kinds = {cell.kind for cell in modules[name].cells if cell.kind in modules}
            done[name] = Analysis(modules[name], {kind: visit(kind) for kind in kinds}, name == top)
        return done[name]

    visit(top)
    worst: dict[str, WorstPath] = {}
    for analysis in done.values():
        for unit, path in analysis.worst.items():
            if unit not in worst or path.levels > worst[unit].levels:
                worst[unit] = path
    return dict(sorted(worst.items(), key=lambda item: (-item[1].levels, item[0])))


def as_json(worst: Mapping[str, WorstPath]) -> dict[str, dict]:
    """For report.json: `{unit: {levels, carry, from, to}}`."""
    return {
        unit: {"levels": path.levels, "carry": path.carry, "from": path.start, "to": path.end}
        for unit, path in worst.items()
    }


def table(timing: Mapping[str, Mapping]) -> str:
    """What `as_json` gives, as lines of text."""
    lines = [f"  {'unit':<16}{'levels':>7}{'carry':>7}  worst path"]
    for unit, path in timing.items():
        lines.append(f"  {unit:<16}{path['levels']:>7}{path['carry']:>7}  {path['from']} -> {path['to']}")
    return "\n".join(lines)


def unit_levels(config: AcceleratorConfig, unit: str) -> dict[str, WorstPath]:
    """The worst paths of one unit of the accelerator or of one macro, synthesised alone; ports count as registers.

    Raises ValueError if there is no such unit.
    """
    from .top import Accelerator

    text = rtlil(Accelerator(config), "accelerator")
    names = (unit, f"accelerator.{unit}")
    module = next((name for name in names if f"module \\{name}\n" in text), None)
    if module is None:
        known = sorted(line.split("\\")[1] for line in text.splitlines() if line.startswith("module \\"))
        raise ValueError(f"there is no unit {unit!r}; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work)
        (directory / "design.il").write_text(text)
        steps = ["read_rtlil design.il", f"synth_xilinx -family xc7 -top {module} -noiopad -noclkbuf -flatten"]
        run_script(directory, "\n".join([*steps, "blackbox =A:whitebox", "write_json design.json"]))
        netlist = json.loads((directory / "design.json").read_text())
    return analyse(netlist, module)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rtl.levels", description=__doc__.split("\n\n")[0])
    parser.add_argument("netlist", nargs="?", type=Path, help="JSON netlist; its file name is the top module's")
    parser.add_argument("--unit", help="synthesise this unit of the accelerator instead")
    parser.add_argument("--preset", default="zc706", choices=PRESETS, help="configuration (default: zc706)")
    args = parser.parse_args(arguments)
    try:
        if (args.netlist is None) == (args.unit is None):
            raise ValueError("give either a netlist or --unit")
        if args.unit:
            worst = unit_levels(AcceleratorConfig.preset(args.preset), args.unit)
        else:
            worst = analyse(json.loads(args.netlist.read_text()), args.netlist.stem)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(as_json(worst)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
