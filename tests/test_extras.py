"""Running the tests where their libraries are not installed."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("folder", ["sim", "tests"])
def test_missing_libraries_are_named(folder):
    code = f"import sys, pytest; sys.modules['cocotb'] = None; sys.exit(pytest.main(['{folder}', '--collect-only']))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert run.stderr == "ERROR: the tests need cocotb: python -m pip install -e '.[test]'\n\n"
