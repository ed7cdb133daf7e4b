"""The stream buffer of a cluster: bit-planes in, 3x3 windows out, any window every cycle.

Three row banks by four column banks of 16-bit words. Row y of an image lies in row bank y % 3 and column x in column
bank x % 4, so the nine words of a window lie in nine different banks at any stride, and a beat of four neighbouring
columns is written in one cycle. Two levels of multiplexers turn the banks into window order. In flat mode the nine
words are channel blocks of one vector, stored with the skew that makes the same multiplexers fit.
"""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from .control import COL_BANKS, ROW_BANKS, step, stream_fill


class StreamBuffer(wiring.Component):
    """Banks and window multiplexers.

    Members
    -------
    fill : In(control.stream_fill), take : In(1)
        The beat on the fill bus and whether this cluster takes it.
    addr : In(address of every bank)
        Presented in cycle t.
    column : In(2)
        Presented in cycle t + 2, `COLUMN_DELAY`.
    row, kill : In(2), In(9)
        Presented in cycle t + 3, `ROW_DELAY`.
    plane : Out(144)
        Lane tap * 16 + channel, in cycle t + 4, `LATENCY`.
    """

    COLUMN_DELAY = 2
    ROW_DELAY = 3
    LATENCY = 4

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "fill": In(stream_fill(config)),
                "take": In(1),
                "addr": In(step(config)["addr"].shape),
                "column": In(2),
                "row": In(2),
                "kill": In(TAPS),
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

        # First level: three columns, starting at bank `column`.
        columns = [[Signal(WORD_CHANNELS, name=f"col{i}{t}", reset_less=True) for t in range(3)] for i in range(3)]
        for i in range(ROW_BANKS):
            for t in range(3):
                source = Array(words[i][(start + t) % COL_BANKS] for start in range(COL_BANKS))
                m.d.sync += columns[i][t].eq(source[self.column])

        # Second level: three rows, starting at bank `row`; padding becomes zero in the same LUT.
        plane = Signal(LANES, reset_less=True)
        for ky in range(3):
            for kx in range(3):
                tap = 3 * ky + kx
                top, middle, bottom = (columns[(start + ky) % ROW_BANKS][kx] for start in range(ROW_BANKS))
                word = Mux(self.row[1], bottom, Mux(self.row[0], middle, top))
                m.d.sync += plane.word_select(tap, WORD_CHANNELS).eq(Mux(self.kill[tap], 0, word))
        m.d.comb += self.plane.eq(plane)
        return m
