"""What a netlist costs: cells of each module, multiplied through the hierarchy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

RESOURCES = ("lut", "lutram", "ff", "bram36", "dsp")

#: LUTs that a memory or shift-register cell takes; all of them in SLICEMs.
LUTRAM_CELLS = {
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM32X1S": 1,
    "RAM64X1S": 1,
    "SRL16E": 1,
    "SRLC32E": 1,
}
#: LUT primitives. An inverter is counted as a LUT, although placers often absorb it.
LUT_CELLS = {*(f"LUT{i}" for i in range(1, 7)), "LUT6_2", "INV"}
BRAM_CELLS = {"RAMB36E1": 1.0, "RAMB18E1": 0.5}
FF_CELLS = {"FDRE", "FDSE", "FDCE", "FDPE", "FDRE_1", "FDSE_1", "FDCE_1", "FDPE_1"}

Cost = dict[str, float]


#: Cells that take no counted resource; $scopeinfo is a note of Yosys.
FREE_CELLS = {"$scopeinfo", "CARRY4", "MUXF7", "MUXF8", "BUFG", "OBUF", "IBUF", "PS7", "VCC", "GND"}


def cost_of_cell(kind: str) -> Cost:
    """Resources of one cell. Raises ValueError for a primitive that is not known here, rather than call it free."""
    if kind not in LUTRAM_CELLS.keys() | LUT_CELLS | BRAM_CELLS.keys() | FF_CELLS | FREE_CELLS | {"DSP48E1"}:
        raise ValueError(f"the netlist has a primitive {kind!r} whose cost is unknown")
    lutram = LUTRAM_CELLS.get(kind, 0)
    return {
        "lut": lutram + (kind in LUT_CELLS),
        "lutram": lutram,
        "ff": float(kind in FF_CELLS),
        "bram36": BRAM_CELLS.get(kind, 0.0),
        "dsp": float(kind == "DSP48E1"),
    }


def add(into: Cost, cost: Mapping[str, float], times: int = 1) -> None:
    for name in RESOURCES:
        into[name] += times * cost[name]


class Utilisation:
    """Costs of a hierarchical netlist.

    Parameters
    ----------
    cells : for each module, how many cells of each kind; a kind that is a module itself is an instance of it.
    """

    def __init__(self, cells: Mapping[str, Mapping[str, int]]):
        self._cells = cells
        self.whole = cache(self._whole)

    def own(self, module: str) -> Cost:
        """Cost of the cells of a module, without the modules that it instantiates."""
        cost: Cost = dict.fromkeys(RESOURCES, 0)
        for kind, count in self._cells[module].items():
            if kind not in self._cells:
                add(cost, cost_of_cell(kind), count)
        return cost

    def _whole(self, module: str) -> Cost:
        cost = self.own(module)
        for kind, count in self._cells[module].items():
            if kind in self._cells:
                add(cost, self.whole(kind), count)
        return cost

    def instances(self, top: str) -> dict[str, int]:
        """How often each module stands in `top`, which counts once."""
        found: dict[str, int] = {}

        def visit(module: str, times: int):
            found[module] = found.get(module, 0) + times
            for kind, count in self._cells[module].items():
                if kind in self._cells:
                    visit(kind, times * count)

        visit(top, 1)
        return found

    def units(self, top: str) -> list[dict]:
        """A row for each module: name, how often, and the cost of one without the modules inside it."""
        return [{"unit": module, "count": count, **self.own(module)} for module, count in self.instances(top).items()]
