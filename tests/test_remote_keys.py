"""Keys of remote boards: who has none, or the wrong ones, is told so and kept out."""

from __future__ import annotations

import shutil
import stat
from contextlib import closing

import pytest
from remotes import golden, opened, served_elsewhere, serving
from test_remote import right

from host import open_board
from host.remote import keys
from host.remote.address import Address
from host.remote.server import Server


@pytest.fixture
def folders(tmp_path):
    """Keys of a server, of the client that it lets in, and of another client that knows the server's key."""
    server, client, other = (tmp_path / name for name in ("server", "client", "other"))
    for folder in (server, other):
        keys.make(folder)
    client.mkdir()
    for name in ("client.key_secret", "server.key"):
        shutil.move(server / name, client / name)
    shutil.copy(client / "server.key", other / "server.key")
    return server, client, other


def test_the_right_keys_open(folders, monkeypatch):
    server, client, _ = folders
    with served_elsewhere("--preset", "tiny", "--keys", str(server)) as (name, _):
        with opened(name, keys=client) as board:
            assert right(board)
        monkeypatch.setenv("FRACTRAIN_KEYS", str(client))
        with opened(name) as board:
            assert right(board)


def test_other_keys_do_not(folders):
    server, client, other = folders
    stranger = other.with_name("stranger")
    keys.make(stranger)
    with serving(keys=server) as name:
        for wrong, said in ((other, "does not let this client's key in"), (stranger, "keys"), (None, "keys")):
            with pytest.raises(ConnectionError, match=f"out of reach: .*{said}"):
                open_board(name, keys=wrong, patience=3)
        with opened(name, keys=client) as board:
            assert right(board)
    with serving() as name:
        with pytest.raises(ConnectionError, match=r"out of reach: .*keys"):
            open_board(name, keys=client, patience=3)
        with opened(name) as board:
            assert right(board)


def test_without_keys_only_this_machine_gets_in(folders):
    server, _, _ = folders
    with closing(golden()) as board:
        for host in ("0.0.0.0", "::", "192.0.2.1", "some.host"):
            with pytest.raises(ValueError, match="without keys only this machine may reach a board: bind to 127"):
                Server(board, Address(host, 0))
        Server(board, Address("0.0.0.0", 0), keys=server).close()


def test_keys_that_are_missing_are_named(folders, tmp_path):
    server, client, _ = folders
    with closing(golden()) as board:
        with pytest.raises(ValueError, match=r"no key in .*server.key_secret; `python -m host.remote.keys"):
            Server(board, Address("127.0.0.1", 0), keys=client)
        shutil.rmtree(server / "clients")
        with pytest.raises(ValueError, match=r"no folder .*clients: it holds the public key of each client"):
            Server(board, Address("127.0.0.1", 0), keys=server)
    with serving() as name, pytest.raises(ValueError, match=r"no key in .*client.key_secret"):
        open_board(name, keys=tmp_path)


def test_keys_are_made_once_and_for_their_owner(tmp_path, capsys):
    folder = tmp_path / "keys"
    assert keys.main([str(folder)]) == 0
    for name in ("server.key_secret", "client.key_secret"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    before = (folder / "server.key_secret").read_bytes()
    assert keys.main([str(folder)]) == 2
    assert "server.key_secret already" in capsys.readouterr().err
    assert (folder / "server.key_secret").read_bytes() == before
