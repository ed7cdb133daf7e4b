"""STORE: finished tiles to DDR, over a lane for each manager.

All lanes work through the same tiles, each for its own clusters. One that has done its part goes on to the next tile;
at a descriptor's end they wait for each other.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ACC_BITS, BEAT_BITS, SLOTS, AcceleratorConfig
from .control import DRAIN_ROWS, drain
from .dma import Command
from .store_lane import StoreLane
from .tiles import store_tile


class Store(wiring.Component):
    """The STORE unit.

    Members
    -------
    i : In(stream of store_tile)
    result_full : In(1), result_free : Out(1)
    drain, drain_request, drain_grant, drained, drained_valid : see `rtl.array.ClusterArray`
    command : Out(stream of dma.Command), beats : Out(stream of 64 bits)
        Of each lane, to its writer.
    quiet : In(1)
        Of each lane: the writer has written everything and been acknowledged.
    vector_finished : In(1)
        Pulse: all that a vector pass wrote has been acknowledged.
    finished : Out(1)
        Pulse: all sums of a tile have been requested, or a descriptor has ended.
    completed : Out(1), interrupt : Out(1)
        Pulse at a descriptor's end; `interrupt` if it asked for one.
    waiting : Out(1)
        A tile waits for its results.
    overflows : Out
        Results that did not fit int16 or int32, counted a few cycles after they left.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        lanes = config.lanes
        super().__init__(
            {
                "i": In(stream.Signature(store_tile(config))),
                "result_full": In(1),
                "result_free": Out(1),
                "drain": Out(drain(config)).array(lanes),
                "drain_request": Out(1).array(lanes),
                "drain_grant": In(1),
                "drained": In(data.ArrayLayout(ACC_BITS, DRAIN_ROWS)).array(lanes),
                "drained_valid": In(1).array(lanes),
                "command": Out(stream.Signature(Command)).array(lanes),
                "beats": Out(stream.Signature(BEAT_BITS)).array(lanes),
                "quiet": In(1).array(lanes),
                "vector_finished": In(1),
                "finished": Out(1),
                "completed": Out(1),
                "interrupt": Out(1),
                "waiting": Out(1),
                "overflows": Out(range(lanes * DRAIN_ROWS + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = []
        for number in range(self._config.lanes):
            m.submodules[f"lane{number}"] = lane = StoreLane(self._config, number)
            wiring.connect(m, lane.command, wiring.flipped(self.command[number]))
            wiring.connect(m, lane.beats, wiring.flipped(self.beats[number]))
            m.d.comb += [
                lane.result_full.eq(self.result_full),
                self.drain[number].eq(lane.drain),
                self.drain_request[number].eq(lane.drain_request),
                lane.drain_grant.eq(self.drain_grant),
                lane.drained.eq(self.drained[number]),
                lane.drained_valid.eq(self.drained_valid[number]),
                lane.quiet.eq(self.quiet[number]),
                lane.vector_finished.eq(self.vector_finished),
                lane.complete.eq(self.completed),
            ]
            lanes.append(lane)
        self._hand_out(m, lanes)
        released = self._released(m, lanes)
        done = self._all_done(m, lanes)
        m.d.sync += [self.result_free.eq(released), self.finished.eq(released | self.completed)]
        m.d.comb += [
            self.completed.eq(done),
            self.interrupt.eq(self.completed & lanes[0].interrupt),
            self.waiting.eq(Cat(lane.waiting for lane in lanes).all()),
            self.overflows.eq(sum(lane.overflows for lane in lanes)),
        ]
        return m

    def _hand_out(self, m: Module, lanes: list[StoreLane]) -> None:
        """Every lane takes every tile; the queue gives it up in the cycle after the last one has."""
        if len(lanes) == 1:
            wiring.connect(m, wiring.flipped(self.i), lanes[0].i)
            return
        taken = Signal(len(lanes))  # by whom the tile has been taken
        m.d.comb += self.i.ready.eq(taken.all())
        for lane, has in zip(lanes, taken, strict=True):
            m.d.comb += [lane.i.valid.eq(self.i.valid & ~has), lane.i.payload.eq(self.i.payload)]
            with m.If(lane.i.valid & lane.i.ready):
                m.d.sync += has.eq(1)
        with m.If(taken.all()):
            m.d.sync += taken.eq(0)

    def _all_done(self, m: Module, lanes: list[StoreLane]):
        """High for a cycle when all lanes are done with a descriptor."""
        if len(lanes) == 1:
            return lanes[0].done
        done = Signal()
        m.d.sync += done.eq(Cat(lane.done for lane in lanes).all() & ~done)
        return done

    def _released(self, m: Module, lanes: list[StoreLane]):
        """High for a cycle for each tile that all lanes are done with."""
        if len(lanes) == 1:
            return lanes[0].drained_tile
        released = Signal()
        there = []
        for number, lane in enumerate(lanes):
            ahead = Signal(range(SLOTS + 1), name=f"ahead{number}")  # tiles that the other lanes may still work on
            m.d.sync += ahead.eq(ahead + lane.drained_tile - released)
            there.append(ahead.any())
        m.d.comb += released.eq(Cat(there).all())
        return released
