"""The build for a board: netlist, report, vendor script, and clear errors."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from amaranth.build import DiffPairs, Pins, Subsignal

import boards
from rtl import build
from rtl.config import AcceleratorConfig
from rtl.utilisation import RESOURCES, Utilisation, cost_of_cell

SMALL = AcceleratorConfig.preset("zc706", clusters=2, rows=4, vector=False)

FAKE_VIVADO = """\
#!/bin/sh
[ "$1 $2 $3 $4" = "-mode batch -source zc706.tcl" ] || exit 3
[ -s zc706.edf ] && [ -s zc706.xdc ] || exit 4
cat > zc706_timing.rpt <<END
    WNS(ns)      TNS(ns)  TNS Failing Endpoints
    -------      -------  ---------------------
     -1.250     -812.123                   1024
END
echo bits > zc706.bit
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small build with a stand-in for Vivado on the PATH."""
    tools, out = tmp_path_factory.mktemp("tools"), tmp_path_factory.mktemp("build") / "zc706"
    (tools / "vivado").write_text(FAKE_VIVADO)
    (tools / "vivado").chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}{os.pathsep}{path}"
    try:
        report = build.build("zc706", SMALL, out)
    finally:
        os.environ["PATH"] = path
    return out, report


def test_report(built):
    out, report = built
    assert json.loads((out / "report.json").read_text()) == report
    assert report["board"] == "zc706"
    assert report["device"] == "xc7z045ffg900-2"
    assert report["clusters"] == 2
    assert report["bit_macs_per_cycle"] == 2 * 4 * 144 * 4
    assert report["available"] == {"lut": 218600, "lutram": 70400, "ff": 437200, "bram36": 545, "dsp": 900}
    assert AcceleratorConfig.from_json((out / "config.json").read_text()) == SMALL


def test_costs_are_those_of_the_netlist(built):
    """An independent walk through the netlist's JSON counts the same."""
    out, report = built
    modules = json.loads((out / "zc706.json").read_text())["modules"]

    def count(name):
        total = dict.fromkeys(RESOURCES, 0)
        for cell in modules[name]["cells"].values():
            kind = cell["type"]
            inside = kind in modules and not int(modules[kind].get("attributes", {}).get("blackbox", "0"), 2)
            cost = count(kind) if inside else cost_of_cell(kind)
            total = {key: total[key] + cost[key] for key in RESOURCES}
        return total

    assert count("zc706") == report["used"]


def test_macros_are_synthesised_once(built):
    out, report = built
    counts = {row["unit"]: row["count"] for row in report["units"]}
    assert (counts["pe"], counts["cluster"], counts["zc706"]) == (8, 2, 1)
    text = (out / "zc706.v").read_text()
    assert text.count("\nmodule pe(") == text.count("\nmodule cluster(") == 1
    pe = next(row for row in report["units"] if row["unit"] == "pe")
    assert pe["lutram"] == 36 * 4  # one RAM32M a table
    cluster = next(row for row in report["units"] if row["unit"] == "cluster")
    assert cluster["dsp"] == 4  # one accumulator a row


def test_vendor_tool_is_run_and_its_result_read(built):
    out, report = built
    assert report["fmax_mhz"] == pytest.approx(1000 / (5 + 1.25))
    assert report["bitstream"] == str(out / "zc706.bit")
    assert Path(report["bitstream"]).read_text() == "bits\n"


def test_constraints_and_script(built):
    out, _ = built
    xdc = (out / "zc706.xdc").read_text()
    assert "-period 5.000 [get_pins {ps7/FCLKCLK[0]}]" in xdc
    assert "{PACKAGE_PIN Y21 IOSTANDARD LVCMOS25} [get_ports led_alive]" in xdc
    assert "{PACKAGE_PIN W21 IOSTANDARD LVCMOS25} [get_ports led_interrupt]" in xdc
    steps = [line.split()[0] for line in (out / "zc706.tcl").read_text().splitlines()]
    assert steps[:3] == ["read_edif", "read_xdc", "link_design"]
    assert steps[-1] == "write_bitstream"
    netlist = (out / "zc706.edf").read_text()
    assert "(instance ps7" in netlist


def test_without_vendor_tool(built, capsys, monkeypatch, tmp_path):
    """One line says what is missing, and the exit status is 0."""
    _, report = built
    absent = {**report, "fmax_mhz": None, "bitstream": None}
    monkeypatch.setattr(build, "build", lambda *_: absent)
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    assert build.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "vivado is not on the PATH" in printed
    assert "%" in printed


#: Part, LED that blinks and clusters of each board.
FAMILY = {
    "arty_z7_20": ("xc7z020clg400-1", "R14", 5),
    "pynq_z1": ("xc7z020clg400-1", "R14", 5),
    "pynq_z2": ("xc7z020clg400-1", "R14", 5),
    "zc706": ("xc7z045ffg900-2", "Y21", 20),
    "zybo_z7_10": ("xc7z010clg400-1", "M14", 1),
    "zybo_z7_20": ("xc7z020clg400-1", "M14", 5),
}


def test_list(capsys):
    assert build.main(["--list"]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert listed == [[name, part] for name, (part, *_) in FAMILY.items()]


@pytest.mark.parametrize("name", FAMILY)
def test_files_of_a_board(name):
    """Constraints and script name the part and a pin that its platform has for an LED, at the board's clock."""
    board = boards.board_named(name)
    part, led, clusters = FAMILY[name]
    files = board.files(name, board.clock_mhz)
    assert re.search(rf"PACKAGE_PIN {led} IOSTANDARD LVCMOS\d\d}} \[get_ports led_alive\]", files[f"{name}.xdc"])
    assert f"-period {1000 / board.clock_mhz:.3f} " in files[f"{name}.xdc"]
    assert f"-part {part} " in files[f"{name}.tcl"]
    assert AcceleratorConfig.preset(board.preset).clusters == clusters
    pins = [pin for resource in board.platform.resources for pin in pins_of(resource.ios)]
    pins += [pin for each in board.platform.connectors for pin in each.mapping.values()]
    assert len(pins) == len(set(pins)) or name == "arty_z7_20"  # whose analog header can be digital, too


def pins_of(ios) -> list[str]:
    found = []
    for each in ios:
        if isinstance(each, Subsignal):
            found += pins_of(each.ios)
        elif isinstance(each, DiffPairs):
            found += each.p.names + each.n.names
        elif isinstance(each, Pins):
            found += each.names
    return found


TOY = """\
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from boards.board import Board, Result


class Blink(wiring.Component):
    led: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.led.eq(~self.led)
        return m


class Toy(Board):
    tool = "toy-tool"
    device = "toy-1"
    capacity = dict.fromkeys(("lut", "lutram", "ff", "bram36", "dsp"), 10)

    def top(self, config):
        return Blink()

    def files(self, name, clock_mhz):
        return {f"{name}.pins": f"led at {clock_mhz}"}

    def command(self, name):
        return [self.tool, name]

    def result(self, directory, name, clock_mhz):
        return Result(fmax_mhz=None, bitstream=None)


BOARD = Toy(name="toy", preset="tiny", clock_mhz=10.0)
"""


def test_a_file_adds_a_board(tmp_path, monkeypatch, capsys):
    (tmp_path / "toy_board.py").write_text(TOY)
    monkeypatch.setattr(boards, "__path__", [*boards.__path__, str(tmp_path)])
    assert build.main(["--list"]) == 0
    assert "toy  toy-1\n" in capsys.readouterr().out
    out = tmp_path / "out"
    assert build.main(["--board", "toy", "--out", str(out)]) == 0
    assert "run `toy-tool toy`" in capsys.readouterr().out
    assert json.loads((out / "report.json").read_text())["used"]["ff"] == 1
    assert (out / "toy.pins").read_text() == "led at 10.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--board", "nexys"], "unknown board 'nexys'"),
        (["--clusters", "0"], "clusters is 0, must be 1 to 20"),
        (["--clusters", "21"], "clusters is 21, must be 1 to 20"),
        (["--clock-mhz", "-5"], "--clock-mhz is -5.0"),
        (["--out", "/proc/nowhere/build"], "/proc/nowhere"),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    assert build.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_utilisation_multiplies_through_the_hierarchy():
    used = Utilisation({"top": {"mid": 3, "FDRE": 2}, "mid": {"leaf": 4, "LUT6": 5}, "leaf": {"RAM32M": 1, "INV": 1}})
    assert used.whole("top") == {"lut": 3 * (5 + 4 * 5), "lutram": 48, "ff": 2, "bram36": 0, "dsp": 0}
    assert used.instances("top") == {"top": 1, "mid": 3, "leaf": 12}
    with pytest.raises(ValueError, match="MYSTERY"):
        cost_of_cell("MYSTERY")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zc706", "pynq_z2", "zybo_z7_10"])
def test_a_board_of_each_device_fits(name, tmp_path):
    """Boards of one device differ in their LEDs alone."""
    board = boards.board_named(name)
    report = build.build(name, AcceleratorConfig.preset(board.preset), tmp_path / "out")
    assert report["bit_macs_per_cycle"] == {"zc706": 184_320, "pynq_z2": 46_080, "zybo_z7_10": 4_608}[name]
    # The small devices are nearly full; the large one keeps a quarter for what comes, and for the router's sake.
    for key in RESOURCES:
        assert report["used"][key] <= (0.75 if name == "zc706" else 0.9) * report["available"][key]
