"""Digilent PYNQ-Z1, whose PL has the pins of the PYNQ-Z2 where the platform there names them."""

from __future__ import annotations

from boards.pynq_z2 import PynqZ2Platform
from boards.zynq7000 import Zynq7000


class PynqZ1Platform(PynqZ2Platform):
    """What the PL reaches, but for audio and HDMI. Pins: Digilent's master constraints, PYNQ-Z1_C.xdc."""


BOARD = Zynq7000(name="pynq_z1", platform=PynqZ1Platform, preset="z020", clock_mhz=100.0, ddr_mib=512)
