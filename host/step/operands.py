"""What a convolution reads: passes that round what is stored to the operand of a precision."""

from __future__ import annotations

import numpy as np

from host.qtensor import code_range
from host.step.coefficients import fit
from host.step.engine import Engine, VectorPass
from host.step.tensors import Activation, Factor, Piece, Result


def stored_operand(engine: Engine, x: Activation, places: np.ndarray, bits: int) -> Factor:
    """Samples of a block's input in so many bits: its upper planes where that is what they are, or a pass."""
    if x.codes.bits - x.guard == bits and len(x.codes.tensors) == 1 and len(places) == len(x.codes.places[0]):
        codes = engine.upper(x.codes.tensors[0], x.guard)
        top = max(abs(end) for end in code_range(codes.bits, codes.signed))
        return Factor(codes, x.unit * (1 << x.guard), top)
    asked, unit = of_input(engine, x, places, bits)
    return Factor(engine.run(asked).stored, unit, asked.top)


def of_input(engine: Engine, x: Activation, places: np.ndarray, bits: int) -> tuple[VectorPass, float]:
    """The pass that rounds samples of a block's input to so many bits, and its unit; all have the range of x."""
    top = (1 << bits) - 1
    unit = float(np.max(x.high)) / top
    unit = unit if unit > 0 else x.unit
    alpha = x.unit / unit
    return VectorPass(fit(alpha, 0.0, -alpha * x.raised), top, x.codes.of(engine, places), signed=False), unit


def of_result(y: Result, piece: Piece, bits: int) -> tuple[VectorPass, float]:
    """The pass for a piece of relu(batch norm(y)) in so many bits, and its unit; all have the range of y, exactly."""
    unit = unit_of(y.reach, y, bits)
    k = fit(y.norm.slope * piece.unit / unit, 0.0, y.norm.intercept / unit)
    return VectorPass(k, (1 << bits) - 1, piece.codes, signed=False, relu=True), unit


def unit_of(largest: float, y: Result, bits: int, guard: int = 0) -> float:
    """Real value of a stored step, where `largest` is to be the operand's largest code.

    Where nothing is positive, a step of y stands for the largest.
    """
    end = largest if largest > 0 else float(np.max(np.abs(y.norm.slope) * y.unit))
    return end / (((1 << bits) - 1) << guard) or 1.0
