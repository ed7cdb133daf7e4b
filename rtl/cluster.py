"""A cluster: stream buffer, tables, processing elements, accumulators. It only wires.

All control is broadcast and registered here once; the pipeline from a bank address to the stored sum takes
`STORE_CYCLE` cycles after that register.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .cells import Select
from .config import ACC_BITS, TAPS, AcceleratorConfig
from .control import DRAIN_ROWS, drain, fill, step, table_step
from .hierarchy import Macro
from .pe import processing_element
from .result import ResultBank
from .stream_buffer import StreamBuffer
from .table import SubsetSums

# Cycle in which each control input is used, counted from that of `addr`. `rtl.array` delays the broadcasts to match.
COLUMN_CYCLE = 1
KILL_CYCLE = 2
CONTEXT_CYCLE = 3
BIAS_CYCLE = 7
WEIGHT_CYCLE = 8
READ_CYCLE = 9
SELECT_CYCLE = 10
STORE_CYCLE = 12


class Cluster(wiring.Component):
    """Macro `cluster`: `rows` x 144 lanes.

    Members
    -------
    fill, take : the fill bus and this cluster's share of it
    table : In(control.table_step)
    addr, column, row, kill, context, unsigned_digit, weight, upper, select, read_addr, write, write_addr :
        One plane-cycle, each at its own cycle (see the constants above).
    quad, drained : see `ResultBank`; `quad` comes one cycle after `read_addr`, `drained` three after `read_addr`.
    """

    macro = "cluster"

    @staticmethod
    def ports(config: AcceleratorConfig) -> dict:
        position = ceil_log2(config.result_depth)
        return {
            "fill": In(fill(config)),
            "take": In(1),
            "table": In(table_step(config)),
            "addr": In(step(config)["addr"].shape),
            "column": In(2),
            "row": In(2),
            "kill": In(TAPS),
            "context": In(1),
            "unsigned_digit": In(1),
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

        beat, take, table = local("fill"), local("take"), local("table")
        m.submodules.stream = stream = StreamBuffer(config)
        m.submodules.subsets = subsets = SubsetSums(config)
        m.d.comb += [
            stream.fill.eq(beat),
            stream.take.eq(take),
            stream.addr.eq(local("addr")),
            stream.column.eq(local("column")),
            stream.row.eq(local("row")),
            stream.kill.eq(local("kill")),
            subsets.fill.eq(beat),
            subsets.take.eq(take),
            subsets.step.eq(table),
        ]

        m.submodules.result = result = ResultBank(config)
        unit = processing_element(config)
        unsigned_digit = local("unsigned_digit")
        context = local("context")
        for row in range(config.rows):
            m.submodules[f"pe{row}"] = pe = Macro(unit, config)
            m.d.comb += [
                pe.plane.eq(stream.plane),
                pe.context.eq(context),
                pe.unsigned_digit.eq(unsigned_digit),
                pe.entries.eq(subsets.entries),
                pe.entry_address.eq(table.entry),
                pe.entry_context.eq(table.context),
                pe.write.eq(table.write[row]),
                result.sums[row].eq(pe.sum),
            ]
        m.d.comb += [
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
