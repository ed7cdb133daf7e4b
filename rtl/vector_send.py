"""Reads the results out of their buffer, a beat a cycle."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .config import BEAT_BITS, BEAT_WORDS
from .countdown import Countdown
from .queue import Queue
from .vector_collect import BEATS, VectorCollect
from .vector_shape import PLANES, RESULTS, SENT

#: Beats to send: all entries of one kind of beat, then of the one below it.
Job = data.StructLayout(
    {
        "address": ceil_log2(RESULTS),  # of the first entry
        "entries": SENT,
        "spread": 1,  # every second one is zero, and no entry
        "beat": range(BEATS),  # which they are first
        "kinds": PLANES,
        "groups": 1,  # entries are groups of positions: of the last one some may not be there
        "sums": 1,  # they are the sums of a channel
        "last": 1,  # with it a row is done
    }
)


class VectorSend(wiring.Component):
    """Works jobs off, one behind the other; only behind the sums of a channel, and a job of one beat, there is a pause.

    Members
    -------
    i : In(stream of Job)
    keep : In(4)
        What is there of a row's last group.
    address, beat, kept : Out
        To `VectorCollect`.
    beat_data : In(64)
        From there.
    sums_valid : In(1), sums_taken : Out(1)
        The sums of a channel are there; they have been read.
    o : Out(stream of 64 bits)
        A beat is offered `LATENCY` cycles after its address.
    emptied : Out(1)
        Pulse: a row has left the buffer.
    idle : Out(1)
        Nothing is on its way.
    """

    LATENCY = VectorCollect.LATENCY + 1
    #: Beats on their way: enough for one every cycle.
    _ROOM = 2 * LATENCY

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(Job)),
                "keep": In(BEAT_WORDS),
                "address": Out(ceil_log2(RESULTS)),
                "beat": Out(range(BEATS)),
                "kept": Out(BEAT_WORDS),
                "beat_data": In(BEAT_BITS),
                "sums_valid": In(1),
                "sums_taken": Out(1),
                "o": Out(stream.Signature(BEAT_BITS)),
                "emptied": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        following = Signal(Job, reset_less=True)
        there = Signal()  # there is one behind this job
        job = Signal(Job, reset_less=True)
        active = Signal()  # there is one
        entries = Countdown(SENT, "entries")
        zero = Signal()  # what is read counts as zero
        kinds = Countdown(PLANES, "kinds")
        left = Signal(signed(bits_for(self._ROOM) + 1), init=self._ROOM - 1)  # beats that may be read after the next
        sums_there = Signal()
        read = Signal()
        ends = Signal()  # the job's last beat is read
        begin = Signal()  # the next job is the present one from the next cycle on
        m.d.comb += [
            read.eq(active & ~left[-1] & (~job.sums | sums_there)),
            ends.eq(read & entries.last & kinds.last),
            self.kept.eq(Mux(zero, 0, Mux(job.groups & entries.last, self.keep, -1))),
            self.emptied.eq(ends & job.last),
            begin.eq(~active | ends),
            self.i.ready.eq(~there),
        ]
        with m.If(~there):
            m.d.sync += [there.eq(self.i.valid), following.eq(self.i.payload)]
        taken = ends & job.sums
        m.d.sync += [self.sums_taken.eq(taken), sums_there.eq(self.sums_valid & ~taken & ~self.sums_taken)]
        with m.If(read):
            m.d.sync += [
                self.address.eq(self.address + (~job.spread | zero)),
                zero.eq(job.spread & ~zero),
                *entries.step(),
            ]
            with m.If(entries.last):
                m.d.sync += [
                    self.address.eq(job.address),
                    self.beat.eq(self.beat - 1),
                    *entries.restart(),
                    *kinds.step(),
                ]
        with m.If(begin):
            m.d.sync += [
                active.eq(there),
                there.eq(self.i.valid & ~there),
                job.eq(following),
                self.address.eq(following.address),
                self.beat.eq(following.beat),
                *entries.start(following.entries),
                *kinds.start(following.kinds),
            ]

        # What has been read has room in this queue, so that nothing of the writer reaches back through it.
        m.submodules.beats = beats = Queue(BEAT_BITS, self._ROOM)
        # The writer's answer comes late in a cycle: it meets two items, not all of them.
        m.submodules.leaving = leaving = Queue(BEAT_BITS, 2)
        wiring.connect(m, beats.o, leaving.i)
        wiring.connect(m, leaving.o, wiring.flipped(self.o))
        valid = Signal(VectorCollect.LATENCY)
        gone = Signal()  # one has, in the cycle before
        m.d.sync += [
            valid.eq((valid << 1) | read),
            gone.eq(beats.o.valid & beats.o.ready),
            left.eq(left + gone - read),
        ]
        m.d.comb += [
            beats.i.payload.eq(self.beat_data),
            beats.i.valid.eq(valid[-1]),
            self.idle.eq(~active & ~there & ~valid.any() & ~beats.o.valid & ~leaving.o.valid),
        ]
        return m
