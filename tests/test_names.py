"""Every signal of the hardware has a name, for waveforms, Verilog and timing reports."""

from __future__ import annotations

import re

import pytest

from rtl.config import PRESETS, AcceleratorConfig
from rtl.hierarchy import rtlil
from rtl.top import Accelerator


# Those for smaller devices have the units of the ZC706's.
@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"z010", "z020"}))
def test_no_signal_is_anonymous(preset):
    text = rtlil(Accelerator(AcceleratorConfig.preset(preset)), "accelerator", source_lines=True)
    anonymous = re.findall(r'attribute \\src "([^"]*)"\n(?:\s*attribute .*\n)*\s*wire .*\\\$signal', text)
    assert anonymous == []
    assert "$signal" not in text
