"""Xilinx ZC706. Pins: AMD UG954."""

from __future__ import annotations

from amaranth.build import Attrs, Clock, Connector, DiffPairs, Pins, Resource
from amaranth.vendor import XilinxPlatform
from amaranth_boards.resources import LEDResources, SwitchResources

from boards.zynq7000 import Zynq7000


class ZC706Platform(XilinxPlatform):
    """What the PL reaches without a transceiver. LEDs: left, centre, right, 0; buttons: left, centre, right."""

    device = "xc7z045"
    package = "ffg900"
    speed = "2"
    default_clk = "clk200"
    default_rst = "rst"
    resources = [
        Resource("clk200", 0, DiffPairs("H9", "G9", dir="i"), Clock(200e6), Attrs(IOSTANDARD="LVDS")),
        Resource("rst", 0, Pins("A8", dir="i"), Attrs(IOSTANDARD="LVCMOS15")),
        *LEDResources(pins={0: "Y21", 2: "W21"}, attrs=Attrs(IOSTANDARD="LVCMOS25")),
        *LEDResources(pins={1: "G2", 3: "A17"}, attrs=Attrs(IOSTANDARD="LVCMOS15")),
        Resource("button", 0, Pins("AK25", dir="i"), Attrs(IOSTANDARD="LVCMOS25")),
        Resource("button", 1, Pins("K15", dir="i"), Attrs(IOSTANDARD="LVCMOS15")),
        Resource("button", 2, Pins("R27", dir="i"), Attrs(IOSTANDARD="LVCMOS25")),
        *SwitchResources(pins="AB17 AC16 AC17 AJ13", attrs=Attrs(IOSTANDARD="LVCMOS25")),
    ]
    connectors = [Connector("pmod", 0, "AJ21 AK21 AB21 AB16 - - Y20 AA20 AC18 AC19 - -")]  # J58


BOARD = Zynq7000(
    name="zc706",
    platform=ZC706Platform,
    preset="zc706",
    clock_mhz=200.0,
    ddr_mib=1024,
    led_interrupt=2,  # the right one
)
