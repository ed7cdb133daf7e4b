"""The issuing side of LOAD: walks a tile and sends a read command and a note for each run."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, SLOTS, TAPS, WEIGHT_SLOTS, AcceleratorConfig
from .control import ROW_BANKS
from .countdown import Countdown
from .dma import Command
from .load_block import Order
from .states import States
from .tiles import load_tile
from .unpack import run


class Issue(wiring.Component):
    """Sends the commands of tiles, as soon as a buffer slot is free.

    A k block of a tile fills a slot of the stream buffer, then for each row block and digit one of the weight buffer.
    A slot takes runs of several samples, and of each sample those of its pieces: channel blocks, rows or row parts. A
    run takes two cycles, for its command and for its note; every loop that it ends takes one more.

    Members
    -------
    i : In(stream of load_tile)
    command : Out(stream of dma.Command)
    weight : Out(1)
        The command, and the note that follows, are of the stationary operand.
    runs : Out(stream of unpack.run)
        Notes. A command is only sent when there is room for its note, which follows in the next cycle.
    stream_free, weight_free : In(1)
        Pulses: a slot may be filled again. All are free after reset. Behind one whose beats are turned, the first of
        another order waits until all are: it would overtake it.
    waiting : Out(1)
        A tile is held up because no slot is free.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(load_tile(config))),
                "command": Out(stream.Signature(Command)),
                "weight": Out(1),
                "runs": Out(stream.Signature(run(config))),
                "stream_free": In(1),
                "weight_free": In(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile = self.i.payload
        blocks = Countdown(len(tile.k_blocks), "blocks")
        row_blocks = Countdown(len(tile.row_blocks), "row_blocks")
        digits = Countdown(len(tile.digits), "digits")
        samples = Countdown(len(tile.samples), "samples")
        row_parts = Signal(5)
        m.d.sync += row_parts.eq(1 << tile.log2_row_parts)
        pieces = Countdown(len(tile.runs), "pieces")
        weight = Signal()  # the slot is one of the weight buffer
        free = Signal()  # and may be filled
        noted = Signal()  # a command has been taken, its note is due
        m.d.sync += noted.eq(self.command.valid & self.command.ready)
        m.d.comb += [self.runs.valid.eq(noted), self.weight.eq(weight)]

        names = ("TILE", "SLOT", "COMMAND", "PIECE", "SAMPLE", "STATIONARY", "DIGIT", "ROW BLOCK", "BLOCK", "DONE")
        states = States(m, *names)
        with states.state("TILE"):
            m.d.sync += [weight.eq(0), *blocks.start(tile.k_blocks)]
            with m.If(self.i.valid):
                states.go("SLOT")
        with states.state("SLOT"):
            m.d.comb += self.waiting.eq(~free)
            with m.If(weight & ~tile.own_stationary):  # all samples share their runs
                m.d.sync += samples.start(1)
            with m.Else():
                m.d.sync += samples.start(tile.samples)
            with m.If(weight):
                m.d.sync += pieces.start(row_parts)
            with m.Elif(~tile.flat):
                m.d.sync += pieces.start(tile.runs)
            with m.Elif(blocks.last):
                m.d.sync += pieces.start(tile.k_tail)
            with m.Else():
                m.d.sync += pieces.start(TAPS)
            with m.If(free):
                states.go("COMMAND")
        with states.state("COMMAND"):
            m.d.comb += self.command.valid.eq(self.runs.ready)
            with m.If(self.runs.ready & self.command.ready):
                states.go("PIECE")
        with states.state("PIECE"):
            m.d.sync += pieces.step()
            with m.If(pieces.last):
                states.go("SAMPLE")
            with m.Else():
                states.go("COMMAND")
        with states.state("SAMPLE"):
            m.d.sync += [*pieces.restart(), *samples.step()]
            with m.If(~samples.last):
                states.go("COMMAND")
            with m.Elif(weight):
                states.go("DIGIT")
            with m.Else():
                states.go("STATIONARY")
        with states.state("STATIONARY"):  # the streaming operand of the k block has been loaded
            m.d.sync += [weight.eq(1), *row_blocks.start(tile.row_blocks), *digits.start(tile.digits)]
            states.go("SLOT")
        with states.state("DIGIT"):
            m.d.sync += digits.step()
            with m.If(digits.last):
                states.go("ROW BLOCK")
            with m.Else():
                states.go("SLOT")
        with states.state("ROW BLOCK"):
            m.d.sync += [*digits.restart(), *row_blocks.step()]
            with m.If(row_blocks.last):
                states.go("BLOCK")
            with m.Else():
                states.go("SLOT")
        with states.state("BLOCK"):
            m.d.sync += [weight.eq(0), *blocks.step()]
            with m.If(blocks.last):
                states.go("DONE")
            with m.Else():
                states.go("SLOT")
        with states.state("DONE"):
            m.d.comb += self.i.ready.eq(1)
            states.go("TILE")

        m.d.comb += free.eq(self._free_slots(m, weight, tile.order == Order.TURNED, states.at["SLOT"] & free))
        addr = self._addresses(m, weight, states.at)
        m.d.comb += [
            self.command.payload.index.eq(tile.index),
            self.command.payload.addr.eq(addr),
            self.command.payload.beats.eq(Mux(weight, self._config.weight_tile_beats, tile.run_beats)),
            self.runs.payload.done.eq(pieces.last & samples.last),
        ]
        self._note(m, weight, states.at)
        return m

    def _free_slots(self, m: Module, weight, turned, taken):
        """Whether the slot may be filled."""
        stream_free = Signal(range(SLOTS + 1), init=SLOTS)
        weight_free = Signal(range(WEIGHT_SLOTS + 1), init=WEIGHT_SLOTS)
        m.d.sync += [
            stream_free.eq(stream_free + self.stream_free - (taken & ~weight)),
            weight_free.eq(weight_free + self.weight_free - (taken & weight)),
        ]
        ready = weight_free.any()
        if self._config.square:
            before = Signal()  # the last slot is turned
            overtakes = Signal()  # and the next one is not; known long before it is wanted
            with m.If(taken & weight):
                m.d.sync += before.eq(turned)
            m.d.sync += overtakes.eq(before & ~turned)
            ready &= ~overtakes | (weight_free == WEIGHT_SLOTS)
        return Mux(weight, ready, stream_free.any())

    def _addresses(self, m: Module, weight, at):
        """The run's address in DDR: every loop has the address at which its round begins."""
        tile = self.i.payload
        addr = Signal(ADDRESS_BITS)  # of the run
        sample_addr = Signal(ADDRESS_BITS)  # of the sample's first run
        digit_addr = Signal(ADDRESS_BITS)  # of the slot, if it is one of the weight buffer
        row_addr = Signal(ADDRESS_BITS)  # of the row block's first slot
        block_addr = Signal(ADDRESS_BITS)  # of the k block's stationary operand
        stream_addr = Signal(ADDRESS_BITS)  # of the k block's streaming operand
        piece_stride = Signal(ADDRESS_BITS)
        sample_stride = Signal(ADDRESS_BITS)
        part_stride = Signal(ADDRESS_BITS)
        row_stride = Signal(ADDRESS_BITS)
        stream_stride = Signal(ADDRESS_BITS)
        # Strides follow the tile and the kind of slot by a cycle or two, long before they are used.
        others = Mux(tile.flat, tile.stream_stride_c << exact_log2(TAPS - 1), 0)  # channel blocks of a k block
        m.d.sync += [
            stream_stride.eq(tile.stream_stride_c + others),
            part_stride.eq(tile.stationary_stride_m << tile.log2_row_parts[:2]),
            row_stride.eq(part_stride << (tile.log2_row_parts >> 2 << 2)),
            sample_stride.eq(Mux(weight, tile.stationary_stride_n, tile.stream_stride_n)),
            piece_stride.eq(
                Mux(weight, tile.stationary_stride_m, Mux(tile.flat, tile.stream_stride_c, tile.stream_stride_y))
            ),
        ]
        with m.If(at["TILE"]):
            m.d.sync += [stream_addr.eq(tile.stream_addr), block_addr.eq(tile.stationary_addr)]
        with m.If(at["SLOT"]):
            m.d.sync += [
                addr.eq(Mux(weight, digit_addr, stream_addr)),
                sample_addr.eq(Mux(weight, digit_addr, stream_addr)),
            ]
        with m.If(at["PIECE"]):
            m.d.sync += addr.eq(addr + piece_stride)
        with m.If(at["SAMPLE"]):
            m.d.sync += [addr.eq(sample_addr + sample_stride), sample_addr.eq(sample_addr + sample_stride)]
        with m.If(at["STATIONARY"]):
            m.d.sync += [digit_addr.eq(block_addr), row_addr.eq(block_addr)]
        with m.If(at["DIGIT"]):
            m.d.sync += digit_addr.eq(digit_addr + self._config.weight_tile_beats * BEAT_BYTES)
        with m.If(at["ROW BLOCK"]):
            m.d.sync += [digit_addr.eq(row_addr + row_stride), row_addr.eq(row_addr + row_stride)]
        with m.If(at["BLOCK"]):
            m.d.sync += [
                block_addr.eq(block_addr + tile.stationary_stride_k),
                stream_addr.eq(stream_addr + stream_stride),
            ]
        return addr

    def _note(self, m: Module, weight, at) -> None:
        """Where the run goes: which clusters, and its place in their buffers."""
        tile, note = self.i.payload, self.runs.payload
        parts = Countdown(len(tile.parts), "parts")
        # A part is 2**log2_row_parts neighbours; piece j of a stationary operand goes to the j-th of each part.
        clusters = self._config.clusters
        first_part = Signal(clusters)
        next_part = Signal(clusters)
        first_piece = Signal(clusters)
        of_part = Signal(clusters)
        of_piece = Signal(clusters)
        widths = [1 << log2 for log2 in range(clusters.bit_length())]
        m.d.sync += [
            first_part.eq(Array((1 << width) - 1 for width in widths)[tile.log2_row_parts]),
            next_part.eq(Array(of_part << width for width in widths)[tile.log2_row_parts]),
            first_piece.eq(
                Array(sum(1 << i for i in range(0, clusters, width)) for width in widths)[tile.log2_row_parts]
            ),
        ]
        slot = Signal(range(SLOTS))
        sample_words = Signal(range(self._config.stream_depth))  # where the sample starts in the stream buffer
        group_words = Signal.like(
            tile.row_words
        )  # from there to the run: three channel blocks, or rows, lie beside each other
        bank = Signal(range(ROW_BANKS))
        turn = Signal(2)
        first_digit = Signal()  # it carries the sign
        with m.If(at["STATIONARY"]):
            m.d.sync += [slot.eq(slot + 1), first_digit.eq(1)]
        with m.If(at["DIGIT"]):
            m.d.sync += first_digit.eq(0)
        with m.If(at["ROW BLOCK"]):
            m.d.sync += first_digit.eq(1)
        with m.If(at["PIECE"]):
            m.d.sync += [of_piece.eq(of_piece << 1), bank.eq(bank + 1)]
            with m.If(bank == ROW_BANKS - 1):
                m.d.sync += [bank.eq(0), turn.eq(turn + tile.flat), group_words.eq(group_words + tile.row_words)]
        with m.If(at["SAMPLE"]):
            m.d.sync += [of_part.eq(next_part), *parts.step()]
            with m.If(parts.last):
                m.d.sync += [
                    of_part.eq(first_part),
                    sample_words.eq(sample_words + tile.sample_words),
                    *parts.restart(),
                ]
        with m.If(at["SLOT"]):
            m.d.sync += [
                of_part.eq(first_part),
                sample_words.eq(slot * self._config.stream_slot),
                *parts.start(tile.parts),
            ]
        with m.If(at["SLOT"] | at["SAMPLE"]):
            m.d.sync += [
                of_piece.eq(first_piece),
                bank.eq(Mux(tile.flat, 0, tile.first_bank)),
                turn.eq(0),
                group_words.eq(0),
            ]

        shared = weight & ~tile.own_stationary
        m.d.comb += note.clusters.eq(
            (of_part | shared.replicate(clusters)) & (of_piece | (~weight).replicate(clusters))
        )
        m.d.comb += [
            note.weight.eq(weight),
            note.signed.eq(tile.signed & first_digit),
            note.order.eq(tile.order),
            note.addr.eq(sample_words + group_words),
            note.bank.eq(bank),
            note.turn.eq(Mux(weight, 0, turn)),
            note.planes.eq(tile.planes),
            note.plane_beats.eq(tile.plane_beats),
            note.plane_pitch.eq(tile.plane_pitch),
            note.row_words.eq(tile.row_words),
        ]
