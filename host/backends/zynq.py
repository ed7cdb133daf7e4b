"""The accelerator in the Zynq that this process runs on, as a board."""

from __future__ import annotations

from pathlib import Path

from host.backends.built import require_config
from host.backends.driver import RegisterBoard
from host.backends.registry import Backend, register
from host.board import Board
from host.zynq.linux import Linux
from host.zynq.load import load
from host.zynq.transport import ZynqTransport
from rtl.config import AcceleratorConfig


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
        require_config("the FPGA", board.config, config)
    except BaseException:
        board.close()
        raise
    return board


register(Backend("zynq", _open, "the FPGA beside this processor", has_clock=True, runs_descriptors=True, built=True))
