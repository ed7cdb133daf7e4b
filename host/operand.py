"""Operands as a board takes them: codes with their width, and what their sums may reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from host.arrays import to_numpy
from host.qtensor import code_range


@dataclass(eq=False)
class Operand:
    """Codes of one operand.

    Attributes
    ----------
    codes : integers in value, of any dtype and library.
    bits, signed : of a code.
    table : bits of each sample along the first axis, uint8, at most `bits`; 0 skips a sample. None: `bits` for all.
    origin : the tensor that the codes come from, which never changes; a board may keep what it has made of it.
    """

    codes: Any
    bits: int
    signed: bool
    table: np.ndarray | None = None
    origin: object | None = None
    _sums: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def largest(self) -> int:
        """Largest magnitude that a code of this width can have."""
        return max(abs(code) for code in code_range(self.bits, self.signed))

    def sums(self, *axes: int) -> np.ndarray:
        """Sums of the codes' magnitudes over `axes`, float64: exact, as no operand has 2**37 codes."""
        if axes not in self._sums:
            xp = array_namespace(self.codes)
            # The smallest signed code has no positive counterpart in its own type.
            magnitudes = xp.abs(xp.astype(self.codes, xp.float32)) if self.signed else self.codes
            self._sums[axes] = to_numpy(xp.sum(magnitudes, axis=axes, dtype=xp.float64))
        return self._sums[axes]

    def narrow(self) -> np.ndarray:
        """The codes in numpy's narrowest integers."""
        kind = f"{'i' if self.signed else 'u'}{1 if self.bits <= 8 else 2}"
        return to_numpy(self.codes).astype(kind, copy=False)
