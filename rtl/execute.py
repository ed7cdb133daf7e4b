"""EXEC: takes the array through a tile, one bit-plane a cycle.

For each k block, row block and digit (a pass) it streams every position of the tile: for each position the planes
that have a set bit anywhere in the tile, for each plane one step. The recursion over digits is nothing but another
pass over the same stream slot with the next table context and a smaller weight.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .array import STORE_LATENCY, STREAM_READ_LATENCY, TABLE_READ_LATENCY
from .cells import UPPER_SHIFT
from .config import DIGIT_BITS, MAX_BITS, SLOTS, TAPS, AcceleratorConfig
from .control import COL_BANKS, ROW_BANKS, step
from .tiles import SIZE, exec_tile
from .unpack import StreamSlot

#: Cycles from a position being chosen to its step on the output.
PIPELINE = 3
#: A position's stored sum may be read again this many cycles after its last plane. Only passes of fewer positions
#: than this can come too early; they are followed by a gap.
REUSE_GAP = 4


class Execute(wiring.Component):
    """The EXEC unit.

    Members
    -------
    i : In(stream of exec_tile)
    stream_slots : In(stream of StreamSlot), stream_free : Out(1)
    context_full : In(1), context_free : Out(1)
    result_free : In(1), result_full : Out(1)
        Tokens: pulses that hand a buffer slot to the next unit or back.
    step : Out(control.step)
        To the array; no back-pressure.
    wait_stream, wait_table, wait_result : Out(1)
        Why no plane is taken in this cycle.
    skipped : Out(5)
        Planes of this cycle's position that were left out, in the cycle of its last plane.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(exec_tile(config))),
                "stream_slots": In(stream.Signature(StreamSlot)),
                "stream_free": Out(1),
                "context_full": In(1),
                "context_free": Out(1),
                "result_free": In(1),
                "result_full": Out(1),
                "step": Out(step(config)),
                "wait_stream": Out(1),
                "wait_table": Out(1),
                "wait_result": Out(1),
                "skipped": Out(5),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, tile = self._config, self.i.payload
        words = ceil_log2(config.stream_depth)

        contexts = Signal(range(SLOTS + 1))
        results = Signal(range(SLOTS + 1), init=SLOTS)
        use_context, use_result = Signal(), Signal()
        m.d.sync += [
            contexts.eq(contexts + self.context_full - use_context),
            results.eq(results + self.result_free - use_result),
        ]

        # Loops: pass, then position, then plane.
        block, row_block, digit = Signal(SIZE), Signal(SIZE), Signal(3)
        stream_slot, result_slot, context = Signal(range(SLOTS)), Signal(range(SLOTS)), Signal()
        kept, left = Signal(MAX_BITS), Signal(MAX_BITS)  # planes of a position, and those still to do
        missing = Signal(5)  # planes left out
        position = Signal(ceil_log2(config.result_depth))
        pass_start = Signal.like(position)
        sample, row, x = Signal.like(tile.samples), Signal(SIZE), Signal(SIZE)
        sample_addr, group_addr = Signal(words), Signal(words)
        bank = Signal(2)  # row bank of the window's top row
        y, column = Signal.like(tile.top), Signal(signed(SIZE + 2))  # window's corner in the image
        passed = Signal(range(REUSE_GAP + 1))  # positions of this pass, saturating
        gap = Signal(range(REUSE_GAP + 1))

        running = Signal()
        lowest = Signal(MAX_BITS)
        plane = Signal(range(MAX_BITS))
        m.d.comb += lowest.eq(left & -left)
        for bit in range(4):
            hits = [lowest[q] for q in range(MAX_BITS) if q >> bit & 1]
            m.d.comb += plane[bit].eq(Cat(*hits).any())
        last_plane = (left & (left - 1))[:MAX_BITS] == 0
        last_x = x == tile.out_width - 1
        last_row = row == tile.rows - 1
        last_position = last_x & last_row & (sample == tile.samples - 1)
        pass_done = Signal()
        m.d.comb += pass_done.eq(running & last_plane & last_position)
        last_digit = digit == tile.digits - 1
        last_row_block = row_block == tile.row_blocks - 1
        last_block = block == tile.k_blocks - 1
        block_done = pass_done & last_digit & last_row_block
        tile_done = block_done & last_block

        def rewind_image():
            m.d.sync += [row.eq(0), group_addr.eq(0), bank.eq(0), y.eq(tile.top)]

        def rewind_pass():
            rewind_image()
            m.d.sync += [
                sample.eq(0),
                x.eq(0),
                column.eq(-tile.left),
                left.eq(kept),
                passed.eq(0),
                sample_addr.eq(stream_slot * config.stream_slot),
            ]

        with m.FSM():
            with m.State("TILE"):
                m.d.sync += [block.eq(0), row_block.eq(0), digit.eq(0)]
                m.d.comb += self.wait_result.eq(self.i.valid & (results == 0))
                with m.If(self.i.valid & (results != 0)):
                    m.d.comb += use_result.eq(1)
                    m.next = "BLOCK"
            with m.State("BLOCK"):
                start = result_slot * config.result_slot
                m.d.sync += [position.eq(start), pass_start.eq(start)]
                mask = Signal(MAX_BITS)
                m.d.comb += [
                    mask.eq(self.stream_slots.payload.planes),
                    self.wait_stream.eq(~self.stream_slots.valid),
                ]
                # One plane is kept even if all are zero: the sums have to be stored.
                m.d.sync += kept.eq(Mux(mask == 0, 1, mask))
                count = sum(mask[q] for q in range(MAX_BITS))
                m.d.sync += missing.eq(tile.planes - Mux(mask == 0, 1, count))
                with m.If(self.stream_slots.valid):
                    m.d.comb += self.stream_slots.ready.eq(1)
                    m.next = "PASS"
            with m.State("PASS"):
                rewind_pass()
                m.d.comb += self.wait_table.eq(contexts == 0)
                with m.If(contexts != 0):
                    m.d.comb += use_context.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                m.d.sync += left.eq(left & (left - 1))
                with m.If(last_plane):
                    m.d.sync += [
                        left.eq(kept),
                        position.eq(position + 1),
                        x.eq(x + 1),
                        column.eq(column + tile.stride),
                        passed.eq(Mux(passed == REUSE_GAP, passed, passed + 1)),
                    ]
                    m.d.comb += self.skipped.eq(missing)
                    with m.If(last_x):
                        turned = bank + tile.stride
                        over = turned >= ROW_BANKS
                        m.d.sync += [
                            x.eq(0),
                            column.eq(-tile.left),
                            row.eq(row + 1),
                            y.eq(y + tile.stride),
                            bank.eq(Mux(over, turned - ROW_BANKS, turned)),
                            group_addr.eq(group_addr + Mux(over, tile.row_words, 0)),
                        ]
                        with m.If(last_row):
                            rewind_image()
                            m.d.sync += [sample.eq(sample + 1), sample_addr.eq(sample_addr + tile.sample_words)]
                with m.If(pass_done):
                    m.d.sync += [context.eq(~context), digit.eq(digit + 1), position.eq(pass_start), gap.eq(0)]
                    m.next = "PASS"
                    with m.If(last_digit):
                        m.d.sync += [
                            digit.eq(0),
                            row_block.eq(row_block + 1),
                            position.eq(position + 1),
                            pass_start.eq(position + 1),
                        ]
                    with m.If(block_done):
                        m.d.sync += [row_block.eq(0), block.eq(block + 1), stream_slot.eq(stream_slot + 1)]
                        m.next = "BLOCK"
                    with m.If(tile_done):
                        m.d.sync += result_slot.eq(result_slot + 1)
                        m.d.comb += self.i.ready.eq(1)
                        m.next = "TILE"
                    with m.Elif(passed < REUSE_GAP - 1):
                        m.next = "GAP"
            with m.State("GAP"):
                m.d.sync += gap.eq(gap + 1)
                with m.If(gap == REUSE_GAP):
                    with m.If((digit == 0) & (row_block == 0)):
                        m.next = "BLOCK"
                    with m.Else():
                        m.next = "PASS"

        def later(pulse, cycles: int, name: str):
            history = Signal(cycles, name=name)
            m.d.sync += history.eq(Cat(pulse, history))
            return history[-1]

        m.d.comb += [
            self.context_free.eq(later(pass_done, PIPELINE + TABLE_READ_LATENCY, "context_freed")),
            self.stream_free.eq(later(block_done, PIPELINE + STREAM_READ_LATENCY, "stream_freed")),
            self.result_full.eq(later(tile_done, PIPELINE + STORE_LATENCY, "result_filled")),
        ]

        # Position and plane become bank addresses in three stages.
        a, b, c = (Signal(step(config), name=name, reset_less=True) for name in ("stage_a", "stage_b", "step_out"))
        valid = Signal(PIPELINE)
        m.d.sync += valid.eq(Cat(running, valid))
        m.d.comb += [self.step.eq(c), self.step.valid.eq(valid[-1])]

        exponent = Signal(5)
        m.d.comb += exponent.eq(tile.planes - 1 - plane + ((tile.digits - 1 - digit) << ceil_log2(DIGIT_BITS)))
        upper = exponent >= UPPER_SHIFT
        power = 1 << Mux(upper, exponent - UPPER_SHIFT, exponent)[:4]
        negative = tile.stream_signed & (plane == 0)
        m.d.sync += [
            a.row.eq(bank),
            a.context.eq(context),
            a.unsigned_digit.eq(~(tile.signed & (digit == 0))),
            a.upper.eq(upper),
            a.weight.eq(Mux(negative, -power, power)),
            a.first.eq(left == kept),
            a.clear.eq((block == 0) & (digit == 0)),
            a.last.eq(last_plane),
            a.position.eq(position),
        ]
        outside_y = [((y + i) < 0) | ((y + i) >= tile.height) for i in range(3)]
        outside_x = [((column + j) < 0) | ((column + j) >= tile.width) for j in range(3)]
        for tap in range(TAPS):
            m.d.sync += a.kill[tap].eq(~tile.flat & (outside_y[tap // 3] | outside_x[tap % 3]))

        a_plane, a_column, a_base = Signal.like(plane), Signal.like(column), Signal(words)
        a_flat, a_pitch, a_row_words = Signal(), Signal.like(tile.plane_pitch), Signal.like(tile.row_words)
        m.d.sync += [
            a_plane.eq(plane),
            a_column.eq(column),
            a_base.eq(sample_addr + group_addr),
            a_flat.eq(tile.flat),
            a_pitch.eq(tile.plane_pitch),
            a_row_words.eq(tile.row_words),
        ]

        row_base = [Signal(words, name=f"row_base{i}") for i in range(ROW_BANKS)]
        offset = [Signal(words, name=f"offset{j}") for j in range(COL_BANKS)]
        plane_addr = Signal(words)
        first_column = a_column[: ceil_log2(COL_BANKS)]  # column bank of the window's left column
        m.d.sync += [
            b.eq(a),
            b.column.eq(first_column),
            plane_addr.eq(a_plane * a_pitch),
        ]
        for i in range(ROW_BANKS):  # banks above the top row's hold the rows of the next group of three
            m.d.sync += row_base[i].eq(a_base + Mux(i < a.row, a_row_words, 0))
        for j in range(COL_BANKS):
            tap = (j - first_column)[: ceil_log2(COL_BANKS)]  # window column that bank j holds
            group = Mux(tap[1], a_row_words << 1, 0) + Mux(tap[0], a_row_words, 0)
            beat = (a_column >> ceil_log2(COL_BANKS)) + (j < first_column)
            m.d.sync += offset[j].eq(beat + Mux(a_flat, group, 0))

        m.d.sync += c.eq(b)
        for i in range(ROW_BANKS):
            for j in range(COL_BANKS):
                m.d.sync += c.addr[i][j].eq(row_base[i] + plane_addr + offset[j])
        return m
