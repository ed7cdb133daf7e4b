"""`python -m host.bench`: the configuration that its figures belong to."""

from __future__ import annotations

import json

import pytest

from host.bench import main

SMALL = ["--board", "golden+cycles", "--net", "cnn-small", "--image", "1x8x8", "--batch", "2"]


def bench(tmp_path, *options):
    assert main([*SMALL, "--json", str(tmp_path / "bench.json"), *options]) == 0
    return json.loads((tmp_path / "bench.json").read_text())


def test_modelled_cycles_are_those_of_the_board_build_unless_told_otherwise(tmp_path, capsys):
    whole, one = bench(tmp_path), bench(tmp_path, "--preset", "sim")
    assert (whole["machine"]["preset"], whole["machine"]["clusters"]) == ("zc706", 20)
    assert (one["machine"]["preset"], one["machine"]["clusters"]) == ("sim", 1)
    assert whole["rows"][-1]["utilisation"] < one["rows"][-1]["utilisation"]
    assert bench(tmp_path, "--clusters", "3")["machine"]["clusters"] == 3
    printed = capsys.readouterr().out
    assert "20 clusters (zc706), 6 B/cycle to and from memory over each of 2 managers, 17 together" in printed
    assert "convolutions and matrix products only" in printed


def test_an_unknown_preset_is_named(capsys):
    with pytest.raises(SystemExit):
        main([*SMALL, "--preset", "huge"])
    assert "unknown preset 'huge'; there are tiny, sim, vector, z010, z020, zc706" in capsys.readouterr().err
