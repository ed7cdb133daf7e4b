"""The Series-7 cells against their portable twins, with the primitives' models that Yosys ships.

Adders, accumulator and a whole processing element stand side by side in one design and take the same random inputs,
corners included; a small C++ program compares their outputs every cycle.
"""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace

import pytest
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.cells import Accumulator, Select, TernaryAdder
from rtl.config import ACC_BITS, AcceleratorConfig
from rtl.hierarchy import rtlil
from rtl.pe import TablePE
from rtl.yosys import run_script
from sim.compiler import build

SHAPES = (signed(1), unsigned(6), signed(8), unsigned(10), signed(13))
CONFIG = AcceleratorConfig.preset("tiny")
PE_INPUTS = [name for name in TablePE.ports(CONFIG) if name != "sum"]
CYCLES = 20_000

SYNTHESIS = """\
read_rtlil twins.il
read_verilog +/xilinx/cells_sim.v
hierarchy -top twins
proc
flatten
opt_clean -purge
delete */t:$specify2 */t:$specify3 */t:$specrule %u %u
write_verilog -noattr twins.v
"""

MAIN = """\
#include <cstdio>
#include <cstdlib>
#include <random>
#include "Vtop.h"
int main(int argc, char** argv) {
    VerilatedContext context;
    Vtop top{&context};
    std::mt19937_64 rng(std::strtoull(argv[1], nullptr, 10));
    int bad = 0;
    top.rst = 0;
    for (int cycle = 0; cycle < CYCLES && bad < 5; cycle++) {
        // Sixteen-bit pieces that are random, all zero or all one: corners come up often.
        auto word = [&] { auto r = rng(); return r % 5 == 0 ? 0u : r % 5 == 1 ? ~0u : unsigned(r >> 32); };
        DRIVE
        top.clk = 0; top.eval();
        if (cycle > 64 && top.differ) { std::printf("cycle %d: differ %x\\n", cycle, unsigned(top.differ)); bad++; }
        top.clk = 1; top.eval();
    }
    top.final();
    return bad != 0;
}
"""


class Twins(wiring.Component):
    """Both variants of every cell on shared inputs. Bit i of `differ`: cell i's variants disagree."""

    def __init__(self, xc7: str = "xc7"):
        self._vendors = ("generic", xc7)
        ports = {
            **{f"operand{k}": In(signed(max(shape.width for shape in SHAPES))) for k in range(3)},
            "weight": In(18),
            "upper": In(1),
            "c": In(ACC_BITS),
            "select": In(2),
            **{name: TablePE.ports(CONFIG)[name] for name in PE_INPUTS},
            "differ": Out(len(SHAPES) + 2),
        }
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        for i, shape in enumerate(SHAPES):
            pair = [TernaryAdder(shape, vendor=vendor) for vendor in self._vendors]
            for vendor, adder in zip(self._vendors, pair, strict=True):
                m.submodules[f"adder{i}_{vendor}"] = adder
                for k, name in enumerate("abc"):
                    m.d.comb += getattr(adder, name).eq(getattr(self, f"operand{k}"))
            m.d.comb += self.differ[i].eq(pair[0].o != pair[1].o)

        pair = [Accumulator(vendor=vendor) for vendor in self._vendors]
        for vendor, acc in zip(self._vendors, pair, strict=True):
            m.submodules[f"accumulator_{vendor}"] = acc
            m.d.comb += [
                acc.enable.eq(self.enable),
                acc.sum.eq(self.operand0),
                acc.upper.eq(self.upper),
                acc.weight.eq(self.weight.as_signed()),
                acc.c.eq(self.c.as_signed()),
                acc.select.as_value().eq(self.select),
            ]
        m.d.comb += self.differ[len(SHAPES)].eq(pair[0].o != pair[1].o)

        pair = [TablePE(replace(CONFIG, vendor=vendor)) for vendor in self._vendors]
        for vendor, pe in zip(self._vendors, pair, strict=True):
            m.submodules[f"pe_{vendor}"] = pe
            m.d.comb += [getattr(pe, name).eq(getattr(self, name)) for name in PE_INPUTS]
        m.d.comb += self.differ[len(SHAPES) + 1].eq(pair[0].sum != pair[1].sum)
        return m


def simulate(twins: Twins, work) -> subprocess.CompletedProcess:
    (work / "twins.il").write_text(rtlil(twins, "twins"))
    run_script(work, SYNTHESIS)
    drive = []
    for path, member, _ in twins.signature.flatten(twins):
        name, bits = path[0], member.shape if isinstance(member.shape, int) else member.shape.width
        if name == "differ":
            continue
        if name == "select":  # the fourth value is none
            drive.append("top.select = word() % 3;")
        elif bits > 64:
            words = -(-bits // 32)
            mask = (1 << (bits - 1) % 32 + 1) - 1
            drive.append(f"for (int i = 0; i < {words}; i++) top.{name}[i] = word();")
            drive.append(f"top.{name}[{words - 1}] &= {mask:#x}u;")
        else:
            drive.append(f"top.{name} = ((uint64_t(word()) << 32) | word()) & {(1 << bits) - 1:#x}ull;")
    source = MAIN.replace("CYCLES", str(CYCLES)).replace("DRIVE", "\n        ".join(drive))
    (work / "main.cpp").write_text(source)
    build(work, [work / "twins.v"], "twins", "compare", extra=[work / "main.cpp"])
    seed = random.getrandbits(32)
    print(f"seed {seed}")
    return subprocess.run([work / "compare", str(seed)], capture_output=True, text=True)


def test_series_7_cells(tmp_path):
    result = simulate(Twins(), tmp_path)
    assert result.returncode == 0, result.stdout


def test_accumulator_by_hand():
    """The generic twin does what its docstring says, counted out in Python."""
    from amaranth.sim import Simulator

    dut = Accumulator()
    rng = random.Random(7)
    steps = []
    for _ in range(300):
        kind = rng.choice(list(Select))
        steps.append(
            (
                rng.randrange(-4096, 4096),
                rng.randrange(2),
                rng.randrange(-(1 << 17), 1 << 17),
                rng.getrandbits(40),
                kind,
            )
        )
    seen = []

    async def bench(ctx):
        ctx.set(dut.enable, 1)
        for t in range(len(steps) + 4):
            if t < len(steps):
                for name, value in zip(("sum", "upper", "weight"), steps[t], strict=False):
                    ctx.set(getattr(dut, name), value)
            if 2 <= t < len(steps) + 2:
                ctx.set(dut.c, steps[t - 2][3])
                ctx.set(dut.select, steps[t - 2][4])
            if t >= 4:
                seen.append(ctx.get(dut.o))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    total, expected = 0, []
    for value, upper, weight, c, select in steps:
        base = {Select.ACC: total, Select.C: c, Select.ZERO: 0}[select]
        total = base + (value << 12 if upper else value) * weight
        total = (total + (1 << 47)) % (1 << 48) - (1 << 47)
        expected.append(total)
    first = next(i for i, step in enumerate(steps) if step[4] != Select.ACC)  # before it, what power-up left
    assert seen[first:] == expected[first:]


@pytest.mark.parametrize("cell", [TernaryAdder, Accumulator])
def test_comparison_can_fail(tmp_path, monkeypatch, cell):
    """A wrong primitive is found: the truth table's carry, or the accumulator's operand port."""
    if cell is TernaryAdder:
        monkeypatch.setattr("rtl.cells._TERNARY_INIT", 1)
    else:
        monkeypatch.setattr("rtl.cells.UPPER_SHIFT", 11)
        generic = Accumulator._generic

        def right_shift(self):
            with monkeypatch.context() as patch:
                patch.setattr("rtl.cells.UPPER_SHIFT", 12)
                return generic(self)

        monkeypatch.setattr(Accumulator, "_generic", right_shift)
    assert simulate(Twins(), tmp_path).returncode == 1
