"""A Series-7 netlist as Yosys writes it (`write_json`), as cells with timing arcs and nets with names.

Levels are the unit of time; `rtl.levels` says what costs one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .utilisation import BRAM_CELLS, LUT_CELLS, LUTRAM_CELLS

#: Levels that an unregistered output of a block RAM or of a DSP slice has behind it.
MEMORY_START, DSP_START = 3, 1
#: Levels of a multiplier between its unregistered factors and the register after it.
MULTIPLIER = 3
#: Levels of the adder of a DSP slice after its unregistered input C, and of its pre-adder after D.
DSP_ADDER = 1

_CLOCKS = {"C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"}
_SHIFT_REGISTERS = {"SRL16E", "SRLC32E"}
#: Cells of pads, clocks and constants.
_UNTIMED = {"BUFG", "VCC", "GND", "IBUF", "OBUF", "$scopeinfo"}

Bit = int


@dataclass
class Cell:
    """One cell.

    Attributes
    ----------
    kind, name : its type, and its name without the marks of Yosys.
    inputs, outputs : (pin, bit) of every timed pin that is connected to a net; constants are left out.
    """

    kind: str
    name: str
    parameters: Mapping[str, str]
    inputs: list[tuple[str, Bit]] = field(default_factory=list)
    outputs: list[tuple[str, Bit]] = field(default_factory=list)

    def arcs(self) -> Iterator[tuple[str, Bit, str, Bit]]:
        """(input pin, bit, output pin, bit) of every path through the cell that no clock cuts."""
        if self.kind == "LUT6_2":
            for pin, source in self.inputs:
                for out, sink in self.outputs:
                    if self._matters(int(pin[1]), out):
                        yield pin, source, out, sink
        elif self.kind in LUT_CELLS or self.kind in ("CARRY4", "MUXF7", "MUXF8"):
            for pin, source in self.inputs:
                for out, sink in self.outputs:
                    if self.kind != "CARRY4" or self._carries(pin, out):
                        yield pin, source, out, sink
        elif self.kind in LUTRAM_CELLS:
            for pin, source in self.inputs:
                for out, sink in self.outputs:
                    if self._reads(pin, out):
                        yield pin, source, out, sink

    @staticmethod
    def _carries(pin: str, out: str) -> bool:
        """Whether a pin of a CARRY4, named with its index, is at or below an output."""
        return not pin[-1].isdigit() or int(pin[-1]) <= int(out[-1])

    def _reads(self, pin: str, out: str) -> bool:
        """Whether a pin of a LUTRAM or shift register addresses the asynchronous read of an output."""
        if self.kind in _SHIFT_REGISTERS:
            return pin[0] == "A"
        if self.kind in ("RAM32M", "RAM64M"):
            return pin.startswith(f"ADDR{out[2]}")
        return pin.startswith("DPRA" if out.startswith("DPO") else "A")

    def _matters(self, pin: int, out: str) -> bool:
        """Whether an output of a LUT6_2 depends on input I`pin`: its two functions share inputs, not all of them."""
        size = 5 if out == "O5" else 6
        table = int(self.parameters["INIT"], 2)
        return pin < size and any((table >> i ^ table >> (i ^ 1 << pin)) & 1 for i in range(1 << size))

    @property
    def start(self) -> int | None:
        """Levels from the clock to the outputs; None if they come from the inputs alone."""
        if self.kind in BRAM_CELLS:
            return 0 if all(self._number(name) for name in ("DOA_REG", "DOB_REG")) else MEMORY_START
        if self.kind == "DSP48E1":
            return 0 if self._number("PREG") else DSP_START
        if self.kind in LUTRAM_CELLS:
            return 1
        return None if self.kind in LUT_CELLS or self.kind in ("CARRY4", "MUXF7", "MUXF8") else 0

    def end(self, pin: str) -> int | None:
        """Levels from an input pin to the clock; None if the pin only leads through the cell."""
        if self.kind in LUTRAM_CELLS:
            writes = self.kind in _SHIFT_REGISTERS and pin[0] != "A"
            return 0 if writes or self.kind not in _SHIFT_REGISTERS else None
        if self.kind == "DSP48E1":
            return self._dsp_end(pin)
        return 0 if self.start is not None else None

    def _dsp_end(self, pin: str) -> int:
        def through(multiplier: bool) -> int:
            return (MULTIPLIER if not self._number("MREG") and multiplier else 0) + (
                DSP_ADDER if not self._number("PREG") else 0
            )

        if pin[0] == "C" and pin[1:].isdigit():
            return 0 if self._number("CREG") else DSP_ADDER
        register = {"A": "AREG", "B": "BREG", "D": "DREG"}.get(pin[0])
        if register is None or not pin[1:].isdigit() or self._number(register):
            return 0
        pre_adder = DSP_ADDER if self.parameters.get("USE_DPORT") == "TRUE" and pin[0] != "B" else 0
        if pre_adder and self._number("ADREG"):
            return pre_adder
        return pre_adder + (MULTIPLIER if self._number("MREG") else MULTIPLIER + through(False))

    def _number(self, name: str) -> int:
        value = self.parameters.get(name, "0")
        return int(value, 2) if isinstance(value, str) and set(value) <= {"0", "1"} else int(value)


class Module:
    """A module of the netlist.

    Attributes
    ----------
    cells : its timed cells; those whose kind is a module of the netlist are instances.
    ports : name of each port, its direction and its bits.
    sinks : for each bit the (cell, pin) that read it.
    driver : for each bit the (cell, pin) that drives it.
    """

    def __init__(self, name: str, text: Mapping):
        self.name = name
        self.cells: list[Cell] = []
        self.ports = {
            port: (value["direction"], [bit for bit in value["bits"] if isinstance(bit, int)])
            for port, value in text["ports"].items()
        }
        self.sinks: dict[Bit, list[tuple[Cell, str]]] = defaultdict(list)
        self.driver: dict[Bit, tuple[Cell, str]] = {}
        self._names = self._named(text["netnames"])
        for label, value in text["cells"].items():
            if value["type"] not in _UNTIMED:
                self._add(label, value)

    def _add(self, label: str, value: Mapping) -> None:
        cell = Cell(value["type"], clean(label), value["parameters"])
        self.cells.append(cell)
        for pin, bits in value["connections"].items():
            if pin in _CLOCKS:
                continue
            for i, bit in enumerate(bits):
                if isinstance(bit, int):
                    at = pin if len(bits) == 1 else f"{pin}{i}"
                    if value["port_directions"][pin] == "input":
                        cell.inputs.append((at, bit))
                        self.sinks[bit].append((cell, at))
                    else:
                        cell.outputs.append((at, bit))
                        self.driver[bit] = cell, at

    @staticmethod
    def _named(netnames: Mapping) -> dict[Bit, str]:
        """For each bit the shortest of its names that a designer gave."""
        names: dict[Bit, str] = {}
        for name, value in netnames.items():
            if value["hide_name"]:
                continue
            for i, bit in enumerate(value["bits"]):
                label = name if len(value["bits"]) == 1 else f"{name}[{i}]"
                if isinstance(bit, int) and (bit not in names or (len(label), label) < (len(names[bit]), names[bit])):
                    names[bit] = label
        return names

    def name_of(self, bit: Bit) -> str:
        if bit in self._names:
            return self._names[bit]
        return self.driver[bit][0].name if bit in self.driver else f"net {bit}"

    def end_name(self, cell: Cell) -> str:
        """What a path ends in: by the name of its output, as a register, or else by the cell's own."""
        return next((self._names[bit] for _, bit in cell.outputs if bit in self._names), cell.name)


def clean(name: str) -> str:
    """A cell's name without the marks that flattening leaves."""
    return name.removeprefix("$flatten").replace("\\", "").replace(".$", "$")


def read(text: Mapping) -> dict[str, Module]:
    """The modules of a netlist that are designs and not descriptions of the vendor's cells."""
    designs = {
        name: module
        for name, module in text["modules"].items()
        if not {"blackbox", "whitebox", "lib_whitebox"} & module["attributes"].keys()
    }
    return {name: Module(name, module) for name, module in designs.items()}
