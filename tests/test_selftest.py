"""`host.selftest`: what it finds, and that it can find something."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_zynq import FakeZynq

from host import open_board, selftest
from host.backends.golden import GoldenBoard


def test_the_fake_zynq_passes(tmp_path, capsys):
    """With the compiled RTL behind its registers: all checks have something to find there."""
    linux = FakeZynq(tmp_path / "root")
    board = open_board("zynq", linux=linux)
    report = selftest.check(board, cases=2, seed=3)
    board.close()
    linux.rtl.close()
    assert report["passed"]
    assert report["checks"]["exactness"]["products"] == 8
    assert report["checks"]["recovery"]["refused"] == ["OPCODE", "AXI_WRITE"]
    assert report["checks"]["counters"]["cycles"] > 0
    assert capsys.readouterr().out.count("pass") == 5


def test_the_command(tmp_path, capsys):
    out = tmp_path / "report.json"
    assert selftest.main(["--board", "golden", "--preset", "tiny", "--cases", "1", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert (report["board"], report["config"]["clusters"]) == ("golden", 2)
    assert f"wrote {out}" in capsys.readouterr().out


class Broken(GoldenBoard):
    """Forgets a bit of what is written."""

    def write(self, address, data):
        super().write(address, data & np.uint8(0xFE))


class Deaf(GoldenBoard):
    """Runs nothing, so refuses and counts nothing."""

    def run(self, descriptors):
        pass


@pytest.mark.parametrize(
    ("kind", "failed"),
    [(Broken, {"exactness", "bandwidth"}), (Deaf, {"exactness", "recovery", "counters"})],
)
def test_what_is_wrong_is_found(kind, failed):
    board = kind(open_board("golden", config="tiny").config, memory_bytes=1 << 20)
    report = selftest.check(board, cases=1, seed=0)
    assert not report["passed"]
    assert {name for name, found in report["checks"].items() if not found["passed"]} == failed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--board", "golden", "--cases", "0"], "--cases is 0, must be at least 1"),
        (["--board", "golden+cycles"], "has no memory and no descriptors"),
        (["--board", "nothing"], "unknown board 'nothing'"),
        (["--board", "zynq"], "to mend it: "),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert selftest.main(arguments) == 2
    assert message in capsys.readouterr().err
