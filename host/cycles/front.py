"""Timing of the descriptor front end: fetching descriptors and precision bytes, and cutting layers into tiles.

It follows `rtl.fetch` and `rtl.tiler` state by state, for they are what a short descriptor waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from host.geometry import ceil_div
from rtl.config import BEAT_BYTES, BEAT_WORDS, DIGIT_BITS
from rtl.isa import DESCRIPTOR_BYTES, Descriptor, Flag, Opcode
from rtl.sizes import Sizes

#: Cycles from a run's last beat on the bus to its receiver, behind the reader's register.
RECEIVED = 1
#: Cycles in which a descriptor is checked and its sizes are worked out, once it is there.
CHECKED = 1 + Sizes.CYCLES


@dataclass(frozen=True, slots=True)
class Tile:
    """A run of samples of one precision times a band of output rows, or (samples 0) the end of a descriptor.

    Attributes
    ----------
    start : cycle from which the units' queues hold it.
    bits, digits : planes of the streaming operand and digits of the stationary one.
    first, samples, slots : first sample, their number, and how many of them one cluster has.
    band, rows : number of the band in its image, and its output rows.
    top : first image row that is loaded; `run_beats` are the beats of its rows of one channel block.
    """

    start: int
    descriptor: Descriptor
    bits: int = 0
    digits: int = 0
    first: int = 0
    samples: int = 0
    slots: int = 0
    band: int = 0
    rows: int = 0
    top: int = 0
    run_beats: int = 0

    @property
    def area(self) -> int:
        """Positions of one sample."""
        return self.rows * self.descriptor.out_width

    @property
    def row_beats(self) -> int:
        """Beats of an image row of one channel block."""
        return self.bits * ceil_div(self.descriptor.width, BEAT_WORDS)


class Front:
    """Fetch and tiler.

    Parameters
    ----------
    descriptors : one filling of the ring.
    tables : for each descriptor the bytes that it looks up: the samples' and the stationary operand's.
    room : room(n, end) is the cycle from which the queues take the n-th tile or end, or None while that is not known.
    completed : completed(n) is the cycle in which n descriptors are seen to be complete, or None likewise.

    Attributes
    ----------
    emitted : tiles and ends so far.
    pending : (cycle from which it is offered, beat address, beats) of the read that it waits for, or None.
    blocked : it waits for something that is not known yet; `retry` when it may be.
    done : everything has been emitted.
    """

    def __init__(
        self,
        descriptors: Sequence[Descriptor],
        tables: Sequence[tuple[bytes, bytes]],
        room: Callable[[int, bool], int | None],
        completed: Callable[[int], int | None],
    ):
        self._descriptors, self._tables = descriptors, tables
        self._room, self._completed = room, completed
        self.emitted: list[Tile] = []
        self.tiles = 0  # among them, not counting ends
        self._steps = self._all()
        self.pending: tuple[int, int, int] | None = None
        self.blocked = self.done = False
        self._resume(None)

    def _resume(self, answer: int | None) -> None:
        try:
            self.pending = self._steps.send(answer)
            self.blocked = self.pending is None
        except StopIteration:
            self.pending, self.blocked, self.done = None, False, True

    def retry(self) -> None:
        """Go on, if what was not known now is."""
        if self.blocked:
            self._resume(None)

    def answer(self, last: int) -> None:
        """The pending read (cycle offered, beat address, beats) had its last beat on the bus in cycle `last`."""
        self._resume(last)

    def _all(self) -> Generator[tuple[int, int, int] | None, int | None, None]:
        now = 0  # fetch sees a descriptor that is not fetched yet
        for index, d in enumerate(self._descriptors):
            last = yield now + 1, 0, DESCRIPTOR_BYTES // BEAT_BYTES
            assert last is not None  # every read is answered
            now = last + RECEIVED + 1 + CHECKED  # FENCE
            if d.flags & Flag.FENCE:
                while (done := self._completed(index)) is None:
                    yield None
                now = max(now, done + 1)
            now = yield from self._descriptor(now, d, *self._tables[index])
            while (room := self._room(len(self.emitted), True)) is None:
                yield None
            now = max(now, room)  # END
            self.emitted.append(Tile(now + 1, d))
            now += 1

    def _descriptor(self, now: int, d: Descriptor, table: bytes, own: bytes):
        """From the cycle in which the tiler has waited for the fence to the one in which it is at its end."""
        now += 1  # STATIONARY
        there = (yield from self._lookup(now + 1, d.stationary_table)) if own else now + 2
        bits = own[0] if own else d.stationary_bits
        now = there + 2  # DIGITS, JUDGE, SAMPLES
        if bits == 0:
            return now

        def after(taken: int, sample: int):
            """When the sample's precision is there, if that of the one before is taken in cycle `taken`."""
            address = d.stream_table + sample
            if table and sample < d.samples and (sample == 0 or address % BEAT_BYTES == 0):
                return (yield from self._lookup(taken + 1, address))
            return taken + 1

        there = yield from after(now, 0)
        if not table:
            there += 1
        now += 1  # SAMPLE
        most = d.tile_samples * d.sample_parts
        sample = 0
        while sample < d.samples:
            now = max(now, there) + 1  # OPEN
            planes = table[sample] if table else d.stream_bits
            following = sample + 1
            there = yield from after(now + (1 if planes == 0 else 4), following)
            if planes == 0:
                now += 2  # SKIP, SAMPLE or DONE
                sample = following
                continue
            now += 6  # five steps of SIZES, EXTEND
            while following < d.samples and following - sample < most:
                now = max(now, there) + 1
                if table and table[following] != planes:
                    break
                following += 1
                there = yield from after(now - 1, following)
            now += 1  # RUN
            now = yield from self._bands(now, d, planes, ceil_div(bits, DIGIT_BITS), sample, following - sample)
            now += 1  # SAMPLE or DONE
            sample = following
        return now + 1

    def _bands(self, now: int, d: Descriptor, planes: int, digits: int, first: int, samples: int):
        """From the cycle in which a run is known to the one in which its last tile is taken."""
        row_beats = planes * ceil_div(d.width, BEAT_WORDS)
        for band, y in enumerate(range(0, d.out_height, d.tile_rows)):
            rows = min(d.tile_rows, d.out_height - y)
            corner = y * d.stride - d.pad_top
            bottom = 0 if d.opcode == Opcode.FLAT else min(corner + (rows - 1) * d.stride + 2, d.height - 1)
            top = max(corner, 0)
            now += 9 if band == 0 else 10  # NEXT, ROWS to BAND
            while (room := self._room(len(self.emitted), False)) is None:
                yield None
            now = max(now, room)
            tile = Tile(
                *(now + 1, d, planes, digits, first, samples, ceil_div(samples, d.sample_parts), band, rows, top),
                run_beats=(bottom - top + 1) * row_beats,
            )
            self.emitted.append(tile)
            self.tiles += 1
        return now

    def _lookup(self, now: int, address: int):
        """From the cycle in which a beat is asked for to the one in which its first precision is there."""
        last = yield now + 1, address // BEAT_BYTES, 1
        return last + RECEIVED + 2
