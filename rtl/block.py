"""How a block of the layer descriptor is declared: its fields, where they lie and what each may hold.

A block stands beside the unit that owns it (`rtl.tiler_block`, `rtl.load_block`, `rtl.store_block`); `rtl.isa` puts
them together. The bytes, the RTL's layout, the checks of single fields and the manual all follow the declarations.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .config import BEAT_BYTES
from .errors import Error


@dataclass(frozen=True)
class Field:
    """A number of a block.

    Attributes
    ----------
    name : in its block.
    bits : 8, 16 or 32; any number of bytes where they are reserved.
    meaning : for the manual.
    default : what `Descriptor` assumes; None: it has to be named.
    least, most : what it may hold; `most` None: whatever fits.
    multiple : it is a multiple of this power of two.
    values : names of its values or, for an IntFlag, of its bits.
    unless : flag with which it means nothing and may hold anything.
    error : what any other value is.
    """

    name: str
    bits: int
    meaning: str
    default: int | None = 0
    least: int = 0
    most: int | None = None
    multiple: int = 1
    values: type[enum.IntEnum] | type[enum.IntFlag] | None = None
    unless: enum.IntFlag | None = None
    error: Error = Error.SHAPE

    @property
    def nbytes(self) -> int:
        return self.bits // 8

    def refuses(self, value: int) -> bool:
        """Whether the field must not hold `value`, all flags aside."""
        return value < self.least or (self.most is not None and value > self.most) or value % self.multiple != 0


def address(name: str, meaning: str) -> Field:
    """An address or stride in bytes, a multiple of a beat."""
    return Field(name, 32, meaning, multiple=BEAT_BYTES, error=Error.ALIGNMENT)


def size(name: str, bits: int, meaning: str, default: int = 1) -> Field:
    """A number that must not be zero."""
    return Field(name, bits, meaning, default, least=1)


@dataclass(frozen=True)
class Block:
    """Fields that belong together, each at a multiple of its own size; the bytes after the last are reserved.

    Attributes
    ----------
    name : of the block, in the RTL and the manual.
    prefix : what its fields are called in `Descriptor`, before their own names.
    meaning : for the manual.
    nbytes : of the block, a multiple of a beat.
    fields : in memory order, the reserved bytes left out.
    """

    name: str
    prefix: str
    meaning: str
    nbytes: int
    fields: tuple[Field, ...] = ()

    def __post_init__(self):
        if self.nbytes % BEAT_BYTES:
            raise ValueError(f"block {self.name} has {self.nbytes} bytes, must be a multiple of {BEAT_BYTES}")
        offset = 0
        for field in self.fields:
            if field.bits not in (8, 16, 32):
                raise ValueError(f"field {field.name} of block {self.name} has {field.bits} bits, must be 8, 16 or 32")
            if offset % field.nbytes:
                raise ValueError(
                    f"field {field.name} of block {self.name} lies at byte {offset}, no multiple of its size"
                )
            offset += field.nbytes
        if offset > self.nbytes:
            raise ValueError(f"the fields of block {self.name} take {offset} bytes, it has {self.nbytes}")

    @property
    def members(self) -> tuple[Field, ...]:
        """The fields and, as the last one, the reserved bytes, if there are any."""
        spare = 8 * self.nbytes - sum(field.bits for field in self.fields)
        return (*self.fields, *([Field("reserved", spare, "zero", most=0, error=Error.RESERVED)] if spare else ()))

    def flat(self, field: Field) -> str:
        """What the field is called in `Descriptor`."""
        return f"{self.name}_reserved" if field.name == "reserved" else self.prefix + field.name


class Place(NamedTuple):
    """A field, or the reserved bytes of a block, in the whole descriptor; `name` is what `Descriptor` calls it."""

    name: str
    offset: int
    block: Block
    field: Field


def places(blocks: Iterable[Block]) -> tuple[Place, ...]:
    """Everything in a descriptor of `blocks`, in memory order."""
    found, offset = [], 0
    for block in blocks:
        for field in block.members:
            found.append(Place(block.flat(field), offset, block, field))
            offset += field.nbytes
    return tuple(found)
