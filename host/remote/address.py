"""Where a server listens: `HOST:PORT`, or `tcp://HOST:PORT`."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

#: What the name of a remote board begins with.
PREFIX = "tcp://"


class Address(NamedTuple):
    """A TCP address; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError if it is none."""
        host, colon, port = text.removeprefix(PREFIX).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
            raise ValueError(f"{text!r} is no address, must be HOST:PORT such as {PREFIX}192.168.2.99:7766")
        return cls(host, int(port))

    @property
    def endpoint(self) -> str:
        """As ZeroMQ takes it."""
        return f"{PREFIX}[{self.host}]:{self.port}" if ":" in self.host else f"{PREFIX}{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # some name
            return False
