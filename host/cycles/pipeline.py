"""Cycles of a program by recurrences: what the accelerator would take, without simulating it.

`Pipeline` follows one filling of the descriptor ring through the front end, LOAD, the table loader, EXEC and STORE, at
the granularity of runs, passes and tiles, and through the vector unit, row by row. Each of these units works in order,
and everything that a step waits for belongs to an earlier pass, so one walk in the order of the program gives the time
of every step.

Not modelled: planes that the accelerator skips because they are zero (the data decides), and bus stalls at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import NamedTuple

from host.cycles.bus import NEVER, Arbiter, Channel, Shared
from host.cycles.front import Emitted, Front
from host.cycles.gradient import BLOCK, gradient_runs, is_gradient, turned
from host.cycles.store import Store
from host.cycles.units import FILLED, Execute, Load, Stalls, Table, stream_runs, weight_runs
from host.cycles.vector import VectorUnit
from rtl.config import BEAT_BYTES, SLOTS, AcceleratorConfig
from rtl.ddr import Ddr
from rtl.isa import DESCRIPTOR_BYTES, Descriptor
from sim.tile_model import Tile


@dataclass(frozen=True)
class Cycles:
    """What a program takes, under the names of the accelerator's counters (`rtl.isa.COUNTERS`).

    `busy` is the time from the first descriptor to the last response, in clock cycles; bytes are those on the bus.
    """

    busy: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    table_busy: int = 0
    exec_busy: int = 0
    exec_stall_stream: int = 0
    exec_stall_table: int = 0
    exec_stall_result: int = 0
    store_stall_result: int = 0
    vector_busy: int = 0

    def __add__(self, other: Cycles) -> Cycles:
        return Cycles(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def __sub__(self, other: Cycles) -> Cycles:
        return Cycles(**{name: value - getattr(other, name) for name, value in asdict(self).items()})


class Bounds(NamedTuple):
    """How long each part of the machine would take for a program if nothing else did, in cycles.

    Attributes
    ----------
    array, table : passes over the array; table entries.
    fill, drain : LOAD's beats over its busiest port, STORE's over theirs.
    lanes : words through the vector unit.
    ports : the vector unit's beats over its busiest port and direction.
    ddr : all beats, with refresh and turning.
    """

    array: float
    table: float
    fill: float
    drain: float
    lanes: float
    ports: float
    ddr: float


class Pipeline:
    """One filling of the ring, from an idle accelerator until it is idle again.

    `tables` holds the precision bytes of each descriptor: the samples' and the stationary operand's. `fetched`: the
    first descriptor has waited for a fence, which lets it go in the cycle before the first.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        ddr: Ddr,
        descriptors: Sequence[Descriptor],
        tables: Sequence[tuple[bytes, bytes]],
        *,
        fetched: bool = False,
    ):
        self._config, self._ddr, self._fetched = config, ddr, fetched
        self._stalls = Stalls()
        shared = Shared.of(config, ddr)
        delay = ddr.read_latency + 1  # one cycle for the beat to show on the bus
        # The front end and LOAD share the first reader, and the vector unit all.
        users = [2, *[1] * (config.managers - 1)]
        reads = [Arbiter(Channel(config, ddr, delay, 0, shared), count + config.vector) for count in users]
        self._load = Load(config, reads)
        self._table = Table(config, self._stalls)
        self._execute = Execute(config, self._stalls)
        self._store = Store(config, ddr, shared, self._execute.reads, self._stalls)
        self._vector = VectorUnit(ddr, reads, self._store.bus)
        for arbiter in reads:
            arbiter.others = self._vector.advance
        # STORE is followed further ahead than LOAD, which goes before the vector unit.
        self._store.bus.others = lambda until: self._vector.advance(min(until, self._load.now))
        self._buses = reads
        # When units have let go of what the queues held: tiles in LOAD and EXEC, tiles and ends in STORE.
        self._loaded: list[int] = []
        self._executed: list[int] = []
        self._stored: list[int] = []
        self._ends: list[int] = []
        self._gradient = False  # the newest stream slot is of a weight gradient
        self._waiting: list[tuple[Emitted, int]] = []  # items in front of STORE, with the cycle when they are complete
        self._front = Front(
            descriptors,
            tables,
            self._room,
            self._completed,
            self._room_for_pass,
            self._vector.begin,
            fetched=fetched,
        )

    def _room(self, item: int, end: bool) -> int | None:
        depth = self._config.queue_depth
        queues = [(self._stored, item)]
        if not end:
            queues += [(self._loaded, self._front.tiles), (self._executed, self._front.tiles)]
        room = 0
        for done, number in queues:
            if number >= depth:
                if number - depth >= len(done):
                    return None
                room = max(room, done[number - depth] + 1)
        return room

    def _room_for_pass(self, number: int) -> int | None:
        """A pass leaves the queue when it has finished."""
        finished = self._vector.finished
        return finished[number - 1] + 1 if 0 < number <= len(finished) else 0 if number == 0 else None

    def _completed(self, count: int) -> int | None:
        return self._ends[count - 1] + 1 if 0 < count <= len(self._ends) else 0 if count == 0 else None

    def run(self) -> Cycles:
        front, done = self._front, 0
        while True:
            front.retry()
            if done < len(front.emitted):
                item = front.emitted[done]
                done += 1
                if item.tile:
                    self._tile(item.start, item.tile)
                else:
                    self._waiting.append((item, 0))
            elif front.pending is not None:
                front.answer(self._load.read(*front.pending).last)
            elif self._waiting and not self._runs(self._waiting[0][0].ends):
                self._drain(0)
            elif self._vector.works:
                self._vector.advance(inf)
            elif front.done:
                break
        last = self._ends[-1] + 1
        read = sum(arbiter.bus.beats for arbiter in self._buses)
        written = sum(self._store.beats) + self._vector.write_beats
        return Cycles(
            busy=last,
            read_bytes=read * BEAT_BYTES + self._fetched * DESCRIPTOR_BYTES,
            write_bytes=written * BEAT_BYTES,
            vector_busy=self._vector.words,
            **asdict(self._stalls),
        )

    @property
    def bounds(self) -> Bounds:
        """Of the program that has been run."""
        rate, ddr, vector = float(self._ddr.bandwidth), self._ddr, self._vector
        read, written = sum(arbiter.bus.beats for arbiter in self._buses), sum(self._store.beats) + vector.write_beats
        return Bounds(
            array=self._stalls.exec_busy,
            table=self._stalls.table_busy,
            fill=max(self._load.beats) / rate,
            drain=max(self._store.beats) / rate,
            lanes=vector.lane_cycles,
            ports=max(*vector.read_beats, vector.write_beats) / rate,
            ddr=(read + written + ddr.turn * min(read, written)) / float(ddr.shared * ddr.refreshed),
        )

    def _drain(self, leave: int, *, passes: bool = False) -> None:
        """Let STORE work until `leave` tiles wait: it competes with EXEC, whose next tile has to be known by then.

        It goes no further than to a pass that is still in work, unless `passes` says so.
        """
        while self._waiting:
            item, full = self._waiting[0]
            if self._runs(item.ends) and not passes:
                break
            if item.tile and sum(1 for waiting, _ in self._waiting if waiting.tile) <= leave:
                break
            self._waiting.pop(0)
            if item.tile:
                self._stored.append(self._store.tile(item.start, item.tile, full))
            else:
                taken, done = self._store.end(item.start, self._finished(item.ends))
                self._stored.append(taken)
                self._ends.append(done)

    def _runs(self, number: int | None) -> bool:
        """Whether it is a pass that is still in work."""
        return number is not None and number >= len(self._vector.finished)

    def _finished(self, number: int | None) -> int:
        """When the pass of this number, if it is one, has finished."""
        if number is None:
            return NEVER
        if self._runs(number):
            self._vector.advance(inf)
        return self._vector.finished[number]

    def _tile(self, start: int, tile: Tile) -> None:
        config, load, table, execute = self._config, self._load, self._table, self._execute
        d = tile.descriptor
        positions = tile.area * tile.slots
        gradient = is_gradient(tile)
        load.begin(start)
        self._drain(1)
        for block in range(d.k_blocks):
            overtakes = self._gradient and not gradient  # what is on its way through the corner
            self._gradient = gradient
            load.slot(execute.stream_free[-1 if overtakes else 0], BLOCK if gradient else 0)
            for address, loops in (gradient_runs if gradient else stream_runs)(tile, block):
                filled = load.stream(self._front, address, tile.run_beats, loops)
            if block == 0:
                number = len(self._executed)
                if number >= SLOTS and len(self._store.result_free) <= number - SLOTS:
                    self._drain(1, passes=True)
                free = self._store.result_free[number - SLOTS] if number >= SLOTS else NEVER
                self._executed.append(execute.tile(start, free))
            execute.block(filled + FILLED + (turned(tile) if gradient else 0), tile.bits)
            for row_block in range(d.row_blocks):
                for digit in range(tile.digits):
                    self._front.retry()
                    load.slot(table.weight_free(d.stationary_order))
                    for address, loops in weight_runs(config, tile, block, row_block, digit):
                        filled = load.weights(self._front, address, config.weight_tile_beats, loops)
                    full = table.write(filled, execute.context_free[0])
                    execute.run(full, positions, tile.bits, block == 0 and digit == 0)
            execute.block_done()
        execute.tile_done()
        self._loaded.append(load.released)
        self._waiting.append((Emitted(start, tile), execute.done + execute.result_full))
        if self._store.drains_freely(tile):
            self._drain(0)
