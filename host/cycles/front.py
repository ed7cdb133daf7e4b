"""When descriptors and precision bytes are there, and when the tiler emits each tile of `sim.tile_model`.

It follows `rtl.fetch` and `rtl.tiler` state by state, for they are what a short descriptor waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from rtl.config import BEAT_BYTES
from rtl.isa import DESCRIPTOR_BYTES, Descriptor, Flag, Opcode
from rtl.sizes import Sizes
from sim.tile_model import Run, Tile, runs, tiles_of_run

#: Cycles from a run's last beat on the bus to its receiver, behind the reader's register.
RECEIVED = 1
#: Cycles in which a descriptor is checked and its sizes are worked out, once it is there.
CHECKED = 1 + Sizes.CYCLES


class Emitted(NamedTuple):
    """A tile or the end of a descriptor, and the cycle from which the units' queues hold it.

    Attributes
    ----------
    tile : None for an end.
    ends : the number of the pass that ends; None of a product.
    """

    start: int
    tile: Tile | None = None
    ends: int | None = None


class Front:
    """Fetch and tiler.

    Parameters
    ----------
    descriptors : one filling of the ring.
    tables : for each descriptor the bytes that it looks up: the samples' and the stationary operand's.
    room : room(n, end) is the cycle from which the queues take the n-th tile or end, or None while that is not known.
    completed : completed(n) is the cycle in which n descriptors are seen to be complete, or None likewise.
    room_for_pass : room_for_pass(n) is the cycle from which the queue of the vector unit takes the n-th pass, likewise.
    begin : begin(cycle, pass) is called when that queue has it.
    fetched : the first descriptor is there and checked, and waits for the cycle before the first.

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
        room_for_pass: Callable[[int], int | None],
        begin: Callable[[int, Descriptor], None],
        *,
        fetched: bool = False,
    ):
        self._descriptors, self._tables = descriptors, tables
        self._room, self._completed, self._room_for_pass = room, completed, room_for_pass
        self._begin, self._fetched = begin, fetched
        self.emitted: list[Emitted] = []
        self.tiles = 0  # among them, not counting ends
        self._passes = 0
        self._steps = self._all()
        self.pending: tuple[int, int, int] | None = None
        self.blocked, self.done = True, False  # until the first `retry`

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
            if index or not self._fetched:
                last = yield now + 1, 0, DESCRIPTOR_BYTES // BEAT_BYTES
                assert last is not None  # every read is answered
                now = last + RECEIVED + 1 + CHECKED  # FENCE
            if d.flags & Flag.FENCE and (index or not self._fetched):
                while (done := self._completed(index)) is None:
                    yield None
                now = max(now, done + 1)
            is_pass = d.opcode == Opcode.VECTOR
            if is_pass:
                now = yield from self._pass(now, d)
            else:
                now = yield from self._descriptor(now, d, *self._tables[index])
            while (room := self._room(len(self.emitted), True)) is None:
                yield None
            now = max(now, room)  # END
            self.emitted.append(Emitted(now + 1, ends=self._passes - 1 if is_pass else None))
            now += 1

    def _pass(self, now: int, d: Descriptor):
        """From the cycle in which the tiler has waited for the fence to the one in which it is at its end."""
        now += 1  # PASS
        while (room := self._room_for_pass(self._passes)) is None:
            yield None
        now = max(now, room)
        self._begin(now + 1, d)
        self._passes += 1
        return now + 1

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
        for run in runs(table or [d.stream_bits] * d.samples, most):
            now = max(now, there) + 1  # OPEN
            there = yield from after(now + (4 if run.bits else 1), run.first + 1)
            if not run.bits:
                now += 2  # SKIP, SAMPLE or DONE
                continue
            now += 6  # five steps of SIZES, EXTEND
            following = run.first + run.samples
            for sample in range(run.first + 1, following):
                now = max(now, there) + 1
                there = yield from after(now - 1, sample + 1)
            if following < d.samples and run.samples < most:
                now = max(now, there) + 1  # its precision is another
            now += 1  # RUN
            now = yield from self._bands(now, d, run, bits)
            now += 1  # SAMPLE or DONE
        return now + 1

    def _bands(self, now: int, d: Descriptor, run: Run, stationary_bits: int):
        """From the cycle in which a run is known to the one in which its last tile is taken."""
        for tile in tiles_of_run(d, run, stationary_bits):
            now += 10 if tile.band else 9  # NEXT, ROWS to BAND
            while (room := self._room(len(self.emitted), False)) is None:
                yield None
            now = max(now, room)
            self.emitted.append(Emitted(now + 1, tile))
            self.tiles += 1
        return now

    def _lookup(self, now: int, address: int):
        """From the cycle in which a beat is asked for to the one in which its first precision is there."""
        last = yield now + 1, address // BEAT_BYTES, 1
        return last + RECEIVED + 2
