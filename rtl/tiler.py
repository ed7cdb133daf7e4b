"""Expands a layer descriptor into tiles.

Checks the descriptor, reads the precision of every sample, gathers runs of samples of equal precision, cuts the
output rows into bands, and hands each tile to LOAD, EXEC and STORE with all its sizes resolved. It runs ahead of
them by the depth of their queues, so a change of precision or layer drains nothing.

A descriptor goes through `rtl.check` and `rtl.sizes` (what follows from it alone), `rtl.precisions` and `rtl.runs`,
and `rtl.bands`. Each works a tile out in many short steps, at most one sum or one comparison a cycle.
"""

from __future__ import annotations

from amaranth.hdl import EnableInserter, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .axi import ADDRESS_BITS
from .bands import Bands
from .check import DescriptorCheck
from .config import BEAT_BITS, DIGIT_BITS, MAX_BITS, TAPS, AcceleratorConfig
from .errors import Error
from .fetch import Fetched
from .precisions import Precisions
from .runs import Runs
from .sizes import Sizes
from .states import States
from .tiler_block import Opcode
from .tiles import DIGITS, INDEX, VectorTile, exec_tile, load_tile, store_tile
from .vector_block import PARTS, READS, VECTOR, WRITES


class Tiler(wiring.Component):
    """The descriptor front end.

    Members
    -------
    i : In(stream of Fetched)
    lookup, looked_up : see `rtl.fetch.Fetch`
    load, execute, store : Out(streams of load_tile, exec_tile, store_tile)
        A tile goes to all three; the next one is not offered before each has taken it.
    vector : Out(stream of VectorTile)
        Vector passes, where there is a unit for them.
    completed : In(32)
        Descriptors completed, for fences.
    quiescent : In(1)
        No tile is queued or in work.
    error : Out(Error), error_index : Out(32)
        The ring stops at that descriptor, after all tiles before it are done.
    idle : Out(1)
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(Fetched)),
                "lookup": Out(stream.Signature(ADDRESS_BITS)),
                "looked_up": In(stream.Signature(BEAT_BITS, always_ready=True)),
                "load": Out(stream.Signature(load_tile(config))),
                "execute": Out(stream.Signature(exec_tile(config))),
                "store": Out(stream.Signature(store_tile(config))),
                **({"vector": Out(stream.Signature(VectorTile))} if config.vector else {}),
                "completed": In(INDEX),
                "quiescent": In(1),
                "error": Out(Error),
                "error_index": Out(INDEX),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        d, index = self.i.payload.descriptor, self.i.payload.index

        checking = Signal()  # between descriptors nothing of it switches
        check = DescriptorCheck(config)
        m.submodules.check = EnableInserter(checking)(check)
        m.submodules.sizing = sizes = Sizes(config)
        m.submodules.precisions = precisions = Precisions()
        m.submodules.runs = runs = Runs(config)
        m.submodules.bands = bands = Bands(config)
        m.d.comb += [part.descriptor.eq(d) for part in (check, sizes, runs, bands)]
        m.d.comb += [part.sizes.eq(sizes.o) for part in (runs, bands)]
        wiring.connect(m, precisions.lookup, wiring.flipped(self.lookup))
        wiring.connect(m, wiring.flipped(self.looked_up), precisions.looked_up)
        wiring.connect(m, runs.o, bands.i)
        assert DescriptorCheck.LATENCY < Sizes.CYCLES, "the check ends before the sizes"

        take = Signal()  # the precision of the stationary operand
        of_samples = Signal()  # those of the samples are wanted
        self._precisions(m, d, precisions, runs, take, of_samples)

        reached = Signal(2)  # all descriptors before this one have completed, say both halves of their number
        digits = Signal(DIGITS)
        skipped = Signal()
        too_wide = Signal()
        failed = Signal(Error)  # what is wrong if the state fails
        end = Signal()
        half = INDEX // 2
        for i, part in enumerate((slice(half), slice(half, None))):
            m.d.sync += reached[i].eq(self.completed[part] == index[part])

        is_pass = Signal()
        m.d.sync += is_pass.eq(d.header.opcode == Opcode.VECTOR)
        settled = Signal()
        names = ("IDLE", "CHECK", "FENCE", "PASS", "STATIONARY", "DIGITS", "JUDGE", "SAMPLES", "TILES", "END")
        states = States(m, *names, "FAIL", "STOPPED")
        wrong = Signal()  # something is, and has been for long when it is looked at
        m.d.sync += wrong.eq(check.error != Error.NONE)
        with states.state("IDLE"):
            m.d.comb += [self.idle.eq(~self.i.valid), sizes.start.eq(self.i.valid), checking.eq(self.i.valid)]
            with m.If(self.i.valid):
                states.go("CHECK")
        with states.state("CHECK"):
            m.d.comb += checking.eq(1)
            m.d.sync += of_samples.eq(0)
            with m.If(sizes.done):
                states.go("FENCE")
        with states.state("FENCE"):
            m.d.sync += failed.eq(check.error)
            with m.If(wrong):
                states.go("FAIL")
            with m.Elif(reached.all() | ~d.header.flags.fence):
                with m.If(is_pass):
                    states.go("PASS")
                with m.Else():
                    states.go("STATIONARY")
        with states.state("PASS"):
            if config.vector:
                m.d.comb += self.vector.valid.eq(1)
                with m.If(self.vector.ready):
                    states.go("END")
        with states.state("STATIONARY"):
            m.d.comb += precisions.i.valid.eq(1)
            with m.If(precisions.i.ready):
                m.d.sync += take.eq(1)
                states.go("DIGITS")
        with states.state("DIGITS"):
            precision = precisions.o.payload
            m.d.sync += [
                digits.eq((precision.bits + DIGIT_BITS - 1) >> ceil_log2(DIGIT_BITS)),
                skipped.eq(precision.bits == 0),
                too_wide.eq(precision.bits > MAX_BITS),
            ]
            with m.If(precisions.o.valid):
                m.d.sync += take.eq(0)
                states.go("JUDGE")
        with states.state("JUDGE"):
            m.d.sync += [of_samples.eq(1), failed.eq(Mux(too_wide, Error.PRECISION, Error.SHAPE))]
            with m.If(skipped):
                states.go("END")
            with m.Elif(too_wide | ~sizes.o.results_fit):
                states.go("FAIL")
            with m.Else():
                states.go("SAMPLES")
        with states.state("SAMPLES"):
            m.d.comb += precisions.i.valid.eq(1)
            with m.If(precisions.i.ready):
                m.d.comb += runs.start.eq(1)
                states.go("TILES")
        with states.state("TILES"):
            m.d.sync += failed.eq(runs.error)
            with m.If(runs.done):
                states.go("END")
            with m.Elif(runs.error != Error.NONE):
                states.go("FAIL")
        with states.state("END"):
            m.d.comb += [end.eq(1), self.i.ready.eq(self.store.ready)]
            with m.If(self.store.ready):
                states.go("IDLE")

        # Everything before the bad descriptor, or the bad sample in it, still completes.
        with states.state("FAIL"):
            # Nothing is handed out in this state, so what was done with a cycle ago is done with.
            m.d.sync += settled.eq(self.quiescent)
            with m.If(settled):
                m.d.sync += [self.error.eq(failed), self.error_index.eq(index)]
                states.go("STOPPED")

        if config.vector:
            self._pass(m, d, index)
        self._offer(m, bands.o, end)
        first_tap = Signal(bits_for(TAPS))  # of the band; it has been there for long when the tile is
        m.d.sync += first_tap.eq(bands.o.payload.top + d.product.pad_top)
        left = Signal.like(d.product.pad_left)
        m.d.sync += left.eq(Mux(sizes.o.gradient, 0, d.product.pad_left))
        own_stationary = Signal()
        m.d.sync += own_stationary.eq(d.stationary.stride_n != 0)
        self._fill(
            m,
            (d.product, sizes.o, runs.o.payload, bands.o.payload),
            index=index,
            digits=digits,
            parts=d.product.sample_parts,
            left=left,
            first_tap=first_tap,
            padded=d.product.pad_top[0],
            images=d.product.images,
            block_rows=d.stream.block_rows,
            stream_signed=d.header.flags.stream_signed,
            signed=d.header.flags.stationary_signed,
            interrupt=d.header.flags.interrupt,
            vector=is_pass,
            format=d.sink.format,
            shift=d.sink.shift,
            own_stationary=own_stationary,
            order=d.stationary.order,
            stationary_addr=runs.o.payload.stationary,
            **{f"stream_stride_{axis}": d.stream[f"stride_{axis}"] for axis in "ncyk"},
            **{f"stationary_stride_{axis}": d.stationary[f"stride_{axis}"] for axis in "nkmd"},
            **{f"out_stride_{axis}": d.sink[f"stride_{axis}"] for axis in "nm"},
        )
        m.d.comb += self.execute.payload.samples.eq(runs.o.payload.slots)
        return m

    def _pass(self, m, d, index):
        """A vector pass is what its descriptor says."""
        tile, product = self.vector.payload, d.product
        m.d.comb += [
            tile.index.eq(index),
            tile.channel_blocks.eq(product.k_blocks),
            *(tile[name].eq(product[name]) for name in ("samples", "height", "width")),
            *(tile[block.name].eq(d[block.name]) for block in (VECTOR, *READS, *WRITES, PARTS)),
        ]

    def _precisions(self, m, d, precisions, runs, take, of_samples):
        """The first precision of a descriptor is that of the stationary operand, all others go to the runs."""
        wanted = precisions.i.payload
        one_sample = Signal()
        m.d.sync += one_sample.eq(d.product.samples == 1)
        with m.If(of_samples):
            m.d.comb += [
                wanted.from_table.eq(d.header.flags.stream_table),
                wanted.bits.eq(d.stream.bits),
                wanted.table.eq(d.stream.table),
                wanted.count.eq(d.product.samples),
                wanted.single.eq(one_sample),
            ]
        with m.Else():
            m.d.comb += [
                wanted.from_table.eq(d.header.flags.stationary_table),
                wanted.bits.eq(d.stationary.bits),
                wanted.table.eq(d.stationary.table),
                wanted.count.eq(1),
                wanted.single.eq(1),
            ]
        m.d.comb += [
            precisions.o.ready.eq(runs.precisions.ready | take),
            runs.precisions.valid.eq(precisions.o.valid),
            runs.precisions.payload.eq(precisions.o.payload),
        ]

    def _offer(self, m, tile, end):
        """Each of the three ports takes a tile when it can; STORE alone takes the end of a descriptor."""
        ready = 1
        for name in ("load", "execute", "store"):
            port = getattr(self, name)
            taken = Signal(name=f"{name}_taken")  # the tile, before the others took it
            m.d.comb += port.valid.eq(tile.valid & ~taken)
            m.d.sync += taken.eq(tile.valid & ~tile.ready & (port.ready | taken))
            ready &= port.ready | taken
        m.d.comb += tile.ready.eq(ready)
        with m.If(end):
            m.d.comb += [self.store.valid.eq(1), self.store.payload.end.eq(1)]

    def _fill(self, m, records, **others):
        """Gives each field of a tile what is called like it in `others`, or in the last of `records` that has it."""
        known = {name: record[name] for record in records for name in record.shape().members} | others
        for port in (self.load, self.execute, self.store):
            for name in port.payload.shape().members:
                if name != "end":
                    m.d.comb += port.payload[name].eq(known[name])
