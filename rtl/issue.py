"""The issuing side of LOAD: walks a tile and sends a read command and a note for each run."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, SLOTS, TAPS, WEIGHT_SLOTS, WORD_BYTES, AcceleratorConfig
from .control import ROW_BANKS
from .countdown import Countdown
from .dma import Command
from .gradient_blocks import GradientBlocks, after_words
from .load_block import is_turned
from .states import States
from .stream_run import run
from .tiles import load_tile


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
        m.submodules.blocks = parts = GradientBlocks(self._config)
        images = Countdown(len(parts.images), "images")  # whose rows lie in one word
        m.d.comb += parts.tile.eq(tile)
        rows = Mux(tile.gradient, parts.rows, tile.runs)
        most_pieces = Signal.like(tile.runs)  # of a k block of the streaming operand
        last_pieces = Signal.like(tile.runs)  # of the last one
        m.d.sync += [most_pieces.eq(Mux(tile.flat, TAPS, rows)), last_pieces.eq(Mux(tile.flat, tile.k_tail, rows))]
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
            m.d.sync += images.start(Mux(tile.gradient & ~weight, parts.images, 1))
            of_stream = Mux(blocks.last, last_pieces, most_pieces)
            m.d.sync += pieces.start(Mux(weight, row_parts, of_stream))
            with m.If(free):
                states.go("COMMAND")
        with states.state("COMMAND"):
            m.d.comb += self.command.valid.eq(self.runs.ready)
            with m.If(self.runs.ready & self.command.ready):
                states.go("PIECE")
        with states.state("PIECE"):
            with m.If(images.last):
                m.d.sync += [*images.restart(), *pieces.step()]
            with m.Else():
                m.d.sync += images.step()
            with m.If(images.last & pieces.last):
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

        taken = Signal()  # a slot, in the cycle before: the next one is looked for later still
        m.d.sync += taken.eq(states.at["SLOT"] & free)
        m.d.comb += [
            parts.first.eq(states.at["TILE"]),
            parts.step.eq(states.at["BLOCK"]),
            free.eq(self._free_slots(m, weight, taken) & (weight | parts.ready)),
        ]
        addr = self._addresses(m, weight, states.at, images.last, parts)
        m.d.comb += [
            self.command.payload.index.eq(tile.index),
            self.command.payload.addr.eq(addr),
            self.command.payload.beats.eq(Mux(weight, self._config.weight_tile_beats, tile.run_beats)),
            self.runs.payload.done.eq(pieces.last & samples.last & images.last),
            self.runs.payload.whole.eq(images.last),
        ]
        self._note(m, weight, states.at, images.last, parts)
        return m

    def _free_slots(self, m: Module, weight, taken):
        """Whether the slot may be filled; known a cycle late, as slots are asked for further apart."""
        tile = self.i.payload

        def free(name: str, slots: int, freed, taken, slow) -> Signal:
            """Unless none is, or the last slot takes a detour that the next one does not."""
            count = Signal(range(slots + 1), init=slots, name=f"{name}_slots")
            before = Signal(name=f"{name}_detour")
            some = Signal(name=f"{name}_free")
            with m.If(taken):
                m.d.sync += before.eq(slow)
            m.d.sync += [
                count.eq(count + freed - taken),
                some.eq(count.any() & ((count == slots) | ~before | slow)),
            ]
            return some

        turned, gradient = (is_turned(tile.order), tile.gradient) if self._config.vector else (0, 0)
        return Mux(
            weight,
            free("weight", WEIGHT_SLOTS, self.weight_free, taken & weight, turned),
            free("stream", SLOTS, self.stream_free, taken & ~weight, gradient),
        )

    def _addresses(self, m: Module, weight, at, row_done, parts: GradientBlocks):
        """The run's address in DDR: every loop has the address at which its round begins."""
        tile = self.i.payload
        addr = Signal(ADDRESS_BITS)  # of the run
        piece_addr = Signal(ADDRESS_BITS)  # of the piece's first run
        sample_addr = Signal(ADDRESS_BITS)  # of the sample's first run
        digit_addr = Signal(ADDRESS_BITS)  # of the slot, if it is one of the weight buffer
        row_addr = Signal(ADDRESS_BITS)  # of the row block's first slot
        block_addr = Signal(ADDRESS_BITS)  # of the k block's stationary operand
        stream_addr = Signal(ADDRESS_BITS)  # of the k block's streaming operand
        piece_stride = Signal(ADDRESS_BITS)
        digit_stride = Signal(ADDRESS_BITS)
        sample_stride = Signal(ADDRESS_BITS)
        part_stride = Signal(ADDRESS_BITS)
        row_stride = Signal(ADDRESS_BITS)
        stream_stride = Signal(ADDRESS_BITS)
        next_addr = Signal(ADDRESS_BITS)  # of the next run: what it follows from has been there since the command
        m.d.sync += next_addr.eq(Mux(row_done, piece_addr, addr) + Mux(row_done, piece_stride, tile.stream_stride_c))
        # Strides follow the tile and the kind of slot by a cycle or two, long before they are used.
        others = Mux(tile.flat, tile.stream_stride_c << exact_log2(TAPS - 1), 0)  # channel blocks of a k block
        m.d.sync += [
            stream_stride.eq(tile.stream_stride_c + others),
            part_stride.eq(tile.stationary_stride_m << tile.log2_row_parts[:2]),
            row_stride.eq(part_stride << (tile.log2_row_parts >> 2 << 2)),
            sample_stride.eq(Mux(weight, tile.stationary_stride_n, tile.stream_stride_n)),
            piece_stride.eq(Mux(weight, tile.stationary_stride_m, Mux(tile.flat, tile.stream_stride_c, parts.pitch))),
            digit_stride.eq(
                Mux(
                    tile.stationary_stride_d.any(),
                    tile.stationary_stride_d << exact_log2(WORD_BYTES),
                    self._config.weight_tile_beats * BEAT_BYTES,
                )
            ),
        ]
        with m.If(at["TILE"]):
            m.d.sync += [stream_addr.eq(tile.stream_addr), block_addr.eq(tile.stationary_addr)]
        with m.If(at["SLOT"]):
            m.d.sync += [place.eq(Mux(weight, digit_addr, stream_addr)) for place in (addr, piece_addr, sample_addr)]
        with m.If(at["PIECE"]):
            m.d.sync += addr.eq(next_addr)
            with m.If(row_done):
                m.d.sync += piece_addr.eq(next_addr)
        with m.If(at["SAMPLE"]):
            m.d.sync += [place.eq(sample_addr + sample_stride) for place in (addr, piece_addr, sample_addr)]
        with m.If(at["STATIONARY"]):
            m.d.sync += [digit_addr.eq(block_addr), row_addr.eq(block_addr)]
        with m.If(at["DIGIT"]):
            m.d.sync += digit_addr.eq(digit_addr + digit_stride)
        with m.If(at["ROW BLOCK"]):
            m.d.sync += [digit_addr.eq(row_addr + row_stride), row_addr.eq(row_addr + row_stride)]
        with m.If(at["BLOCK"]):
            m.d.sync += [
                block_addr.eq(block_addr + tile.stationary_stride_k),
                stream_addr.eq(stream_addr + stream_stride),
            ]
        gradient = Signal()
        m.d.sync += gradient.eq(tile.gradient)
        with m.If(gradient & ~at["TILE"]):  # there it is what the tile before was
            m.d.sync += stream_addr.eq(parts.address)
        return addr

    def _note(self, m: Module, weight, at, row_done, parts: GradientBlocks) -> None:
        """Where the run goes: which clusters, and its place in their buffers."""
        tile, note = self.i.payload, self.runs.payload
        clusters_left = Countdown(len(tile.parts), "parts")
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
        entry = Signal(2)  # of the first beat in its word: images lie side by side
        # A piece takes one row bank, or as many as a row of a gradient has words.
        ahead = Signal(3)
        m.d.sync += ahead.eq(Mux(tile.gradient, tile.words, 1))
        following = Signal(range(ROW_BANKS))
        groups = Signal(2)
        m.d.comb += Cat(following, groups).eq(after_words(bank, ahead))
        with m.If(at["PIECE"] & ~row_done):
            m.d.sync += entry.eq(entry + parts.image_beats)
        with m.If(at["PIECE"] & row_done):
            m.d.sync += [
                of_piece.eq(of_piece << 1),
                bank.eq(following),
                entry.eq(0),
                turn.eq(turn + Mux(tile.flat | tile.gradient, groups, 0)),
                group_words.eq(group_words + Mux(groups[1], tile.row_words << 1, Mux(groups[0], tile.row_words, 0))),
            ]
        with m.If(at["SAMPLE"]):
            m.d.sync += [of_part.eq(next_part), *clusters_left.step()]
            with m.If(clusters_left.last):
                m.d.sync += [
                    of_part.eq(first_part),
                    sample_words.eq(sample_words + tile.sample_words),
                    *clusters_left.restart(),
                ]
        with m.If(at["SLOT"]):
            m.d.sync += [
                of_part.eq(first_part),
                sample_words.eq(slot * self._config.stream_slot),
                *clusters_left.start(tile.parts),
            ]
        with m.If(at["SLOT"] | at["SAMPLE"]):
            m.d.sync += [
                of_piece.eq(first_piece),
                bank.eq(Mux(tile.flat, 0, Mux(tile.gradient, parts.bank, tile.first_bank))),
                turn.eq(Mux(tile.gradient, parts.group, 0)),
                group_words.eq(Mux(tile.gradient & parts.group, tile.row_words, 0)),
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
            note.gradient.eq(tile.gradient & ~weight),
            note.entry.eq(entry),
            note.planes.eq(tile.planes),
            note.plane_beats.eq(tile.plane_beats),
            note.plane_pitch.eq(tile.plane_pitch),
            note.row_words.eq(tile.row_words),
        ]
