"""The accelerator: an AXI4-Lite subordinate, AXI4 managers, an interrupt. It wires, and orders the soft reset."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .arbiter import ReadArbiter, WriteArbiter
from .array import ClusterArray
from .axi import AXI4, AXILite
from .chip import Chip
from .config import BEAT_BYTES, AcceleratorConfig
from .csr import RegisterBank
from .dma import Reader, Writer
from .errors import Error
from .execute import Execute
from .fetch import Fetch
from .isa import COUNTER_NAMES, CSR_ADDRESS_BITS
from .load import Load
from .queue import Queue
from .stop import Stop
from .store import Store
from .table import TableLoader
from .tiler import Tiler
from .tiles import INDEX, VectorTile, exec_tile, load_tile, store_tile
from .vector import Vector

#: Of a writer's users.
STORE, VECTOR = 0, 1


class Accelerator(wiring.Component):
    """The whole accelerator, in one clock domain.

    Members
    -------
    axi : Out(AXI4) of each manager
        To DDR. The streaming operand is read over the last, everything else over the first; results leave over all.
    csr : In(AXILite)
        `rtl.isa.CSR`.
    interrupt : Out(1)
        Level; until the pending bits are cleared.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "axi": Out(AXI4()).array(config.managers),
                "csr": In(AXILite(CSR_ADDRESS_BITS)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        reset = Signal()  # of everything but the CSRs
        halt = Signal()  # no new bursts

        def unit(name: str, component):
            m.submodules[name] = ResetInserter(reset)(component)
            return component

        m.submodules.csr = csr = RegisterBank(config)
        readers = [unit(f"reader{manager}", Reader(config)) for manager in range(config.managers)]
        writers = [unit(f"writer{lane}", Writer(config)) for lane in range(config.lanes)]
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
        # Who shares each reader and writer, the first goes first, and what a refused read of theirs is.
        users = [[] for _ in readers]
        writing = [[lane] for lane in zip(store.command, store.beats, strict=True)]
        users[0].append((Error.AXI_FETCH, fetch.command, fetch.beats))
        for manager, (command, beats) in enumerate(zip(load.command, load.beats, strict=True)):
            users[manager].append((Error.AXI_READ, command, beats))
        if config.vector:
            passes, vector = unit("vector_queue", Queue(VectorTile, 1)), unit("vector", Vector(config))
            wiring.connect(m, tiler.vector, passes.i)
            wiring.connect(m, passes.o, vector.i)
            for sharing, command, beats in zip(users, vector.command, vector.beats, strict=True):
                sharing.append((Error.AXI_READ, command, beats))
            writing[-1].append((vector.write, vector.data))
        kinds = [[error for error, _, _ in sharing] for sharing in users]
        # STORE's refused writes count at once, as it works on the first descriptor that is not complete.
        kinds.append([Error.NONE, Error.AXI_WRITE][: len(writing[-1])])
        m.submodules.stop = stop = Stop(kinds)

        # Buses. The memory on the chip, if there is one, stands between the engines and the ports.
        wiring.connect(m, wiring.flipped(self.csr), csr.bus)
        buses = [wiring.flipped(axi) for axi in self.axi]
        if config.chip_kib:
            chip = unit("chip", Chip(config))
            for port, axi in zip(chip.ports, buses, strict=True):
                wiring.connect(m, port, axi)
            buses = chip.engines
        for engines, channels in ((readers, ("ar", "r")), (writers, ("aw", "w", "b"))):
            for axi, engine in zip(buses, engines, strict=False):
                for channel in channels:
                    wiring.connect(m, getattr(engine, channel), getattr(axi, channel))
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
        for manager, (reader, sharing) in enumerate(zip(readers, users, strict=True)):
            arbiter = unit(f"arbiter{manager}", ReadArbiter(len(sharing)))
            wiring.connect(m, arbiter.o, reader.i)
            wiring.connect(m, reader.o, arbiter.beats)
            for (_, command, beats), i, share in zip(sharing, arbiter.i, arbiter.share, strict=True):
                wiring.connect(m, command, i)
                wiring.connect(m, share, beats)
            if manager == config.managers - 1:
                m.d.comb += reader.hold.eq(load.hold)
            m.d.comb += [
                arbiter.fault.eq(reader.fault),
                arbiter.closed.eq(stop.refused[manager]),
                stop.fault[manager].eq(reader.fault),
            ]
        all_quiet = 1
        for lane, (writer, sharing) in enumerate(zip(writers, writing, strict=True)):
            arbiter = unit(f"write_arbiter{lane}", WriteArbiter(config, len(sharing)))
            all_quiet &= arbiter.quiet.all()
            wiring.connect(m, arbiter.o, writer.i)
            wiring.connect(m, arbiter.beats, writer.data)
            m.d.comb += [arbiter.user.eq(writer.user), arbiter.done.eq(writer.done)]
            for (command, data), i, port in zip(sharing, arbiter.i, arbiter.data, strict=True):
                wiring.connect(m, command, i)
                wiring.connect(m, data, port)
            # A refused access is known one cycle after its response; nothing of it may complete from then on.
            m.d.comb += store.quiet[lane].eq(arbiter.quiet[STORE] & ~writer.fault.valid & ~halt)

        if config.vector:
            # A pass is finished when all that it wrote has been acknowledged; STORE completes it in its turn.
            refused = writers[-1].fault.valid | stop.refused[-1][VECTOR]
            m.d.comb += [
                vector.quiet.eq(arbiter.quiet[VECTOR] & ~refused & ~halt),
                store.vector_finished.eq(vector.finished),
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
            array.stream_fill.eq(load.stream_fill),
            array.weight_fill.eq(load.weight_fill),
            array.table.eq(table.step),
            array.step.eq(execute.step),
            store.drain_grant.eq(array.drain_grant),
        ]
        for lane in range(config.lanes):
            m.d.comb += [
                array.drain[lane].eq(store.drain[lane]),
                array.drain_request[lane].eq(store.drain_request[lane]),
                store.drained[lane].eq(array.drained[lane]),
                store.drained_valid[lane].eq(array.drained_valid[lane]),
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
        quiescent = none_in_work & ~begun & all_quiet
        reads_idle = Cat(reader.idle for reader in readers).all()
        # All were idle in one cycle, and no descriptor has come since.
        nothing_comes = fetch.idle & tiler.idle
        was_idle = Signal()
        m.d.sync += [was_idle.eq(quiescent & nothing_comes & reads_idle), csr.idle.eq(was_idle & nothing_comes)]
        m.d.comb += [
            tiler.completed.eq(completed),
            tiler.quiescent.eq(quiescent),
            csr.completed.eq(completed),
            csr.done.eq(store.interrupt),
        ]

        # Errors. One on the bus that counts halts all bursts.
        refused_store = [writer.fault.valid & (writer.fault.user == STORE) for writer in writers]
        m.d.comb += [
            stop.fault[-1].eq(writers[-1].fault),
            # Lanes work at one descriptor at a time, so all refusals are of the same.
            stop.write.valid.eq(Cat(refused_store).any()),
            stop.write.index.eq(Mux(refused_store[0], writers[0].fault.index, writers[-1].fault.index)),
            stop.descriptor.error.eq(tiler.error),
            stop.descriptor.index.eq(tiler.error_index),
            stop.completed.eq(completed),
            stop.clear.eq(reset),
            csr.error.eq(stop.failure.error),
            csr.error_index.eq(stop.failure.index),
        ]

        # Soft reset: no new bursts, wait until the bus is quiet, then reset all units in one cycle.
        quiet = csr.reset_request & reads_idle & Cat(writer.idle for writer in writers).all()
        quiet_before = Signal()
        m.d.sync += [quiet_before.eq(quiet), reset.eq(quiet & quiet_before & ~reset)]
        m.d.comb += [
            halt.eq(csr.reset_request | stop.bus),
            *(engine.halt.eq(halt) for engine in (*readers, *writers)),
            csr.reset_done.eq(reset),
        ]
        with m.If(reset):
            m.d.sync += [completed.eq(0), begun.eq(0), in_work.eq(0), none_in_work.eq(1)]

        read = sum(axi.r.valid & axi.r.ready for axi in self.axi)
        written = sum(axi.w.valid & axi.w.ready for axi in self.axi)
        events = {
            "cycles": 1,
            "busy": ~csr.idle,
            "load_busy": sum(beats.valid for beats in load.beats),
            "load_stall_slot": load.waiting,
            "load_stall_axi": Cat(reader.waiting for reader in readers).any(),
            "table_busy": table.busy,
            "exec_busy": execute.step.valid,
            "exec_stall_stream": execute.wait_stream,
            "exec_stall_table": execute.wait_table,
            "exec_stall_result": execute.wait_result,
            "store_busy": sum(writer.w.valid & writer.w.ready for writer in writers),
            "store_stall_result": store.waiting,
            "store_stall_axi": Cat(writer.waiting for writer in writers).any(),
            "read_bytes": read * BEAT_BYTES,
            "write_bytes": written * BEAT_BYTES,
            "planes_skipped": execute.skipped,
            "overflows": store.overflows,
            "descriptors": store.completed,
            "vector_busy": vector.words if config.vector else 0,
            "vector_stall": vector.waiting if config.vector else 0,
            "chip_read_bytes": chip.beats_read * BEAT_BYTES if config.chip_kib else 0,
            "chip_write_bytes": chip.beats_written * BEAT_BYTES if config.chip_kib else 0,
        }
        m.d.comb += [csr.events[i].eq(events[name]) for i, name in enumerate(COUNTER_NAMES)]
        return m
