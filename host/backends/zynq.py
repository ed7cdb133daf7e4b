"""The accelerator in the Zynq that this process runs on, as a board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from host.backends.driver import RegisterBoard
from host.backends.registry import Backend, register
from host.board import Board
from host.zynq.linux import Linux
from host.zynq.load import load
from host.zynq.transport import ZynqTransport
from rtl.config import PRESETS, AcceleratorConfig


def _open(
    config: AcceleratorConfig | None = None,
    *,
    device: str = "fractrain",
    cached: bool = True,
    bitstream: str | Path | None = None,
    patience: float = 60.0,
    linux: Linux | None = None,
) -> Board:
    """Open it.

    Parameters
    ----------
    config : what the FPGA has to have, if that matters; how it came to be built (`vendor`) does not.
    device : name of the UIO device.
    cached : map the buffer through the processor's caches.
    bitstream : folder of a build to load first.
    patience : seconds that a run may take.
    linux : where the files of Linux lie.

    Raises
    ------
    RuntimeError
        If something is missing, the device is in use, or the hardware is not what it should be.
    """
    linux = linux or Linux()
    if bitstream is not None:
        load(linux, Path(bitstream))
    transport = ZynqTransport(linux, device, cached=cached, patience=patience)
    board = RegisterBoard("zynq", transport)
    try:
        transport.open_aperture()  # after the reset: nothing is on its way
        if config is not None and replace(config, vendor=board.config.vendor) != board.config:
            raise RuntimeError(f"the FPGA does not have this configuration but {_named(board.config)}")
    except BaseException:
        board.close()
        raise
    return board


def _named(config: AcceleratorConfig) -> str:
    for name, preset in PRESETS.items():
        if replace(preset, vendor=config.vendor) == config:
            return f"that of --preset {name}"
    return str(config)


register(Backend("zynq", _open, "the FPGA beside this processor", has_clock=True, runs_descriptors=True, built=True))
