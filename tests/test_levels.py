"""Levels of logic, counted on small netlists whose levels are known."""

from __future__ import annotations

import json

import pytest
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from boards import board_named
from rtl import build, levels
from rtl.cells import TernaryAdder
from rtl.chip import Chip
from rtl.config import AcceleratorConfig
from rtl.hierarchy import Macro, rtlil
from rtl.yosys import run_script


class Registered(wiring.Component):
    """Registers around what `logic(m, a, b)` makes of the 32-bit registers a and b."""

    def __init__(self, logic, width: int = 32):
        self._logic, self._width = logic, width
        super().__init__({"x": In(32), "y": In(32), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        a = Signal(32, reset_less=True)
        b = Signal(32, reset_less=True)
        m.d.sync += [a.eq(self.x), b.eq(self.y), self.o.eq(self._logic(m, a, b))]
        return m


def worst(tmp_path, design, *, keep: str | None = None) -> dict[str, levels.WorstPath]:
    (tmp_path / "design.il").write_text(rtlil(design, "design"))
    steps = ["read_rtlil design.il"]
    if keep:
        steps += ["hierarchy -top design", f"setattr -mod -set keep_hierarchy 1 {keep}"]
    steps += ["synth_xilinx -family xc7 -top design -noiopad -noclkbuf -flatten", "blackbox =A:whitebox"]
    run_script(tmp_path, "\n".join([*steps, "write_json design.json"]))
    return levels.analyse(json.loads((tmp_path / "design.json").read_text()), "design")


def ternary(m, a, b):
    m.submodules.adder = adder = TernaryAdder(16, vendor="xc7")
    m.d.comb += [adder.a.eq(a), adder.b.eq(b), adder.c.eq(a[16:])]
    return adder.o


def memory(m, a, b):
    m.submodules.words = words = Memory(shape=32, depth=1024, init=[])
    write, read = words.write_port(), words.read_port()
    m.d.comb += [write.addr.eq(a), write.data.eq(b), write.en.eq(b[0]), read.addr.eq(b), read.en.eq(1)]
    return read.data


def queue(m, a, b):
    m.submodules.words = words = Memory(shape=32, depth=16, init=[])
    write, read = words.write_port(), words.read_port(domain="comb")
    m.d.comb += [write.addr.eq(a), write.data.eq(b), write.en.eq(b[0]), read.addr.eq(b)]
    return read.data


@pytest.mark.parametrize(
    ("logic", "width", "count"),
    [
        (lambda m, a, b: a, 24, 0),
        (lambda m, a, b: a & b, 32, 1),
        (lambda m, a, b: a[:6].all(), 1, 1),
        (lambda m, a, b: a[:12].all(), 1, 2),  # two LUTs, and one of their outputs
        (lambda m, a, b: a + b, 32, 2),  # a LUT for each bit, and the carry chain
        (lambda m, a, b: Mux(a[0], b, a), 32, 2),  # one LUT, and a net of more than thirty sinks
        (ternary, 18, 3),  # a LUT for the majority, one for the parity, the carry chain; no ripple along the LUTs
        (memory, 32, 3),  # block RAM whose output register is not used
        (queue, 32, 1),  # an asynchronous read
    ],
)
def test_levels_of_known_logic(tmp_path, logic, width, count):
    found = worst(tmp_path, Registered(logic, width))["top"]
    assert found.levels == count


class Inner(wiring.Component):
    """A macro with one level before its register and one after it."""

    macro = "inner"

    @staticmethod
    def ports(config) -> dict:
        return {"i": In(8), "o": Out(1)}

    def __init__(self, config):
        super().__init__(self.ports(config))

    def elaborate(self, platform):
        m = Module()
        kept = Signal(6)
        m.d.sync += kept.eq(self.i[:6] ^ Cat(self.i[2:], self.i[:2]))
        m.d.comb += self.o.eq(kept.all())
        return m


class Outer(wiring.Component):
    """Two instances in a row: a path leaves one, passes a LUT and ends in the other."""

    def __init__(self):
        super().__init__({"x": In(8), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = Macro(Inner, None)
        m.submodules.second = second = Macro(Inner, None)
        other = Signal(8)
        m.d.sync += other.eq(self.x)
        m.d.comb += [first.i.eq(self.x), second.i.eq(Mux(first.o, other, ~other)), self.o.eq(second.o)]
        return m


def test_paths_through_macros(tmp_path):
    found = worst(tmp_path, Outer(), keep="inner")
    path = found["inner"]
    assert path.levels == 3  # out of the first, the multiplexer, into the second
    assert path.start.startswith("first")
    assert path.end.startswith("kept")


def test_the_zc706_build_has_five_levels_at_most(tmp_path):
    """Whole, with all clusters: what is broadcast to them counts."""
    board = board_named("zc706")
    text = rtlil(board.top(AcceleratorConfig.preset(board.preset)), "zc706")
    (tmp_path / "zc706.il").write_text(text)
    run_script(tmp_path, "\n".join(build.netlist_steps("zc706")))
    found = levels.analyse(json.loads((tmp_path / "zc706.json").read_text()), "zc706")
    print(levels.table(levels.as_json(found)))
    assert {"tiler", "load", "execute", "store", "csr", "vector"} <= found.keys()
    assert {"cluster", "row_group", "pe", "lane_pair", "vector_plane"} <= found.keys()
    assert {name: path.levels for name, path in found.items() if path.levels > 5} == {}


def test_a_combinational_loop_is_refused():
    lut = {"type": "LUT1", "parameters": {"INIT": "01"}, "port_directions": {"I0": "input", "O": "output"}}
    cells = {name: {**lut, "connections": {"I0": [i], "O": [o]}} for name, i, o in (("a", 2, 3), ("b", 3, 2))}
    module = {"attributes": {}, "ports": {}, "cells": cells, "netnames": {}}
    with pytest.raises(ValueError, match="combinational loop"):
        levels.analyse({"modules": {"loop": module}}, "loop")


def test_unknown_unit_is_named(capsys):
    assert levels.main(["--unit", "nonsense", "--preset", "tiny"]) == 2
    assert "no unit 'nonsense'" in capsys.readouterr().err
    assert levels.main([]) == 2


@pytest.mark.slow
def test_the_memory_on_the_chip_meets_the_bound(tmp_path):
    """Of two managers, in several parts; ports count as registers."""
    config = AcceleratorConfig(clusters=2, managers=2, chip_kib=144, vendor="xc7")
    paths = worst(tmp_path, Chip(config))
    assert {"memory", "read_router0", "write_router1"} <= paths.keys()
    assert max(path.levels for path in paths.values()) <= 5
