"""From a position to the bank addresses of its window and the taps in the padding, in `LATENCY` stages."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import MAX_BITS, SLOTS, TAPS, AcceleratorConfig
from .control import COL_BANKS, ROW_BANKS, SIDE, step
from .delay import delayed
from .gradient_taps import Place
from .tiles import SIZE, exec_tile
from .walk import Move

COORDINATE = signed(SIZE + 2)


class Window(wiring.Component):
    """The stream buffer's side of a plane-cycle.

    Coordinates are those of the image. Where zeros stand between its pixels, the window stands on a pixel or between
    two, in each axis: on one, its first and its third row hold the image's rows y and y + 1, between two its second
    row holds row y.

    Members
    -------
    tile : In(exec_tile)
        Of the move in the same cycle.
    slot : In(1)
        The stream slot that is read, at `begin`.
    begin : In(1)
        The next move is the first of its pass.
    move : In(Move), plane : In(4)
        A plane of a position, in cycle t.
    absent : In(9)
        Flat mode: taps without a channel block, in cycle t.
    gradient : In(Place), outside : In(9)
        Weight gradient: where the words lie, in cycle t; those outside the image, in cycle t + 2.
    addr, column, row, kill : Out
        Of `rtl.control.step`, in cycle t + LATENCY.
    """

    LATENCY = 4

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        self._words = ceil_log2(config.stream_depth)
        out = step(config)
        super().__init__(
            {
                "tile": In(exec_tile(config)),
                "slot": In(range(SLOTS)),
                "begin": In(1),
                "move": In(Move),
                "plane": In(range(MAX_BITS)),
                "absent": In(TAPS),
                "gradient": In(Place),
                "outside": In(TAPS),
                **{name: Out(out[name].shape) for name in ("addr", "column", "row", "kill")},
            }
        )

    def elaborate(self, platform):
        m = Module()
        corner = self._corner(m)
        # Constants of the tile for the stages behind the first. They follow it by a cycle, as its moves do.
        tile = self.tile
        late = Signal(
            data.StructLayout(
                {
                    **dict.fromkeys(("windowed", "gradient", "stuffed"), 1),
                    **dict.fromkeys(("height", "width"), SIZE),
                    "row_words": self._words,
                }
            ),
            reset_less=True,
        )
        m.d.sync += [
            late.windowed.eq(~tile.flat & (tile.gradient == 0)),
            late.gradient.eq(tile.gradient),
            late.stuffed.eq(tile.stuffed),
            late.height.eq(tile.height),
            late.width.eq(tile.width),
            late.row_words.eq(tile.row_words),
        ]
        self._padding(m, corner, late)
        self._addresses(m, corner, late)
        return m

    def _corner(self, m: Module) -> Signal:
        """Where the window of the present position stands: registers that `begin` and `move` lead from one to the next.

        Returns them: `y` and `x` of the window's corner in the image and whether it stands between pixels there, the
        row bank of its top row, and the words at which its sample and its group of three rows begin.
        """
        tile, move = self.tile, self.move
        position = {"y": COORDINATE, "x": COORDINATE, "between_y": 1, "between_x": 1}
        corner = Signal(
            data.StructLayout({**position, "bank": 2, "sample": self._words, "group": self._words}), reset_less=True
        )
        first = Signal(data.StructLayout(position), reset_less=True)
        m.d.sync += [
            first.y.eq((tile.top + tile.stuffed) >> tile.stuffed),
            first.x.eq((tile.stuffed - tile.left) >> tile.stuffed),
            first.between_y.eq(tile.stuffed & tile.top[0]),
            first.between_x.eq(tile.stuffed & tile.left[0]),
        ]
        last_bank = corner.bank == ROW_BANKS - 1
        over = last_bank | (tile.stride[1] & (corner.bank != 0))  # into the next group
        turned = Mux(tile.stride[1], Mux(over, corner.bank - 1, 2), Mux(over, 0, corner.bank + 1))
        with m.If(self.begin | move.row_end):
            m.d.sync += [corner.x.eq(first.x), corner.between_x.eq(first.between_x)]
        with m.Elif(move.last):
            m.d.sync += corner.between_x.eq(tile.stuffed & ~corner.between_x)
            with m.If(~corner.between_x):  # of two steps one leads from a pixel to the stuffing before the next
                m.d.sync += corner.x.eq(corner.x + tile.stride)
        with m.If(self.begin | move.image_end):
            m.d.sync += [
                corner.y.eq(first.y),
                corner.between_y.eq(first.between_y),
                corner.bank.eq(0),
                corner.group.eq(0),
            ]
        with m.Elif(move.row_end):
            m.d.sync += corner.between_y.eq(tile.stuffed & ~corner.between_y)
            with m.If(~corner.between_y):
                m.d.sync += [
                    corner.y.eq(corner.y + tile.stride),
                    corner.bank.eq(turned),
                    corner.group.eq(corner.group + Mux(over, tile.row_words, 0)),
                ]
        with m.If(self.begin):
            m.d.sync += corner.sample.eq(self.slot * self._config.stream_slot)
        with m.Elif(move.image_end):
            m.d.sync += corner.sample.eq(corner.sample + tile.sample_words)
        return corner

    def _padding(self, m: Module, corner, late) -> None:
        """Taps outside the image or between its pixels. A negative coordinate is a large one without its sign."""
        tile, outside = self.tile, {}
        for axis, limit in (("y", late.height), ("x", late.width)):
            between = corner[f"between_{axis}"]
            for i, offset in enumerate(self._offsets(tile.stuffed)):
                at = Signal(COORDINATE, name=f"{axis}{i}", reset_less=True)
                stuffing = Signal(name=f"{axis}{i}_stuffing", reset_less=True)
                beyond = Signal(name=f"{axis}{i}_outside", reset_less=True)
                m.d.sync += [
                    at.eq(corner[axis] + offset),
                    stuffing.eq(tile.stuffed & (between ^ (i == 1))),
                    beyond.eq(late.windowed & (stuffing | (at.as_unsigned() >= limit))),
                ]
                outside[axis, i] = beyond
        absent = delayed(m, self.absent, 2, "absent")
        kill = Signal(TAPS, reset_less=True)
        for tap in range(TAPS):
            padding = outside["y", tap // SIDE] | outside["x", tap % SIDE]
            m.d.sync += kill[tap].eq(absent[tap] | self.outside[tap] | padding)
        m.d.comb += self.kill.eq(delayed(m, kill, self.LATENCY - 3, "kill"))

    @staticmethod
    def _offsets(stuffed) -> tuple:
        """Rows, or columns, of the image from the window's corner to each of its own that holds one."""
        return 0, ~stuffed, Mux(stuffed, 1, 2)

    @staticmethod
    def _turned(bank, offset):
        """The row bank `offset` rows below that of `bank`."""
        return Mux(bank + offset >= ROW_BANKS, bank + offset - ROW_BANKS, bank + offset)

    def _addresses(self, m: Module, corner, late) -> None:
        """Bank (i, j): the words of the window's row in row bank i, the plane in it, the beat of column bank j."""

        def register(name: str, value, bits: int = self._words):
            signal = Signal(bits, name=name, reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        def multiples(name: str, value) -> Array:
            """0 to 3 times `value`, which is a register."""
            return Array([0, value, value << 1, register(f"{name}_times_3", value + (value << 1))])

        tile, low = self.tile, ceil_log2(COL_BANKS)
        gradient = self.gradient
        top_bank = register("top_bank", Mux(tile.gradient, gradient.bank, corner.bank), 2)
        x = delayed(m, corner.x, 1, "x")
        first = register("first_column", corner.x[:low] + Mux(tile.gradient, gradient.turn, 0), low)
        for i, offset in enumerate(self._offsets(late.stuffed)):
            row = register(f"row{i}_bank", self._turned(top_bank, offset), 2)
            m.d.comb += self.row[i].eq(delayed(m, row, self.LATENCY - 2, f"row{i}_bank"))
            for bank in range(ROW_BANKS):
                name = f"column{i}_bank_of{bank}"
                later = late.gradient & (bank < top_bank)  # words there are of the next group of three
                column = register(name, first + offset + later, low)
                m.d.comb += self.column[bank][i].eq(delayed(m, column, self.LATENCY - 2, name))

        # A plane's words, as a product of two bits and two.
        pitches = multiples("plane_pitch", register("plane_pitch", tile.plane_pitch))
        lower = register("lower_planes", pitches[self.plane[:2]])
        upper = register("upper_planes", pitches[self.plane[2:]])
        plane = register("plane_words", lower + (upper << 2))

        base = register("image_words", corner.sample + Mux(tile.gradient, gradient.group, corner.group))
        group_words = register("group_words", Mux(tile.flat | tile.gradient, tile.row_words, 0))
        groups = multiples("group_words", group_words)
        rows, columns = [], []
        for i in range(ROW_BANKS):  # banks above the top row's hold the rows of the next group of three
            row = register(f"row{i}_words", base + Mux(i < top_bank, late.row_words, 0))
            rows.append(register(f"row{i}_plane_words", row + plane))
        for j in range(COL_BANKS):
            tap = (j - first)[:low]  # window column that bank j holds
            beat = register(f"column{j}_beat", (x >> low) + (~late.gradient & (j < first)))
            group = register(f"column{j}_group", groups[tap])
            columns.append(register(f"column{j}_words", beat + group))
        for i, row in enumerate(rows):
            later = delayed(m, late.gradient & (i < top_bank), 2, f"row{i}_later")
            for j in range(COL_BANKS):
                column = Mux(later, columns[j - 1], columns[j])
                m.d.comb += self.addr[i][j].eq(register(f"bank{i}{j}", row + column))
