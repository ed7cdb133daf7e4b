"""What a descriptor reads and writes, as the golden model goes about it, whatever the memory holds or lacks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag
from sim import golden
from sim.golden_memory import Memory

#: Addresses are modulo this.
_SPACE = 1 << 32


class Footprint(NamedTuple):
    """Bytes of a memory that a descriptor touches.

    Attributes
    ----------
    reads : bool, whether a byte is read.
    writes : how often each is written.
    """

    reads: np.ndarray
    writes: np.ndarray

    @property
    def means_one_thing(self) -> bool:
        """No byte is written twice, or read and written: then no order of accesses changes anything."""
        return self.writes.max(initial=0) <= 1 and not np.any(self.reads & (self.writes > 0))


def footprint(config: AcceleratorConfig, memory: np.ndarray, d: Descriptor) -> Footprint:
    """Of a descriptor, as if there was memory everywhere; precisions are those of its tables in `memory`."""
    reads, writes = np.zeros(memory.size, bool), np.zeros(memory.size, np.uint16)

    def touched(starts, shape, strides):
        places = starts.astype(np.int64)
        for size, stride in zip(shape, strides, strict=True):
            places = places[..., None] + np.arange(size) * stride
        places = places.ravel() % _SPACE
        return places[places < memory.size]

    really_read = Memory.read

    def read(of, starts, shape, strides, error):
        """Stands in for the golden model's: remembers, and answers with zeros, but where a table is read."""
        if error == Error.AXI_FETCH:
            return really_read(of, starts, shape, strides, error)
        reads[touched(starts, shape, strides)] = True
        return np.zeros((len(starts), *shape), np.uint8)

    def write(_, starts, values, strides, error):
        np.add.at(writes, touched(starts, values.shape[1:], strides), 1)

    tables = ((Flag.STREAM_TABLE, d.stream_table, d.samples), (Flag.STATIONARY_TABLE, d.stationary_table, 1))
    for flag, start, count in tables:
        if d.flags & flag:
            places = (start + np.arange(count)) % _SPACE
            reads[places[places < memory.size]] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memory, "read", read)
        patch.setattr(Memory, "write", write)
        golden.execute(config, memory, [d])
    return Footprint(reads, writes)
