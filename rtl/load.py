"""LOAD: brings operands from DDR into the clusters' buffers.

`Issue` walks a tile and sends one read command a run, as soon as a buffer slot is free. A note about each run waits for
its data, so that many runs are in flight; `Unpack` turns the beats into bank addresses, `Weights` those of the
stationary operand.
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .config import AcceleratorConfig
from .control import stream_fill, weight_fill
from .dma import Beats, Command
from .issue import Issue
from .queue import Queue
from .stream_run import run
from .table import WeightSlot
from .tiles import load_tile
from .unpack import StreamSlot, Unpack
from .weights import Weights


class Load(wiring.Component):
    """The LOAD unit.

    Members
    -------
    i : In(stream of load_tile)
    command : Out(stream of dma.Command), beats : In(dma.Beats)
        Of each manager: commands, and what was read, in order. The stationary operand goes over the first, the
        streaming operand over the last.
    stream_fill : Out(control.stream_fill), weight_fill : Out(control.weight_fill)
        What was read, on its way to the clusters.
    hold : Out(1)
        Nothing more is to be read over the last manager, from a few cycles later on.
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
                "command": Out(stream.Signature(Command)).array(config.managers),
                "beats": In(Beats).array(config.managers),
                "stream_fill": Out(stream_fill(config)),
                "weight_fill": Out(weight_fill(config)),
                "hold": Out(1),
                "stream_slots": Out(stream.Signature(StreamSlot)),
                "stream_free": In(1),
                "weight_slots": Out(stream.Signature(WeightSlot)),
                "weight_free": In(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.issue = issue = Issue(config)
        wiring.connect(m, wiring.flipped(self.i), issue.i)
        m.d.comb += [
            issue.stream_free.eq(self.stream_free),
            issue.weight_free.eq(self.weight_free),
            self.waiting.eq(issue.waiting),
        ]
        units = []
        for number in range(config.managers):
            chosen = issue.weight == (number == 0) if config.managers > 1 else 1
            m.submodules[f"queue{number}"] = queue = Queue(run(config), 2 * config.outstanding)
            m.submodules[f"unpack{number}"] = unpack = Unpack(config)
            command = wiring.flipped(self.command[number])
            if config.managers > 1:  # a register hides from Issue how a manager takes its commands
                m.submodules[f"command{number}"] = waiting = Queue(Command, 1)
                wiring.connect(m, waiting.o, command)
                command = waiting.i
            m.d.comb += [
                command.valid.eq(issue.command.valid & chosen),
                command.payload.eq(issue.command.payload),
                queue.i.valid.eq(issue.runs.valid & chosen),
                queue.i.payload.eq(issue.runs.payload),
            ]
            with m.If(chosen):
                m.d.comb += [issue.command.ready.eq(command.ready), issue.runs.ready.eq(queue.i.ready)]
            m.d.comb += [
                unpack.i.valid.eq(queue.o.valid),
                unpack.i.payload.eq(queue.o.payload),
                queue.o.ready.eq(unpack.i.ready),
            ]
            if config.managers > 1:  # so nothing is built for runs of the other operand
                m.d.comb += unpack.i.payload.weight.eq(number == 0)
            wiring.connect(m, wiring.flipped(self.beats[number]), unpack.beats)
            units.append(unpack)
        m.submodules.weights = weights = Weights(config)
        wiring.connect(m, units[0].weights, weights.i)
        wiring.connect(m, weights.slots, wiring.flipped(self.weight_slots))
        wiring.connect(m, units[-1].slots, wiring.flipped(self.stream_slots))
        m.d.comb += self.hold.eq(units[-1].hold)
        m.d.comb += [self.stream_fill.eq(units[-1].fill), self.weight_fill.eq(weights.fill)]
        return m
