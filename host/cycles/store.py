"""Timing of STORE: recurrences over the commands of a tile, as in `host.cycles.units`."""

from __future__ import annotations

from collections import deque
from math import inf

from host.cycles.bus import NEVER, Arbiter, Channel, Shared
from host.cycles.units import Stalls
from rtl.array import DRAIN_LATENCY
from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.control import DRAIN_ROWS
from rtl.ddr import Ddr
from rtl.isa import Descriptor
from rtl.narrow import Narrow
from rtl.store_lane import QUADS
from sim.tile_model import Tile

#: From a granted request to its first beat on the bus.
DRAIN = DRAIN_LATENCY + Narrow.LATENCY + 4
#: Requests whose sums can wait for the bus: those in flight less those on their way, and two that are packed already.
WAITING = QUADS - DRAIN_LATENCY - Narrow.LATENCY + 2


class StoreLane:
    """Drains the results of every `lanes`-th cluster, from number `lane` on, four sums a request, into bursts.

    Attributes
    ----------
    bus : its channel, which it may share.
    reads : reads of stored sums, which go before its own, as `Execute.reads`.
    now : cycle of its next state.
    """

    def __init__(self, config: AcceleratorConfig, ddr: Ddr, lane: int, shared: Shared | None):
        self._config, self._lane, self.reads = config, lane, deque()
        self._bandwidth = float(ddr.bandwidth)
        self._response = ddr.write_latency + 1
        # A burst's data may follow its address after three cycles; its place is free when the response is in.
        shares = config.vector and lane == config.lanes - 1
        self.bus = Arbiter(Channel(config, ddr, 3, self._response, shared, write=True), 1 + shares)
        self.beats = 0
        self.now = NEVER
        self._last = NEVER  # last beat on the bus
        self._quads: deque[tuple[int, int, int]] = deque()  # (requests, first beat, last beat) of the newest commands

    def _taken(self, back: int) -> int:
        """Cycle from which the request `back` before the next command's first no longer counts as in flight."""
        for count, first, last in reversed(self._quads):
            if back <= count:
                return last - (last - first) * (back - 1) // count
            back -= count
        return NEVER

    def cycles_per_quad(self, d: Descriptor) -> float:
        return (1 << d.out_format) / self._bandwidth

    def _fed(self, begin: int, quads: int, pace: float) -> tuple[int, int]:
        """Cycles of the last grant of a command, and in which its sums are there, if requests start in `begin`.

        `pace`: cycles in which the bus takes four sums. Where reads of stored sums leave fewer grants, those in flight
        tide over a while, and the bus waits then.
        """
        while self.reads and self.reads[0][1] < begin:
            self.reads.popleft()
        now, left, ahead = float(begin), float(quads), 0.0
        for first, last, planes in self.reads:
            slow = planes / (planes - 1) if planes > 1 else inf
            if slow <= pace:
                continue
            if now < first:
                if left * pace <= first - now:
                    break
                left -= (first - now) / pace
                ahead = min(ahead + (first - now) * (1 - 1 / pace), WAITING)
                now = float(first)
            sent = min((last + 1 - now) / pace, ahead + (last + 1 - now) / slow)
            if left <= sent:
                now += max(left * pace, (left - ahead) * slow if left > ahead else 0.0)
                return round(now) - 1, round(now) - 1
            left -= sent
            ahead = max(0.0, ahead - (last + 1 - now) * (1 / pace - 1 / slow))
            now = last + 1.0
        if now == begin:
            return begin + quads - 1, begin + quads - 1
        return round(now + left) - 1, round(now + left * pace) - 1

    def tile(self, taken: int, tile: Tile) -> None:
        """Drain a tile that is taken in cycle `taken`."""
        d, config = tile.descriptor, self._config
        quads = tile.area * (config.rows // DRAIN_ROWS)
        size = d.tile_rows * d.out_width * config.rows * BEAT_BYTES // DRAIN_ROWS << d.out_format
        row_parts = 1 << d.log2_row_parts
        now = taken + 2  # TILE, START
        for sample in range(tile.samples):
            first_cluster = sample % d.sample_parts * row_parts
            for row_block in range(d.row_blocks * row_parts):
                if (first_cluster + row_block % row_parts) % config.lanes != self._lane:
                    now += 3  # COMMAND, SKIP, NEXT
                    continue
                address = d.out_base + (tile.first + sample) * d.out_stride_n + row_block * d.out_stride_m
                now = self._command(now, (address + tile.band * size) // BEAT_BYTES, quads, d)
        self.now = now

    def _command(self, now: int, address: int, quads: int, d: Descriptor) -> int:
        """Drain the sums of a row block and sample; return the state after the last request."""
        self.bus.others(now)
        begin = max(self.bus.accepts(now) + 1, self._taken(QUADS))
        granted, fed = self._fed(begin, quads, self.cycles_per_quad(d))
        self.beats += quads << d.out_format
        run = self.bus.run(now, address, quads << d.out_format, begin + DRAIN, fed + DRAIN)
        self._last = run.last
        self._quads.append((quads, run.first, run.last))
        if len(self._quads) > QUADS:
            self._quads.popleft()
        if quads > QUADS:  # all but the last requests have left as beats when the last one is granted
            granted = max(granted, run.last - (run.last - run.first) * QUADS // quads)
        return granted + 2  # NEXT

    def done(self, taken: int, finished: int) -> int:
        """The cycle in which everything has been written and acknowledged, at an end taken in cycle `taken`.

        `finished`: and a vector pass, if the end is its.
        """
        return max(taken + 2, self._last + self._response + 2, finished + 2)


class Store:
    """The lanes, which take the same tiles and wait for each other at a descriptor's end.

    Attributes
    ----------
    result_free : of each tile, when EXEC sees its slot free again.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        ddr: Ddr,
        shared: Shared | None,
        reads: deque[tuple[int, int, int]],
        stalls: Stalls,
    ):
        self._lanes = [StoreLane(config, ddr, lane, shared) for lane in range(config.lanes)]
        self._reads, self._stalls = reads, stalls
        self._agree = int(config.lanes > 1)  # what it takes to know of each other
        self._given_up = NEVER  # by the queue, the newest tile or end: the last lane has taken it
        self.result_free: list[int] = []

    @property
    def bus(self) -> Arbiter:
        """The channel of the last lane."""
        return self._lanes[-1].bus

    @property
    def beats(self) -> list[int]:
        """Of each lane."""
        return [lane.beats for lane in self._lanes]

    def drains_freely(self, tile: Tile) -> bool:
        """Whether reads of stored sums leave time for all requests that the bus can take, while such tiles compute."""
        return (tile.bits - 1) * self._lanes[0].cycles_per_quad(tile.descriptor) >= tile.bits

    def tile(self, start: int, tile: Tile, full: int) -> int:
        """Drain a tile whose results are complete in cycle `full`; return the cycle in which it leaves the queue."""
        for lane in self._lanes:
            lane.reads.extend(self._reads)
        self._reads.clear()
        offered = max(start, self._given_up + 1)
        self._stalls.store_stall_result += max(0, full - max(offered, *(lane.now for lane in self._lanes)))
        taken = [max(lane.now, offered, full) for lane in self._lanes]
        for lane, when in zip(self._lanes, taken, strict=True):
            lane.tile(when, tile)
        self.result_free.append(max(lane.now for lane in self._lanes) + 1 + self._agree)
        self._given_up = max(taken) + self._agree
        return self._given_up

    def end(self, start: int, finished: int) -> tuple[int, int]:
        """A descriptor's end. Return the cycles in which it leaves the queue, and of completion.

        It is complete when everything has been written and acknowledged; of a vector pass, when that has `finished`.
        """
        offered = max(start, self._given_up + 1)
        taken = [max(lane.now, offered) for lane in self._lanes]
        done = max(lane.done(when, finished) for lane, when in zip(self._lanes, taken, strict=True)) + self._agree
        for lane in self._lanes:
            lane.now = done + 1
        self._given_up = max(taken) + self._agree
        return self._given_up, done
