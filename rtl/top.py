"""The accelerator: one AXI4-Lite subordinate, one AXI4 manager, one interrupt. It wires, and orders the soft reset."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .array import ClusterArray
from .axi import AXI4, AXILite
from .config import BEAT_BYTES, AcceleratorConfig
from .csr import RegisterBank
from .dma import ReadArbiter, Reader, Writer
from .execute import Execute
from .fetch import Fetch
from .isa import COUNTER_NAMES, CSR_ADDRESS_BITS
from .load import Load
from .queue import Queue
from .stop import Stop
from .store import Store
from .table import TableLoader
from .tiler import Tiler
from .tiles import INDEX, exec_tile, load_tile, store_tile


class Accelerator(wiring.Component):
    """The whole accelerator, in one clock domain.

    Members
    -------
    axi : Out(AXI4)
        To DDR: descriptors, precision tables, operands, results.
    csr : In(AXILite)
        `rtl.isa.CSR`.
    interrupt : Out(1)
        Level; until the pending bits are cleared.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({"axi": Out(AXI4()), "csr": In(AXILite(CSR_ADDRESS_BITS)), "interrupt": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        reset = Signal()  # of everything but the CSRs
        halt = Signal()  # no new bursts

        def unit(name: str, component):
            m.submodules[name] = ResetInserter(reset)(component)
            return component

        m.submodules.csr = csr = RegisterBank(config)
        m.submodules.stop = stop = Stop()
        reader, writer = unit("reader", Reader(config)), unit("writer", Writer(config))
        arbiter = unit("arbiter", ReadArbiter(config))
        fetch, tiler = unit("fetch", Fetch()), unit("tiler", Tiler(config))
        load, execute, store = (
            unit("load", Load(config)),
            unit("execute", Execute(config)),
            unit("store", Store(config)),
        )
        table, array = unit("table", TableLoader(config)), unit("array", ClusterArray(config))
        queues = {
            "load": unit("load_queue", Queue(load_tile(config), config.queue_depth)),
            "execute": unit("execute_queue", Queue(exec_tile(config), config.queue_depth)),
            "store": unit("store_queue", Queue(store_tile(config), config.queue_depth)),
        }

        # Buses.
        wiring.connect(m, wiring.flipped(self.csr), csr.bus)
        for channel, engine in (("ar", reader), ("r", reader), ("aw", writer), ("w", writer), ("b", writer)):
            wiring.connect(m, getattr(engine, channel), wiring.flipped(getattr(self.axi, channel)))
        m.d.comb += self.interrupt.eq(csr.interrupt)

        # Descriptors to tiles, tiles to units.
        m.d.sync += fetch.enable.eq(csr.enable & ~csr.reset_request & ~stop.stopped)
        m.d.comb += [
            fetch.ring_base.eq(csr.ring_base),
            fetch.ring_mask.eq(csr.ring_mask),
            fetch.tail.eq(csr.tail),
            csr.head.eq(fetch.head),
        ]
        wiring.connect(m, fetch.o, tiler.i)
        wiring.connect(m, tiler.lookup, fetch.lookup)
        wiring.connect(m, fetch.looked_up, tiler.looked_up)
        for name, component in (("load", load), ("execute", execute), ("store", store)):
            wiring.connect(m, getattr(tiler, name), queues[name].i)
            wiring.connect(m, queues[name].o, component.i)

        # Memory.
        wiring.connect(m, fetch.command, arbiter.i0)
        wiring.connect(m, load.command, arbiter.i1)
        wiring.connect(m, arbiter.o, reader.i)
        wiring.connect(m, reader.o, arbiter.beats)
        wiring.connect(m, arbiter.beats1, load.beats)
        wiring.connect(m, store.command, writer.i)
        wiring.connect(m, store.beats, writer.data)
        m.d.comb += [
            # A refused access is known one cycle after its response; nothing may complete from then on.
            store.quiet.eq(writer.quiet & ~writer.fault.valid & ~halt),
        ]

        # Buffer slots go round: LOAD fills, the table loader and EXEC use, STORE empties.
        wiring.connect(m, load.weight_slots, table.i)
        wiring.connect(m, load.stream_slots, execute.stream_slots)
        m.d.comb += [
            load.weight_free.eq(table.weight_free),
            load.stream_free.eq(execute.stream_free),
            execute.context_full.eq(table.context_full),
            table.context_free.eq(execute.context_free),
            store.result_full.eq(execute.result_full),
            execute.result_free.eq(store.result_free),
        ]

        # The array.
        m.d.comb += [
            array.fill.eq(load.fill),
            array.table.eq(table.step),
            array.step.eq(execute.step),
            array.drain.eq(store.drain),
            array.drain_request.eq(store.drain_request),
            store.drain_grant.eq(array.drain_grant),
            store.drained.eq(array.drained),
            store.drained_valid.eq(array.drained_valid),
        ]

        # Completion. A tile or end is in work from the tiler to STORE, which is the last to be done with it.
        completed = Signal(INDEX)
        in_work = Signal(range(config.queue_depth + 3))
        none_in_work = Signal(init=1)
        begun = Signal()
        m.d.sync += begun.eq(tiler.store.valid & tiler.store.ready)
        with m.If(store.completed):
            m.d.sync += completed.eq(completed + 1)
        with m.If(begun & ~store.finished):
            m.d.sync += [in_work.eq(in_work + 1), none_in_work.eq(0)]
        with m.Elif(store.finished & ~begun):
            m.d.sync += [in_work.eq(in_work - 1), none_in_work.eq(in_work == 1)]
        quiescent = none_in_work & ~begun & writer.quiet
        m.d.sync += csr.idle.eq(quiescent & fetch.idle & tiler.idle & reader.idle)
        m.d.comb += [
            tiler.completed.eq(completed),
            tiler.quiescent.eq(quiescent),
            csr.completed.eq(completed),
            csr.done.eq(store.interrupt),
        ]

        # Errors. A refused read stops who wanted it; an error on the bus that counts halts all bursts.
        m.d.comb += [
            stop.read.eq(reader.fault),
            stop.operand.eq(arbiter.user),
            stop.write.eq(writer.fault),
            stop.descriptor.error.eq(tiler.error),
            stop.descriptor.index.eq(tiler.error_index),
            stop.completed.eq(completed),
            stop.clear.eq(reset),
            csr.error.eq(stop.failure.error),
            csr.error_index.eq(stop.failure.index),
            fetch.beats.payload.eq(arbiter.beats0.payload),
            fetch.beats.valid.eq(arbiter.beats0.valid & ~reader.fault.valid & ~stop.refused_fetch),
        ]

        # Soft reset: no new bursts, wait until the bus is quiet, then reset all units in one cycle.
        quiet = csr.reset_request & reader.idle & writer.idle
        quiet_before = Signal()
        m.d.sync += [quiet_before.eq(quiet), reset.eq(quiet & quiet_before & ~reset)]
        m.d.comb += [
            halt.eq(csr.reset_request | stop.bus),
            reader.halt.eq(halt | stop.refused_load),
            writer.halt.eq(halt),
            csr.reset_done.eq(reset),
        ]
        with m.If(reset):
            m.d.sync += [completed.eq(0), begun.eq(0), in_work.eq(0), none_in_work.eq(1)]

        events = {
            "cycles": 1,
            "busy": ~csr.idle,
            "load_busy": arbiter.beats1.valid,
            "load_stall_slot": load.waiting,
            "load_stall_axi": reader.waiting,
            "table_busy": table.busy,
            "exec_busy": execute.step.valid,
            "exec_stall_stream": execute.wait_stream,
            "exec_stall_table": execute.wait_table,
            "exec_stall_result": execute.wait_result,
            "store_busy": writer.w.valid & writer.w.ready,
            "store_stall_result": store.waiting,
            "store_stall_axi": writer.waiting,
            "read_bytes": Mux(reader.r.valid & reader.r.ready, BEAT_BYTES, 0),
            "write_bytes": Mux(writer.w.valid & writer.w.ready, BEAT_BYTES, 0),
            "planes_skipped": execute.skipped,
            "overflows": store.overflows,
            "descriptors": store.completed,
        }
        m.d.comb += [csr.events[i].eq(events[name]) for i, name in enumerate(COUNTER_NAMES)]
        return m
