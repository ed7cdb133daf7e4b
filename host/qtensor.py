"""Quantised tensors: integer codes, and for each run of samples the bits that hold them and what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, is_numpy_array

from rtl.config import MAX_BITS


class Run(NamedTuple):
    """Successive samples that share a width and a scale.

    Attributes
    ----------
    bits : width of a code, 1 to 16; 0 in a tensor of several runs: operations skip these samples, whatever their codes.
    samples : their number along the first axis.
    scale : real value of code 1. The board never sees it.
    """

    bits: int
    samples: int
    scale: float = 1.0


class QTensor:
    """Codes and what they mean: real value = scale * code. Nothing about a tensor changes after it was made.

    Parameters
    ----------
    codes : integer array of any shape, of numpy or of another library of the array API standard. The tensor keeps a
        copy, which in numpy cannot be written to. Those of a `trusted` tensor may be of a floating-point type.
    bits : width of a code, 1 to 16.
    signed : two's complement codes from -2**(bits - 1) to 2**(bits - 1) - 1, else codes from 0 to 2**bits - 1.
    scale : real value of code 1.

    Attributes
    ----------
    runs : widths and scales along the first axis; one run unless the tensor was made `of_runs`.

    Raises
    ------
    ValueError
        If `bits` is out of range, the codes are no integers, or a code does not fit; the message names the value.
    """

    codes: Any
    signed: bool
    runs: tuple[Run, ...]

    def __init__(self, codes: Any, bits: int, signed: bool, scale: float = 1.0):
        _check_bits(bits, 1)
        codes = _own(codes)
        _check_codes("tensor", codes, bits, signed)
        self.codes, self.signed = codes, bool(signed)
        self.runs = (Run(int(bits), _samples(codes), scale),)

    @classmethod
    def of_runs(cls, codes: Any, runs: Iterable[Run], signed: bool) -> QTensor:
        """A tensor whose samples, along the first axis, differ in width or scale. Raises as the constructor does."""
        codes, runs = _own(codes), tuple(Run(*run) for run in runs)
        samples = [run.samples for run in runs]
        if not runs or min(samples) < 0 or sum(samples) != _samples(codes):
            raise ValueError(f"runs of {samples} samples for a tensor of {tuple(codes.shape)}")
        start = 0
        for number, run in enumerate(runs):
            _check_bits(run.bits, 0)
            if run.bits:
                part = codes[start : start + run.samples, ...]
                _check_codes(f"run {number} of the tensor", part, run.bits, signed)
            start += run.samples
        return cls.trusted_runs(codes, runs, signed)

    @classmethod
    def trusted(cls, codes: Any, bits: int, signed: bool, scale: float = 1.0) -> QTensor:
        """A tensor whose codes fit by construction, as a quantiser's do: they are neither copied nor checked.

        They may be integers of a floating-point type; a board that computes in such types takes them as they are.
        """
        return cls.trusted_runs(codes, (Run(int(bits), _samples(codes), scale),), signed)

    @classmethod
    def trusted_runs(cls, codes: Any, runs: Iterable[Run], signed: bool) -> QTensor:
        """A `trusted` tensor whose samples, along the first axis, differ in width or scale."""
        tensor = cls.__new__(cls)
        tensor.codes, tensor.signed, tensor.runs = codes, bool(signed), tuple(runs)
        return tensor

    def like(self, codes: Any) -> QTensor:
        """Other codes of the same samples, such as some channels of this tensor, which fit because these do."""
        return self.trusted_runs(codes, self.runs, self.signed)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def bits(self) -> int:
        """Width of a code, of the widest run."""
        return max(run.bits for run in self.runs)

    @property
    def scale(self) -> float | np.ndarray:
        """Real value of code 1: a number, or float64 (N,) where there are several runs."""
        if len(self.runs) == 1:
            return self.runs[0].scale
        return np.repeat([run.scale for run in self.runs], [run.samples for run in self.runs])

    @property
    def table(self) -> np.ndarray | None:
        """Width of each sample, uint8 (N,); None where all have the same."""
        if len({run.bits for run in self.runs}) == 1:
            return None
        return np.repeat(np.array([run.bits for run in self.runs], np.uint8), [run.samples for run in self.runs])

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest code that fit."""
        return code_range(self.bits, self.signed)

    def parts(self) -> list[QTensor]:
        """Each run as a tensor of its own."""
        if len(self.runs) == 1:
            return [self]
        ends = np.cumsum([run.samples for run in self.runs]).tolist()
        return [
            self.trusted_runs(self.codes[end - run.samples : end, ...], (run,), self.signed)
            for run, end in zip(self.runs, ends, strict=True)
        ]

    def transpose(self) -> QTensor:
        """The transposed matrix. Raises ValueError if this is no matrix, or one of several runs."""
        if len(self.shape) != 2 or len(self.runs) != 1:
            raise ValueError(f"only a matrix of one run can be transposed, this tensor is {self.shape}")
        return self.trusted(self.codes.T, self.bits, self.signed, self.runs[0].scale)


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest code of `bits` bits."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _own(codes: Any) -> Any:
    """A copy that nobody else can change, so that what a check finds stays true."""
    if not is_array_api_obj(codes):
        codes = np.asarray(codes)
    codes = array_namespace(codes).asarray(codes, copy=True)
    if is_numpy_array(codes):
        codes.flags.writeable = False
    return codes


def _samples(codes: Any) -> int:
    return codes.shape[0] if codes.shape else 1


def _check_bits(bits: Any, least: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not least <= bits <= MAX_BITS:
        raise ValueError(f"a tensor of {bits!r} bits: must be an integer from {least} to {MAX_BITS}")


def _check_codes(name: str, codes: Any, bits: int, signed: bool) -> None:
    xp = array_namespace(codes)
    kind = f"{name} ({'signed' if signed else 'unsigned'}, {bits} bits)"
    if not xp.isdtype(codes.dtype, "integral"):
        raise ValueError(f"{kind} has codes of type {codes.dtype}, must be an integer type")
    if 0 in codes.shape:
        return
    low, high = code_range(int(bits), signed)
    for value in (int(xp.min(codes)), int(xp.max(codes))):
        if not low <= value <= high:
            raise ValueError(f"{kind} holds the code {value}, must lie in {low} to {high}")
