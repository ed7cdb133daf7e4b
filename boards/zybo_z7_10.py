"""Digilent Zybo Z7-10. Pins: its master constraints, Zybo-Z7-Master.xdc."""

from __future__ import annotations

from amaranth.build import Attrs, Clock, Connector, Pins, Resource
from amaranth.vendor import XilinxPlatform
from amaranth_boards.resources import ButtonResources, LEDResources, RGBLEDResource, SwitchResources

from boards.zynq7000 import Zynq7000

_ATTRS = Attrs(IOSTANDARD="LVCMOS33")


class ZyboZ710Platform(XilinxPlatform):
    """What the PL reaches, but for audio, HDMI and camera."""

    device = "xc7z010"
    package = "clg400"
    speed = "1"
    default_clk = "clk125"
    resources = [
        Resource("clk125", 0, Pins("K17", dir="i"), Clock(125e6), _ATTRS),
        *LEDResources(pins="M14 M15 G14 D18", attrs=_ATTRS),
        RGBLEDResource(1, r="V16", g="F17", b="M17", attrs=_ATTRS),  # LD6; LD5 is the larger board's
        *ButtonResources(pins="K18 P16 K19 Y16", attrs=_ATTRS),
        *SwitchResources(pins="G15 P15 W13 T16", attrs=_ATTRS),
    ]
    connectors = [
        Connector("pmod", 2, "V15 W15 T11 T10 - - W14 Y14 T12 U12 - -"),  # JC
        Connector("pmod", 3, "T14 T15 P14 R14 - - U14 U15 V17 V18 - -"),  # JD
        Connector("pmod", 4, "V12 W16 J15 H15 - - V13 U17 T17 Y17 - -"),  # JE
    ]


BOARD = Zynq7000(name="zybo_z7_10", platform=ZyboZ710Platform, preset="z010", clock_mhz=100.0, ddr_mib=1024)
