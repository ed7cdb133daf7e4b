"""Keys of remote boards: `python -m host.remote.keys DIR` makes a pair for a server and one for a client.

The files are those of ZeroMQ's certificates. A server needs `server.key_secret` and, in the folder `clients`, the
public key of every client; a client needs `client.key_secret` and the server's public `server.key`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zmq.auth

SERVER, CLIENT, CLIENTS = "server", "client", "clients"


def make(folder: Path) -> None:
    """Make both pairs, and let that client in. Raises ValueError if there are keys already."""
    for name in (SERVER, CLIENT):
        if (folder / f"{name}.key_secret").exists():
            raise ValueError(f"there is {folder / name}.key_secret already")
    with _private():
        (folder / CLIENTS).mkdir(parents=True, exist_ok=True)
        for name in (SERVER, CLIENT):
            zmq.auth.create_certificates(folder, name)
    shutil.copy(folder / f"{CLIENT}.key", folder / CLIENTS / f"{CLIENT}.key")


@contextmanager
def _private() -> Iterator[None]:
    """Files that are made meanwhile are for this user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def own(folder: Path, name: str) -> tuple[bytes, bytes]:
    """Public and secret key of a pair. Raises ValueError if the folder does not have it."""
    public, secret = _load(folder / f"{name}.key_secret")
    if secret is None:
        raise ValueError(f"{folder / name}.key_secret has no secret key")
    return public, secret


def public(folder: Path, name: str) -> bytes:
    """The public key of somebody. Raises ValueError if the folder does not have it."""
    return _load(folder / f"{name}.key")[0]


def clients(folder: Path) -> Path:
    """Where the public keys of those lie who are let in. Raises ValueError if there is no such folder."""
    path = folder / CLIENTS
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}: it holds the public key of each client that is let in")
    return path


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError):
        raise ValueError(f"there is no key in {path}; `python -m host.remote.keys {path.parent}` makes keys") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m host.remote.keys", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for the keys")
    args = parser.parse_args(arguments)
    try:
        make(args.folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"keys of a server and of a client are in {args.folder}; docs/remote.md says which goes where")
    return 0


if __name__ == "__main__":
    sys.exit(main())
