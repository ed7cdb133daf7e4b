"""The board `zynq`, unmodified down to its accesses of mapped registers, in front of the compiled RTL.

A library that is loaded before the C library stands for UIO and u-dma-buf (`fake_zynq.c`).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sim.verilated import build_model

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="single steps are those of Linux on x86-64"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    build_model("tiny")  # here, where it may take its time
    path = tmp_path_factory.mktemp("library") / "fake_zynq.so"
    command = ["g++", "-x", "c", "-std=gnu11", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", path]
    subprocess.run([*command, HERE / "fake_zynq.c"], check=True)
    return path


def run(library: Path, *arguments: object) -> dict:
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "LD_PRELOAD": str(library)}
    command = [sys.executable, HERE / "preloaded_zynq.py", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_products_and_training_are_those_of_the_golden_board(library, data, tmp_path):
    found = run(library, tmp_path / "root", data)
    assert found["products"] is True
    assert found["training"] is True
    assert min(found["syncs"]) > 0
    # An access of the driver is one of the bus: no register is read before it is written, none twice.
    assert (found["reads"], found["writes"]) == (found["csr_read"], found["csr_write"])
    assert found["writes"] > 0


@pytest.mark.slow
def test_training_on_digits(library, tmp_path):
    """One epoch of the default data set."""
    assert run(library, tmp_path / "root", "digits")["training"] is True


@pytest.mark.parametrize("lost", ["sync_for_device", "sync_for_cpu"])
def test_a_sync_that_is_left_out_is_noticed(library, lost, tmp_path):
    assert run(library, tmp_path / "root", "", lost)["products"] is not True
