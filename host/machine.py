"""The accelerator that a figure belongs to: its configuration, its memory, and the clock that seconds are given for."""

from __future__ import annotations

from dataclasses import dataclass

from host.backends import find
from host.cycles.bus import CLOCK_MHZ
from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.ddr import Ddr

#: What every latency and every conversion of this project counts.
SCOPE = "convolutions and matrix products only"


def default_preset(board: str) -> str:
    """The preset that a board has unless another is asked for: the ZC706's where cycles are modelled, else `sim`."""
    return "zc706" if find(board).modelled else "sim"


@dataclass(frozen=True)
class Machine:
    """What names the configuration of a figure, as JSON values.

    Attributes
    ----------
    preset, clusters : of the `AcceleratorConfig`.
    bytes_per_cycle : of the memory, in each direction.
    latency : cycles until the first beat of a burst is there.
    clock_mhz : clock that cycles become seconds with. It is assumed: no placed design has met it.
    """

    preset: str
    clusters: int
    bytes_per_cycle: float
    latency: int
    clock_mhz: int = CLOCK_MHZ

    @classmethod
    def of(cls, preset: str, config: AcceleratorConfig, ddr: Ddr | None = None) -> Machine:
        """The machine of a configuration, by default with the memory of the simulated board."""
        ddr = ddr or Ddr()
        return cls(preset, config.clusters, float(ddr.bandwidth * BEAT_BYTES), ddr.read_latency)

    @property
    def size(self) -> str:
        return "1 cluster" if self.clusters == 1 else f"{self.clusters} clusters"

    def __str__(self) -> str:
        return (
            f"{self.size} ({self.preset}), {self.bytes_per_cycle:g} B/cycle to and from memory, latency {self.latency} "
            f"cycles, {self.clock_mhz} MHz assumed"
        )
