"""Ctrl-C while a command still loads its libraries."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from host.interrupt import INTERRUPTED


@pytest.mark.parametrize("library", ["numpy", "matplotlib"])
def test_ctrl_c_during_imports_is_quiet(library, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "host.train", "--out", str(tmp_path / "out")],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if re.search(rf"\| +{library}$", line.rstrip()):  # loaded, and much still to come
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in rest
    assert not (tmp_path / "out").exists()
