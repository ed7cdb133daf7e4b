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

    def __post_init__(self):
        if not 0 < self.bandwidth <= 1:
            raise ValueError(f"bandwidth is {self.bandwidth}, must be above 0 and at most 1 beat a cycle")
        if self.shared < self.bandwidth:
            raise ValueError(f"shared is {self.shared}, must be at least the bandwidth of a manager, {self.bandwidth}")
        if min(self.read_latency, self.write_latency) < 0 or self.outstanding < 1:
            raise ValueError("latencies must be at least 0, outstanding at least 1")
