"""EXEC: takes the array through a tile, one bit-plane a cycle.

For each k block, row block and digit (a pass) it streams every position of the tile: for each position the planes
that have a set bit anywhere in the tile, for each plane one step. The recursion over digits is nothing but another
pass over the same stream slot with the next table context and a smaller weight.

`Execute` leads through the passes, `rtl.walk` through positions and planes, `rtl.window` makes addresses of them.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .cells import UPPER_SHIFT
from .config import DIGIT_BITS, FLAT_TAPS, MAX_BITS, SLOTS, TAPS, AcceleratorConfig
from .control import step
from .delay import delayed
from .gradient_taps import GradientTaps
from .loop import Loop
from .planes import PlaneLists
from .states import States
from .tiles import exec_tile
from .timing import array_timing
from .unpack import StreamSlot
from .walk import Walk
from .window import Window

#: Cycles from a plane being chosen to its step on the output: the walk's register, then the window's stages.
PIPELINE = 1 + Window.LATENCY


class Loops(NamedTuple):
    """What of the loops over passes is in its last turn."""

    last_digit: Signal
    last_row_block: Signal
    last_block: Signal

    @property
    def block_done(self):
        """The pass is the last of its k block."""
        return self.last_digit & self.last_row_block

    @property
    def tile_done(self):
        """The pass is the last of its tile."""
        return self.block_done & self.last_block


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
        self._config, self._timing = config, array_timing(config)
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
        m.submodules.planes = planes = PlaneLists()
        m.submodules.walk = walk = Walk(self._config, self._timing.reuse)
        m.submodules.window = window = Window(self._config)
        wiring.connect(m, wiring.flipped(self.stream_slots), planes.i)

        tile = Signal(exec_tile(self._config))  # in work
        taken = Signal()  # it is new since the cycle before
        ended = Signal()  # a pass's last move is there; what follows belongs to the next pass
        m.d.sync += ended.eq(walk.done)
        loops = self._loops(m, tile, taken, ended)
        begin, listed = self._sequence(m, tile, taken, ended, loops, planes, walk)
        begun = Signal()
        m.d.sync += begun.eq(begin)

        stream_slot = Signal(range(SLOTS))
        with m.If(ended & loops.block_done):
            m.d.sync += stream_slot.eq(stream_slot + 1)
        m.d.comb += [
            walk.tile.eq(tile),
            walk.load.eq(taken),
            walk.begin.eq(begin),
            walk.last_index.eq(listed.last),
            planes.half.eq(listed.half),
            planes.index.eq(walk.move.index),
            window.tile.eq(tile),
            window.slot.eq(stream_slot),
            window.begin.eq(begun),
            window.move.eq(walk.move),
            window.plane.eq(planes.plane),
            window.absent.eq(Mux(loops.last_block, self._absent(m, tile), 0)),
        ]
        if self._config.vector:
            m.submodules.taps = taps = GradientTaps(self._config)
            m.d.comb += [
                taps.tile.eq(tile),
                taps.block_end.eq(ended & loops.block_done),
                taps.tile_end.eq(ended & loops.tile_done),
                taps.begin.eq(begun),
                taps.move.eq(walk.move),
                window.gradient.eq(taps.place),
                window.outside.eq(taps.outside),
                self.step.shift.eq(delayed(m, taps.shift, Window.LATENCY, "shift")),
            ]
        position = self._position(m, begun, walk.move, ended, loops)
        self._step(m, tile, taken, ended, loops, walk.move, planes.plane, position, window)

        missing = Signal(range(MAX_BITS + 1))  # planes that each position leaves out
        m.d.sync += [
            missing.eq(tile.planes - 1 - listed.last),
            self.skipped.eq(Mux(walk.move.last, missing, 0)),
        ]
        return m

    @staticmethod
    def _absent(m: Module, tile) -> Signal:
        """Taps for which the last k block has no channel block: older data lies in their place. A register."""
        absent = Signal(TAPS, name="absent_taps", reset_less=True)
        for tap in range(TAPS):
            m.d.sync += absent[tap].eq(tile.flat & (FLAT_TAPS.index(tap) >= tile.k_tail))
        return absent

    def _loops(self, m: Module, tile, load, ended) -> Loops:
        """Digits in row blocks in k blocks."""
        loops = {}
        step = ended
        for name, turns in (("digits", tile.digits), ("row_blocks", tile.row_blocks), ("k_blocks", tile.k_blocks)):
            m.submodules[name] = loop = loops[name] = Loop(len(turns))
            m.d.comb += [loop.turns.eq(turns), loop.load.eq(load), loop.step.eq(step)]
            step = step & loop.last
        return Loops(*(loop.last for loop in loops.values()))

    def _sequence(self, m: Module, tile, taken, ended, loops: Loops, planes: PlaneLists, walk: Walk):
        """Takes tiles, lists of planes, contexts and result slots into use and gives them back.

        Returns the pulse that begins a pass, and the block's list of planes.
        """
        begin = Signal()
        listed = Signal(planes.o.payload.shape())
        tile_begun = Signal()
        tile_done = Signal()
        contexts = self._tokens(m, "contexts", 0, self.context_full, begin)
        results = self._tokens(m, "results", SLOTS, self.result_free, tile_begun)
        # Only a pass of fewer positions than `reuse` can come too early to its stored sums; a gap follows it.
        gap = Signal(range(self._timing.reuse + 1))
        block_ended = Signal()
        with m.If(ended):
            m.d.sync += block_ended.eq(loops.block_done)
        captured = Signal()
        m.d.sync += [captured.eq(tile_begun), taken.eq(captured)]

        vacant = Signal(init=1)  # the state is TILE; a register
        # The record is wide, and has a register of its own for that. It starts at another value, which keeps synthesis
        # from making one of the two; no tile comes in the first cycle.
        capture = Signal(init=0)
        vacant_next = Signal()
        tile_ended = Signal()  # a cycle later: what tells the end is many flags
        m.d.sync += tile_ended.eq(tile_done)
        m.d.comb += vacant_next.eq(tile_ended | (vacant & ~tile_begun))
        m.d.sync += [vacant.eq(vacant_next), capture.eq(vacant_next)]
        with m.If(capture):
            m.d.sync += tile.eq(self.i.payload)
        m.d.comb += [
            self.i.ready.eq(captured),  # a cycle later: many flags and a wide record hang on it
            tile_begun.eq(vacant & results & self.i.valid),
            self.wait_result.eq(vacant & ~results & self.i.valid),
        ]
        m.d.comb += tile_done.eq(walk.done & loops.tile_done)
        states = States(m, "TILE", "BLOCK", "PASS", "RUN", "GAP")
        with states.state("TILE"):
            with m.If(tile_begun):
                states.go("BLOCK")
        with states.state("BLOCK"):
            m.d.comb += [planes.o.ready.eq(1), self.wait_stream.eq(~planes.o.valid)]
            m.d.sync += listed.eq(planes.o.payload)
            with m.If(planes.o.valid):
                states.go("PASS")
        with states.state("PASS"):
            m.d.comb += [begin.eq(contexts), self.wait_table.eq(~contexts)]
            m.d.sync += gap.eq(0)
            with m.If(contexts):
                states.go("RUN")
        with states.state("RUN"):
            with m.If(walk.done):
                with m.If(loops.tile_done):
                    states.go("TILE")
                with m.Elif(~walk.long):
                    states.go("GAP")
                with m.Elif(loops.block_done):
                    states.go("BLOCK")
                with m.Else():
                    states.go("PASS")
        with states.state("GAP"):
            m.d.sync += gap.eq(gap + 1)
            with m.If(gap == self._timing.reuse):
                with m.If(block_ended):
                    states.go("BLOCK")
                with m.Else():
                    states.go("PASS")

        for pulse, token, delay, name in (
            (walk.done, self.context_free, self._timing.context_free, "context_freed"),
            (walk.done & loops.block_done, self.stream_free, self._timing.stream_free, "stream_freed"),
            (tile_done, self.result_full, self._timing.result_full, "result_filled"),
        ):
            history = Signal(PIPELINE + delay, name=name)
            m.d.sync += history.eq(Cat(pulse, history))
            m.d.comb += token.eq(history[-1])
        return begin, listed

    @staticmethod
    def _tokens(m: Module, name: str, init: int, given, used):
        """Counts the slots that wait for EXEC. Returns a register: there is one."""
        count = Signal(range(SLOTS + 1), init=init, name=name)
        some = Signal(init=init != 0, name=f"some_{name}")
        with m.If(given & ~used):
            m.d.sync += [count.eq(count + 1), some.eq(1)]
        with m.Elif(used & ~given):
            m.d.sync += [count.eq(count - 1), some.eq(count != 1)]
        return some

    def _position(self, m: Module, begun, move, ended, loops: Loops):
        """Where the present sums lie: every digit goes over the positions of its row block again."""
        offset = Signal(ceil_log2(self._config.result_slot))
        start = Signal.like(offset)  # of the pass
        slot = Signal(range(SLOTS), name="result_slot")
        with m.If(begun):
            m.d.sync += offset.eq(start)
        with m.Elif(move.last):
            m.d.sync += offset.eq(offset + 1)
        with m.If(ended & loops.last_digit):
            m.d.sync += start.eq(Mux(loops.last_row_block, 0, offset + 1))
        with m.If(ended & loops.tile_done):
            m.d.sync += slot.eq(slot + 1)
        return Cat(offset, slot)

    def _step(self, m: Module, tile, taken, ended, loops: Loops, move, plane, position, window: Window) -> None:
        """Moves become steps, in as many stages as the window takes."""
        context = Signal()
        first_digit = Signal()
        first_block = Signal()
        scale = Signal(range(2 * MAX_BITS))  # log2 of the weight of this digit and plane 0
        full_scale = Signal.like(scale)  # of digit 0
        with m.If(ended):
            m.d.sync += [context.eq(~context), first_digit.eq(loops.last_digit), scale.eq(scale - DIGIT_BITS)]
        with m.If(ended & loops.block_done):
            m.d.sync += first_block.eq(0)
        with m.If(taken):
            m.d.sync += [first_digit.eq(1), first_block.eq(1)]
        m.d.sync += full_scale.eq(tile.planes + (tile.digits << ceil_log2(DIGIT_BITS)) - 1 - DIGIT_BITS)
        with m.If(taken | (ended & loops.last_digit)):
            m.d.sync += scale.eq(full_scale)

        shape = self.step.shape()
        same = ("context", "unsigned_digit", "first", "clear", "last", "position")
        fields = {name: shape[name].shape for name in same} | {"exponent": scale.shape(), "negative": 1}
        control = Signal(data.StructLayout(fields), reset_less=True)
        m.d.sync += [
            control.context.eq(context),
            control.unsigned_digit.eq(~(tile.signed & first_digit)),
            control.first.eq(move.first),
            control.clear.eq(first_block & first_digit),
            control.last.eq(move.last),
            control.position.eq(position),
            control.exponent.eq(scale - plane),
            control.negative.eq(tile.stream_signed & (plane == 0)),
        ]
        control = delayed(m, control, Window.LATENCY - 2, "control")
        out = Signal(shape, reset_less=True)
        upper = control.exponent >= UPPER_SHIFT
        power = 1 << Mux(upper, control.exponent - UPPER_SHIFT, control.exponent)[:4]
        m.d.sync += [
            *(out[name].eq(control[name]) for name in same),
            out.weight.eq(Mux(control.negative, -power, power)),
            out.upper.eq(upper),
        ]
        m.d.comb += [
            *(self.step[name].eq(out[name]) for name in (*same, "weight", "upper")),
            self.step.valid.eq(delayed(m, move.valid, Window.LATENCY, "valid", control=True)),
            *(self.step[name].eq(getattr(window, name)) for name in ("addr", "column", "row", "kill")),
        ]
