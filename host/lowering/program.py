"""What lowering hands to a board: programs whose results add up to a product."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from host.lowering.layout import ceil_div
from host.qtensor import Operand, largest_code
from host.ring import RESERVED_BYTES
from rtl.config import ACC_BITS
from rtl.isa import Descriptor, Flag

if TYPE_CHECKING:
    from host.backends.memory import MemoryBoard

#: Largest memory that the 32-bit addresses of a descriptor reach.
_ADDRESSABLE = 1 << 32


@dataclass(frozen=True)
class Program:
    """One filling of the board's memory.

    Attributes
    ----------
    writes : (address, bytes) to write first.
    descriptors : what to run then.
    address, nbytes : where the results lie.
    place : index of the part of the whole product that they belong to. Programs with one place add up.
    unpack : turns the result bytes into the integers of that part.
    """

    writes: Sequence[tuple[int, np.ndarray]]
    descriptors: Sequence[Descriptor]
    address: int
    nbytes: int
    place: tuple[slice, ...]
    unpack: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Lowered:
    """A product as programs.

    Attributes
    ----------
    shape : of the whole product as the programs see it.
    programs : to run in order. They are made one at a time, so that no two are in the host's memory together.
    finish : turns the whole product, int64, into what was asked for.
    """

    shape: tuple[int, ...]
    programs: Iterable[Program]
    finish: Callable[[np.ndarray], np.ndarray] = lambda whole: whole

    def then(self, finish: Callable[[np.ndarray], np.ndarray]) -> Lowered:
        """The same programs with one more step at the end."""
        return Lowered(self.shape, self.programs, lambda whole: finish(self.finish(whole)))

    def run(self, board: MemoryBoard) -> np.ndarray:
        """Run all programs; the exact product in int64. Raises AcceleratorError if the board stops."""
        whole = np.zeros(self.shape, np.int64)
        for program in self.programs:
            for address, data in program.writes:
                board.write(address, data)
            board.run(program.descriptors)
            whole[program.place] += program.unpack(board.read(program.address, program.nbytes))
        return self.finish(whole)


class Arena:
    """Hands out addresses of a board's memory, upwards, each at the start of a longest burst."""

    def __init__(self, burst_bytes: int):
        self._step = burst_bytes
        self._next = RESERVED_BYTES
        self.writes: list[tuple[int, np.ndarray]] = []

    def reserve(self, nbytes: int) -> int:
        address = ceil_div(self._next, self._step) * self._step
        self._next = address + nbytes
        return address

    def put(self, data: np.ndarray) -> int:
        """Reserve room for `data` (uint8) and note that it is to be written there."""
        address = self.reserve(data.nbytes)
        self.writes.append((address, data))
        return address

    @staticmethod
    def room(memory_bytes: int, burst_bytes: int) -> int:
        """Bytes that four objects may take together in a memory of `memory_bytes`."""
        return min(memory_bytes, _ADDRESSABLE) - RESERVED_BYTES - 4 * burst_bytes


def sum_bound(a: Operand, b: Operand) -> int:
    """Largest magnitude of any sum of products of codes of one row a[i] with whatever codes b may have.

    It bounds partial sums too, in any order. Raises OverflowError if it exceeds int64.
    """
    magnitudes = np.abs(a.codes.astype(np.int32)) if a.signed else a.codes
    norm = int(magnitudes.reshape(len(a.codes), -1).sum(axis=1, dtype=np.int64).max(initial=0))
    bound = norm * largest_code(b)
    if bound >= 1 << 63:
        raise OverflowError(f"a sum of products of {a.bits} and {b.bits} bits may reach {bound}, beyond int64")
    return bound


def most_terms(bound: int, terms: int, a: Operand, b: Operand) -> int:
    """How many of `terms` products, whose sum is within `bound`, an accumulator takes without overflow."""
    limit = (1 << ACC_BITS - 1) - 1
    return terms if bound <= limit else limit // (largest_code(a) * largest_code(b))


def result_bytes(bound: int) -> int:
    """Bytes of the narrowest result that holds sums within `bound`, or the parts of such a sum."""
    return 2 if bound < 1 << 15 else 4 if bound < 1 << 31 else 8


def descriptor_flags(stream: Operand, stationary: Operand, table: bool) -> Flag:
    """Flags of a product; `table`: the streaming operand has a precision table."""
    flags = Flag(0)
    for condition, flag in (
        (stream.signed, Flag.STREAM_SIGNED),
        (stationary.signed, Flag.STATIONARY_SIGNED),
        (table, Flag.STREAM_TABLE),
    ):
        if condition:
            flags |= flag
    return flags


def without_skipped(part: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """Zeros for samples of 0 bits: the board leaves their results unwritten."""
    return part if table is None else np.where((table > 0)[:, None, None], part, 0)


def round_sizes(
    whole: Sequence[int],
    most: Sequence[int],
    units: Sequence[int],
    footprint: Callable[..., float],
    room: int,
) -> tuple[int, ...]:
    """Sizes of a round: `most`, halved wherever it helps most until every round fits the room.

    Parameters
    ----------
    whole, most, units : for each dimension its size, the most that a round may take of it, and the unit of a cut.
    footprint : bytes of a round, called with a size for each dimension; infinite if no descriptor can describe it.

    Raises
    ------
    ValueError
        If not even one unit of each dimension fits.
    """

    def worst(sizes: tuple[int, ...]) -> float:
        # The rounds at the end of a dimension are smaller but may be tiled less densely.
        kinds = [{size, length % size or size} for length, size in zip(whole, sizes, strict=True)]
        return max(footprint(*kind) for kind in product(*kinds))

    sizes = tuple(most)
    while (need := worst(sizes)) > room:
        options = []
        for i, (size, unit) in enumerate(zip(sizes, units, strict=True)):
            if size > unit:
                half = ceil_div(ceil_div(size, 2), unit) * unit
                options.append((*sizes[:i], half, *sizes[i + 1 :]))
        if not options:
            what = f"needs {need} bytes" if need < inf else "fits no descriptor"
            raise ValueError(f"the smallest part of the product {what}, the board's memory has room for {room} bytes")
        sizes = min(options, key=worst)
    return sizes


def rounds(whole: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """All rounds of `sizes` that cover `whole`."""
    axes = [[slice(i, min(i + s, n)) for i in range(0, n, s)] for n, s in zip(whole, sizes, strict=True)]
    return product(*axes)
