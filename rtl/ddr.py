"""The memory behind the accelerator's AXI managers, as figures assume it and as the simulated board has it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Ddr:
    """A memory as the accelerator's clock sees it.

    Attributes
    ----------
    read_latency : cycles from an accepted read address to the first beat.
    write_latency : cycles from the last beat of a burst to its response.
    bandwidth : beats a cycle in each direction of a manager. 3/4 is a 64-bit Zynq HP port at 150 MHz seen from 200 MHz.
    shared : beats a cycle of all managers in both directions together. 17/8 are 3.4 GB/s at 200 MHz.
    outstanding : bursts that the memory accepts in each direction of a manager.
    turnaround : cycles that it loses when it turns to the other direction and back.
    batch : beats that it collects in each direction before it does.
    refresh_interval, refresh : every so many cycles it moves nothing for so many; 0: never.

    Raises
    ------
    ValueError
        If no memory is like that.
    """

    read_latency: int = 50
    write_latency: int = 30
    bandwidth: Fraction = Fraction(3, 4)
    shared: Fraction = Fraction(17, 8)
    outstanding: int = 16
    turnaround: int = 0
    batch: int = 64
    refresh_interval: int = 0
    refresh: int = 0

    def __post_init__(self):
        if not 0 < self.bandwidth <= 1:
            raise ValueError(f"bandwidth is {self.bandwidth}, must be above 0 and at most 1 beat a cycle")
        if self.shared < self.bandwidth:
            raise ValueError(f"shared is {self.shared}, must be at least the bandwidth of a manager, {self.bandwidth}")
        if min(self.read_latency, self.write_latency) < 0 or self.outstanding < 1:
            raise ValueError("latencies must be at least 0, outstanding at least 1")
        if self.turnaround < 0 or self.batch < 1:
            raise ValueError("turnaround must be at least 0, batch at least 1")
        if not 0 <= self.refresh < max(self.refresh_interval, 1):
            raise ValueError(f"refresh is {self.refresh}, must be at least 0 and below its interval")

    @property
    def refreshed(self) -> Fraction:
        """The part of its time in which it does not refresh."""
        return 1 - Fraction(self.refresh, self.refresh_interval or 1)

    @property
    def turn(self) -> float:
        """Beats that turning costs, for each beat of the direction that has fewer."""
        return float(self.turnaround * self.shared / self.batch)

    @property
    def usable(self) -> float:
        """Beats a cycle of all managers together where as many are read as written."""
        return float(self.shared * self.refreshed) / (1 + self.turn / 2)


#: Memories by name, as `python -m host.bench --memory` takes them. Cycles are of 5 ns.
MEMORIES = {
    # What the simulated board has unless another is asked for.
    "hp-150": Ddr(),
    # The ZC706's DDR3-1066 of 32 bits behind ports of 64 bits: 4.26 GB/s. Refresh takes 160 of 7,800 ns; turning takes
    # what leaves 3.4 GB/s where as much is read as written.
    "ps-ddr": Ddr(bandwidth=Fraction(1), shared=Fraction(2665, 1000), turnaround=11, refresh_interval=1560, refresh=32),
    # Its DDR3-1600 of 64 bits behind the programmable logic: 12.8 GB/s, more than two ports of 64 bits carry.
    "pl-ddr": Ddr(bandwidth=Fraction(1), shared=Fraction(8), turnaround=8, refresh_interval=1560, refresh=32),
}
