"""`python -m host.bench_remote`: every way is measured, and a board that is named alone."""

from __future__ import annotations

import json

import pytest
from remotes import serving

from host import bench_remote


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(bench_remote, "ROUND_TRIPS", 20)
    monkeypatch.setattr(bench_remote, "BLOCKS", 2)


def test_all_ways_on_this_machine(tmp_path):
    out = tmp_path / "bench.json"
    assert bench_remote.main(["--json", str(out)]) == 0
    rows = {row["way"]: row for row in json.loads(out.read_text())}
    assert list(rows) == ["without keys", "with keys", "in this process", "plain TCP"]
    for row in rows.values():
        assert row["round_trip_us"] <= row["round_trip_99_us"]
        assert min(row["write_mb_per_s"], row["read_mb_per_s"]) > 0
    # A detour takes longer.
    assert rows["with keys"]["round_trip_us"] > rows["in this process"]["round_trip_us"]


def test_one_board(capsys):
    with serving() as name:
        assert bench_remote.main(["--board", name]) == 0
        assert name in capsys.readouterr().out
    assert bench_remote.main(["--board", name]) == 2
    assert "nobody listens there" in capsys.readouterr().err
