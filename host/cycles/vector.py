"""Timing of the vector unit: recurrences over the rows of a pass, which it reads, computes and writes side by side.

Constants are lengths of pipelines and numbers of states in the RTL (`rtl.vector`, whose parts are named here).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import product

from host.cycles.bus import NEVER, Arbiter, Run
from host.cycles.front import RECEIVED
from host.geometry import ceil_div
from rtl.config import BEAT_BYTES, BEAT_WORDS, DIGIT_BITS, WEIGHT_TILE_BYTES, WORD_BYTES, WORD_CHANNELS
from rtl.ddr import Ddr
from rtl.isa import Descriptor, Pass, Sink
from rtl.lane import Lane
from rtl.lanes import VectorLanes
from rtl.reduction import Reduction
from rtl.vector_collect import CLIPPED, EXTREMES, SUMS, VectorCollect
from rtl.vector_emit import SET_BEATS as SUMS_BEATS
from rtl.vector_emit import SET_BYTES as SUMS_SET_BYTES
from rtl.vector_issue import RING, SET_BEATS, SET_BYTES, SETS, TENSORS, Read, manager_of
from rtl.vector_results import ResultBuffer
from rtl.vector_shape import RESULTS as RESULT_ENTRIES
from rtl.vector_shape import VectorShape

#: Commands that wait in the queue of a manager; commands and jobs in those behind the lanes.
COMMANDS, JOBS = 2, 4
#: From a row's last beat on the bus until it may be granted (`VectorReceive`, `VectorSweep`).
THERE = RECEIVED + 2
#: From a word's last beat of results of a product on the bus until the lanes may take it.
RESULTS = RECEIVED + 1 + ResultBuffer.LATENCY
#: Words of results that are put together before the lanes take them.
AHEAD = 2
#: From a set's last beat of coefficients on the bus until the lanes may take the first word with it.
COEFFICIENTS = RECEIVED + 4
#: From a channel block's first word until the lanes take the coefficients of the next one.
TURN = VectorLanes.LATENCY - Lane.LATENCY
#: From a job on its way to `VectorSend` until its first beat is read, and from there to the bus.
JOB, BEAT = 2, VectorCollect.LATENCY + 2
#: Cycles in which `VectorSend` reads nothing behind the sums of a channel.
PAUSE = 2
#: Beats between what is read of the results and the bus.
UNDER_WAY = BEAT + 1


def cycles_per_word(d: Descriptor) -> int:
    """Of the lanes: one, but results of a product come at 64 bits a cycle."""
    return WORD_CHANNELS << d.vector_source >> 3 if d.vector_source else 1


def words(d: Descriptor) -> int:
    """Words of a pass."""
    return d.samples * d.k_blocks * d.height * d.width


class VectorUnit:
    """Works passes off, one after the other.

    Parameters
    ----------
    reads : of each manager.
    writes : of the lane that it shares with STORE.

    Attributes
    ----------
    response : cycles from the last beat on the bus until everything is quiet.
    finished : of each pass the cycle in which everything has been written and acknowledged.
    words : taken so far.
    lane_cycles : in which the lanes take them at the best.
    read_beats, write_beats : of each manager, and written.
    """

    def __init__(self, ddr: Ddr, reads: Sequence[Arbiter], writes: Arbiter):
        self._reads, self._writes = reads, writes
        self.response = ddr.write_latency + 2
        self._steps: Iterator[tuple[int, int]] = iter(())
        self._wants: tuple[int, int] | None = None  # manager of its next read, and when it is offered
        self._stepping = False
        self.finished: list[int] = []
        self.words = self.lane_cycles = 0
        self.read_beats = [0] * len(reads)
        self.write_beats = 0

    def begin(self, start: int, d: Descriptor) -> None:
        """A pass that the unit sees in cycle `start`; the one before it has finished."""
        assert not self.works, "passes follow one another"
        self.words += words(d)
        self.lane_cycles += words(d) * cycles_per_word(d)
        self._steps = _Walk(self, d).run(start)
        self._step()

    @property
    def managers(self) -> int:
        """How many there are."""
        return len(self._reads)

    @property
    def works(self) -> bool:
        """Whether there is a pass in work."""
        return self._wants is not None

    def advance(self, until: float) -> None:
        """Do what others, who go first, do not hold up before cycle `until`."""
        if self._stepping:
            return  # it asks for itself
        while self._wants is not None:
            manager, offered = self._wants
            if self._reads[manager].accepts(offered) >= until:
                break
            self._step()

    def _step(self) -> None:
        self._stepping = True
        self._wants = next(self._steps, None)
        self._stepping = False

    def read(self, manager: int, offered: int, address: int, beats: int) -> Run:
        """A command of the pass."""
        self.read_beats[manager] += beats
        return self._reads[manager].run(offered, address // BEAT_BYTES, beats)

    def write(self, offered: int, address: int, beats: int, ready: int, complete: int) -> Run:
        """Likewise; see `Channel.run`."""
        self.write_beats += beats
        return self._writes.run(offered, address // BEAT_BYTES, beats, ready, complete)


class _Walk:
    """One pass."""

    def __init__(self, unit: VectorUnit, d: Descriptor):
        self._unit, self._d = unit, d
        groups = ceil_div(d.width, BEAT_WORDS)
        controls = Pass(d.vector_controls)
        self._each_sample, self._sums = bool(controls & Pass.EACH_SAMPLE), bool(controls & Pass.SUMS)
        self._per_word = cycles_per_word(d)
        # (manager, place, beats) of what is read with every row
        self._tensors = []
        for what, name in TENSORS.items():
            assert isinstance(what, Read)
            planes = getattr(d, f"{name}_planes")
            beats = d.width * self._per_word if what == Read.U and d.vector_source else planes * groups
            if beats:
                place, manager = _place(d, name), manager_of(what, unit.managers)
                for part in range(1 + (what == Read.U) * d.parts_more):
                    self._tensors.append((manager, (place[0] + part * d.parts_stride, *place[1:]), beats))
        self._groups, self._capacity = groups, RING // groups
        digits = d.vector_sink == Sink.DIGITS
        entries = d.width if digits else groups
        self._kept = RESULT_ENTRIES // entries
        # (distance from the row's address, beats) of the commands of results
        if digits:
            apart, beats = d.vector_stride_d * WORD_BYTES or WEIGHT_TILE_BYTES, d.width << bool(controls & Pass.SPREAD)
            self._stores = [(i * apart, beats) for i in range(ceil_div(d.q_planes, DIGIT_BITS))]
        else:
            self._stores = [(0, d.q_planes * groups)] if d.q_planes else []
        self._q, self._positive = _place(d, "q"), _place(d, "positive")
        self._marks = bool(d.positive_planes)

    def run(self, start: int) -> Iterator[tuple[int, int]]:
        """Yields the manager of each read and the cycle from which it is offered, before it is made."""
        d, unit = self._d, self._unit
        self._issue = start + VectorShape.LATENCY + 1
        self._accepted = [deque([NEVER] * COMMANDS, maxlen=COMMANDS) for _ in range(unit.managers)]
        self._drained = deque([NEVER] * self._capacity, maxlen=self._capacity)
        self._emptied = deque([NEVER] * self._kept, maxlen=self._kept)
        self._set_drained = deque([NEVER] * SETS, maxlen=SETS)
        self._turned = NEVER  # the lanes have taken the newest set
        self._begun = self._taken = self._worked = NEVER  # row begun, newest word taken, results put together
        self._frozen = (NEVER, NEVER)  # while sums are given nothing moves
        self._given = NEVER
        self._emit = start + VectorShape.LATENCY + 1
        self._pushed = deque([NEVER] * JOBS, maxlen=JOBS)  # commands accepted by the arbiter
        self._started = deque([NEVER] * JOBS, maxlen=JOBS)  # jobs taken
        self._sent = NEVER  # the newest beat has been read
        self._last = NEVER  # newest beat on the bus
        self._sums_at = d.vector_sums
        rows = product(range(d.k_blocks), range(d.samples), range(d.height))
        for block, sample, y in rows:
            self._issue = max(self._issue, self._drained[0] + 1)
            ends_sample = y == d.height - 1
            ends_block = ends_sample and sample == d.samples - 1
            opens = y == 0 and (self._each_sample or sample == 0)
            closes = ends_sample if self._each_sample else ends_block
            ready = yield from self._read(block, sample, y, opens)
            complete = self._sweep(ready, opens, closes and self._sums)
            self._write(complete, (sample, block, y))
            if closes and self._sums:
                self._write_sums(ends_block and block == d.k_blocks - 1)
        done = max(self._emit, self._sent + BEAT) + 2
        unit.finished.append(max(done, self._last + unit.response))

    def _command(self, manager: int, address: int, beats: int) -> Generator[tuple[int, int], None, Run]:
        sent = max(self._issue, self._accepted[manager][0] + 1)
        yield manager, sent + 1
        run = self._unit.read(manager, sent + 1, address, beats)
        self._accepted[manager].append(run.taken)
        self._issue = sent + 1
        return run

    def _read(
        self, block: int, sample: int, y: int, opens: bool
    ) -> Generator[tuple[int, int], None, tuple[int, int, int]]:
        """Read a row. Return from when it may be granted, has put results together, and has its coefficients."""
        d = self._d
        self._issue += 1  # ROW
        coefficients = NEVER
        if opens:
            self._issue = max(self._issue, self._set_drained[0] + 1)
            address = d.vector_coefficients + block * SET_BYTES + sample * d.vector_coefficients_stride
            run = yield from self._command(0, address, SET_BEATS)
            fed = max(run.last + COEFFICIENTS, max(run.first, self._turned + 1) + SET_BEATS)
            self._set_drained.append(fed)
            coefficients = fed
        last = results = NEVER
        parts = d.parts_more + 1  # stream u comes first
        for manager, (base, stride_n, stride_c, stride_y), beats in self._tensors:
            run = yield from self._command(manager, base + sample * stride_n + block * stride_c + y * stride_y, beats)
            last = max(last, run.last)
            parts -= 1
            if d.vector_source and parts == 0:
                results = run.last + RESULTS
        self._issue += 1  # NEXT
        return last + THERE, results, coefficients

    def _sweep(self, ready: tuple[int, int, int], opens: bool, closes: bool) -> int:
        """Send a row through the lanes; return the cycle in which its results are complete."""
        there, results, coefficients = ready
        per_word, width = self._per_word, self._d.width
        granted = max(there, self._emptied[0] + 1, self._begun + 1)
        self._begun = max(granted + 1, self._drained[-1])
        first = max(self._begun + 2, self._taken + 1, coefficients)
        last = first + width - 1
        if results > NEVER:
            self._worked = max(self._worked + width * per_word, results, first + (width - AHEAD) * per_word)
            last = max(last, self._worked)
        if opens:
            self._turned = first + TURN
        frozen, going = self._frozen
        if last >= frozen:
            if first < frozen:
                last += going - frozen
            elif first < going:
                last += going - first
        self._taken = last
        self._drained.append(max(self._begun + width, last - per_word))
        complete = last + VectorLanes.LATENCY
        if last < frozen <= complete:
            complete += going - frozen
        if closes:
            self._given = max(complete + 1 + Reduction.LATENCY, self._given) + WORD_CHANNELS
            self._frozen = (complete + 1, self._given)
        return complete

    def _write(self, complete: int, row: tuple[int, int, int]) -> None:
        sample, block, y = row
        self._emit = max(self._emit, complete + 1) + 1  # ROW
        for away, beats in self._stores:
            base, stride_n, stride_c, stride_y = self._q
            self._order(base + away + sample * stride_n + block * stride_c + y * stride_y, beats)
        if self._marks:
            base, stride_n, stride_c, stride_y = self._positive
            self._order(base + sample * stride_n + block * stride_c + y * stride_y, self._groups)
        self._emptied.append(self._sent if self._stores or self._marks else self._emit - 1)
        self._emit += 1  # NEXT

    def _order(self, address: int, beats: int, ready: int = NEVER, pauses: int = 0) -> None:
        """A command and the job that sends its beats, with `pauses` cycles between; not before cycle `ready`."""
        push = max(self._emit, self._pushed[0] + 1, self._started[0] + 1)
        begin = max(push + JOB, self._sent + 1, ready)
        end = begin + beats - 1 + pauses
        run = self._unit.write(push + 1, address, beats, begin + BEAT, end + BEAT)
        self._pushed.append(run.taken)
        self._started.append(begin - 1)
        self._sent = max(end, run.last - UNDER_WAY)
        self._last = run.last
        self._emit = push + 1

    def _write_sums(self, all_done: bool) -> None:
        self._order(self._sums_at, SUMS_BEATS, self._given - WORD_CHANNELS + 1, PAUSE * WORD_CHANNELS)
        self._sums_at += SUMS_SET_BYTES
        # The jobs of 16 channels follow one another through a queue.
        each = SUMS - EXTREMES + 1 + PAUSE
        self._started.extend(self._sent - channel * each for channel in reversed(range(1, JOBS + 1)))
        self._emit = max(self._emit + WORD_CHANNELS, self._started[0] + 1) + 1
        if all_done:
            self._order(self._sums_at, CLIPPED - SUMS)


_PLACE = ("base", "stride_n", "stride_c", "stride_y")


def _place(d: Descriptor, name: str) -> tuple[int, int, int, int]:
    base, stride_n, stride_c, stride_y = (getattr(d, f"{name}_{each}") for each in _PLACE)
    return base, stride_n, stride_c, stride_y
