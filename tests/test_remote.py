"""Boards that a server runs: they compute as before, are one client's at a time, and outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from threading import Event, Thread

import numpy as np
import pytest
from references import random_tensor
from remotes import golden, opened, served_elsewhere, serving
from runs import options, results

from host import open_board, ops, selftest
from host.backends import board_names, find
from host.backends.golden import GoldenBoard
from host.errors import AcceleratorError
from host.remote import messages
from host.remote.address import Address
from host.remote.server import Server
from host.ring import RESERVED_BYTES, RING_ENTRIES
from host.serve import main as serve
from host.train import main as train
from rtl.config import AcceleratorConfig
from rtl.isa import VERSION, Descriptor, Error

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


def product(board, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, w = random_tensor(rng, (3, 5, 7, 7), 4, False), random_tensor(rng, (6, 5, 3, 3), 4, True)
    return np.asarray(ops.conv2d(board, x, w))


def right(board) -> bool:
    with closing(golden()) as local:
        return np.array_equal(product(board), product(local))


def test_training_on_digits_is_that_of_the_golden_board(tmp_path):
    """Checkpoint and metrics, bit for bit, with whole steps on the board; the server runs in another process."""
    how = {"step": "device", "epochs": 1, "subset": "fraction=0.05/test=0.05", "batch": 16}
    with served_elsewhere() as (name, _):
        for board in ("golden", name):
            assert train(options("digits", tmp_path / board[:3], board=board, **how)) == 0
    wanted, found = results(tmp_path / "gol"), results(tmp_path / "tcp")
    assert found[0] == wanted[0]
    assert found[2] == wanted[2]


def test_training_with_the_hosts_step_is_that_of_the_golden_board(trainer):
    changes = {"preset": "tiny", "epochs": 1}
    with serving() as name, opened(name) as board:
        runs = [trainer("golden", golden(), **changes), trainer("remote", board, **changes)]
        assert all(run.run() for run in runs)
    wanted, found = (results(run.out)[0] for run in runs)
    assert found == wanted


def test_it_passes_the_self_test(tmp_path, capsys):
    """Products, errors of descriptors and counters are those of a board of one's own."""
    with serving() as name:
        assert selftest.main(["--board", name, "--cases", "3", "--out", str(tmp_path / "report.json")]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_errors_are_those_of_the_board():
    """The place of a descriptor counts in the whole list; what comes before it has run."""
    sound = selftest.sound(RESERVED_BYTES)
    beyond = selftest.sound(RESERVED_BYTES)
    beyond.out_base = 1 << 24
    with serving() as name, opened(name) as board:
        for wrong, error in ((Descriptor(opcode=77), Error.OPCODE), (beyond, Error.AXI_WRITE)):
            for count in (0, 1, RING_ENTRIES - 1, RING_ENTRIES, 2 * RING_ENTRIES + 5):
                before = board.counters()["descriptors"]
                with pytest.raises(AcceleratorError) as raised:
                    board.run([*[sound] * count, wrong, sound])
                assert (raised.value.code, raised.value.index) == (error, count)
                assert board.counters()["descriptors"] == before + count
        with pytest.raises(ValueError, match="field stream_bits is 256"):
            board.run([Descriptor(opcode=1, stream_bits=256)])
        assert right(board)


def test_the_ring_is_not_the_clients():
    """Neither the host nor a descriptor writes where the server's driver has its descriptors."""
    into = selftest.sound(RESERVED_BYTES)
    into.out_base = RESERVED_BYTES - 64
    with serving() as name, opened(name) as board:
        for access in (lambda: board.write(64, np.zeros(8, np.uint8)), lambda: board.read(0, 8)):
            with pytest.raises(ValueError, match="do not lie between the ring"):
                access()
        with pytest.raises(AcceleratorError, match="AXI_WRITE"):
            board.run([into])


def test_blocks_of_any_size_come_back(rng, monkeypatch):
    for module in ("client", "messages"):
        monkeypatch.setattr(f"host.remote.{module}.BLOCK_BYTES", 1 << 12)
    with serving() as name, opened(name) as board:
        for nbytes in (0, 1, 7, 1 << 12, (1 << 12) + 1, 5 << 12):
            data = rng.integers(0, 256, nbytes).astype(np.uint8)
            board.write(RESERVED_BYTES + 3, data)
            found = board.read(RESERVED_BYTES + 3, nbytes)
            assert np.array_equal(found, data)
            assert found.flags.writeable


def test_a_descriptor_may_not_ask_for_all_memory_of_the_server():
    huge = selftest.sound(RESERVED_BYTES)
    huge.samples = 65535
    with serving(most_elements=1 << 16) as name, opened(name) as board:
        with pytest.raises(ValueError, match=r"descriptor 0 needs an array of .*, the server's limit is 65536"):
            board.run([huge])
        assert right(board)


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


def test_counters_begin_with_each_client():
    with serving() as name:
        for _ in range(2):
            with opened(name) as board:
                assert board.counters()["descriptors"] == 0
                product(board)
                assert board.counters()["descriptors"] > 0


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


def test_versions_and_configurations_are_compared():
    with serving(golden("sim")) as name:
        with opened(name, config="sim") as board:
            assert board.config == AcceleratorConfig.preset("sim")
        with pytest.raises(RuntimeError, match="does not have this configuration but that of --preset sim"):
            open_board(name, config="vector")
        body = messages.pack_board(AcceleratorConfig.preset("sim"), 1 << 20)
        older = (VERSION - 1).to_bytes(4, "little") + body[4:]
        with pytest.raises(RuntimeError, match=r"the server has ISA 3\.\d, this host 3\.\d: install the same"):
            messages.unpack_board(older)
        with pytest.raises(RuntimeError, match="unknown configuration"):
            messages.unpack_board(body[:12] + bytes(12))
        with pytest.raises(RuntimeError, match="describes its board in 3 bytes"):
            messages.unpack_board(b"odd")


def test_it_is_listed_and_found_by_its_beginning():
    assert "tcp://HOST:PORT" in board_names()
    backend = find("tcp://10.0.0.1:99")
    assert backend.name == "tcp://10.0.0.1:99"
    assert backend.runs_descriptors
    for wrong in ("tcp:", "http://10.0.0.1:99"):
        with pytest.raises(ValueError, match="unknown board"):
            find(wrong)


def test_a_library_that_is_missing_is_named(monkeypatch, capsys):
    for module in ("host.remote.client", "host.remote.server"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(RuntimeError, match=r"needs pyzmq, .*: pip install 'fractrain-fpga\[remote\]'"):
        open_board("tcp://127.0.0.1:1")
    assert serve(["--board", "golden"]) == 2
    assert "serving a board needs pyzmq" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["tcp://", "tcp://host", "host:", ":99", "host:65536", "host:-1", "host:9x"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="is no address, must be HOST:PORT"):
        Address.parse(text)


def test_addresses():
    assert Address.parse("tcp://[::1]:5").endpoint == "tcp://[::1]:5"
    local = [
        host
        for host in ("127.3.2.1", "localhost", "::1", "0.0.0.0", "10.1.1.1", "board")
        if Address(host, 1).is_loopback
    ]
    assert local == ["127.3.2.1", "localhost", "::1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--board", "torch"], "torch"),
        (["--board", "nothing"], "unknown board 'nothing'"),
        (["--board", "golden", "--bind", "0.0.0.0:0"], "without keys only this machine may reach a board"),
        (["--board", "golden", "--bind", "nowhere"], "is no address"),
        (["--board", "zynq", "--clusters", "2"], "--clusters needs --preset"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, said, capsys):
    assert serve(arguments) == 2
    assert said in capsys.readouterr().err


def test_an_address_is_had_once():
    with serving() as name, closing(golden()) as board:
        with pytest.raises(RuntimeError, match=r"cannot listen at .*Address already in use"):
            Server(board, Address.parse(name))
