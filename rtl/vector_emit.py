"""The write commands of a vector pass: each row of results when it is complete, and the sums behind their rows."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, WEIGHT_TILE_BYTES, WORD_BYTES, WORD_CHANNELS
from .countdown import Countdown
from .dma import Command
from .queue import PacedQueue, Queue
from .states import States
from .tiles import VectorTile
from .vector_block import SUMS_BYTES
from .vector_collect import CLIPPED, EXTREMES, POSITIVE, SUMS
from .vector_rows import Place, Rows
from .vector_send import Job
from .vector_shape import RESULTS, Shape

#: Sums of 16 channels.
SET_BYTES = WORD_CHANNELS * SUMS_BYTES
SET_BEATS = SET_BYTES // BEAT_BYTES


class VectorEmit(wiring.Component):
    """Walks the rows behind the lanes. A command and the job that sends its beats are made together.

    Members
    -------
    tile : In(VectorTile), shape : In(Shape)
        Stable from the cycle before `load` on.
    load : In(1)
        Begin.
    row : In(1)
        Pulse: a row of results is complete.
    command : Out(stream of dma.Command), jobs : Out(stream of Job)
        The beats of a command are sent without waiting for anything but the sums, which follow their last word.
    skipped : Out(1)
        Pulse: of a row nothing is stored.
    idle : Out(1)
        Everything has been given away.
    """

    def __init__(self):
        super().__init__(
            {
                "tile": In(VectorTile),
                "shape": In(Shape),
                "load": In(1),
                "row": In(1),
                "command": Out(stream.Signature(Command)),
                "jobs": Out(stream.Signature(Job)),
                "skipped": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile, shape, controls = self.tile, self.shape, self.tile.vector.controls
        m.submodules.rows = rows = Rows()
        m.submodules.commands = commands = PacedQueue(Command)
        m.submodules.job_queue = jobs = Queue(Job, 4)
        wiring.connect(m, commands.o, wiring.flipped(self.command))
        wiring.connect(m, jobs.o, wiring.flipped(self.jobs))
        command, job = commands.i.payload, jobs.i.payload
        room = Signal()  # for a command and its job; looked at again when they have been taken
        m.d.sync += room.eq(commands.i.ready & jobs.i.ready & ~room)
        states = States(m, "IDLE", "ROW", "RESULTS", "POSITIVE", "NEXT", "SUMS", "CHANNELS", "CLIPPED")
        m.d.comb += [
            rows.height.eq(tile.height),
            rows.samples.eq(tile.samples),
            rows.channel_blocks.eq(tile.channel_blocks),
            rows.load.eq(self.load),
            rows.step.eq(states.at["NEXT"]),
            command.index.eq(tile.index),
            self.idle.eq(states.at["IDLE"] & ~commands.o.valid & ~jobs.o.valid),
        ]
        results = self._place(m, "results", tile.q, rows)
        positive = self._place(m, "positive", tile.positive, rows)
        complete = self._complete(m, states.at["ROW"])

        stores = Signal()  # results
        marks = Signal()  # where they were positive
        sums_end = Signal()  # sums end with the present row
        finished = Signal()  # the row before the present one was the last
        m.d.sync += [
            stores.eq(tile.q.planes.any()),
            marks.eq(tile.positive.planes.any()),
            sums_end.eq(controls.sums & Mux(controls.each_sample, rows.last.sample, rows.last.block)),
        ]
        entry = Signal.like(job.address)  # where the row lies
        addr = Signal(ADDRESS_BITS)  # of its results, or of the next digit of them
        sums = Signal(ADDRESS_BITS)
        digits = Countdown(len(shape.parts), "digits")
        digit_stride = Signal(bits_for(0xFFFF * WORD_BYTES))
        words = tile.vector.stride_d
        m.d.sync += digit_stride.eq(Mux(words.any(), words << exact_log2(WORD_BYTES), WEIGHT_TILE_BYTES))
        part = Signal.like(shape.parts)  # the highest plane, or the digit
        channels = Countdown(bits_for(WORD_CHANNELS), "channels")

        def send(**fields) -> None:
            m.d.comb += [jobs.i.valid.eq(room), *(getattr(job, name).eq(value) for name, value in fields.items())]

        def order(address, beats) -> None:
            m.d.comb += [commands.i.valid.eq(room), command.addr.eq(address), command.beats.eq(beats)]

        with states.state("IDLE"):
            m.d.sync += sums.eq(tile.vector.sums)
            with m.If(self.load):
                states.go("ROW")
        with states.state("ROW"):
            m.d.sync += [addr.eq(results), part.eq(shape.parts - 1), *digits.start(Mux(shape.digits, shape.parts, 1))]
            with m.If(complete & stores):
                states.go("RESULTS")
            with m.Elif(complete & marks):
                states.go("POSITIVE")
            with m.Elif(complete):
                m.d.comb += self.skipped.eq(1)
                states.go("NEXT")
        with states.state("RESULTS"):
            order(addr, Mux(shape.digits, shape.sent, shape.beats.q))
            send(
                address=entry,
                entries=shape.sent,
                spread=shape.digits & controls.spread,
                beat=part,
                kinds=Mux(shape.digits, 1, shape.parts),
                groups=~shape.digits,
                last=digits.last & ~marks,
            )
            with m.If(room):
                m.d.sync += [addr.eq(addr + digit_stride), part.eq(part - 1), *digits.step()]
                with m.If(digits.last & marks):
                    states.go("POSITIVE")
                with m.Elif(digits.last):
                    states.go("NEXT")
        with states.state("POSITIVE"):
            order(positive, shape.groups)
            send(address=entry, entries=shape.groups, beat=POSITIVE, kinds=1, groups=1, last=1)
            with m.If(room):
                states.go("NEXT")
        with states.state("NEXT"):
            m.d.sync += [entry.eq(entry + shape.entries), finished.eq(rows.last.all)]
            with m.If(sums_end):
                states.go("SUMS")
            with m.Elif(rows.last.all):
                states.go("IDLE")
            with m.Else():
                states.go("ROW")
        with states.state("SUMS"):
            order(sums, SET_BEATS)
            m.d.sync += channels.start(WORD_CHANNELS)
            with m.If(room):
                m.d.sync += sums.eq(sums + SET_BYTES)
                states.go("CHANNELS")
        with states.state("CHANNELS"):
            send(entries=1, beat=SUMS, kinds=SUMS - EXTREMES + 1, sums=1)
            with m.If(room):
                m.d.sync += channels.step()
                with m.If(channels.last & finished):
                    states.go("CLIPPED")
                with m.Elif(channels.last):
                    states.go("ROW")
        with states.state("CLIPPED"):
            order(sums, 1)
            send(entries=1, beat=CLIPPED, kinds=1)
            with m.If(room):
                states.go("IDLE")
        return m

    def _place(self, m: Module, name: str, tensor, rows: Rows) -> Signal:
        """The address of the row of a tensor."""
        m.submodules[name] = place = Place(ADDRESS_BITS)
        m.d.comb += [
            place.base.eq(tensor.base),
            place.row.eq(tensor.stride_y),
            place.sample.eq(tensor.stride_n),
            place.block.eq(tensor.stride_c),
            place.load.eq(rows.load),
            place.step.eq(rows.step),
            place.last.eq(rows.last),
        ]
        return place.o

    def _complete(self, m: Module, takes) -> Signal:
        """There is a row that is complete and has not been taken."""
        count = Signal(range(RESULTS + 1), name="complete_rows")
        complete = Signal()
        m.d.comb += complete.eq(count.any())
        m.d.sync += count.eq(count + self.row - (complete & takes))
        return complete
