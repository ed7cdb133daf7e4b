"""Who has a remote board: one client at a time, and nobody once that is killed, hangs or leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from threading import Event, Thread

import numpy as np
import pytest
from remotes import golden, opened, right, served_elsewhere, serving

from host import open_board, selftest
from host.backends.golden import GoldenBoard
from host.ring import RESERVED_BYTES
from rtl.config import AcceleratorConfig

#: Opens a board and works on it until it is killed.
BUSY = """
import sys
import numpy as np
from host import QTensor, open_board, ops

board = open_board(sys.argv[1], wait=30)
print("open", flush=True)
ones = QTensor(np.ones((64, 300), np.int8), 4, True), QTensor(np.ones((300, 64), np.int8), 4, True)
while True:
    board.write(1 << 20, np.ones(1 << 20, np.uint8))
    ops.matmul(board, *ones)
    board.read(1 << 20, 1 << 20)
"""


def test_one_client_has_the_board():
    with serving() as name:
        with opened(name) as first:
            with pytest.raises(RuntimeError, match="leased to another client"):
                open_board(name)
            assert right(first)
            with pytest.raises(RuntimeError, match="leased to another client"):
                open_board(name, wait=0.3)
            closing_soon = Thread(target=lambda: (time.sleep(0.3), first.close()))
            closing_soon.start()
            with opened(name, wait=20) as second:
                assert right(second)
            closing_soon.join()
        first.close()


def killed_at_random(rounds: int, rng: np.random.Generator) -> None:
    with serving() as name:
        for _ in range(rounds):
            with subprocess.Popen([sys.executable, "-c", BUSY, name], stdout=subprocess.PIPE) as client:
                assert client.stdout.readline() == b"open\n"
                time.sleep(rng.uniform(0, 0.3))
                client.kill()
            with opened(name, wait=20) as board:
                assert right(board)


def test_a_killed_client_frees_the_board(rng):
    killed_at_random(2, rng)


@pytest.mark.slow
def test_many_killed_clients_free_the_board(rng):
    killed_at_random(30, rng)


def test_a_client_that_hangs_frees_the_board():
    """Its connection is there, but nobody answers: heartbeats tell."""
    with serving(heartbeat=0.2) as name:
        with subprocess.Popen([sys.executable, "-c", BUSY, name], stdout=subprocess.PIPE) as client:
            assert client.stdout.readline() == b"open\n"
            os.kill(client.pid, signal.SIGSTOP)
            with opened(name, wait=20) as board:
                assert right(board)
            client.kill()


class SlowBoard(GoldenBoard):
    """Runs when it is told to."""

    def __init__(self):
        super().__init__(AcceleratorConfig.preset("tiny"), 1 << 24)
        self.may_run = Event()

    def run(self, descriptors):
        assert self.may_run.wait(30)
        super().run(descriptors)


def test_a_long_run_is_not_taken_for_the_end():
    slow = SlowBoard()
    with serving(slow, heartbeat=0.1) as name, opened(name, patience=0.5) as board:
        later = Thread(target=lambda: (time.sleep(1.5), slow.may_run.set()))
        later.start()
        assert right(board)
        later.join()


def test_a_client_that_leaves_amid_a_run():
    """The board is free when the run has ended, and what it answers goes to nobody else."""
    slow = SlowBoard()
    with serving(slow, heartbeat=0.1) as name:
        leaving = open_board(name, patience=0.3)
        with pytest.raises(KeyboardInterrupt):
            interrupted(leaving)
        leaving.close()
        with pytest.raises(RuntimeError, match="still runs what its last client asked for"):
            open_board(name)
        slow.may_run.set()
        with opened(name, wait=20) as board:
            assert right(board)


def interrupted(board) -> None:
    """A run in which Ctrl-C comes."""
    before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        board.run([selftest.sound(RESERVED_BYTES)])
    finally:
        signal.signal(signal.SIGALRM, before)


def test_work_goes_on_after_an_interruption():
    """The answer that nobody waited for is not taken for that of the next request."""
    slow = SlowBoard()
    with serving(slow) as name, opened(name) as board:
        with pytest.raises(KeyboardInterrupt):
            interrupted(board)
        slow.may_run.set()
        assert right(board)


def test_a_server_that_is_gone_is_noticed():
    with serving() as name:
        board = open_board(name)
    with pytest.raises(ConnectionError, match="out of reach: the connection has ended"):
        board.counters()
    with pytest.raises(ConnectionError, match="out of reach: the connection has ended"):
        board.read(RESERVED_BYTES, 1)
    board.close()
    with pytest.raises(ConnectionError, match="out of reach: nobody listens there"):
        open_board(name)


def test_a_server_that_hangs_is_noticed():
    with served_elsewhere("--preset", "tiny") as (name, process):
        board = open_board(name, patience=1)
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionError, match="out of reach"):
                board.counters()
            board.close()
        finally:
            os.kill(process, signal.SIGCONT)


def test_a_board_that_fails_does_not_take_the_server_along(monkeypatch, caplog):
    board = golden()
    failures = iter([TimeoutError("no interrupt within 60 s"), MemoryError(), KeyError("odd")])

    def run(descriptors):
        raise next(failures)

    monkeypatch.setattr(board, "run", run)
    with serving(board) as name, opened(name) as remote:
        with pytest.raises(TimeoutError, match="no interrupt within 60 s"):
            remote.run([selftest.sound(RESERVED_BYTES)])
        for said in ("MemoryError", "odd"):
            with pytest.raises(RuntimeError, match=f"the board failed: .*{said}"):
                remote.run([selftest.sound(RESERVED_BYTES)])
        monkeypatch.undo()
        assert right(remote)
