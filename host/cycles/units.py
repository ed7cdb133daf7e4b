"""Timing of LOAD, the table loader and EXEC: recurrences over runs, passes and tiles.

Every unit works through its list in order, so the time of each step is the latest of a few earlier times plus a
constant: the step before it in the same unit, and the tokens and data that it waits for. Constants are lengths of
pipelines and numbers of states in the RTL; `sim/tests/test_cycle_model.py` compares the named ones with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from host.cycles.bus import NEVER, Arbiter, Run
from host.cycles.front import RECEIVED, Front
from rtl.config import BEAT_BYTES, SLOTS, TAPS, WEIGHT_SLOTS, WORD_BYTES, AcceleratorConfig
from rtl.execute import PIPELINE
from rtl.isa import Opcode, Order
from rtl.planes import PlaneLists
from rtl.table import ENTRIES
from rtl.timing import array_timing
from rtl.unpack import Unpack
from rtl.weights import Weights
from sim.tile_model import Tile

#: From a run's last beat on the bus until EXEC or the table loader may take the slot that it completes.
FILLED = RECEIVED + Unpack.LATENCY
#: How much later the table loader may where the beats are turned.
TURNED = Weights.TURNED
#: From a run's last beat on the bus until the next run's note has made room for another.
NOTE_FREE = RECEIVED + 2
#: Fetching the digits of a row before its entries are written.
FETCH = TAPS + 2
#: From a context's last entry until EXEC sees it full.
CONTEXT_FULL = 4
#: From a slot offered to EXEC until its planes are listed, beside one cycle for each plane.
LISTED = PlaneLists.LATENCY


@dataclass
class Stalls:
    """Counters of `rtl.isa` that follow from the recurrences."""

    exec_busy: int = 0
    exec_stall_stream: int = 0
    exec_stall_table: int = 0
    exec_stall_result: int = 0
    store_stall_result: int = 0
    table_busy: int = 0


class Load:
    """Issues the runs of slots, one a command, as soon as a slot is free.

    `buses` are the read channels of the managers: the streaming operand goes over the last, the rest over the first.

    Attributes
    ----------
    beats : of each channel, of operands.
    now : cycle of its next state.
    """

    def __init__(self, config: AcceleratorConfig, buses: Sequence[Arbiter]):
        self._config, self._buses = config, buses
        notes = 2 * config.outstanding + 1  # one has left the queue: that of the run whose beats arrive
        self._notes = [deque([NEVER] * notes, maxlen=notes) for _ in buses]  # last beats of the newest runs
        self.now = NEVER  # cycle of the next state
        self._left = [NEVER for _ in buses]  # when the last command left the register of its manager, if there are two
        self.beats = [0 for _ in buses]

    def read(self, offered: int, address: int, beats: int) -> Run:
        """A command of the front end."""
        return self._buses[0].run(offered, address, beats)

    def begin(self, start: int) -> None:
        """TILE."""
        self.now = max(self.now, start) + 1

    def slot(self, free: int, settling: int = 0) -> None:
        """SLOT, when one is free and its sizes are known."""
        self.now = max(self.now + settling, free) + 1

    def stream(self, front: Front, address: int, beats: int, loops: int) -> int:
        """A run of the streaming operand that ends so many loops; return its last beat."""
        if len(self._buses) == 1:
            return self.weights(front, address, beats, loops)
        taken = max(self.now, self._notes[-1][0] + NOTE_FREE, self._left[-1] + 1)
        self.beats[-1] += beats
        run = self._buses[-1].run(taken + 1, address, beats)
        self._left[-1] = run.taken
        return self._sent(replace(run, taken=taken), self._notes[-1], loops)

    def weights(self, front: Front, address: int, beats: int, loops: int) -> int:
        """One of the stationary operand. `front` may have a read to do first."""
        notes = self._notes[0]
        ready = max(self.now, notes[0] + NOTE_FREE)
        # The arbiter prefers the front end, but a command that waits for the bus already keeps its turn.
        while front.pending is not None and front.pending[0] <= ready:
            front.answer(self.read(*front.pending).last)
        self.beats[0] += beats
        if len(self._buses) == 1:
            return self._sent(self.read(ready, address, beats), notes, loops)
        taken = max(ready, self._left[0] + 1)
        run = self.read(taken + 1, address, beats)
        self._left[0] = run.taken
        return self._sent(replace(run, taken=taken), notes, loops)

    def _sent(self, run: Run, notes: deque[int], loops: int) -> int:
        self.now = run.taken + 2 + loops  # COMMAND, PIECE, and a state for each loop
        notes.append(run.last)
        return run.last

    @property
    def released(self) -> int:
        """Cycle in which the queue gives up the tile."""
        return self.now - 1


class Table:
    """Writes one context while EXEC reads the other."""

    def __init__(self, config: AcceleratorConfig, stalls: Stalls):
        self._rows, self._cycles, self._stalls = config.rows, config.table_load_cycles, stalls
        self._end = NEVER  # last entry of the newest context
        self._weight_free = deque([NEVER] * WEIGHT_SLOTS, maxlen=WEIGHT_SLOTS)  # when LOAD sees the slots free again
        self._turned = False  # the newest slot

    def weight_free(self, order: int) -> int:
        """When LOAD may fill the next slot: behind turned ones, one of another order waits until all are free."""
        turned = order in (Order.TURNED, Order.WORDS)
        overtakes = self._turned and not turned
        self._turned = turned
        return self._weight_free[-1 if overtakes else 0]

    def write(self, filled: int, context_free: int) -> int:
        """Write the context of the slot asked for last, which is filled with a beat on the bus in cycle `filled`.

        Return the cycle in which EXEC may use it.
        """
        # The register for a row's digits is free when the last row before has been taken.
        filled += FILLED + (TURNED if self._turned else 0)
        fetched = max(filled, self._end - ENTRIES + 1) + FETCH
        begin = max(fetched, self._end, context_free)
        self._end = begin + self._cycles
        last_fetched = begin + ENTRIES * (self._rows - 2) + FETCH
        self._weight_free.append(last_fetched + 3)
        self._stalls.table_busy += self._cycles
        return self._end + CONTEXT_FULL + 1


class Execute:
    """Takes the array through the passes of a tile.

    Attributes
    ----------
    result_full : from a tile's last plane until STORE sees its slot.
    """

    def __init__(self, config: AcceleratorConfig, stalls: Stalls):
        self._stalls = stalls
        timing = array_timing(config)
        # From a pass's last plane until the table loader, LOAD or STORE see their slot; LOAD does a cycle late.
        self._context_free = PIPELINE + timing.context_free + 1
        self._stream_free = PIPELINE + timing.stream_free + 2
        self.result_full = PIPELINE + timing.result_full + 1
        # From a plane's choice to its read of the stored sum, which goes before STORE's.
        self._read = PIPELINE + timing.read
        # Passes of fewer positions than this are followed by a gap of one cycle more.
        self._reuse = timing.reuse
        self._now = NEVER  # cycle of the next state
        self._listing = NEVER  # cycle from which the planes of the next slot can be listed
        self.context_free = deque([NEVER] * SLOTS, maxlen=SLOTS)
        self.stream_free = deque([NEVER] * SLOTS, maxlen=SLOTS)
        self.reads: deque[tuple[int, int, int]] = deque()  # (first cycle, last cycle, planes) of reads of stored sums
        self.done = NEVER  # last plane of the newest pass

    def tile(self, start: int, result_free: int) -> int:
        """Take a tile; return the cycle in which it leaves the queue."""
        now = max(self._now, start)
        self._stalls.exec_stall_result += max(0, result_free - now)
        self._now = max(now, result_free) + 1
        return self._now

    def block(self, filled: int, planes: int) -> None:
        """Take a stream slot, whose planes have been listed by then, one a cycle."""
        listed = max(filled, self._listing) + planes + LISTED
        self._stalls.exec_stall_stream += max(0, listed - self._now)
        self._now = max(self._now, listed) + 1
        self._listing = self._now

    def run(self, context_full: int, positions: int, planes: int, clear: bool) -> None:
        """A pass; `clear`: it starts new sums instead of reading stored ones."""
        self._stalls.exec_stall_table += max(0, context_full - self._now)
        self._stalls.exec_busy += positions * planes
        begin = max(self._now, context_full)
        self.done = begin + positions * planes
        self._now = self.done + 1
        if positions < self._reuse:
            self._now += self._reuse + 1
        if not clear:
            self.reads.append((begin + 1 + self._read, self.done + self._read, planes))
        self.context_free.append(self.done + self._context_free)

    def block_done(self) -> None:
        self.stream_free.append(self.done + self._stream_free)

    def tile_done(self) -> None:
        """The next tile needs no gap, for it waits for its operands; EXEC sees the end of this one a cycle late."""
        self._now = self.done + 2


def stream_runs(tile: Tile, block: int) -> list[tuple[int, int]]:
    """The runs that fill a stream slot with k block `block`: (beat address, loops of LOAD that end with it)."""
    d = tile.descriptor
    flat = d.opcode == Opcode.FLAT
    pieces = (d.k_tail if block == d.k_blocks - 1 else TAPS) if flat else tile.runs
    stride = d.stream_stride_c if flat else d.stream_stride_y
    base = d.stream_base + tile.top * tile.row_pitch + block * d.stream_stride_c * (TAPS if flat else 1)
    last = tile.first + tile.samples - 1
    return [
        (
            (base + sample * d.stream_stride_n + piece * stride) // BEAT_BYTES,
            _ended(piece == pieces - 1, sample == last),
        )
        for sample in range(tile.first, last + 1)
        for piece in range(pieces)
    ]


def weight_runs(config: AcceleratorConfig, tile: Tile, block: int, row_block: int, digit: int) -> list[tuple[int, int]]:
    """The runs that fill a weight slot, likewise. The end of a tile counts as that of a loop."""
    d = tile.descriptor
    row_parts = 1 << d.log2_row_parts
    apart = d.stationary_stride_d * WORD_BYTES or config.weight_tile_beats * BEAT_BYTES
    base = d.stationary_base + block * d.stationary_stride_k + digit * apart
    base += row_block * row_parts * d.stationary_stride_m
    samples = range(tile.first, tile.first + tile.samples) if d.stationary_stride_n else range(1)
    outer = (digit == tile.digits - 1, row_block == d.row_blocks - 1, block == d.k_blocks - 1)
    return [
        (
            (base + sample * d.stationary_stride_n + part * d.stationary_stride_m) // BEAT_BYTES,
            _ended(part == row_parts - 1, sample == samples[-1], *outer),
        )
        for sample in samples
        for part in range(row_parts)
    ]


def _ended(*last: bool) -> int:
    """How many of nested loops end, if these are in their last rounds, the innermost first."""
    return next((count for count, ends in enumerate(last) if not ends), len(last))
