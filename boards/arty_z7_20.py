"""Digilent Arty Z7-20."""

from __future__ import annotations

from amaranth_boards.arty_z7 import ArtyZ720Platform

from boards.zynq7000 import Zynq7000

BOARD = Zynq7000(name="arty_z7_20", platform=ArtyZ720Platform, preset="z020", clock_mhz=100.0, ddr_mib=512)
