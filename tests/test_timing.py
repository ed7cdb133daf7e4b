"""The array's pipeline follows from the latencies of its units."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from rtl import pe
from rtl.config import AcceleratorConfig
from rtl.timing import array_timing

CONFIG = AcceleratorConfig.preset("tiny")


class SlowPE(pe.TablePE):
    """Two cycles slower, one of them before the bias."""

    LATENCY = pe.TablePE.LATENCY + 2
    BIAS_DELAY = pe.TablePE.BIAS_DELAY + 1


def test_a_slower_element_moves_what_comes_after_it(monkeypatch):
    usual = array_timing(CONFIG)
    monkeypatch.setitem(pe.ELEMENTS, "table", SlowPE)
    slow = array_timing(CONFIG)
    moved = [b - a for a, b in zip(astuple(usual), astuple(slow), strict=True)]
    assert moved == [0, 0, 0, 0, 1, 2, 2, 2, 2]  # column, row, shift, context; bias; weight, read, select, store
    assert slow.result_full == usual.result_full + 2
    assert (slow.stream_free, slow.context_free, slow.reuse) == (usual.stream_free, usual.context_free, usual.reuse)


@pytest.mark.parametrize("delay", [-1, SlowPE.LATENCY])
def test_an_element_whose_bias_comes_too_late_is_refused(monkeypatch, delay):
    monkeypatch.setattr(SlowPE, "BIAS_DELAY", delay)
    monkeypatch.setitem(pe.ELEMENTS, "table", SlowPE)
    with pytest.raises(ValueError, match=f"SlowPE has BIAS_DELAY {delay}, must be at least 0 and below its LATENCY, 7"):
        array_timing(CONFIG)
