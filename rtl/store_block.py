"""STORE's blocks of the descriptor: where results go, and in which format."""

from __future__ import annotations

from amaranth.lib import enum

from .block import Block, Field, address
from .errors import Error


class Format(enum.IntEnum, shape=2):
    """How results are stored: log2 of their bytes, minus 1."""

    INT16 = 0  #: two bytes; results that do not fit are clipped and counted
    INT32 = 1  #: four bytes, likewise
    INT64 = 2  #: eight bytes

    @property
    def nbytes(self) -> int:
        """Bytes of a result."""
        return 2 << self

    @classmethod
    def of(cls, nbytes: int) -> Format:
        """The format of `nbytes` bytes. Raises KeyError if there is none."""
        return {form.nbytes: form for form in cls}[nbytes]


#: Bits of a result that may be shifted out.
MOST_SHIFT = 31


SINK = Block(
    "sink",
    "out_",
    "the results",
    16,
    (
        address("base", "address of the results"),
        address("stride_n", "bytes from sample to sample"),
        address("stride_m", "bytes from row block to row block"),
        Field("format", 8, "Format", Format.INT32, most=max(Format), values=Format, error=Error.FLAGS),
        Field("shift", 8, "bits that results are shifted right by before they are stored", most=MOST_SHIFT),
    ),
)
