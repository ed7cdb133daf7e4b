"""TUL PYNQ-Z2. Pins: its master constraints, pynq-z2_v1.0.xdc."""

from __future__ import annotations

from amaranth.build import Attrs, Clock, Connector, Pins, Resource
from amaranth.vendor import XilinxPlatform
from amaranth_boards.resources import ButtonResources, LEDResources, RGBLEDResource, SwitchResources

from boards.zynq7000 import Zynq7000

_ATTRS = Attrs(IOSTANDARD="LVCMOS33")


class PynqZ2Platform(XilinxPlatform):
    """What the PL reaches, but for audio and HDMI."""

    device = "xc7z020"
    package = "clg400"
    speed = "1"
    default_clk = "clk125"
    resources = [
        Resource("clk125", 0, Pins("H16", dir="i"), Clock(125e6), _ATTRS),
        *LEDResources(pins="R14 P14 N16 M14", attrs=_ATTRS),
        RGBLEDResource(0, r="N15", g="G17", b="L15", attrs=_ATTRS),  # LD4
        RGBLEDResource(1, r="M15", g="L14", b="G14", attrs=_ATTRS),  # LD5
        *ButtonResources(pins="D19 D20 L20 L19", attrs=_ATTRS),
        *SwitchResources(pins="M20 M19", attrs=_ATTRS),
    ]
    connectors = [
        Connector("pmod", 0, "Y18 Y19 Y16 Y17 - - U18 U19 W18 W19 - -"),  # PMODA
        Connector("pmod", 1, "W14 Y14 T11 T10 - - V16 W16 V12 W13 - -"),  # PMODB
    ]


BOARD = Zynq7000(name="pynq_z2", platform=PynqZ2Platform, preset="z020", clock_mhz=100.0, ddr_mib=512)
