"""Cycles and DDR bytes of plans and of programs of descriptors, without running them.

Cycles are those of the accelerator's clock; the memory is described in them, too, so a latency in seconds takes a clock
frequency and a `Ddr` that fits it. `host.cycles.pipeline` says how, and what is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, fields, replace
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from host.cycles.pipeline import Bounds, Cycles, Pipeline
from host.plan.formats import Table
from host.plan.plan import Node, Plan
from host.ring import RING_ENTRIES
from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.ddr import Ddr
from rtl.isa import Descriptor, Flag, Opcode

FIELDS = tuple(field.name for field in fields(Descriptor))

Tables = Callable[[int, int], bytes]

_NO_TABLES = (b"", b"")

#: Fields that change nothing but numbers.
_OF_NO_TIME = {
    *("vector_key_low", "vector_key_high", "vector_number", "vector_number_stride_n", "vector_number_stride_c"),
    *("vector_raised", "vector_top", "vector_shift", "vector_dropped"),
    "out_shift",
}
#: Endings of fields that are addresses.
_ADDRESSES = ("_base", "_table", "_coefficients", "_sums")

#: Samples of a run that is long: several tiles on every cluster.
_LONG_RUN = 40


#: A vector pass alone of more samples than twice as many is put together from two of so many and twice so many: every
#: further sample takes as long as the one before.
_PASS_SAMPLES = 8


class Segment(NamedTuple):
    """Descriptors between two fences, and what they take from one to the other."""

    descriptors: Sequence[Descriptor]
    cycles: Cycles
    bounds: Bounds


class CycleModel:
    """Cycles of programs on an accelerator.

    Parameters
    ----------
    config : the accelerator.
    ddr : its memory.
    """

    def __init__(self, config: AcceleratorConfig, ddr: Ddr | None = None):
        self.config, self.ddr = config, ddr or Ddr()

    def program(self, descriptors: Sequence[Descriptor], tables: Tables | None = None) -> Cycles:
        """What `descriptors` take, one filling of the ring after the other, as the driver runs them.

        Parameters
        ----------
        tables : reads (address, bytes) of the memory; needed only where descriptors name precision tables.

        Equal shapes are computed once: of an address only its place in a burst matters.
        """
        total = Cycles()
        for first in range(0, len(descriptors), RING_ENTRIES):
            batch = descriptors[first : first + RING_ENTRIES]
            found = tuple(self._table_bytes(d, tables) for d in batch)
            total += _cycles(self.config, self.ddr, tuple(self._key(d) for d in batch), found, False)[0]
        return total

    def segments(self, descriptors: Sequence[Descriptor]) -> Iterator[Segment]:
        """What `descriptors` without precision tables take, as `program`, between fences.

        At a fence nothing is under way but the next descriptor, which has been fetched by then.
        """
        for first in range(0, len(descriptors), RING_ENTRIES):
            batch = descriptors[first : first + RING_ENTRIES]
            starts = [0, *(i for i, d in enumerate(batch) if i and d.flags & Flag.FENCE), len(batch)]
            for start, end in pairwise(starts):
                cycles, bounds = self._segment(batch[start:end], fetched=start > 0)
                yield Segment(batch[start:end], cycles, bounds)

    def _segment(self, descriptors: Sequence[Descriptor], *, fetched: bool) -> tuple[Cycles, Bounds]:
        first = descriptors[0]
        few, many = _PASS_SAMPLES, 2 * _PASS_SAMPLES
        if len(descriptors) > 1 or first.opcode != Opcode.VECTOR or first.samples <= many:
            return self._found(descriptors, fetched=fetched)
        parts = [self._found([replace(first, samples=samples)], fetched=fetched) for samples in (few, many)]
        more = first.samples - many
        cycles, bounds = (
            [high + (high - low) * more // few for low, high in zip(*values, strict=True)]
            for values in ([astuple(cycles) for cycles, _ in parts], [bounds for _, bounds in parts])
        )
        return Cycles(*cycles), Bounds(*bounds)

    def _found(self, descriptors: Sequence[Descriptor], *, fetched: bool) -> tuple[Cycles, Bounds]:
        keys = tuple(self._key(d) for d in descriptors)
        return _cycles(self.config, self.ddr, keys, (_NO_TABLES,) * len(descriptors), fetched)

    def plan(self, plan: Plan, table: np.ndarray | None = None) -> Cycles:
        """What a plan takes; `table` is that of its mixed operand, uint8 (N,), if it has one."""
        if table is None:
            return _plan_cycles(self.config, self.ddr, plan)
        return sum((self._run(node, _node_table(plan, node, table).tolist()) for node in plan.nodes), Cycles())

    def plan_by_runs(self, plan: Plan, table: np.ndarray) -> Cycles:
        """The same, put together from runs of samples of equal width.

        Batches of gated networks hardly ever repeat, their runs do. A run hides part of the latency of the one before
        it; how much is taken from two long runs of the same widths. On the layers of ResNet-20 the sum is within 2 % of
        the model of the whole batch.
        """
        total = Cycles()
        for node in plan.nodes:
            samples = _node_table(plan, node, table)
            runs = [(bits, len(list(run))) for bits, run in groupby(samples.tolist())]
            total += sum((self._run(node, [bits] * count) for bits, count in runs), Cycles())
            long = min(len(samples), _LONG_RUN)
            for (before, _), (after, _) in pairwise(runs):
                apart = self._run(node, [before] * long) + self._run(node, [after] * long)
                total -= apart - self._run(node, [before] * long + [after] * long)
        return total

    def _run(self, node: Node, bits: list[int]) -> Cycles:
        """A node's descriptors, for other samples."""
        descriptors = [replace(descriptor, samples=len(bits)) for descriptor in node.descriptors]
        return self.program(descriptors, lambda address, count: bytes(bits))

    @staticmethod
    def _table_bytes(d: Descriptor, tables: Tables | None) -> tuple[bytes, bytes]:
        """The precision bytes that a descriptor looks up: those of the samples, and that of the stationary operand."""
        named = [(Flag.STREAM_TABLE, d.stream_table, d.samples), (Flag.STATIONARY_TABLE, d.stationary_table, 1)]
        found = []
        for flag, address, count in named:
            if d.flags & flag and tables is None:
                raise ValueError("the program names precision tables, so their bytes are needed")
            found.append(tables(address, count) if tables is not None and d.flags & flag else b"")
        stream, stationary = found
        return stream, stationary

    def _key(self, d: Descriptor) -> tuple[int, ...]:
        """What a descriptor's cycles depend on, as numbers."""
        burst = self.config.burst_beats * BEAT_BYTES
        return tuple(
            int(value) % burst if name.endswith(_ADDRESSES) else int(value) * (name not in _OF_NO_TIME)
            for name, value in zip(FIELDS, astuple(d), strict=True)
        )


def _node_table(plan: Plan, node: Node, table: np.ndarray) -> np.ndarray:
    """The precision bytes of the samples of a node's descriptors."""
    return next(form.pack(table) for n in node.reads if isinstance(form := plan.tensors[n].format, Table))


@lru_cache(maxsize=1 << 12)
def _plan_cycles(config: AcceleratorConfig, ddr: Ddr, plan: Plan) -> Cycles:
    model = CycleModel(config, ddr)
    return sum((model.program(node.descriptors) for node in plan.nodes), Cycles())


@lru_cache(maxsize=1 << 16)
def _cycles(
    config: AcceleratorConfig,
    ddr: Ddr,
    keys: tuple[tuple[int, ...], ...],
    tables: tuple[tuple[bytes, bytes], ...],
    fetched: bool,
) -> tuple[Cycles, Bounds]:
    descriptors = [Descriptor(**dict(zip(FIELDS, key, strict=True))) for key in keys]
    pipeline = Pipeline(config, ddr, descriptors, tables, fetched=fetched)
    return pipeline.run(), pipeline.bounds
