"""The stream buffer of a cluster: bit-planes in, 3x3 windows out, any window every cycle.

Three row banks by four column banks of 16-bit words. Row y of an image lies in row bank y % 3 and column x in column
bank x % 4, so the nine words of a window lie in nine different banks at any stride, and a beat of four neighbouring
columns is written in one cycle. Two levels of multiplexers turn the banks into window order. In flat mode the nine
words are channel blocks of one vector, stored with the skew that makes the same multiplexers fit. Each row and each
column of the window has a choice of its own, so two of them may come from one bank. The words of a weight gradient are
stored likewise, and their lanes, which are positions, move to the left or right behind the multiplexers.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import FLAT_TAPS, LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from .control import COL_BANKS, ROW_BANKS, SIDE, Form, Shift, step, stream_fill


class StreamBuffer(wiring.Component):
    """Banks and window multiplexers.

    Members
    -------
    fill : In(control.stream_fill), take : In(1)
        The beat on the fill bus and whether this cluster takes it.
    addr : In(address of every bank)
        Presented in cycle t.
    column : In(column bank of every window column, of every row bank)
        Presented in cycle t + 2, `COLUMN_DELAY`.
    row, kill : In(row bank of every window row), In(9)
        Presented in cycle t + 3, `ROW_DELAY`.
    shift : In(Shift)
        Presented in cycle t + 3, `SHIFT_DELAY`.
    plane : Out(144)
        Lane tap * 16 + channel, in cycle t + 5, `LATENCY`.
    """

    COLUMN_DELAY = 2
    ROW_DELAY = 3
    SHIFT_DELAY = 3
    LATENCY = 5

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        choices = {name: In(step(config)[name].shape) for name in ("addr", "column", "row")}
        super().__init__(
            {
                "fill": In(stream_fill(config)),
                "take": In(1),
                **choices,
                "kill": In(TAPS),
                "shift": In(Shift),
                "plane": Out(LANES),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = [[None] * COL_BANKS for _ in range(ROW_BANKS)]
        for i in range(ROW_BANKS):
            for j in range(COL_BANKS):
                memory = Memory(shape=WORD_CHANNELS, depth=self._config.stream_depth, init=[])
                m.submodules[f"bank{i}{j}"] = memory
                write, read = memory.write_port(), memory.read_port()
                m.d.comb += [
                    write.en.eq(self.take & self.fill.valid & (self.fill.row_bank == i)),
                    write.addr.eq(self.fill.addr[j]),
                    write.data.eq(self.fill.data.word_select(j, WORD_CHANNELS)),
                    read.addr.eq(self.addr[i][j]),
                    read.en.eq(1),
                ]
                # A block RAM is slow to show its word: nothing but a register follows it.
                word = Signal(WORD_CHANNELS, name=f"word{i}{j}", reset_less=True)
                m.d.sync += word.eq(read.data)
                words[i][j] = word

        # First level: the window's columns, of all row banks.
        columns = []
        for i in range(ROW_BANKS):
            columns.append([Signal(WORD_CHANNELS, name=f"col{i}{kx}", reset_less=True) for kx in range(SIDE)])
            for kx, column in enumerate(columns[i]):
                m.d.sync += column.eq(Array(words[i])[self.column[i][kx]])

        # Second level: its rows; padding becomes zero in the same LUT.
        plane = Signal(LANES, reset_less=True)
        for ky in range(SIDE):
            for kx in range(SIDE):
                tap, bank = SIDE * ky + kx, self.row[ky]
                word = Mux(bank[1], columns[2][kx], Mux(bank[0], columns[1][kx], columns[0][kx]))
                m.d.sync += plane.word_select(tap, WORD_CHANNELS).eq(Mux(self.kill[tap], 0, word))
        if self._config.vector:
            self._shift(m, plane)
        else:
            late = Signal(LANES, name="late", reset_less=True)
            m.d.sync += late.eq(plane)
            m.d.comb += self.plane.eq(late)
        return m

    def _shift(self, m: Module, plane) -> None:
        """Third level: lanes of a weight gradient change places with their neighbours."""
        left = Signal()
        right = Signal()
        m.d.sync += [left.eq(self.shift.left), right.eq(self.shift.right)]
        # Between which lanes a row of an image goes on: lanes of a word, by their number, and neighbouring words.
        form = self.shift.form
        inside = {}
        for lane, narrow in ((4, (Form.QUARTERS,)), (8, (Form.QUARTERS, Form.HALVES)), (12, (Form.QUARTERS,))):
            inside[lane] = Signal(name=f"joined_at{lane}", reset_less=True)
            m.d.sync += inside[lane].eq(Cat(form == each for each in narrow).any() == 0)
        joined = [Const(0)] + [Signal(name=f"joined_word{word}", reset_less=True) for word in range(1, TAPS)]
        for word in range(1, TAPS):
            forms = [each for each, words in ((Form.TWO, 2), (Form.THREE, 3), (Form.FOUR, 4)) if word % words]
            m.d.sync += joined[word].eq(Cat(form == each for each in forms).any())

        shifted = Signal(LANES, name="shifted", reset_less=True)
        lanes = [plane.word_select(tap, WORD_CHANNELS) for tap in FLAT_TAPS]  # of words in their order
        for word, tap in enumerate(FLAT_TAPS):
            for lane in range(WORD_CHANNELS):
                if lane:
                    before = lanes[word][lane - 1] & inside.get(lane, 1)
                else:
                    before = lanes[word - 1][-1] & joined[word] if word else Const(0)
                if lane + 1 < WORD_CHANNELS:
                    behind = lanes[word][lane + 1] & inside.get(lane + 1, 1)
                else:
                    behind = lanes[word + 1][0] & joined[word + 1] if word + 1 < TAPS else Const(0)
                bit = Mux(left, before, Mux(right, behind, lanes[word][lane]))
                m.d.sync += shifted[tap * WORD_CHANNELS + lane].eq(bit)
        m.d.comb += self.plane.eq(shifted)
