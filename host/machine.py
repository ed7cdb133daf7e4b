"""The accelerator that a figure belongs to: its configuration, its memory, and the clock that seconds are given for."""

from __future__ import annotations

from dataclasses import dataclass, field

from host.backends import find
from host.cycles.bus import CLOCK_MHZ
from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.ddr import Ddr

#: What every latency and every conversion counts where the host computes what lies between products.
SCOPE = "convolutions and matrix products only"
#: And where the passes of the device step are the board's.
STEP_SCOPE = "whole training steps but for coefficients and head"


def default_preset(board: str, *, step: str = "host") -> str:
    """The preset that a board has unless another is asked for.

    The ZC706's where cycles are modelled; else one cluster, with a vector unit where the device step's descriptors run.
    """
    if find(board).modelled:
        return "zc706"
    return "vector" if step == "device" and find(board).runs_descriptors else "sim"


@dataclass(frozen=True)
class Machine:
    """What names the configuration of a figure, as JSON values.

    Attributes
    ----------
    preset, clusters : of the `AcceleratorConfig`.
    bytes_per_cycle : of the memory, in each direction of a manager.
    latency : cycles until the first beat of a burst is there.
    clock_mhz : clock that cycles become seconds with. It is assumed: no placed design has met it.
    managers : ports to the memory.
    shared_bytes_per_cycle : of the memory, of all managers and both directions together, as much read as written.
    """

    preset: str
    clusters: int
    bytes_per_cycle: float
    latency: int
    clock_mhz: int = CLOCK_MHZ
    managers: int = field(default=1, metadata={"later": True})
    shared_bytes_per_cycle: float = field(default=17.0, metadata={"later": True})

    @classmethod
    def of(cls, preset: str, config: AcceleratorConfig, ddr: Ddr | None = None) -> Machine:
        """The machine of a configuration, by default with the memory of the simulated board."""
        ddr = ddr or Ddr()
        rate, shared = (float(beats * BEAT_BYTES) for beats in (ddr.bandwidth, ddr.usable))
        return cls(
            preset,
            config.clusters,
            rate,
            ddr.read_latency,
            managers=config.managers,
            shared_bytes_per_cycle=shared,
        )

    @property
    def size(self) -> str:
        return "1 cluster" if self.clusters == 1 else f"{self.clusters} clusters"

    def __str__(self) -> str:
        memory = f"{self.bytes_per_cycle:g} B/cycle to and from memory"
        if self.managers > 1:
            memory += f" over each of {self.managers} managers, {self.shared_bytes_per_cycle:g} together"
        return f"{self.size} ({self.preset}), {memory}, latency {self.latency} cycles, {self.clock_mhz} MHz assumed"
