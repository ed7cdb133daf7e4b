"""Cycles and DDR bytes of programs of descriptors, without running them.

Cycles are those of the accelerator's clock; the memory is described in them, too, so a latency in seconds takes a clock
frequency and a `Ddr` that fits it. `host.cycles.pipeline` says how, and what is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from functools import lru_cache

from host.cycles.bus import Ddr
from host.cycles.pipeline import Cycles, Pipeline
from host.ring import RING_ENTRIES
from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.isa import Descriptor, Flag

FIELDS = tuple(field.name for field in fields(Descriptor))

Tables = Callable[[int, int], bytes]


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
            total += _cycles(self.config, self.ddr, tuple(self._key(d) for d in batch), found)
        return total

    @staticmethod
    def _table_bytes(d: Descriptor, tables: Tables | None) -> tuple[bytes, bytes]:
        """The precision bytes that a descriptor looks up: those of the samples, and that of the stationary operand."""
        named = [(Flag.STREAM_TABLE, d.stream_table, d.samples), (Flag.STATIONARY_TABLE, d.stationary_table, 1)]
        if tables is None and d.flags & (Flag.STREAM_TABLE | Flag.STATIONARY_TABLE):
            raise ValueError("the program names precision tables, so their bytes are needed")
        stream, stationary = (tables(address, count) if d.flags & flag else b"" for flag, address, count in named)
        return stream, stationary

    def _key(self, d: Descriptor) -> tuple[int, ...]:
        burst = self.config.burst_beats * BEAT_BYTES
        return tuple(
            int(value) % burst if name.endswith(("_base", "_table")) else int(value)
            for name, value in zip(FIELDS, astuple(d), strict=True)
        )


@lru_cache(maxsize=1 << 16)
def _cycles(
    config: AcceleratorConfig, ddr: Ddr, keys: tuple[tuple[int, ...], ...], tables: tuple[tuple[bytes, bytes], ...]
) -> Cycles:
    return Pipeline(config, ddr, [Descriptor(**dict(zip(FIELDS, key, strict=True))) for key in keys], tables).run()
