"""A board without an accelerator and without a memory: it keeps the descriptors that it is given.

What a training step submits does not depend on its data but for ranges of a first step. So the walk of `host.step` over
this board shows what steps of any size submit, for `host.cycles`, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from host.backends.memory import MemoryBoard
from host.operand import Operand
from host.plan.arrange import apply
from host.plan.plan import Plan
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Opcode, Pass
from rtl.vector_block import SUMS_BYTES

#: A channel's sums as a pass writes them.
_SUMS = np.dtype([("sums", "<i8"), ("products", "<i8"), ("low", "<i4"), ("high", "<i4")])
assert _SUMS.itemsize == SUMS_BYTES


class Run(NamedTuple):
    """Descriptors that the host waits for.

    Attributes
    ----------
    of_host : of each, whether the host has written its streaming operand.
    """

    descriptors: list[Descriptor]
    of_host: list[bool]


class RecordingBoard(MemoryBoard):
    """Addresses without bytes.

    What is written is gone. Sums of a pass read as those of numbers spread evenly over half of what it can store,
    everything else as zeros.

    Attributes
    ----------
    runs : what was run together, and together again.
    """

    name = "recording"

    def __init__(self, config: AcceleratorConfig, memory_bytes: int = 1 << 30):
        self.config, self.memory_bytes = config, memory_bytes
        self.runs: list[Run] = []
        self._written: set[int] = set()  # addresses of what the host has written
        self._sums: dict[int, Descriptor] = {}  # passes by the address of their sums

    def write(self, address: int, data: np.ndarray) -> None:
        self._sums.pop(address, None)
        self._written.add(address)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        raw = np.zeros(nbytes, np.uint8)
        d = self._sums.get(address)
        if d is not None:
            sets = raw[:-8].view(_SUMS)
            sets["high"] = (d.vector_top + 1) // 2
            sets["low"] = 0 if Pass.RELU & d.vector_controls else -sets["high"]
            count = d.height * d.width * (1 if d.vector_controls & Pass.EACH_SAMPLE else d.samples)
            sets["products"] = np.maximum(sets["high"].astype(np.int64) ** 2 // 3, 1) * count
            sets["sums"] = sets["high"] // 2 * count if Pass.RELU & d.vector_controls else 0
        return raw

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        run = Run(list(descriptors), [])
        for d in descriptors:
            run.of_host.append(d.stream_base in self._written)
            for address in (d.out_base, d.q_base, d.positive_base):
                self._sums.pop(address, None)
                self._written.discard(address)
            if d.opcode == Opcode.VECTOR and d.vector_controls & Pass.SUMS:
                self._sums[d.vector_sums] = d
        self.runs.append(run)

    def _product(self, plan: Plan, *operands: Operand) -> np.ndarray:
        """Zeros, whatever the operands hold; nothing is packed."""
        for node in plan.nodes:
            regions = {number: self.memory.take(plan.tensors[number].nbytes) for number in (*node.reads, *node.writes)}
            self.host_write_bytes += sum(regions[number].nbytes for number in node.reads)
            self.host_read_bytes += sum(regions[number].nbytes for number in node.writes)
            self._written |= {regions[number].address for number in node.reads}
            self.run(node.at(lambda number, regions=regions: regions[number].address))
            for region in regions.values():
                self.memory.release(region)
        return apply(plan.finish, np.zeros(plan.shape, np.int64))
