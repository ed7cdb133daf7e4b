"""Shift registers."""

from __future__ import annotations

from contextlib import nullcontext

from amaranth.hdl import Module, Signal


def delayed(m: Module, value, cycles: int, name: str, *, control: bool = False, enable=None):
    """`value`, `cycles` later, or as many cycles with `enable`. Control bits are reset, data is not."""
    for i in range(cycles):
        stage = Signal.like(value, name=f"{name}_{i + 1}", reset_less=not control)
        with nullcontext() if enable is None else m.If(enable):
            m.d.sync += stage.eq(value)
        value = stage
    return value
