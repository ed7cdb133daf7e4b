"""The array: clusters in lockstep, the delays that align their control, and the way of the results out."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from . import cluster as timing
from .cells import Select
from .cluster import Cluster
from .config import ACC_BITS, AcceleratorConfig
from .control import DRAIN_ROWS, drain, fill, step, table_step
from .hierarchy import Macro

#: From a granted drain request to its sums.
DRAIN_LATENCY = 5
#: From a plane-cycle's step to its stored sum: until then a result slot is not complete.
STORE_LATENCY = timing.STORE_CYCLE + 3
#: From a plane-cycle's step to the read of the tables, and of the stream buffer.
TABLE_READ_LATENCY = timing.CONTEXT_CYCLE + 2
STREAM_READ_LATENCY = 2


class ClusterArray(wiring.Component):
    """All clusters.

    Members
    -------
    fill : In(control.fill)
    table : In(control.table_step)
    step : In(control.step)
    drain : In(control.drain), drain_request : In(1), drain_grant : Out(1)
        A request is taken in a cycle in which both are high. Plane-cycles that need stored sums come first.
    drained : Out(4 sums of 48 bits), drained_valid : Out(1)
        `DRAIN_LATENCY` cycles after the grant.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "fill": In(fill(config)),
                "table": In(table_step(config)),
                "step": In(step(config)),
                "drain": In(drain(config)),
                "drain_request": In(1),
                "drain_grant": Out(1),
                "drained": Out(data.ArrayLayout(ACC_BITS, DRAIN_ROWS)),
                "drained_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config

        def delayed(value, cycles: int, name: str, *, control: bool = False):
            """`value`, `cycles` later. Control bits are reset, data is not."""
            for i in range(cycles):
                stage = Signal.like(value, name=f"{name}_{i + 1}", reset_less=not control)
                m.d.sync += stage.eq(value)
                value = stage
            return value

        s = self.step
        context = delayed(s.context, timing.CONTEXT_CYCLE, "context")
        weight = delayed(Mux(s.valid, s.weight, 0), timing.WEIGHT_CYCLE, "weight", control=True)
        write = delayed(s.valid & s.last, timing.STORE_CYCLE, "write", control=True)
        position = delayed(s.position, timing.READ_CYCLE, "position")
        write_addr = delayed(position, timing.STORE_CYCLE - timing.READ_CYCLE, "write_addr")
        select = Signal(Select)
        m.d.comb += select.eq(Mux(s.first, Mux(s.clear, Select.ZERO, Select.C), Select.ACC))
        select = delayed(select, timing.SELECT_CYCLE, "select")

        # The read port of the result buffers serves plane-cycles first, drain requests in the other cycles.
        reads = delayed(s.valid & s.first & ~s.clear, timing.READ_CYCLE, "reads", control=True)
        m.d.comb += self.drain_grant.eq(~reads)
        read_addr = Mux(reads, position, self.drain.position)
        quad = delayed(self.drain.quad, 1, "quad")
        chosen = delayed(self.drain.cluster, DRAIN_LATENCY - 1, "chosen")
        m.d.comb += self.drained_valid.eq(
            delayed(self.drain_request & ~reads, DRAIN_LATENCY, "drained_valid", control=True)
        )

        broadcasts = {
            "fill": self.fill,
            "table": self.table,
            "addr": s.addr,
            "column": delayed(s.column, timing.COLUMN_CYCLE, "column"),
            "row": delayed(s.row, timing.KILL_CYCLE, "row"),
            "kill": delayed(s.kill, timing.KILL_CYCLE, "kill"),
            "context": context,
            "unsigned_digit": delayed(s.unsigned_digit, timing.BIAS_CYCLE, "unsigned_digit"),
            "weight": weight.as_signed(),
            "upper": delayed(s.upper, timing.WEIGHT_CYCLE, "upper"),
            "read_addr": read_addr,
            "select": select,
            "write": write,
            "write_addr": write_addr,
            "quad": quad,
        }
        drained = []
        for i in range(config.clusters):
            m.submodules[f"cluster{i}"] = cluster = Macro(Cluster, config)
            m.d.comb += [getattr(cluster, name).eq(value) for name, value in broadcasts.items()]
            m.d.comb += cluster.take.eq(self.fill.clusters[i])
            # A register at the way out of each cluster.
            sums = Signal(DRAIN_ROWS * ACC_BITS, name=f"drained{i}", reset_less=True)
            m.d.sync += sums.eq(cluster.drained)
            drained.append(sums)
        m.d.sync += self.drained.as_value().eq(Array(drained)[chosen])
        return m
