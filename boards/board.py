"""What `rtl.build` needs to know of a board."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amaranth.lib import wiring

from rtl.config import AcceleratorConfig


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a vendor's tool has made of a build.

    Attributes
    ----------
    fmax_mhz : clock rate that its timing report allows, or None without a report.
    bitstream : the file, or None.
    """

    fmax_mhz: float | None
    bitstream: Path | None


@dataclass(frozen=True, kw_only=True)
class Board(ABC):
    """A board that the accelerator is built for.

    Attributes
    ----------
    name : as `--board` takes it.
    preset : name of the configuration that is built by default.
    clock_mhz : clock to constrain to by default; an aim, no measurement.
    """

    name: str
    preset: str
    clock_mhz: float

    @property
    @abstractmethod
    def device(self) -> str:
        """The FPGA, as its vendor's tool writes it."""

    @property
    @abstractmethod
    def capacity(self) -> Mapping[str, int]:
        """What the device has of each of `rtl.utilisation.RESOURCES`.

        `lutram` is the LUTs that can be memory, which are part of `lut`.
        """

    @property
    @abstractmethod
    def tool(self) -> str:
        """The program that makes the bitstream."""

    @abstractmethod
    def top(self, config: AcceleratorConfig) -> wiring.Component:
        """The whole design: accelerator, buses, clock and pins. Submodule `accelerator` is the accelerator."""

    @abstractmethod
    def files(self, name: str, clock_mhz: float) -> dict[str, str]:
        """Names and texts of the files that the tool needs beside the netlist: constraints and script."""

    @abstractmethod
    def command(self, name: str) -> list[str]:
        """The call of the tool, in the directory of the build; `name` is that of the netlist."""

    @abstractmethod
    def result(self, directory: Path, name: str, clock_mhz: float) -> Result:
        """What the tool has left in `directory` after a build for `clock_mhz`."""
