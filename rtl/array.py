"""The array: clusters in lockstep, the delays that align their control, and the way of the results out."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .cells import Select
from .cluster import Cluster
from .config import ACC_BITS, AcceleratorConfig
from .control import DRAIN_ROWS, drain, fill, step, table_step
from .delay import delayed
from .hierarchy import Macro
from .result import ResultBank
from .timing import array_timing

#: Clusters whose sums are multiplexed in one cycle on the way out.
NEIGHBOURS = 4
#: From a granted drain request to its sums: out of the cluster, a register, the choice among neighbours, and of those.
DRAIN_LATENCY = Cluster.DRAIN_LATENCY + 3


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
        timing = array_timing(config)

        s = self.step
        context = delayed(m, s.context, timing.context, "context")
        weight = delayed(m, Mux(s.valid, s.weight, 0), timing.weight, "weight", control=True)
        write = delayed(m, s.valid & s.last, timing.store, "write", control=True)
        position = delayed(m, s.position, timing.read, "position")
        write_addr = delayed(m, position, timing.store - timing.read, "write_addr")
        select = Signal(Select)
        m.d.comb += select.eq(Mux(s.first, Mux(s.clear, Select.ZERO, Select.C), Select.ACC))
        select = delayed(m, select, timing.select, "select")

        # The read port of the result buffers serves plane-cycles first, drain requests in the other cycles.
        reads = delayed(m, s.valid & s.first & ~s.clear, timing.read, "reads", control=True)
        m.d.comb += self.drain_grant.eq(~reads)
        read_addr = Mux(reads, position, self.drain.position)
        quad = delayed(m, self.drain.quad, ResultBank.READ_LATENCY, "quad")
        chosen = delayed(m, self.drain.cluster, DRAIN_LATENCY - 2, "chosen")
        m.d.comb += self.drained_valid.eq(
            delayed(m, self.drain_request & ~reads, DRAIN_LATENCY, "drained_valid", control=True)
        )

        broadcasts = {
            "fill": self.fill,
            "table": self.table,
            "addr": s.addr,
            "column": delayed(m, s.column, timing.column, "column"),
            "row": delayed(m, s.row, timing.row, "row"),
            "kill": delayed(m, s.kill, timing.row, "kill"),
            "context": context,
            "unsigned_digit": delayed(m, s.unsigned_digit, timing.bias, "unsigned_digit"),
            "weight": weight.as_signed(),
            "upper": delayed(m, s.upper, timing.weight, "upper"),
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
        # First the choice among neighbours, then among what they chose.
        bits = ceil_log2(NEIGHBOURS)
        far = delayed(m, chosen[bits:], 1, "far")
        nearby = []
        for first in range(0, config.clusters, NEIGHBOURS):
            choice = Signal(DRAIN_ROWS * ACC_BITS, name=f"drained_from{first}", reset_less=True)
            m.d.sync += choice.eq(Array(drained[first : first + NEIGHBOURS])[chosen[:bits]])
            nearby.append(choice)
        m.d.sync += self.drained.as_value().eq(Array(nearby)[far] if len(nearby) > 1 else nearby[0])
        return m
