"""Quantised tensors: integer codes with the number of bits that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

from rtl.config import MAX_BITS


@dataclass(frozen=True, eq=False)
class QTensor:
    """Codes and what they mean: real value = scale * code.

    Attributes
    ----------
    codes : integer array of any shape, of numpy or of another library of the array API standard. Those of a `trusted`
        tensor may be of a floating-point type.
    bits : width of a code, 1 to 16.
    signed : two's complement codes from -2**(bits - 1) to 2**(bits - 1) - 1, else codes from 0 to 2**bits - 1.
    scale : real value of code 1. The board never sees it.

    Raises
    ------
    ValueError
        If `bits` is out of range, the codes are no integers, or a code does not fit; the message names the value.
    """

    codes: Any
    bits: int
    signed: bool
    scale: float = 1.0

    #: Whether the codes are known to be integers that fit; then nobody looks at them again.
    is_trusted = False

    def __post_init__(self):
        if isinstance(self.bits, bool) or not isinstance(self.bits, int | np.integer) or not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"a tensor of {self.bits!r} bits: must be an integer from 1 to {MAX_BITS}")
        if not is_array_api_obj(self.codes):
            object.__setattr__(self, "codes", np.asarray(self.codes))
        self.check("tensor")

    @classmethod
    def trusted(cls, codes: Any, bits: int, signed: bool, scale: float = 1.0) -> QTensor:
        """A tensor whose codes fit by construction, as a quantiser's do: they are not checked, here or by operations.

        They may be integers of a floating-point type; a board that computes in such types takes them as they are.
        """
        tensor = object.__new__(cls)
        for name, value in (("codes", codes), ("bits", bits), ("signed", signed), ("scale", scale)):
            object.__setattr__(tensor, name, value)
        object.__setattr__(tensor, "is_trusted", True)
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest code that fit."""
        return code_range(self.bits, self.signed)

    def check(self, name: str) -> None:
        """Raise ValueError, calling this tensor `name`, if the codes are no integers or one does not fit `bits`."""
        if self.is_trusted:
            return
        xp = array_namespace(self.codes)
        kind = f"{name} ({'signed' if self.signed else 'unsigned'}, {self.bits} bits)"
        if not xp.isdtype(self.codes.dtype, "integral"):
            raise ValueError(f"{kind} has codes of type {self.codes.dtype}, must be an integer type")
        if 0 in self.shape:
            return
        low, high = self.range
        for value in (int(xp.min(self.codes)), int(xp.max(self.codes))):
            if not low <= value <= high:
                raise ValueError(f"{kind} holds the code {value}, must lie in {low} to {high}")

    def transpose(self) -> QTensor:
        """The transposed matrix. Raises ValueError if this is no matrix."""
        if len(self.shape) != 2:
            raise ValueError(f"only a matrix can be transposed, this tensor is {self.shape}")
        make = QTensor.trusted if self.is_trusted else QTensor
        return make(self.codes.T, self.bits, self.signed, self.scale)


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest code of `bits` bits."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


class Operand(NamedTuple):
    """Codes with their width, as a board takes them."""

    codes: Any
    bits: int
    signed: bool


def largest_code(operand: Operand) -> int:
    """Largest magnitude that a code of this operand can have."""
    return max(abs(code) for code in code_range(operand.bits, operand.signed))
