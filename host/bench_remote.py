"""What the way to a remote board costs: `python -m host.bench_remote`.

Without `--board` it serves a golden board on this machine, once without keys and once with them, and sets a plain TCP
connection beside it that moves the same bytes.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from host.backends import open_board
from host.backends.memory import MemoryBoard
from host.bench import print_table
from host.remote.messages import BLOCK_BYTES, HEADER_BYTES
from host.selftest import SCRATCH, sound

COLUMNS = {
    "way": "{way}",
    "round trip us": "{round_trip_us:.0f}",
    "99 % us": "{round_trip_99_us:.0f}",
    "run of one us": "{run_us:.0f}",
    "write MB/s": "{write_mb_per_s:,.0f}",
    "read MB/s": "{read_mb_per_s:,.0f}",
}
#: Answers to a message of no more than a header, and blocks of `BLOCK_BYTES`, that are timed.
ROUND_TRIPS, BLOCKS = 1000, 32


def seconds_of(count: int, work: Callable[[], object]) -> list[float]:
    """How long each of `count` calls takes."""
    found = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def row(
    way: str,
    ask: Callable[[], object],
    write: Callable[[], object],
    read: Callable[[], object],
    nbytes: int,
    run: Callable[[], object] | None = None,
) -> dict[str, float | str]:
    """Medians of one way to the other end; `write` and `read` move `nbytes` each."""
    trips = sorted(seconds_of(ROUND_TRIPS, ask))
    writes, reads = (statistics.median(seconds_of(BLOCKS, work)) for work in (write, read))
    return {
        "way": way,
        "round_trip_us": 1e6 * statistics.median(trips),
        "round_trip_99_us": 1e6 * trips[99 * len(trips) // 100],
        "run_us": 1e6 * statistics.median(seconds_of(ROUND_TRIPS // 5, run)) if run else float("nan"),
        "write_mb_per_s": nbytes / writes / 1e6,
        "read_mb_per_s": nbytes / reads / 1e6,
    }


def of_board(way: str, board: MemoryBoard) -> dict[str, float | str]:
    """Of a board: its counters are what a round trip asks for."""
    nbytes = min(BLOCK_BYTES, board.target.room // 2)
    region, scratch = board.memory.take(nbytes), board.memory.take(SCRATCH)
    data = np.random.default_rng(1).integers(0, 256, nbytes).astype(np.uint8)
    descriptor = sound(scratch.address)
    return row(
        way,
        board.counters,
        lambda: board.write(region.address, data),
        lambda: board.read(region.address, nbytes),
        nbytes,
        lambda: board.run([descriptor]),
    )


# A plain connection ---------------------------------------------------------------------------------------------------


def of_socket() -> dict[str, float | str]:
    """Of a TCP connection on this machine, whose other end answers each header with a header or a block."""
    spawned = get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = spawned.Process(target=_echo, args=(listening.getsockname()[1],))
        process.start()
        near, _ = listening.accept()
    header, block = bytes(HEADER_BYTES), bytes(BLOCK_BYTES)
    into = memoryview(bytearray(BLOCK_BYTES))
    with near:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange(kind: bytes, sent: bytes, expected: int) -> None:
            near.sendall(kind + header[1:])
            if sent:
                near.sendall(sent)
            _receive(near, into[:expected])

        found = row(
            "plain TCP",
            lambda: exchange(b"e", b"", HEADER_BYTES),
            lambda: exchange(b"w", block, HEADER_BYTES),
            lambda: exchange(b"r", b"", BLOCK_BYTES),
            BLOCK_BYTES,
        )
    process.join()
    return found


def _receive(connection: socket.socket, into: memoryview) -> bool:
    """Fill `into`; whether the other end had so much."""
    while into and (count := connection.recv_into(into)):
        into = into[count:]
    return not into


def _echo(port: int) -> None:
    """The other end."""
    block = memoryview(bytearray(BLOCK_BYTES))
    header = memoryview(bytearray(HEADER_BYTES))
    with socket.create_connection(("127.0.0.1", port)) as far:
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while _receive(far, header):
            kind = bytes(header[:1])
            if kind == b"w":
                _receive(far, block)
            far.sendall(block if kind == b"r" else header)


# The command ----------------------------------------------------------------------------------------------------------


@contextmanager
def _served(*arguments: str) -> Iterator[str]:
    """The name of a golden board that another process serves on this machine."""
    command = [sys.executable, "-m", "host.serve", "--board", "golden", "--bind", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[3].rstrip(",")
        finally:
            process.terminate()


def _loopback() -> Iterator[dict[str, float | str]]:
    """All ways on this machine."""
    from host.remote import keys

    with tempfile.TemporaryDirectory() as folder:
        keys.make(Path(folder))
        for way, arguments, options in (
            ("without keys", (), {}),
            ("with keys", ("--keys", folder), {"keys": folder}),
        ):
            with _served(*arguments) as name, closing(open_board(name, **options)) as board:
                assert isinstance(board, MemoryBoard)
                yield of_board(way, board)
    with closing(open_board("golden", "vector")) as board:
        assert isinstance(board, MemoryBoard)
        yield of_board("in this process", board)
    yield of_socket()


def _one(name: str) -> Iterator[dict[str, float | str]]:
    with closing(open_board(name)) as board:
        if not isinstance(board, MemoryBoard):
            raise ValueError(f"board {name!r} has no memory")
        yield of_board(name, board)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 or 2 (bad input, or no such board here)."""
    parser = argparse.ArgumentParser(prog="python -m host.bench_remote", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--board", help="measure this board only, such as tcp://HOST:PORT")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args(arguments)
    try:
        rows = list(_one(args.board) if args.board else _loopback())
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"blocks of {BLOCK_BYTES >> 20} MiB, {BLOCKS} of them, and {ROUND_TRIPS} round trips; medians")
    print_table(COLUMNS, rows, sys.stdout)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
