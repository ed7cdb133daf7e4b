"""Four rows of a cluster with their own copies of what is broadcast to all rows.

A plane bit or a table's write address goes to hundreds of places in a cluster. A register for each group of rows leaves
no net more than one group's sinks.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import ENTRY_BITS, GROUP_LANES, GROUPS, LANES, AcceleratorConfig
from .hierarchy import Macro
from .pe import SUM_BITS, processing_element

#: Rows of a group.
GROUP_ROWS = 4


class RowGroup(wiring.Component):
    """Macro `row_group`: four processing elements behind a register of each input.

    Members
    -------
    plane, context, unsigned_digit, entries, entry_address, entry_context :
        As in `rtl.pe.ProcessingElement`, one cycle earlier.
    write : In(4)
        Which rows' tables take the entry, one cycle earlier too.
    sums : Out(array of signed(13))
    """

    macro = "row_group"

    @staticmethod
    def ports(config: AcceleratorConfig) -> dict:
        return {
            "plane": In(LANES),
            "context": In(1),
            "unsigned_digit": In(1),
            "entries": In(GROUPS * ENTRY_BITS),
            "entry_address": In(GROUP_LANES),
            "entry_context": In(1),
            "write": In(GROUP_ROWS),
            "sums": Out(data.ArrayLayout(signed(SUM_BITS), GROUP_ROWS)),
        }

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(self.ports(config))

    def elaborate(self, platform):
        m = Module()
        unit = processing_element(self._config)
        copies = {}
        for name in ("plane", "context", "unsigned_digit", "entries", "entry_address", "entry_context", "write"):
            copies[name] = Signal(self.signature.members[name].shape, name=f"{name}_copy", reset_less=True)
            m.d.sync += copies[name].eq(getattr(self, name))
        write = copies.pop("write")
        for row in range(GROUP_ROWS):
            m.submodules[f"pe{row}"] = pe = Macro(unit, self._config)
            m.d.comb += [getattr(pe, name).eq(value) for name, value in copies.items()]
            m.d.comb += [pe.write.eq(write[row]), self.sums[row].eq(pe.sum)]
        return m
