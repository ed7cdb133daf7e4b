"""The messages between a remote board and its server: one layout for both directions, no pickles, no text to parse.

A message is two frames: a header of `HEADER_BYTES` and a body, which may be empty. `docs/remote.md` tells how they
follow each other.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from host.ring import RING_ENTRIES
from rtl.config import AcceleratorConfig
from rtl.isa import COUNTER_NAMES, DESCRIPTOR_BYTES, VERSION, config_from_words, config_words

MAGIC = b"FRAC"
#: Of these messages; both ends need the same.
PROTOCOL = 1
TOKEN_BYTES = 16
#: Magic, protocol, kind, code, sequence, token, address, count; little-endian.
_HEADER = struct.Struct(f"<4sBBHQ{TOKEN_BYTES}sQQ")
HEADER_BYTES = _HEADER.size
#: Most bytes that one message writes or reads.
BLOCK_BYTES = 4 << 20
#: Largest frame that a socket takes; encryption adds a few dozen bytes.
FRAME_BYTES = BLOCK_BYTES + 256
#: Bytes of an explanation.
TEXT_BYTES = 1000
#: Version of descriptors and registers, size of the memory, CONFIG0..2.
_BOARD = struct.Struct("<IQ3I")
#: Which counters there are, a bit each, then all of them.
_COUNTERS = struct.Struct(f"<Q{len(COUNTER_NAMES)}Q")
assert len(COUNTER_NAMES) <= 64
assert RING_ENTRIES * DESCRIPTOR_BYTES <= BLOCK_BYTES


class Kind(enum.IntEnum):
    """What a message is about; an answer has the kind of its request."""

    OPEN = 1  #: lease the board; the answer has the token, and the board in its body
    WRITE = 2  #: copy the body to `address`
    READ = 3  #: send `count` bytes from `address`
    RUN = 4  #: run `count` descriptors, which are the body
    COUNTERS = 5  #: send the board's counters
    CLOSE = 6  #: give the board back
    BEAT = 7  #: the server lives; of its own accord


class Code(enum.IntEnum):
    """How a request went. The body of all but DONE says it in words."""

    DONE = 0
    MALFORMED = 1  #: not a message, or one that contradicts itself
    PROTOCOL = 2  #: another version of the protocol
    BUSY = 3  #: the board is leased to somebody else
    LEASE = 4  #: the sender has no lease, or no longer
    SEQUENCE = 5  #: the number of the message is not above that of the last one
    ADDRESS = 6  #: the bytes do not lie in the memory that is the client's
    LIMIT = 7  #: a descriptor asks for more than the server lets anybody have
    STOPPED = 8  #: the accelerator stopped: `address` is its error, `count` the place of the descriptor
    TIMEOUT = 9  #: the board did not answer in time
    BOARD = 10  #: something else went wrong with the board


class RefusedError(Exception):
    """A request is not done.

    Attributes
    ----------
    code : why.
    address, count : as the answer's header has them.
    """

    def __init__(self, code: Code, text: str, address: int = 0, count: int = 0):
        super().__init__(text)
        self.code, self.address, self.count = code, address, count


@dataclass(frozen=True)
class Message:
    """A request or an answer.

    Attributes
    ----------
    sequence : grows from request to request; an answer has that of its request.
    token : of the lease.
    body : bytes, or what has a buffer of them.
    """

    kind: Kind
    sequence: int = 0
    token: bytes = bytes(TOKEN_BYTES)
    code: Code = Code.DONE
    address: int = 0
    count: int = 0
    body: Any = b""

    def frames(self) -> tuple[bytes, Any]:
        """Header and body."""
        head = MAGIC, PROTOCOL, self.kind, self.code, self.sequence, self.token, self.address, self.count
        return _HEADER.pack(*head), self.body

    @classmethod
    def parse(cls, frames: Sequence[Any]) -> Message:
        """The message of two buffers. Raises RefusedError."""
        if len(frames) != 2:
            raise RefusedError(Code.MALFORMED, f"a message of {len(frames)} frames, must be header and body")
        header, body = (memoryview(frame) for frame in frames)
        if header.nbytes != HEADER_BYTES:
            raise RefusedError(Code.MALFORMED, f"a header of {header.nbytes} bytes, must be {HEADER_BYTES}")
        magic, protocol, kind, code, sequence, token, address, count = _HEADER.unpack(header)
        if magic != MAGIC:
            raise RefusedError(Code.MALFORMED, f"a header that begins with {magic!r}, must be {MAGIC!r}")
        if protocol != PROTOCOL:
            raise RefusedError(
                Code.PROTOCOL, f"protocol {protocol}, this end speaks {PROTOCOL}: install the same version"
            )
        if kind not in list(Kind) or code not in list(Code):
            raise RefusedError(Code.MALFORMED, f"kind {kind} with code {code}, one of which does not exist")
        return cls(Kind(kind), sequence, token, Code(code), address, count, body)


def check_request(request: Message) -> None:
    """Refuse what no client may ask, whatever the board. Raises RefusedError."""
    kind, nbytes = request.kind, memoryview(request.body).nbytes
    block = f"must be 1 to {BLOCK_BYTES}"

    def require(holds: bool, text: str) -> None:
        if not holds:
            raise RefusedError(Code.MALFORMED, f"{kind.name} {text}")

    require(kind != Kind.BEAT, "is the server's to send")
    require(request.code == Code.DONE, f"with code {request.code}, must be 0")
    if kind == Kind.WRITE:
        require(1 <= request.count <= BLOCK_BYTES, f"of {request.count} bytes, {block}")
        require(nbytes == request.count, f"of {request.count} bytes with a body of {nbytes}")
    elif kind == Kind.READ:
        require(1 <= request.count <= BLOCK_BYTES, f"of {request.count} bytes, {block}")
    elif kind == Kind.RUN:
        require(1 <= request.count <= RING_ENTRIES, f"of {request.count} descriptors, must be 1 to {RING_ENTRIES}")
        require(
            nbytes == request.count * DESCRIPTOR_BYTES, f"of {request.count} descriptors with a body of {nbytes} bytes"
        )
    else:
        require(request.count == 0, f"with count {request.count}, must be 0")
    require(kind in (Kind.WRITE, Kind.RUN) or not nbytes, f"with a body of {nbytes} bytes, must be empty")
    require(kind in (Kind.WRITE, Kind.READ) or not request.address, f"with address {request.address:#x}, must be 0")


def pack_board(config: AcceleratorConfig, memory_bytes: int) -> bytes:
    """What a server says of its board."""
    return _BOARD.pack(VERSION, memory_bytes, *config_words(config))


def unpack_board(body: Any) -> tuple[AcceleratorConfig, int]:
    """Configuration and bytes of memory. Raises RuntimeError if the board is not for this host."""
    if memoryview(body).nbytes != _BOARD.size:
        raise RuntimeError(f"the server describes its board in {memoryview(body).nbytes} bytes, must be {_BOARD.size}")
    version, memory_bytes, *words = _BOARD.unpack(body)
    if version != VERSION:
        found, ours = (f"{each >> 16}.{each & 0xFFFF}" for each in (version, VERSION))
        raise RuntimeError(f"the server has ISA {found}, this host {ours}: install the same version on both")
    try:
        return config_from_words(tuple(words)), memory_bytes
    except ValueError as error:
        raise RuntimeError(f"the server's board has an unknown configuration: {error}") from error


def pack_counters(counters: Mapping[str, int]) -> bytes:
    """The accelerator's own counters, as many as there are."""
    there = sum(1 << i for i, name in enumerate(COUNTER_NAMES) if name in counters)
    return _COUNTERS.pack(there, *(counters.get(name, 0) for name in COUNTER_NAMES))


def unpack_counters(body: Any) -> dict[str, int]:
    """Raises RuntimeError if these are no counters."""
    if memoryview(body).nbytes != _COUNTERS.size:
        raise RuntimeError(f"counters of {memoryview(body).nbytes} bytes, must be {_COUNTERS.size}")
    there, *values = _COUNTERS.unpack(body)
    return {name: value for i, (name, value) in enumerate(zip(COUNTER_NAMES, values, strict=True)) if there >> i & 1}
