"""A board that a server runs, on this machine or another. ZeroMQ is an extra, and is imported when it is opened."""

from __future__ import annotations

import os
from pathlib import Path

from host.backends.built import require_config
from host.backends.registry import Backend, register
from host.board import Board
from host.remote.address import PREFIX, Address
from rtl.config import AcceleratorConfig

MISSING = "{} needs pyzmq, which is not installed: pip install 'fractrain-fpga[remote]'"
#: The environment variable that names the folder of a client's keys where nobody else does.
KEYS = "FRACTRAIN_KEYS"


def _open(
    config: AcceleratorConfig | None = None,
    *,
    name: str,
    keys: str | Path | None = None,
    patience: float = 15.0,
    wait: float = 0.0,
) -> Board:
    """Open it.

    Parameters
    ----------
    config : what the board has to have, if that matters; how it came to be built (`vendor`) does not.
    name : `tcp://HOST:PORT` of its server.
    keys : folder with the client's keys, as `python -m host.remote.keys` makes it; by default what the environment
        variable FRACTRAIN_KEYS names. Without any, nothing is encrypted.
    patience : seconds without a sign of life after which the server is taken for gone.
    wait : seconds to wait for a board that is leased to somebody else.

    Raises
    ------
    ValueError
        If the name is no address, or if keys are missing.
    RuntimeError
        If ZeroMQ is not installed, the board is leased to somebody else, or it is not what it should be.
    ConnectionError
        If there is no such server, or if it does not let this client in.
    """
    address = Address.parse(name)
    try:
        from host.remote.client import RemoteBoard
    except ModuleNotFoundError as error:
        if error.name != "zmq":
            raise
        raise RuntimeError(MISSING.format(f"board {name!r}")) from None
    folder = keys or os.environ.get(KEYS)
    board = RemoteBoard(name, address, Path(folder) if folder else None, patience=patience, wait=wait)
    try:
        require_config(f"the board at {name}", board.config, config)
    except BaseException:
        board.close()
        raise
    return board


register(
    Backend(
        PREFIX,
        _open,
        "a board that `python -m host.serve` runs",
        has_clock=True,
        runs_descriptors=True,
        built=True,
        shown=f"{PREFIX}HOST:PORT",
    )
)
