"""Timing of DDR behind one AXI direction: bursts in flight, latency and bandwidth, without a cycle-by-cycle simulation.

All times are clock cycles, counted from the cycle in which the first descriptor is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from host.geometry import ceil_div
from rtl.config import AcceleratorConfig
from rtl.ddr import Ddr

#: Clock of the accelerator that the defaults of `Ddr` fit, and that device time is given for: the ZC706 build's target.
#: No design has been placed and routed at it.
CLOCK_MHZ = 200


def seconds(cycles: int) -> float:
    """Time of so many cycles at `CLOCK_MHZ`."""
    return cycles / (CLOCK_MHZ * 1e6)


#: A time long past: nothing in flight ends later.
NEVER = -(1 << 40)


class Rate:
    """A leaky bucket: beats move while a credit, topped up every cycle, covers their price (`Rate` of sim/ddr.h)."""

    def __init__(self, rate: Fraction):
        self.income, self.price = rate.numerator, rate.denominator
        self._credit = self.price + self.income
        self._time = NEVER

    def beats(self, earliest: int, count: int) -> tuple[int, int]:
        """Times of the first and the last of `count` beats that move as soon as they may."""
        income, price = self.income, self.price
        credit = min(self._credit + income * (earliest - self._time), price + income)
        first = earliest + max(0, ceil_div(price - credit, income))
        credit += income * (first - earliest) - price
        last = first + max(count - 1, ceil_div(price * (count - 1) - credit, income))
        self._credit = credit + income * (last - first) - price * (count - 1)
        self._time = last
        return first, last

    def hold(self, last: int) -> int:
        """The last beat could not move before `last`; return when it moved."""
        if last > self._time:
            self._credit = min(self._credit + self.income * (last - self._time), self.income)
            self._time = last
        return self._time


@dataclass
class Part:
    """What a channel has had of a window of what is shared."""

    write: bool
    window: int = -1
    moved: float = 0.0


class Shared:
    """What all channels move together, booked in windows of time.

    A channel finds what others have left, but no less than its part: LOAD, whose runs are booked long before STORE's,
    does not go first. What others had booked there moves on to later windows, though they are not told. Refresh and
    turning to the other direction are charged on average.

    Parameters
    ----------
    rate : beats a cycle.
    parts : the part of a channel is one of so many.
    turn : what turning costs, as `rtl.ddr.Ddr.turn`.
    """

    WINDOW = 32

    def __init__(self, rate: Fraction, parts: int = 2, turn: float = 0.0):
        self._room = float(rate * self.WINDOW)
        self._part = float(rate / parts) / (1 + turn / 2)
        self._turn = turn
        self._booked: dict[int, list[float]] = {}  # of each window: beats read, beats written, room that is gone
        self._later: dict[int, int] = {}  # of a window that is full: a later one, up to which all are

    @classmethod
    def of(cls, config: AcceleratorConfig, ddr: Ddr) -> Shared | None:
        """None if all channels together cannot move more than the memory can."""
        if 2 * config.managers * ddr.bandwidth <= ddr.usable:
            return None
        # Of two managers' four channels, three are busy at the most.
        return cls(ddr.shared * ddr.refreshed, config.managers + 1, ddr.turn)

    def _beats(self, room: float, behind: float) -> float:
        """Beats of a direction that find room where it is `behind` the other one: up to there they make it turn."""
        turning = behind * (1 + self._turn)
        return room / (1 + self._turn) if room < turning else max(behind, 0.0) + room - max(turning, 0.0)

    def _room_of(self, beats: float, behind: float) -> float:
        """The inverse."""
        return beats + self._turn * min(beats, max(behind, 0.0))

    def _open(self, window: int) -> int:
        """The first window from `window` on that is not full."""
        found = window
        while found in self._later:
            found = self._later[found]
        while window != found:
            after, self._later[window] = self._later[window], found
            window = after
        return found

    def book(self, part: Part, first: int, last: int, count: int) -> float:
        """By how many cycles `count` beats are late which a channel alone would move from cycle `first` to `last`."""
        write = part.write
        pace = count / (last + 1 - first)
        now, left = float(first), float(count)
        while True:
            window = int(now // self.WINDOW)
            end = (window + 1) * self.WINDOW
            booked = self._booked.setdefault(window, [0.0, 0.0, 0.0])
            behind = booked[not write] - booked[write]
            if part.window != window:
                part.window, part.moved = window, 0.0
            share = max(self._beats(self._room - booked[2], behind), self._part * self.WINDOW - part.moved)
            moved = min(left, pace * (end - now), share)
            left -= moved
            part.moved += moved
            booked[write] += moved
            booked[2] += self._room_of(moved, behind)
            while (more := booked[2] - self._room) > 0:
                booked[2] = self._room
                self._later[window] = window + 1
                window = self._open(window)
                booked = self._booked.setdefault(window, [0.0, 0.0, 0.0])
                booked[2] += more
            if left < 1e-6:
                return max(0.0, now + moved / pace - (last + 1))
            now = end


@dataclass(frozen=True)
class Run:
    """When a run of beats went over the bus: its command taken, its first and last beat."""

    taken: int
    first: int
    last: int


class Channel:
    """One direction of the bus with its burst cutter.

    A command waits until the cutter has offered all bursts of the one before; a burst's address waits until fewer than
    the allowed number are in flight.

    Parameters
    ----------
    bandwidth : beats a cycle.
    config, ddr : the accelerator and its memory; both limit the bursts in flight.
    data_delay : cycles from an accepted address to its first beat.
    release_delay : cycles from a burst's last beat until the memory accepts another in its place.
    write : its direction.
    shared : what all channels of the memory move together, if that may hold them up.

    Attributes
    ----------
    free : cycle from which the cutter takes a command.
    beats : beats so far.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        ddr: Ddr,
        data_delay: int,
        release_delay: int,
        shared: Shared | None = None,
        *,
        write: bool = False,
    ):
        self._rate, self._shared, self._part = Rate(ddr.bandwidth), shared, Part(write)
        self._late = 0.0  # what the sharing holds it up, below a cycle
        self._window = window = min(config.outstanding, ddr.outstanding)
        self._burst = config.burst_beats
        self._data_delay = data_delay
        # The accelerator's own list of bursts in flight is one cycle behind the memory's.
        self._release_delay = release_delay + (config.outstanding <= ddr.outstanding)
        self._ends = deque([NEVER] * window, maxlen=window)  # last beats of the newest bursts
        self._accepted = NEVER  # address of the newest burst
        self.free = NEVER
        # Do so many full bursts in flight hide the latency? Then only bandwidth counts within a long run.
        self._cycles_per_burst = config.burst_beats / float(ddr.bandwidth)
        self._hidden = (window - 1) * self._cycles_per_burst > data_delay + release_delay + 3
        self.beats = 0

    def _cut(self, address: int, beats: int) -> Iterator[tuple[int, int]]:
        """(bursts, beats) of a run: single bursts at both ends; those in the middle together, if latency is hidden."""
        burst, window = self._burst, self._window
        head = min(beats, burst - address % burst)
        yield 1, head
        full, tail = divmod(beats - head, burst)
        if self._hidden and full > 2 * window:
            for _ in range(window):
                yield 1, burst
            yield full - window, (full - window) * burst
            full = 0
        for _ in range(full):
            yield 1, burst
        if tail:
            yield 1, tail

    def run(self, offered: int, address: int, beats: int, ready: int = NEVER, complete: int = NEVER) -> Run:
        """Send a command of `beats` beats from beat address `address`.

        `ready` and `complete`: a write's data is not there before these cycles, its first and its last beat.
        """
        self.beats += beats
        taken = max(offered, self.free)
        put, first, last = taken, NEVER, self._ends[-1]
        for bursts, count in self._cut(address, beats):
            put = max(put, self._accepted) + 1  # the register is free once the address before has been accepted
            self._accepted = max(put + 1, self._ends[0] + self._release_delay)
            begun, last = self._rate.beats(max(self._accepted + self._data_delay, last + 1, ready), count)
            if self._shared is not None:
                self._late += self._shared.book(self._part, begun, last, count)
                whole = int(self._late)
                self._late -= whole
                last = self._rate.hold(last + whole)
            first = begun if first == NEVER else first
            if bursts > 1:
                self._ends.extend(round(last - i * self._cycles_per_burst) for i in reversed(range(self._window)))
                put = max(self._accepted, self._ends[0] - round(2 * self._cycles_per_burst) + 1)
                self._accepted = max(self._accepted, self._ends[0] - round(self._cycles_per_burst) + 1)
            else:
                self._ends.append(last)
        if complete > last:
            last = self._ends[-1] = self._rate.hold(complete)
        self.free = put + 1
        return Run(taken, first, last)


class Arbiter:
    """Who shares a channel sends commands over a register; one who is alone has none.

    Attributes
    ----------
    bus : the channel.
    others : is called with the cycle of every command, so that those who share the channel can go first.
    """

    def __init__(self, bus: Channel, users: int):
        self.bus, self._alone = bus, users == 1
        self._held = NEVER  # when the cutter took the register's last command
        self.others: Callable[[int], None] = lambda until: None

    def accepts(self, offered: int) -> int:
        """The cycle in which a command is taken that is offered from `offered` on."""
        return max(offered, self.bus.free if self._alone else self._held)

    def run(self, offered: int, address: int, beats: int, ready: int = NEVER, complete: int = NEVER) -> Run:
        """As `Channel.run`; `taken` is the cycle in which the command is taken from who sends it."""
        self.others(offered)
        accepted = self.accepts(offered)
        if self._alone:
            return self.bus.run(accepted, address, beats, ready, complete)
        run = self.bus.run(accepted + 1, address, beats, ready, complete)
        self._held = run.taken
        return replace(run, taken=accepted)
