"""Expands a layer descriptor into tiles.

Checks the descriptor, reads the precision of every sample, gathers runs of samples of equal precision, cuts the
output rows into bands, and hands each tile to LOAD, EXEC and STORE with all its sizes resolved. It runs ahead of
them by the depth of their queues, so a change of precision or layer drains nothing.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .axi import ADDRESS_BITS
from .check import DescriptorCheck
from .config import BEAT_BYTES, BEAT_WORDS, DIGIT_BITS, MAX_BITS, AcceleratorConfig
from .errors import Error
from .fetch import Fetched
from .isa import Format, Opcode
from .tiles import COUNT, INDEX, SIZE, exec_tile, load_tile, store_tile


class Tiler(wiring.Component):
    """The descriptor front end.

    Members
    -------
    i : In(stream of Fetched)
    lookup, looked_up : see `rtl.fetch.Fetch`
    load, execute, store : Out(streams of load_tile, exec_tile, store_tile)
        A tile goes to all three at once.
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
                "looked_up": In(8),
                "load": Out(stream.Signature(load_tile(config))),
                "execute": Out(stream.Signature(exec_tile(config))),
                "store": Out(stream.Signature(store_tile(config))),
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
        load, execute, store = self.load.payload, self.execute.payload, self.store.payload

        flat, out_format = Signal(), Signal(Format)
        m.d.comb += [flat.eq(d.header.opcode == Opcode.FLAT), out_format.eq(d.sink.format)]
        m.submodules.check = check = DescriptorCheck(config)
        m.d.comb += check.descriptor.eq(d)

        # One multiplier serves all sizes; a product is there in the state after the one that names its factors.
        left, right, product = Signal(SIZE), Signal(SIZE), Signal(2 * SIZE)
        m.d.sync += product.eq(left * right)

        def multiply(a, b):
            m.d.comb += [left.eq(a), right.eq(b)]

        stationary_bits, bits = Signal(8), Signal(8)
        sample, following = Signal(SIZE + 1), Signal(SIZE + 1)  # first sample of the run, and of the next run
        count, slots, part = Signal(COUNT), Signal(COUNT), Signal(5)
        most = Signal(COUNT)  # samples that fit a tile
        row_words, sample_words, row_beats = Signal(SIZE), Signal(SIZE), Signal(SIZE)
        whole_area = Signal(SIZE)  # positions of a full band
        y = Signal(SIZE + 1)
        rows = Signal(SIZE)
        places = {"stream": d.stream, "stationary": d.stationary, "out": d.sink}
        base = {name: Signal(ADDRESS_BITS, name=f"{name}_run") for name in places}
        ahead = {name: Signal(ADDRESS_BITS, name=f"{name}_next") for name in places}
        out_band = Signal(ADDRESS_BITS)  # offset of the band in an output image

        plane_beats, plane_pitch = Signal(SIZE), Signal(SIZE)
        log2_row_bytes = ceil_log2(config.rows) + 1  # of int16 results
        top, bottom = Signal(signed(SIZE + 3)), Signal(signed(SIZE + 3))
        first = Signal(SIZE)
        m.d.comb += [
            plane_beats.eq((d.product.width + BEAT_WORDS - 1) >> ceil_log2(BEAT_WORDS)),
            plane_pitch.eq(plane_beats + flat),
            rows.eq(Mux(d.product.out_height - y < d.product.tile_rows, d.product.out_height - y, d.product.tile_rows)),
            top.eq((y << (d.product.stride == 2)) - d.product.pad_top),
            first.eq(Mux(top < 0, 0, top)),
            bottom.eq(Mux(flat, 0, top + ((rows - 1) << (d.product.stride == 2)) + 2)),
        ]
        # Sizes of the band, for its tile.
        area, block_positions = Signal.like(store.area), Signal.like(store.block_positions)
        stream_addr, out_addr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        run_beats = Signal(SIZE)
        in_rows = Mux(bottom >= d.product.height, d.product.height - 1, bottom) - first + 1

        failed = Signal(Error)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.i.valid)
                with m.If(self.i.valid & (~d.header.flags.fence | (self.completed == index))):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [
                    failed.eq(check.error),
                    stationary_bits.eq(d.stationary.bits),
                    sample.eq(0),
                    *(base[name].eq(place.base) for name, place in places.items()),
                ]
                multiply(d.product.tile_rows, d.product.out_width)
                m.next = "AREA"
                with m.If(check.error != 0):
                    m.next = "FAIL"
                with m.Elif(d.header.flags.stationary_table):
                    m.next = "STATIONARY BITS"
            with m.State("STATIONARY BITS"):
                m.d.comb += [self.lookup.payload.eq(d.stationary.table), self.lookup.valid.eq(1)]
                with m.If(self.lookup.ready):
                    m.next = "STATIONARY BITS READ"
            with m.State("STATIONARY BITS READ"):
                multiply(d.product.tile_rows, d.product.out_width)
                m.d.sync += stationary_bits.eq(self.looked_up)
                m.next = "AREA"
                with m.If(self.looked_up == 0):
                    m.next = "END"
                with m.Elif(self.looked_up > MAX_BITS):
                    m.d.sync += failed.eq(Error.PRECISION)
                    m.next = "FAIL"

            # Does a tile fit the result buffer?
            def limited(limit: int, then: str):
                m.next = then
                with m.If(product > limit):
                    m.d.sync += failed.eq(Error.SHAPE)
                    m.next = "FAIL"

            with m.State("AREA"):
                m.d.sync += whole_area.eq(product)
                multiply(product, d.product.tile_samples)
                limited(config.result_slot, "TILE POSITIONS")
            with m.State("TILE POSITIONS"):
                multiply(product, d.product.row_blocks)
                limited(config.result_slot, "ALL POSITIONS")
            with m.State("ALL POSITIONS"):
                multiply(d.product.tile_samples, d.product.sample_parts)
                limited(config.result_slot, "SAMPLE LIMIT")
            with m.State("SAMPLE LIMIT"):
                m.d.sync += most.eq(product)
                m.next = "SAMPLE"

            # The precision of the next run's first sample.
            with m.State("SAMPLE"):
                m.d.sync += [
                    bits.eq(d.stream.bits),
                    following.eq(sample + 1),
                    *(ahead[name].eq(base[name] + place.stride_n) for name, place in places.items()),
                ]
                m.d.comb += self.lookup.payload.eq(d.stream.table + sample)
                m.next = "RUN"
                with m.If(sample == d.product.samples):
                    m.next = "END"
                with m.Elif(d.header.flags.stream_table):
                    m.d.comb += self.lookup.valid.eq(1)
                    m.next = "SAMPLE"
                    with m.If(self.lookup.ready):
                        m.next = "SAMPLE READ"
            with m.State("SAMPLE READ"):
                m.d.sync += bits.eq(self.looked_up)
                m.next = "RUN"
                with m.If(self.looked_up == 0):  # skipped
                    m.d.sync += sample.eq(following)
                    m.d.sync += [base[name].eq(ahead[name]) for name in places]
                    m.next = "SAMPLE"
                with m.Elif(self.looked_up > MAX_BITS):
                    m.d.sync += failed.eq(Error.PRECISION)
                    m.next = "FAIL"

            # Does a tile of this precision fit the stream buffer?
            with m.State("RUN"):
                m.d.sync += [count.eq(1), slots.eq(1), part.eq(Mux(d.product.sample_parts == 1, 0, 1))]
                multiply(bits, plane_pitch)
                m.next = "ROW WORDS"
            with m.State("ROW WORDS"):
                m.d.sync += row_words.eq(product)
                multiply(product, d.product.row_groups)
                limited(config.stream_slot, "SAMPLE WORDS")
            with m.State("SAMPLE WORDS"):
                m.d.sync += sample_words.eq(product)
                multiply(product, d.product.tile_samples)
                limited(config.stream_slot, "SLOT WORDS")
            with m.State("SLOT WORDS"):
                multiply(bits, plane_beats)
                limited(config.stream_slot, "ROW BEATS")
            with m.State("ROW BEATS"):
                m.d.sync += row_beats.eq(product)
                m.next = "EXTEND"

            # More samples of the same precision join the run. `part` is the sample part the next one would go to.
            def join():
                m.d.sync += [count.eq(count + 1), following.eq(following + 1), part.eq(part + 1)]
                m.d.sync += [ahead[name].eq(ahead[name] + place.stride_n) for name, place in places.items()]
                with m.If(part == 0):
                    m.d.sync += slots.eq(slots + 1)
                with m.If(part == d.product.sample_parts - 1):
                    m.d.sync += part.eq(0)

            with m.State("EXTEND"):
                m.d.sync += [y.eq(0), out_band.eq(0)]
                m.d.comb += self.lookup.payload.eq(d.stream.table + following)
                with m.If((following == d.product.samples) | (count == most)):
                    m.next = "BAND"
                with m.Elif(~d.header.flags.stream_table):
                    join()
                with m.Else():
                    m.d.comb += self.lookup.valid.eq(1)
                    with m.If(self.lookup.ready):
                        m.next = "EXTEND READ"
            with m.State("EXTEND READ"):
                m.next = "BAND"
                with m.If(self.looked_up == bits):
                    join()
                    m.next = "EXTEND"

            # Bands of output rows.
            with m.State("BAND"):
                multiply(rows, d.product.out_width)
                m.next = "BAND AREA"
            with m.State("BAND AREA"):
                m.d.sync += area.eq(product)
                multiply(product, slots)
                m.next = "BAND POSITIONS"
            with m.State("BAND POSITIONS"):
                m.d.sync += block_positions.eq(product)
                multiply(first, row_beats)
                m.next = "BAND START"
            with m.State("BAND START"):
                m.d.sync += [
                    stream_addr.eq(base["stream"] + (product << ceil_log2(BEAT_BYTES))),
                    out_addr.eq(base["out"] + out_band),
                ]
                multiply(in_rows, row_beats)
                m.next = "BAND BEATS"
            with m.State("BAND BEATS"):
                m.d.sync += run_beats.eq(product)
                m.next = "EMIT"
            with m.State("EMIT"):
                ready = self.load.ready & self.execute.ready & self.store.ready
                m.d.comb += [port.valid.eq(ready) for port in (self.load, self.execute, self.store)]
                with m.If(ready):
                    m.d.sync += [
                        y.eq(y + d.product.tile_rows),
                        out_band.eq(out_band + (whole_area << (log2_row_bytes + out_format))),
                    ]
                    m.next = "BAND"
                    with m.If(y + d.product.tile_rows >= d.product.out_height):
                        m.d.sync += sample.eq(following)
                        m.d.sync += [base[name].eq(ahead[name]) for name in places]
                        m.next = "SAMPLE"
            with m.State("END"):
                m.d.comb += [self.store.valid.eq(1), store.end.eq(1), self.i.ready.eq(self.store.ready)]
                with m.If(self.store.ready):
                    m.next = "IDLE"

            # Everything before the bad descriptor, or the bad sample in it, still completes.
            with m.State("FAIL"):
                with m.If(self.quiescent):
                    m.d.sync += [self.error.eq(failed), self.error_index.eq(index)]
                    m.next = "STOPPED"
            with m.State("STOPPED"):
                pass

        m.d.comb += [
            load.index.eq(index),
            load.flat.eq(flat),
            load.planes.eq(bits),
            load.digits.eq((stationary_bits + DIGIT_BITS - 1) >> ceil_log2(DIGIT_BITS)),
            load.signed.eq(d.header.flags.stationary_signed),
            load.samples.eq(count),
            load.parts.eq(d.product.sample_parts),
            load.log2_row_parts.eq(d.product.log2_row_parts),
            load.first_bank.eq(Mux(flat, 0, first - top)),
            load.run_beats.eq(run_beats),
            load.stream_addr.eq(stream_addr),
            load.k_blocks.eq(d.product.k_blocks),
            load.k_tail.eq(d.product.k_tail),
            load.row_blocks.eq(d.product.row_blocks),
            load.plane_beats.eq(plane_beats),
            load.plane_pitch.eq(plane_pitch),
            load.row_words.eq(row_words),
            load.sample_words.eq(sample_words),
            load.stream_stride_n.eq(d.stream.stride_n),
            load.stream_stride_c.eq(d.stream.stride_c),
            load.own_stationary.eq(d.stationary.stride_n != 0),
            load.stationary_addr.eq(base["stationary"]),
            load.stationary_stride_n.eq(d.stationary.stride_n),
            load.stationary_stride_k.eq(d.stationary.stride_k),
            load.stationary_stride_m.eq(d.stationary.stride_m),
            execute.flat.eq(flat),
            execute.planes.eq(bits),
            execute.digits.eq(load.digits),
            execute.stream_signed.eq(d.header.flags.stream_signed),
            execute.signed.eq(d.header.flags.stationary_signed),
            execute.k_blocks.eq(d.product.k_blocks),
            execute.k_tail.eq(d.product.k_tail),
            execute.row_blocks.eq(d.product.row_blocks),
            execute.samples.eq(slots),
            execute.rows.eq(rows),
            execute.top.eq(top),
            execute.out_width.eq(d.product.out_width),
            execute.stride.eq(d.product.stride),
            execute.left.eq(d.product.pad_left),
            execute.height.eq(d.product.height),
            execute.width.eq(d.product.width),
            execute.plane_pitch.eq(plane_pitch),
            execute.row_words.eq(row_words),
            execute.sample_words.eq(sample_words),
            store.index.eq(index),
            store.interrupt.eq(d.header.flags.interrupt),
            store.format.eq(out_format),
            store.samples.eq(count),
            store.parts.eq(d.product.sample_parts),
            store.log2_row_parts.eq(d.product.log2_row_parts),
            store.row_blocks.eq(d.product.row_blocks),
            store.area.eq(area),
            store.block_positions.eq(block_positions),
            store.out_addr.eq(out_addr),
            store.out_stride_n.eq(d.sink.stride_n),
            store.out_stride_m.eq(d.sink.stride_m),
        ]
        return m
