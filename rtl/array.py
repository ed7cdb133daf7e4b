"""The array: clusters in lockstep, the delays that align their control, and the way of the results out."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .cells import Accumulator, Select
from .cluster import Cluster
from .config import ACC_BITS, AcceleratorConfig
from .control import DRAIN_ROWS, drain, step, stream_fill, table_step, weight_fill
from .delay import delayed
from .hierarchy import Macro
from .pe import processing_element
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
    stream_fill : In(control.stream_fill), weight_fill : In(control.weight_fill)
    table : In(control.table_step)
    step : In(control.step)
    drain : In(control.drain), drain_request : In(1), drain_grant : Out(1)
        Of each lane. A request is taken in a cycle in which both are high. Plane-cycles that need stored sums come
        first; lanes do not wait for each other, so they share the grant.
    drained : Out(4 sums of 48 bits), drained_valid : Out(1)
        Of each lane, `DRAIN_LATENCY` cycles after the grant.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        lanes = config.lanes
        super().__init__(
            {
                "stream_fill": In(stream_fill(config)),
                "weight_fill": In(weight_fill(config)),
                "table": In(table_step(config)),
                "step": In(step(config)),
                "drain": In(drain(config)).array(lanes),
                "drain_request": In(1).array(lanes),
                "drain_grant": Out(1),
                "drained": Out(data.ArrayLayout(ACC_BITS, DRAIN_ROWS)).array(lanes),
                "drained_valid": Out(1).array(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        timing = array_timing(config)

        s = self.step
        context = delayed(m, s.context, timing.context, "context")

        def working(first: int, cycles: int, name: str) -> Signal:
            """High for `cycles` cycles, from `first` cycles after each plane-cycle on: else units hold."""
            valid = delayed(m, s.valid, first - 1, f"{name}_valid", control=True)
            before = Signal(cycles - 1, name=f"{name}_before")
            high = Signal(name=name)
            m.d.sync += [before.eq(Cat(valid, before)), high.eq(Cat(valid, before).any())]
            return high

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
        lanes = [
            {
                "read_addr": Mux(reads, position, request.position),
                "quad": delayed(m, request.quad, ResultBank.READ_LATENCY, f"quad{lane}"),
            }
            for lane, request in enumerate(self.drain)
        ]

        broadcasts = {
            "stream_fill": self.stream_fill,
            "weight_fill": self.weight_fill,
            "table": self.table,
            "addr": s.addr,
            "column": delayed(m, s.column, timing.column, "column"),
            "row": delayed(m, s.row, timing.row, "row"),
            "kill": delayed(m, s.kill, timing.row, "kill"),
            "shift": delayed(m, s.shift, timing.shift, "shift"),
            "active": working(timing.context, processing_element(config).LATENCY, "active"),
            "context": context,
            "unsigned_digit": delayed(m, s.unsigned_digit, timing.bias, "unsigned_digit"),
            "accumulate": working(timing.weight, Accumulator.LATENCY, "accumulate"),
            "weight": weight.as_signed(),
            "upper": delayed(m, s.upper, timing.weight, "upper"),
            "select": select,
            "write": write,
            "write_addr": write_addr,
        }
        drained = []
        for i in range(config.clusters):
            m.submodules[f"cluster{i}"] = cluster = Macro(Cluster, config)
            of_lane = lanes[i % config.lanes]
            m.d.comb += [getattr(cluster, name).eq(value) for name, value in (broadcasts | of_lane).items()]
            m.d.comb += [
                cluster.stream_take.eq(self.stream_fill.clusters[i]),
                cluster.weight_take.eq(self.weight_fill.clusters[i]),
            ]
            # A register at the way out of each cluster.
            sums = Signal(DRAIN_ROWS * ACC_BITS, name=f"drained{i}", reset_less=True)
            m.d.sync += sums.eq(cluster.drained)
            drained.append(sums)
        for lane in range(config.lanes):
            self._choose(m, lane, drained[lane :: config.lanes], self.drain_request[lane] & ~reads)
        return m

    def _choose(self, m: Module, lane: int, drained: list, granted) -> None:
        """The way out of a lane: first the choice among neighbours, then among what they chose."""
        chosen = delayed(m, self.drain[lane].cluster, DRAIN_LATENCY - 2, f"chosen{lane}")
        bits = ceil_log2(NEIGHBOURS)
        far = delayed(m, chosen[bits:], 1, f"far{lane}")
        nearby = []
        for first in range(0, len(drained), NEIGHBOURS):
            choice = Signal(DRAIN_ROWS * ACC_BITS, name=f"drained{lane}_from{first}", reset_less=True)
            m.d.sync += choice.eq(Array(drained[first : first + NEIGHBOURS])[chosen[:bits]])
            nearby.append(choice)
        m.d.sync += self.drained[lane].as_value().eq(Array(nearby)[far] if len(nearby) > 1 else nearby[0])
        valid = delayed(m, granted, DRAIN_LATENCY, f"drained_valid{lane}", control=True)
        m.d.comb += self.drained_valid[lane].eq(valid)
