"""LOAD: brings operands from DDR into the clusters' buffers.

`Issue` walks a tile and sends one read command a run, as soon as a buffer slot is free. A note about each run waits for
its data, so that many runs are in flight; `Unpack` turns the beats into bank addresses.
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .config import AcceleratorConfig
from .control import fill
from .dma import Beats, Command
from .issue import Issue
from .queue import Queue
from .table import WeightSlot
from .tiles import load_tile
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
        m.submodules.issue = issue = Issue(self._config)
        m.submodules.queue = queue = Queue(run(self._config), 2 * self._config.outstanding)
        m.submodules.unpack = unpack = Unpack(self._config)
        wiring.connect(m, wiring.flipped(self.i), issue.i)
        wiring.connect(m, issue.command, wiring.flipped(self.command))
        wiring.connect(m, issue.runs, queue.i)
        wiring.connect(m, queue.o, unpack.i)
        wiring.connect(m, wiring.flipped(self.beats), unpack.beats)
        wiring.connect(m, unpack.stream_slots, wiring.flipped(self.stream_slots))
        wiring.connect(m, unpack.weight_slots, wiring.flipped(self.weight_slots))
        m.d.comb += [
            self.fill.eq(unpack.fill),
            issue.stream_free.eq(self.stream_free),
            issue.weight_free.eq(self.weight_free),
            self.waiting.eq(issue.waiting),
        ]
        return m
