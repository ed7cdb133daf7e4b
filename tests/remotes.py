"""Servers of boards for the tests: in a thread of this process, or in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread

import numpy as np
from references import random_tensor

from host import open_board, ops
from host.backends.golden import GoldenBoard
from host.remote.address import Address
from host.remote.server import Server
from rtl.config import AcceleratorConfig

LOOPBACK = Address("127.0.0.1", 0)


def golden(preset: str = "tiny") -> GoldenBoard:
    return GoldenBoard(AcceleratorConfig.preset(preset), 1 << 24)


@contextmanager
def serving(board=None, **options) -> Iterator[str]:
    """The name of a board that is served meanwhile."""
    with closing(board or golden()) as board, closing(Server(board, LOOPBACK, **options)) as server:
        thread = Thread(target=server.serve)
        thread.start()
        try:
            yield server.address.endpoint
        finally:
            server.stop()
            thread.join()


@contextmanager
def served_elsewhere(*arguments: str) -> Iterator[tuple[str, int]]:
    """The name of a board that another process serves, and its number."""
    command = [sys.executable, "-m", "host.serve", "--board", "golden", "--bind", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.split(" at ")[1].split(",")[0], process.pid
        finally:
            process.terminate()
            assert process.wait(30) == 0


def opened(name: str, **options):
    """A board to be used in a `with` statement."""
    return closing(open_board(name, **options))


def product(board, seed: int = 3) -> np.ndarray:
    """Of random operands."""
    rng = np.random.default_rng(seed)
    x, w = random_tensor(rng, (3, 5, 7, 7), 4, False), random_tensor(rng, (6, 5, 3, 3), 4, True)
    return np.asarray(ops.conv2d(board, x, w))


def right(board) -> bool:
    """Whether the board computes."""
    with closing(golden()) as local:
        return np.array_equal(product(board), product(local))
