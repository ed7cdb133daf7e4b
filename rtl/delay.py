"""Shift registers."""

from __future__ import annotations

from amaranth.hdl import Module, Signal


def delayed(m: Module, value, cycles: int, name: str, *, control: bool = False):
    """`value`, `cycles` later. Control bits are reset, data is not."""
    for i in range(cycles):
        stage = Signal.like(value, name=f"{name}_{i + 1}", reset_less=not control)
        m.d.sync += stage.eq(value)
        value = stage
    return value
