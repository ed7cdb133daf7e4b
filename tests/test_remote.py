"""Boards that a server runs: they compute as before, are one client's at a time, and outlive it."""

from __future__ import annotations

import sys
from contextlib import closing

import numpy as np
import pytest
from remotes import golden, opened, product, right, served_elsewhere, serving
from runs import options, results

from host import open_board, selftest
from host.backends import board_names, find
from host.errors import AcceleratorError
from host.remote import messages
from host.remote.address import Address
from host.remote.server import Server
from host.ring import RESERVED_BYTES, RING_ENTRIES
from host.serve import main as serve
from host.train import main as train
from rtl.config import AcceleratorConfig
from rtl.isa import VERSION, Descriptor, Error


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


def test_counters_begin_with_each_client():
    with serving() as name:
        for _ in range(2):
            with opened(name) as board:
                assert board.counters()["descriptors"] == 0
                product(board)
                assert board.counters()["descriptors"] > 0


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
