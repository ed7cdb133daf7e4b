"""Exact accumulation: one 48-bit accumulator a row, and the buffer of finished and partial sums.

A row's sum of one plane is multiplied by its weight, a signed power of two that stands for the plane and the digit at
once, and accumulated (`rtl.cells.Accumulator`, one DSP48E1). A position starts from zero or from the sum that earlier
digits and k blocks left in the result buffer, and returns there after its last plane.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .cells import Accumulator, Select
from .config import ACC_BITS, AcceleratorConfig
from .control import DRAIN_ROWS, drain
from .pe import SUM_BITS


class ResultBank(wiring.Component):
    """Accumulators and result buffer of one cluster.

    Members
    -------
    active : In(1)
        The accumulators hold while it is low. It is high for `Accumulator.LATENCY` cycles, from cycle t on.
    sums : In(array of signed(13)), weight : In(signed(18)), upper : In(1)
        In cycle t. A weight of 0 leaves the accumulators alone.
    read_addr : In
        The position whose stored sums the accumulators start from, or one to drain; `READ_LATENCY` cycles before
        `select`.
    select : In(Select)
        In cycle t + `Accumulator.BASE_DELAY`.
    write, write_addr : In
        In cycle t + `Accumulator.LATENCY`, where the accumulators show the result of cycle t.
    quad : In
        Rows 4 * quad to 4 * quad + 3, presented `READ_LATENCY` cycles after `read_addr`.
    drained : Out(4 * 48)
        Their sums, one cycle later.
    """

    READ_LATENCY = 2

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        address = ceil_log2(config.result_depth)
        super().__init__(
            {
                "active": In(1),
                "sums": In(data.ArrayLayout(signed(SUM_BITS), config.rows)),
                "weight": In(signed(18)),
                "upper": In(1),
                "read_addr": In(address),
                "select": In(Select),
                "write": In(1),
                "write_addr": In(address),
                "quad": In(drain(config)["quad"].shape),
                "drained": Out(DRAIN_ROWS * ACC_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rows = self._config.rows
        m.submodules.sums = memory = Memory(shape=rows * ACC_BITS, depth=self._config.result_depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            read.addr.eq(self.read_addr),
            read.en.eq(1),
            write.addr.eq(self.write_addr),
            write.en.eq(self.write),
        ]
        # A block RAM is slow to show its word: nothing but a register follows it.
        stored = Signal(rows * ACC_BITS, reset_less=True)
        m.d.sync += stored.eq(read.data)
        for row in range(rows):
            m.submodules[f"acc{row}"] = acc = Accumulator(vendor=self._config.vendor)
            m.d.comb += [
                acc.enable.eq(self.active),
                acc.sum.eq(self.sums[row]),
                acc.weight.eq(self.weight),
                acc.upper.eq(self.upper),
                acc.select.eq(self.select),
                acc.c.eq(stored.word_select(row, ACC_BITS).as_signed()),
                write.data.word_select(row, ACC_BITS).eq(acc.o),
            ]
        m.d.sync += self.drained.eq(stored.word_select(self.quad, DRAIN_ROWS * ACC_BITS))
        return m
