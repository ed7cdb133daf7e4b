"""Four rows of a cluster with their own copies of what is broadcast to all rows.

A plane bit or a table's write address goes to hundreds of places in a cluster. A register for each group of rows leaves
no net more than one group's sinks.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, signed
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
    active : In(1)
        High from the cycle of each plane on for as long as an element works on it; the elements hold otherwise.
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
            "active": In(1),
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

        def copy(name: str, load=None):
            register = Signal(self.signature.members[name].shape, name=f"{name}_copy", reset_less=load is not None)
            with m.If(1 if load is None else load):
                m.d.sync += register.eq(getattr(self, name))
            return register

        enable, write = copy("active"), copy("write")
        copies = {name: copy(name, self.active) for name in ("context", "unsigned_digit")}
        # By table: a simulator keeps what is read together in a word of its own.
        planes = [Signal(GROUP_LANES, name=f"plane_copy{g}", reset_less=True) for g in range(GROUPS)]
        with m.If(self.active):
            m.d.sync += Cat(planes).eq(self.plane)
        copies["plane"] = Cat(planes)
        writes = ("entries", "entry_address", "entry_context")
        copies |= {name: copy(name, self.write.any()) for name in writes}
        for row in range(GROUP_ROWS):
            m.submodules[f"pe{row}"] = pe = Macro(unit, self._config)
            m.d.comb += [getattr(pe, name).eq(value) for name, value in copies.items()]
            m.d.comb += [pe.enable.eq(enable), pe.write.eq(write[row]), self.sums[row].eq(pe.sum)]
        return m
