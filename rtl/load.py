"""LOAD: brings operands from DDR into the clusters' buffers.

The issuing side walks a tile (k block, sample, channel block; then the stationary tiles of that k block) and sends one
read command a run, as soon as a buffer slot is free. A note about each run waits for its data, so that many runs are
in flight; the receiving side turns the beats into bank addresses.
"""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, SLOTS, TAPS, WEIGHT_SLOTS, AcceleratorConfig
from .control import ROW_BANKS, fill
from .dma import Beats, Command
from .queue import Queue
from .table import WeightSlot
from .tiles import SIZE, load_tile
from .unpack import StreamSlot, Unpack, run


class Load(wiring.Component):
    """The LOAD unit.

    Members
    -------
    i : In(stream of load_tile)
    command : Out(stream of dma.Command)
    beats : In(dma.Beats)
        What was read, in order.
    fill : Out(control.fill)
        To the clusters.
    stream_slots : Out(stream of StreamSlot), stream_free : In(1)
        Filled stream slots, in order; and the pulse that one is free again. All are free after reset.
    weight_slots : Out(stream of table.WeightSlot), weight_free : In(1)
        Likewise for the weight buffer.
    waiting : Out(1)
        A tile is held up because no slot is free.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(load_tile(config))),
                "command": Out(stream.Signature(Command)),
                "beats": In(Beats),
                "fill": Out(fill(config)),
                "stream_slots": Out(stream.Signature(StreamSlot)),
                "stream_free": In(1),
                "weight_slots": Out(stream.Signature(WeightSlot)),
                "weight_free": In(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(run(self._config), 2 * self._config.outstanding)
        m.submodules.unpack = unpack = Unpack(self._config)
        wiring.connect(m, queue.o, unpack.i)
        wiring.connect(m, unpack.stream_slots, wiring.flipped(self.stream_slots))
        wiring.connect(m, unpack.weight_slots, wiring.flipped(self.weight_slots))
        wiring.connect(m, wiring.flipped(self.beats), unpack.beats)
        m.d.comb += self.fill.eq(unpack.fill)
        runs = queue.i

        config, tile = self._config, self.i.payload
        clusters = config.clusters
        tile_bytes = config.weight_tile_beats * BEAT_BYTES

        stream_free = Signal(range(SLOTS + 1), init=SLOTS)
        weight_free = Signal(range(WEIGHT_SLOTS + 1), init=WEIGHT_SLOTS)
        take_stream, take_weight = Signal(), Signal()
        m.d.sync += [
            stream_free.eq(stream_free + self.stream_free - take_stream),
            weight_free.eq(weight_free + self.weight_free - take_weight),
        ]

        slot = Signal(range(SLOTS))
        block = Signal(SIZE)  # k block
        channel, channel_group, channel_bank = Signal(range(TAPS)), Signal(2), Signal(2)
        sample, part = Signal.like(tile.samples), Signal.like(tile.parts)
        sample_words = Signal(ceil_log2(config.stream_slot) + 1)  # where the sample starts in its slot
        row_block, row_part, digit = Signal(SIZE), Signal(5), Signal(3)
        addr = Signal(ADDRESS_BITS)  # of the run
        outer = Signal(ADDRESS_BITS)  # of the sample; in the stationary loops of the row block
        digit_addr = Signal(ADDRESS_BITS)  # of the digit's first stationary tile
        own_addr = Signal(ADDRESS_BITS)  # of the sample's first stationary tile
        stream_addr, stationary_addr = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)  # of the k block

        last_block = block == tile.k_blocks - 1
        last_sample = sample == tile.samples - 1
        channels = Mux(tile.flat, Mux(last_block, tile.k_tail, TAPS), 1)
        last_channel = channel == channels - 1
        last_row_part = row_part == (1 << tile.log2_row_parts) - 1
        last_own = ~tile.own_stationary | last_sample
        send, sent = Signal(), Signal()
        m.d.comb += [
            self.command.valid.eq(send & runs.ready),
            runs.valid.eq(send & self.command.ready),
            sent.eq(send & runs.ready & self.command.ready),
            self.command.payload.index.eq(tile.index),
            self.command.payload.addr.eq(addr),
            runs.payload.planes.eq(tile.planes),
            runs.payload.plane_beats.eq(tile.plane_beats),
            runs.payload.plane_pitch.eq(tile.plane_pitch),
            runs.payload.row_words.eq(tile.row_words),
            runs.payload.bank.eq(Mux(tile.flat, channel_bank, tile.first_bank)),
            runs.payload.turn.eq(Mux(tile.flat, channel_group, 0)),
            runs.payload.signed.eq(tile.signed & (digit == 0)),
        ]
        # Channel block c of a flat k block lies c // 3 planes' worth behind the sample's start.
        group_words = Array([0, tile.row_words, tile.row_words << 1])[channel_group]
        m.d.comb += runs.payload.addr.eq(slot * config.stream_slot + sample_words + Mux(tile.flat, group_words, 0))
        weight_phase = Signal()
        m.d.comb += runs.payload.weight.eq(weight_phase)
        for i in range(clusters):
            of_part = (i >> tile.log2_row_parts) == part
            of_row_part = (i & ((1 << tile.log2_row_parts) - 1)) == row_part
            stationary = of_row_part & (~tile.own_stationary | of_part)
            m.d.comb += runs.payload.clusters[i].eq(Mux(weight_phase, stationary, of_part))

        def next_sample():
            m.d.sync += [sample.eq(sample + 1), part.eq(part + 1)]
            with m.If(part == tile.parts - 1):
                m.d.sync += [part.eq(0), sample_words.eq(sample_words + tile.sample_words)]

        def rewind_samples():
            m.d.sync += [sample.eq(0), part.eq(0), sample_words.eq(0)]

        with m.FSM():
            with m.State("TILE"):
                m.d.sync += [
                    block.eq(0),
                    stream_addr.eq(tile.stream_addr),
                    stationary_addr.eq(tile.stationary_addr),
                ]
                with m.If(self.i.valid):
                    m.next = "STREAM SLOT"
            with m.State("STREAM SLOT"):
                rewind_samples()
                m.d.sync += [
                    addr.eq(stream_addr),
                    outer.eq(stream_addr),
                    channel.eq(0),
                    channel_group.eq(0),
                    channel_bank.eq(0),
                ]
                m.d.comb += self.waiting.eq(stream_free == 0)
                with m.If(stream_free != 0):
                    m.d.comb += take_stream.eq(1)
                    m.next = "STREAM"
            with m.State("STREAM"):
                m.d.comb += [
                    send.eq(1),
                    self.command.payload.beats.eq(tile.run_beats),
                    runs.payload.done.eq(last_channel & last_sample),
                ]
                with m.If(sent):
                    m.d.sync += [addr.eq(addr + tile.stream_stride_c), channel.eq(channel + 1)]
                    m.d.sync += channel_bank.eq(channel_bank + 1)
                    with m.If(channel_bank == ROW_BANKS - 1):
                        m.d.sync += [channel_bank.eq(0), channel_group.eq(channel_group + 1)]
                    with m.If(last_channel):
                        m.d.sync += [
                            channel.eq(0),
                            channel_group.eq(0),
                            channel_bank.eq(0),
                            addr.eq(outer + tile.stream_stride_n),
                            outer.eq(outer + tile.stream_stride_n),
                        ]
                        next_sample()
                        with m.If(last_sample):
                            rewind_samples()
                            m.d.sync += [
                                slot.eq(slot + 1),
                                row_block.eq(0),
                                row_part.eq(0),
                                digit.eq(0),
                                addr.eq(stationary_addr),
                                own_addr.eq(stationary_addr),
                                digit_addr.eq(stationary_addr),
                                outer.eq(stationary_addr),
                            ]
                            m.next = "WEIGHT SLOT"
            with m.State("WEIGHT SLOT"):
                m.d.comb += self.waiting.eq(weight_free == 0)
                with m.If(weight_free != 0):
                    m.d.comb += take_weight.eq(1)
                    m.next = "WEIGHT"
            with m.State("WEIGHT"):
                m.d.comb += [
                    weight_phase.eq(1),
                    send.eq(1),
                    self.command.payload.beats.eq(config.weight_tile_beats),
                    runs.payload.done.eq(last_row_part & last_own),
                ]
                with m.If(sent):
                    m.d.sync += [addr.eq(addr + tile.stationary_stride_m), row_part.eq(row_part + 1)]
                    with m.If(last_row_part):
                        m.d.sync += [
                            row_part.eq(0),
                            addr.eq(own_addr + tile.stationary_stride_n),
                            own_addr.eq(own_addr + tile.stationary_stride_n),
                        ]
                        next_sample()
                        with m.If(last_own):
                            rewind_samples()
                            following = digit_addr + tile_bytes
                            m.d.sync += [
                                digit.eq(digit + 1),
                                addr.eq(following),
                                own_addr.eq(following),
                                digit_addr.eq(following),
                            ]
                            m.next = "WEIGHT SLOT"
                            with m.If(digit == tile.digits - 1):
                                following = outer + (tile.stationary_stride_m << tile.log2_row_parts)
                                m.d.sync += [
                                    digit.eq(0),
                                    row_block.eq(row_block + 1),
                                    addr.eq(following),
                                    own_addr.eq(following),
                                    digit_addr.eq(following),
                                    outer.eq(following),
                                ]
                                with m.If(row_block == tile.row_blocks - 1):
                                    channel_bytes = tile.stream_stride_c
                                    m.d.sync += [
                                        block.eq(block + 1),
                                        stationary_addr.eq(stationary_addr + tile.stationary_stride_k),
                                        stream_addr.eq(
                                            stream_addr + channel_bytes + Mux(tile.flat, channel_bytes << 3, 0)
                                        ),
                                    ]
                                    m.next = "STREAM SLOT"
                                    with m.If(last_block):
                                        m.d.comb += self.i.ready.eq(1)
                                        m.next = "TILE"
        return m
