"""Cycles of a program by recurrences: what the accelerator would take, without simulating it.

`Pipeline` follows one filling of the descriptor ring through the front end, LOAD, the table loader, EXEC and STORE, at
the granularity of runs, passes and tiles. Each of these units works in order, and everything that a step waits for
belongs to an earlier pass, so one walk in the order of the program gives the time of every step.

Not modelled: planes that the accelerator skips because they are zero (the data decides), and bus stalls at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from host.cycles.bus import NEVER, Channel, Shared
from host.cycles.front import Emitted, Front
from host.cycles.gradient import BLOCK, gradient_runs, is_gradient, turned
from host.cycles.store import Store
from host.cycles.units import FILLED, Execute, Load, Stalls, Table, stream_runs, weight_runs
from rtl.config import BEAT_BYTES, SLOTS, AcceleratorConfig
from rtl.ddr import Ddr
from rtl.isa import Descriptor
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

    def __add__(self, other: Cycles) -> Cycles:
        return Cycles(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def __sub__(self, other: Cycles) -> Cycles:
        return Cycles(**{name: value - getattr(other, name) for name, value in asdict(self).items()})


class Pipeline:
    """One filling of the ring, from an idle accelerator until it is idle again.

    `tables` holds the precision bytes of each descriptor: the samples' and the stationary operand's.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        ddr: Ddr,
        descriptors: Sequence[Descriptor],
        tables: Sequence[tuple[bytes, bytes]],
    ):
        self._config = config
        self._stalls = Stalls()
        shared = Shared.of(config, ddr)
        delay = ddr.read_latency + 1  # one cycle for the beat to show on the bus
        self._load = Load(config, [Channel(config, ddr, delay, 0, shared) for _ in range(config.managers)])
        self._table = Table(config, self._stalls)
        self._execute = Execute(config, self._stalls)
        self._store = Store(config, ddr, shared, self._execute.reads, self._stalls)
        # When units have let go of what the queues held: tiles in LOAD and EXEC, tiles and ends in STORE.
        self._loaded: list[int] = []
        self._executed: list[int] = []
        self._stored: list[int] = []
        self._ends: list[int] = []
        self._gradient = False  # the newest stream slot is of a weight gradient
        self._waiting: list[tuple[Emitted, int]] = []  # items in front of STORE, with the cycle when they are complete
        self._front = Front(descriptors, tables, self._room, self._completed)

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
            elif self._waiting:
                self._drain(0)
            elif front.done:
                break
        last = self._ends[-1] + 1
        return Cycles(
            busy=last,
            read_bytes=self._load.beats * BEAT_BYTES,
            write_bytes=self._store.beats * BEAT_BYTES,
            **asdict(self._stalls),
        )

    def _drain(self, leave: int) -> None:
        """Let STORE work until `leave` tiles wait: it competes with EXEC, whose next tile has to be known by then."""
        while sum(1 for item, _ in self._waiting if item.tile) > leave or (
            self._waiting and not self._waiting[0][0].tile
        ):
            item, full = self._waiting.pop(0)
            if item.tile:
                self._stored.append(self._store.tile(item.start, item.tile, full))
            else:
                taken, done = self._store.end(item.start)
                self._stored.append(taken)
                self._ends.append(done)

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
