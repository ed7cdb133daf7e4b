"""Plans: what a board has to do for shapes and widths, without the data.

A plan names tensors, which have a format and so a size but no address, and nodes, whose descriptors address them
relative to their starts. It is made once for equal shapes and kept; `host.plan.bound` puts it on a board.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from host.operand import Operand
from host.plan.arrange import Calls
from host.plan.formats import Digits, Stationary, Stream, Sums, Table
from host.ring import RESERVED_BYTES
from rtl.config import BEAT_BYTES, CHIP_BASE, AcceleratorConfig
from rtl.isa import Descriptor, Flag
from rtl.isa import Format as ResultFormat

#: Largest memory that the 32-bit addresses of a descriptor reach.
_ADDRESSABLE = 1 << 32

Format = Stream | Stationary | Digits | Table | Sums


class Target(NamedTuple):
    """The accelerator that a plan is for.

    Attributes
    ----------
    memory_bytes : size of its memory; the first `RESERVED_BYTES` belong to the driver.
    """

    config: AcceleratorConfig
    memory_bytes: int

    @property
    def burst_bytes(self) -> int:
        """A longest burst; every tensor starts at one."""
        return self.config.burst_beats * BEAT_BYTES

    @property
    def end(self) -> int:
        """First address that no tensor may take."""
        return min(self.memory_bytes, CHIP_BASE if self.config.chip_kib else _ADDRESSABLE)

    @property
    def room(self) -> int:
        """Bytes that the four tensors of a product may take together."""
        return self.end - RESERVED_BYTES - 4 * self.burst_bytes


class Spec(NamedTuple):
    """What a plan has to know of an operand. `mixed`: its samples differ in width."""

    shape: tuple[int, ...]
    bits: int
    signed: bool
    mixed: bool = False

    @classmethod
    def of(cls, operand: Operand) -> Spec:
        return cls(operand.shape, operand.bits, operand.signed, operand.table is not None)

    def __str__(self) -> str:
        kind = f"{'signed' if self.signed else 'unsigned'}, {'up to ' * self.mixed}{self.bits} bits"
        return f"{self.shape} ({kind})"


@dataclass(frozen=True)
class Source:
    """An operand in the shape that a planner cuts into parts: `arrange` makes it of the operand's codes."""

    operand: str
    shape: tuple[int, ...]
    bits: int
    signed: bool
    arrange: Calls = ()

    @property
    def largest(self) -> int:
        """Largest magnitude that a code of this width can have."""
        return Operand(None, self.bits, self.signed).largest

    def then(self, shape: tuple[int, ...], calls: Calls) -> Source:
        """The operand after more calls, which give an array of `shape`."""
        return Source(self.operand, shape, self.bits, self.signed, self.arrange + calls)


@dataclass(frozen=True)
class Tensor:
    """A tensor in the board's memory.

    Attributes
    ----------
    name : the operand that it is a part of, or the result.
    first, last : nodes from which and up to which it is of use.
    """

    name: str
    format: Format
    first: int
    last: int

    @property
    def nbytes(self) -> int:
        return self.format.nbytes


@dataclass(frozen=True)
class Node:
    """Descriptors that run without the host in between.

    Attributes
    ----------
    bases : descriptor fields that hold addresses, and the number of the tensor that each is relative to.
    reads, writes : numbers of the tensors that must be there before, and that are there afterwards.
    """

    descriptors: tuple[Descriptor, ...]
    bases: tuple[tuple[str, int], ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]

    def at(self, address: Callable[[int], int]) -> list[Descriptor]:
        """The descriptors, where `address` says it of the number of a tensor."""
        return [
            replace(each, **{field: getattr(each, field) + address(number) for field, number in self.bases})
            for each in self.descriptors
        ]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a board has to do. Plans are compared by identity.

    Attributes
    ----------
    operands : by name.
    tensors, nodes : in the order in which they come up. What one node cannot hold is done by several.
    shape : of the result as the nodes give it; `finish` makes of it what was asked for.
    reach : the sums have to fit so many signed bits.
    bound : their largest possible magnitude, from the operands.
    """

    target: Target
    operands: dict[str, Spec]
    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    shape: tuple[int, ...]
    finish: Calls
    reach: int
    bound: Callable[..., int]

    @property
    def written_bytes(self) -> int:
        """Bytes of operands that the host writes, if none is there yet."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.name in self.operands)

    @property
    def read_bytes(self) -> int:
        """Bytes of results that the host reads."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.name not in self.operands)

    @property
    def peak_bytes(self) -> int:
        """Most bytes that one node needs in memory together."""
        return max(sum(self.tensors[number].nbytes for number in node.reads + node.writes) for node in self.nodes)


class Draft:
    """A plan in the making: planners add products to it, then set what is made of their results."""

    RESULT = "result"

    def __init__(self, target: Target, operands: dict[str, Spec], reach: int, bound: Callable[..., int]):
        self.target, self.operands, self.reach, self.bound = target, operands, reach, bound
        self.shape: tuple[int, ...] = ()
        self.finish: Calls = ()
        self._tensors: dict[tuple[str, Format], int] = {}
        self._nodes: list[Node] = []

    def product(
        self,
        stream: tuple[str, Stream],
        stationary: tuple[str, Stationary | Digits],
        sums: Sums,
        descriptors: Iterable[dict[str, int]],
    ) -> None:
        """Add a product of two parts of operands, each with the operand's name.

        `descriptors` has the fields of each descriptor that do not follow from the formats; addresses are relative to
        the tensors.
        """
        common = _product_fields(stream[1], stationary[1], sums)
        reads = [("stream_base", self._number(*stream)), ("stationary_base", self._number(*stationary))]
        if stream[1].table is not None:
            reads.append(("stream_table", self._number(stream[0], stream[1].table)))
        # Every product has results of its own, also where they add up to those of another.
        out = len(self._tensors)
        self._tensors[f"{self.RESULT} {len(self._nodes)}", sums] = out
        complete = tuple(Descriptor(**{**common, **fields}) for fields in descriptors)
        self._nodes.append(Node(complete, (*reads, ("out_base", out)), tuple(number for _, number in reads), (out,)))

    def _number(self, name: str, form: Format) -> int:
        return self._tensors.setdefault((name, form), len(self._tensors))

    def then(self, *finish: Calls) -> None:
        """Do more to the result."""
        self.finish = sum(finish, self.finish)

    def plan(self) -> Plan:
        """The plan, complete."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for index, node in enumerate(self._nodes):
            for number in node.reads + node.writes:
                first.setdefault(number, index)
                last[number] = index
        tensors = tuple(Tensor(name, form, first[n], last[n]) for (name, form), n in self._tensors.items())
        nodes = tuple(self._nodes)
        return Plan(self.target, self.operands, tensors, nodes, self.shape, self.finish, self.reach, self.bound)


def _product_fields(stream: Stream, stationary: Stationary | Digits, sums: Sums) -> dict[str, int]:
    """What the formats of a product say of its descriptors."""
    flags = {
        Flag.STREAM_SIGNED: stream.signed,
        Flag.STATIONARY_SIGNED: stationary.signed,
        Flag.STREAM_TABLE: stream.table is not None,
    }
    return {
        "flags": sum(flag for flag, is_set in flags.items() if is_set),
        "stream_bits": stream.bits,
        "stationary_bits": stationary.bits,
        "stream_stride_n": stream.sample_bytes,
        "stream_stride_c": stream.block_bytes,
        "stationary_stride_k": stationary.k_bytes,
        "stationary_stride_m": stationary.block_bytes,
        "stationary_order": stationary.order,
        "out_format": ResultFormat.of(sums.out_bytes),
        "out_stride_n": sums.sample_bytes,
        "out_stride_m": sums.block_bytes,
    }
