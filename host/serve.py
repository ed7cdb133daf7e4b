"""`python -m host.serve --board zynq`: let another process, or another machine, use a board of this one.

`open_board("tcp://HOST:PORT")` and `--board tcp://HOST:PORT` drive it from there. See docs/remote.md.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from host.backends import find, open_board
from host.backends.memory import MemoryBoard
from host.backends.remote import MISSING
from host.machine import default_preset
from host.remote.address import Address
from rtl.config import PRESETS, AcceleratorConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 (stopped) or 2 (bad input, or no such board here)."""
    parser = argparse.ArgumentParser(prog="python -m host.serve", description="Let others use a board.")
    parser.add_argument("--board", default="zynq", help="board (default: zynq)")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), help="configuration (default: the hardware's, or that of training runs)"
    )
    parser.add_argument("--clusters", type=int, help="clusters of it (default: the preset's)")
    parser.add_argument(
        "--bind", default="127.0.0.1:7766", metavar="HOST:PORT", help="where to listen (default: %(default)s)"
    )
    parser.add_argument("--keys", type=Path, metavar="DIR", help="folder of keys; needed for all but this machine")
    parser.add_argument(
        "--most-elements",
        type=int,
        metavar="N",
        help="elements of the largest array that a descriptor may need (default: 2**26)",
    )
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        server_of = _server()
        limits = {} if args.most_elements is None else {"most_elements": args.most_elements}
        with closing(open_board(args.board, _config(args))) as board:
            if not isinstance(board, MemoryBoard):
                raise ValueError(f"board {args.board!r} has no memory and runs no descriptors")
            with closing(server_of(board, Address.parse(args.bind), args.keys, **limits)) as server:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: server.stop())
                guarded = "with keys" if args.keys else "without keys"
                print(f"board {args.board} at {server.address.endpoint}, {guarded}; Ctrl-C ends", flush=True)
                server.serve()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _config(args: argparse.Namespace) -> AcceleratorConfig | None:
    """The configuration to open, if the hardware does not say it."""
    changes = {} if args.clusters is None else {"clusters": args.clusters}
    if args.preset is None and find(args.board).built:
        if changes:
            raise ValueError("--clusters needs --preset")
        return None
    return AcceleratorConfig.preset(args.preset or default_preset(args.board, step="device"), **changes)


def _server():
    """The server's class, of a library that need not be installed."""
    try:
        from host.remote.server import Server
    except ModuleNotFoundError as error:
        if error.name != "zmq":
            raise
        raise RuntimeError(MISSING.format("serving a board")) from None
    return Server


if __name__ == "__main__":
    sys.exit(main())
