"""A cluster: stream buffer, tables, groups of rows, accumulators. It only wires.

All control is broadcast and registered here once; `rtl.timing` says in which cycle after that register each is used.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .cells import Select
from .config import ACC_BITS, TAPS, AcceleratorConfig
from .control import DRAIN_ROWS, Shift, drain, step, stream_fill, table_step, weight_fill
from .delay import delayed
from .hierarchy import Macro
from .result import ResultBank
from .row_group import GROUP_ROWS, RowGroup
from .stream_buffer import StreamBuffer
from .table import SubsetSums


class Cluster(wiring.Component):
    """Macro `cluster`: `rows` x 144 lanes.

    Members
    -------
    stream_fill, stream_take, weight_fill, weight_take : the fill buses, and whether this cluster takes the beat
    table : In(control.table_step)
    addr, column, row, kill, shift, active, context, unsigned_digit, accumulate, weight, upper, select, read_addr,
    write, write_addr :
        One plane-cycle, each at its own cycle (see `rtl.timing.ArrayTiming`).
    quad, drained : see `ResultBank`. `drained` comes `DRAIN_LATENCY` cycles after `read_addr`.
    """

    #: The register of `read_addr`, the reading of the sums, the choice of four of them.
    DRAIN_LATENCY = 1 + ResultBank.READ_LATENCY + 1

    macro = "cluster"

    @staticmethod
    def ports(config: AcceleratorConfig) -> dict:
        position = ceil_log2(config.result_depth)
        return {
            "stream_fill": In(stream_fill(config)),
            "stream_take": In(1),
            "weight_fill": In(weight_fill(config)),
            "weight_take": In(1),
            "table": In(table_step(config)),
            **{name: In(step(config)[name].shape) for name in ("addr", "column", "row")},
            "kill": In(TAPS),
            "shift": In(Shift),
            "active": In(1),
            "context": In(1),
            "unsigned_digit": In(1),
            "accumulate": In(1),
            "weight": In(signed(18)),
            "upper": In(1),
            "read_addr": In(position),
            "select": In(Select),
            "write": In(1),
            "write_addr": In(position),
            "quad": In(drain(config)["quad"].shape),
            "drained": Out(DRAIN_ROWS * ACC_BITS),
        }

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(self.ports(config))

    def elaborate(self, platform):
        m = Module()
        config = self._config

        def local(name: str):
            """This cluster's own register of a broadcast."""
            port = getattr(self, name)
            register = Signal(self.signature.members[name].shape, name=f"{name}_local", reset_less=True)
            m.d.sync += register.eq(port)
            return register

        table = local("table")
        m.submodules.stream = stream = StreamBuffer(config)
        m.submodules.subsets = subsets = SubsetSums(config)
        m.d.comb += [
            stream.fill.eq(local("stream_fill")),
            stream.take.eq(local("stream_take")),
            stream.addr.eq(local("addr")),
            stream.column.eq(local("column")),
            stream.row.eq(local("row")),
            stream.kill.eq(local("kill")),
            stream.shift.eq(local("shift")),
            subsets.fill.eq(local("weight_fill")),
            subsets.take.eq(local("weight_take")),
            subsets.step.eq(table),
        ]

        m.submodules.result = result = ResultBank(config)
        # The write of an entry goes along with the entry. `table` comes one cycle after the step that makes the entry.
        write = delayed(m, table.write, SubsetSums.ENTRY_LATENCY - 1, "write")
        entry = delayed(m, table.entry, SubsetSums.ENTRY_LATENCY - 1, "entry")
        entry_context = delayed(m, table.context, SubsetSums.ENTRY_LATENCY - 1, "entry_context")
        for first in range(0, config.rows, GROUP_ROWS):
            m.submodules[f"rows{first}"] = rows = Macro(RowGroup, config)
            m.d.comb += [
                rows.plane.eq(stream.plane),
                # These have no register here: the group's own is theirs.
                rows.active.eq(self.active),
                rows.context.eq(self.context),
                rows.unsigned_digit.eq(self.unsigned_digit),
                rows.entries.eq(subsets.entries),
                rows.entry_address.eq(entry),
                rows.entry_context.eq(entry_context),
                rows.write.eq(write[first : first + GROUP_ROWS]),
            ]
            m.d.comb += [result.sums[first + row].eq(rows.sums[row]) for row in range(GROUP_ROWS)]
        m.d.comb += [
            result.active.eq(local("accumulate")),
            result.weight.eq(local("weight")),
            result.upper.eq(local("upper")),
            result.read_addr.eq(local("read_addr")),
            result.select.eq(local("select")),
            result.write.eq(local("write")),
            result.write_addr.eq(local("write_addr")),
            result.quad.eq(local("quad")),
            self.drained.eq(result.drained),
        ]
        return m
