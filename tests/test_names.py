"""Every signal of the hardware has a name, for waveforms, Verilog and timing reports."""

from __future__ import annotations

import re

import pytest

from rtl.config import PRESETS, AcceleratorConfig
from rtl.hierarchy import rtlil
from rtl.top import Accelerator


@pytest.mark.parametrize("preset", PRESETS)
def test_no_signal_is_anonymous(preset):
    text = rtlil(Accelerator(AcceleratorConfig.preset(preset)), "accelerator", source_lines=True)
    anonymous = re.findall(r'attribute \\src "([^"]*)"\n(?:\s*attribute .*\n)*\s*wire .*\\\$signal', text)
    assert anonymous == []
    assert "$signal" not in text
