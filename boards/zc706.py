"""Xilinx ZC706: XC7Z045. Pins: AMD UG954."""

from __future__ import annotations

from boards.zynq7000 import Zynq7000

BOARD = Zynq7000(
    name="zc706",
    device="xc7z045ffg900-2",
    capacity={"lut": 218_600, "lutram": 70_400, "ff": 437_200, "bram36": 545, "dsp": 900},
    preset="zc706",
    clock_mhz=200.0,
    led_alive=("Y21", "LVCMOS25"),  # GPIO_LED_LEFT
    led_interrupt=("W21", "LVCMOS25"),  # GPIO_LED_RIGHT
)
