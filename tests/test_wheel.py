"""The wheel that `pip wheel` builds: it carries what runs, trains from an empty folder, and has no tests in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Files that git does not know, and builds of before, do not belong to a wheel.
    source = out / "source"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return next(out.glob("*.whl"))


def test_what_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "sim/golden.py",
        "sim/harness.cpp",
        "sim/ddr.h",
        "rtl/top.py",
        "host/train.py",
        "host/zynq/load.py",
        "host/remote/server.py",
        "boards/zc706.py",
    } <= set(names)
    assert not [
        name
        for name in names
        if Path(name).name.startswith(("test_", "conftest")) or "/tests/" in name or name.startswith("tests/")
    ]
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    (metadata,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "fractrain-train = host.train:main" in zipfile.ZipFile(wheel).read(metadata).decode()


def test_it_trains_from_an_empty_folder(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PYTHONPATH": str(site)
    }
    command = [sys.executable, "-m", "host.train", "--board", "golden", "--epochs", "1", "--schedule", "static"]
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(work.rglob("summary.json"))
