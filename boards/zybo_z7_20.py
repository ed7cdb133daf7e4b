"""Digilent Zybo Z7-20: the Zybo Z7-10 with a larger device, one LED more and one connector more."""

from __future__ import annotations

from amaranth.build import Attrs, Connector
from amaranth_boards.resources import RGBLEDResource

from boards.zybo_z7_10 import ZyboZ710Platform
from boards.zynq7000 import Zynq7000


class ZyboZ720Platform(ZyboZ710Platform):
    """What the PL reaches, but for audio, HDMI and camera."""

    device = "xc7z020"
    resources = [
        *ZyboZ710Platform.resources,
        RGBLEDResource(0, r="Y11", g="T5", b="Y12", attrs=Attrs(IOSTANDARD="LVCMOS33")),  # LD5
    ]
    connectors = [
        *ZyboZ710Platform.connectors,
        Connector("pmod", 1, "V8 W8 U7 V7 - - Y7 Y6 V6 W6 - -"),  # JB
    ]


BOARD = Zynq7000(name="zybo_z7_20", platform=ZyboZ720Platform, preset="z020", clock_mhz=100.0, ddr_mib=1024)
