"""Verilog for people who integrate the accelerator by hand: every unit a module, every signal with its source line.

`python -m rtl.build --verilog DIR` writes it. The top is `rtl.standalone.Standalone`.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from .config import AcceleratorConfig
from .hierarchy import rtlil
from .standalone import Standalone
from .yosys import run_script

#: Name of the top module and of the file.
TOP = "fractrain"

#: Where this text differs from what people write: operands are extended by Verilog's rules, and the first case counts.
_HEADER = """\
// The accelerator as Verilog, written by `python -m rtl.build --verilog`; attributes src name the lines of its source.
/* verilator lint_off WIDTHEXPAND */
/* verilator lint_off WIDTHTRUNC */
/* verilator lint_off CASEOVERLAP */
/* verilator lint_off CMPCONST */
"""

_ROOT = Path(__file__).parent.parent


def _source(match: re.Match) -> str:
    """Source lines as paths inside this project or inside a library, whatever the machine."""
    places = []
    for place in match[1].split("|"):
        path, _, line = place.rpartition(":")
        inside = Path(path)
        if inside.is_relative_to(_ROOT):
            inside = inside.relative_to(_ROOT)
        else:
            parts = inside.parts
            inside = Path(*parts[parts.index("amaranth") :]) if "amaranth" in parts else Path(inside.name)
        places.append(f"{inside}:{line}")
    return f'attribute \\src "{"|".join(places)}"'


def verilog(config: AcceleratorConfig) -> str:
    """The Verilog text. Raises RuntimeError if Yosys fails."""
    text = rtlil(Standalone(config), TOP, source_lines=True)
    text = re.sub(r'attribute \\src "([^"]*)"', _source, text)
    # A submodule is named after its parent, with a dot, which Verilog could only escape.
    for name in set(re.findall(r"^module \\(\S+\.\S+)$", text, re.MULTILINE)):
        text = re.sub(rf"^(\s*(?:module|cell)) \\{re.escape(name)}(?=\s|$)", rf"\1 \\{_plain(name)}", text, flags=re.M)
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work)
        (directory / "design.il").write_text(text)
        steps = [
            "read_rtlil design.il",
            f"hierarchy -check -top {TOP}",
            "proc",
            "memory_collect",
            "clean -purge",
            "write_verilog -norename -simple-lhs design.v",
        ]
        run_script(directory, "\n".join(steps))
        return _HEADER + (directory / "design.v").read_text()


def _plain(name: str) -> str:
    return name.replace(".", "__").replace("$", "_")


def write_verilog(config: AcceleratorConfig, directory: Path) -> list[Path]:
    """Write the Verilog and the configuration into `directory`. Returns the paths.

    Raises OSError if `directory` cannot be written, RuntimeError if Yosys fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in ((f"{TOP}.v", verilog(config)), ("config.json", config.to_json())):
        path = directory / name
        draft = directory / f".{name}.part"
        draft.write_text(text)
        draft.replace(path)
        written.append(path)
    return written
