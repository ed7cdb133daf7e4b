"""Why the accelerator stops: the codes, what each means, and which of two counts.

The ring stops at the first descriptor that has an error; all work before it is complete, and nothing after it has
written but what runs beside it: passes beside a product and products beside a pass whose access is refused, up to the
next fence. Of several errors of one descriptor this one counts:

1. what its fields show, the lowest code first;
2. the stationary operand's precision byte: that it cannot be read, or is out of range (0 ends the descriptor);
3. that the results of a tile do not fit;
4. the samples' precision bytes in order: that one cannot be read, is out of range, or that a tile of it does not fit.
   The samples before it are done first.

Refused accesses of one descriptor's operands and results stop it at once. Of several of them, and of one of them and a
precision byte that cannot be read, the first to be answered counts.
"""

from __future__ import annotations

import enum


class Error(enum.IntEnum):
    """Why the ring stopped; `ERROR_INDEX` says at which descriptor."""

    meaning: str  #: in words

    def __new__(cls, code: int, meaning: str):
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    NONE = 0, "no error"
    OPCODE = 1, "unknown opcode"
    FLAGS = 2, "unknown flag bits, or an unknown format or order"
    RESERVED = 3, "a reserved byte is not zero"
    PRECISION = 4, "bits of an operand outside 1..16"
    ALIGNMENT = 5, "an address or stride is no multiple of 8"
    SHAPE = 6, "a size is out of range or contradicts another, or a tile does not fit the buffers"
    AXI_FETCH = 7, "error response while reading a descriptor or a precision table"
    AXI_READ = 8, "error response while reading an operand"
    AXI_WRITE = 9, "error response while writing a result"
