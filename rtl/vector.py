"""The vector unit: everything that a training step does between two products, from memory to memory.

A pass goes row by row: `VectorIssue` reads the rows of all streams ahead, `VectorSweep` sends the words of rows that
have come through the lanes (`rtl.lanes`), `VectorEmit` has rows written whose results are complete. Buffers between
them hold some rows each, so that reading, computing and writing go on side by side.
"""

from __future__ import annotations

from functools import partial

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .config import BEAT_BITS, WORD_CHANNELS, AcceleratorConfig
from .delay import delayed
from .dma import Beats, Command
from .lane import U_BITS, V_BITS
from .lanes import VectorLanes
from .queue import Queue
from .reduction import X_BITS, Sums
from .states import States
from .tiles import VectorTile
from .vector_coefficients import CoefficientBuffer
from .vector_collect import VectorCollect
from .vector_emit import VectorEmit
from .vector_issue import VectorIssue
from .vector_planes import PlaneBuffer
from .vector_receive import VectorReceive
from .vector_results import ResultBuffer
from .vector_send import VectorSend
from .vector_shape import VectorShape
from .vector_sweep import VectorSweep


class Vector(wiring.Component):
    """The vector unit.

    Members
    -------
    i : In(stream of VectorTile)
        A pass is taken when it is finished.
    command : Out(stream of dma.Command), beats : In(dma.Beats)
        Of each manager: commands, and what was read, in order. Stream u is read over the last, everything else over the
        first.
    write : Out(stream of dma.Command), data : Out(stream of 64 bits)
        To a writer. Beats may be offered before their command is taken, and never wait for what is read.
    quiet : In(1)
        All that was written has been acknowledged.
    finished : Out(1)
        Pulse: all that a pass writes has been acknowledged.
    words : Out(1)
        A word went into the lanes in the cycle before.
    waiting : Out(1)
        A pass was in work, and no word went.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(VectorTile)),
                "command": Out(stream.Signature(Command)).array(config.managers),
                "beats": In(Beats).array(config.managers),
                "write": Out(stream.Signature(Command)),
                "data": Out(stream.Signature(BEAT_BITS)),
                "quiet": In(1),
                "finished": Out(1),
                "words": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile = self.i.payload
        m.submodules.shape = shape = VectorShape()
        m.submodules.issue = issue = VectorIssue(self._config)
        m.submodules.sweep = sweep = VectorSweep(self._config)
        m.submodules.lanes = lanes = VectorLanes(self._config, WORD_CHANNELS)
        m.submodules.sums = sums = Queue(Sums, WORD_CHANNELS)
        m.submodules.collect = collect = VectorCollect()
        m.submodules.emit = emit = VectorEmit()
        m.submodules.send = send = VectorSend()

        begun = Signal()
        load = delayed(m, begun, VectorShape.LATENCY, "begun", control=True)
        states = States(m, "IDLE", "SHAPE", "WORK", "DONE")
        with states.state("IDLE"):
            m.d.comb += begun.eq(self.i.valid)
            with m.If(self.i.valid):
                states.go("SHAPE")
        with states.state("SHAPE"):
            with m.If(load):
                states.go("WORK")
        with states.state("WORK"):
            with m.If(emit.idle & send.idle):
                states.go("DONE")
        with states.state("DONE"):
            m.d.comb += [self.i.ready.eq(self.quiet), self.finished.eq(self.quiet)]
            with m.If(self.quiet):
                states.go("IDLE")
        m.d.comb += shape.tile.eq(tile)
        for unit in (issue, sweep, collect, emit):
            m.d.comb += [unit.tile.eq(tile), unit.shape.eq(shape.o), unit.load.eq(load)]

        self._streams(m, issue, sweep, lanes)
        vector = tile.vector
        m.d.sync += lanes.mode.low.eq(-vector.top)
        m.d.comb += [
            lanes.mode.relu.eq(vector.controls.relu),
            lanes.mode.masked.eq(vector.controls.masked),
            lanes.mode.stochastic.eq(vector.controls.stochastic),
            lanes.mode.shift.eq(vector.shift),
            lanes.mode.raised.eq(vector.raised),
            lanes.mode.high.eq(vector.top),
            lanes.squares.eq(vector.controls.squares),
            lanes.key.eq(vector.key_low | vector.key_high << len(vector.key_low)),
            lanes.clear.eq(load),
            lanes.o.ready.eq(1),
        ]
        taken = lanes.i.valid & lanes.i.ready
        m.d.sync += [self.words.eq(taken), self.waiting.eq(states.at["WORK"] & ~taken)]

        wiring.connect(m, lanes.sums, sums.i)
        m.d.comb += [
            collect.word.eq(lanes.o.payload),
            collect.valid.eq(lanes.o.valid),
            collect.address.eq(send.address),
            collect.beat.eq(send.beat),
            collect.keep.eq(send.kept),
            collect.sums.eq(sums.o.payload),
            collect.clipped.eq(lanes.clipped),
            emit.row.eq(collect.row),
            send.keep.eq(shape.o.keep),
            send.beat_data.eq(collect.o),
            send.sums_valid.eq(sums.o.valid),
            sums.o.ready.eq(send.sums_taken),
            sweep.emptied.eq(send.emptied | emit.skipped),
        ]
        wiring.connect(m, emit.jobs, send.i)
        wiring.connect(m, emit.command, wiring.flipped(self.write))
        wiring.connect(m, send.o, wiring.flipped(self.data))
        return m

    def _streams(self, m: Module, issue: VectorIssue, sweep: VectorSweep, lanes: VectorLanes) -> None:
        """From commands to the elements of the lanes."""
        tile, shape, load = self.i.payload, issue.shape, issue.load
        m.submodules.results = results = ResultBuffer()
        m.submodules.coefficients = coefficients = CoefficientBuffer()
        receivers = []
        for manager in range(self._config.managers):
            m.submodules[f"receive{manager}"] = receive = VectorReceive()
            wiring.connect(m, issue.notes[manager], receive.notes)
            wiring.connect(m, issue.command[manager], wiring.flipped(self.command[manager]))
            wiring.connect(m, wiring.flipped(self.beats[manager]), receive.beats)
            m.d.comb += [
                receive.load.eq(load),
                receive.groups.eq(shape.groups),
                receive.results_u.eq(shape.results),
                sweep.arrived[manager].eq(receive.row),
                sweep.used[manager].eq(issue.used[manager]),
            ]
            receivers.append(receive)
        first, last = receivers[0], receivers[-1]

        # A word's elements are read just before the lanes need them, the factors of its results still later.
        moves = partial(delayed, m, enable=lanes.moving)
        spot = sweep.o.payload.spot
        early = moves(spot, lanes.AHEAD - 1, "spot")
        late = moves(early, lanes.LATENCY - lanes.AHEAD, "late_spot")
        ends = moves(lanes.i.valid & lanes.i.ready & spot.ends, lanes.LATENCY - 1, "ends", control=True)

        words = {}
        for name, bits, receive, at in (
            ("u", U_BITS, last, early),
            ("v", V_BITS, first, early),
            ("mask", 1, first, early),
            ("x", X_BITS, first, late),
        ):
            m.submodules[f"{name}_planes"] = buffer = PlaneBuffer(self._config, bits)
            tensor = getattr(tile, name)
            m.d.comb += [
                buffer.planes.eq(tensor.planes),
                buffer.signed.eq(tensor.signed),
                buffer.data.eq(receive.data),
                buffer.address.eq(receive.address),
                buffer.write.eq(getattr(receive, name)),
                buffer.read_address.eq(at.address),
                buffer.position.eq(at.position),
                buffer.read.eq(lanes.moving),
            ]
            words[name] = buffer.o

        elements = lanes.elements.payload
        m.d.sync += issue.drained.eq(lanes.moving & ends)
        m.d.comb += [
            lanes.i.valid.eq(sweep.o.valid),
            lanes.i.payload.eq(sweep.o.payload.word),
            sweep.o.ready.eq(lanes.i.ready),
            lanes.elements.valid.eq(results.o.valid | ~shape.results),
            *(elements.u[c].eq(Mux(shape.results, results.o.payload[c], words["u"][c])) for c in range(WORD_CHANNELS)),
            elements.v.eq(words["v"]),
            elements.mask.eq(words["mask"]),
            lanes.factors.valid.eq(1),
            lanes.factors.payload.eq(words["x"]),
            results.source.eq(tile.vector.source),
            results.dropped.eq(tile.vector.dropped),
            results.data.eq(last.data),
            results.write.eq(last.results),
            results.first_part.eq(last.first_part),
            results.last_part.eq(last.last_part),
            results.part_end.eq(last.part_end),
            results.o.ready.eq(lanes.elements.ready & shape.results),
            coefficients.data.eq(first.data),
            coefficients.write.eq(first.coefficients),
        ]
        m.d.sync += issue.set_drained.eq(coefficients.drained)
        wiring.connect(m, coefficients.o, lanes.coefficients)
