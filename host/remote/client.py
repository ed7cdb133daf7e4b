"""A board that a server runs, as one of this host's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from host.backends.memory import MemoryBoard
from host.errors import AcceleratorError
from host.remote import keys as key_files
from host.remote.address import Address
from host.remote.messages import (
    BLOCK_BYTES,
    FRAME_BYTES,
    TEXT_BYTES,
    Code,
    Kind,
    Message,
    RefusedError,
    unpack_board,
    unpack_counters,
)
from host.ring import RING_ENTRIES
from rtl.isa import Descriptor

#: Seconds between two tries for a board that is leased.
_RETRY = 0.1
#: What ends a connection, or keeps it from beginning.
_ENDS = {
    zmq.EVENT_CLOSED: "nobody listens there",
    zmq.EVENT_DISCONNECTED: "the connection has ended",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the server does not let this client's key in",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the server's keys do not fit this client's",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "one side has keys and the other none, or it is no server of boards",
}


class RemoteBoard(MemoryBoard):
    """The board of a server. Of the counters of `rtl.isa` it has those of that board, since it was opened here.

    Parameters
    ----------
    name : of the board here.
    address : of the server.
    keys : folder with the keys of this client and of the server; None: no encryption.
    patience : seconds without a sign of life after which the server is taken for gone.
    wait : seconds to wait for a board that is leased to somebody else.

    Raises
    ------
    ValueError
        If keys are missing.
    RuntimeError
        If the board is leased to somebody else, or the server is of another version.
    ConnectionError
        If the server cannot be reached or does not let this client in; later, from every method: if it is gone.
    """

    def __init__(self, name: str, address: Address, keys: Path | None, *, patience: float = 15.0, wait: float = 0.0):
        self.name = name
        self._patience = patience
        self._sequence, self._answered = 0, 0
        self._token = Message(Kind.OPEN).token
        self._lost = ""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._events = self._socket.get_monitor_socket(sum(_ENDS))
        self._poller = zmq.Poller()
        for each in (self._socket, self._events):
            self._poller.register(each, zmq.POLLIN)
        try:
            self._connect(address, keys)
            self.config, self.memory_bytes = unpack_board(self._leased(wait))
            self._opening = unpack_counters(self._ask(Kind.COUNTERS))
        except BaseException:
            self.close()
            raise

    def _connect(self, address: Address, keys: Path | None) -> None:
        milliseconds = int(1000 * self._patience)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IPV6, int(":" in address.host)),
            (zmq.MAXMSGSIZE, FRAME_BYTES),
            (zmq.RECONNECT_IVL, -1),  # the lease is the connection's
            (zmq.HEARTBEAT_IVL, max(1, milliseconds // 3)),
            (zmq.HEARTBEAT_TIMEOUT, milliseconds),
        ):
            self._socket.setsockopt(option, value)
        if keys is not None:
            self._socket.curve_publickey, self._socket.curve_secretkey = key_files.own(keys, key_files.CLIENT)
            self._socket.curve_serverkey = key_files.public(keys, key_files.SERVER)
        try:
            self._socket.connect(address.endpoint)
        except zmq.ZMQError as error:
            raise ConnectionError(f"cannot connect to {address.endpoint}: {error}") from None

    def _leased(self, wait: float) -> Any:
        """What the server says of the board, once it is this client's."""
        deadline = time.monotonic() + wait
        while True:
            try:
                return self._ask(Kind.OPEN)
            except RefusedError as refused:
                if refused.code != Code.BUSY or time.monotonic() >= deadline:
                    raise RuntimeError(f"board {self.name!r} refuses: {refused}") from None
                time.sleep(_RETRY)

    def write(self, address: int, data: np.ndarray) -> None:
        self.require_free(address, data.nbytes)
        raw = np.ascontiguousarray(data).reshape(-1).data
        for at in range(0, len(raw), BLOCK_BYTES):
            block = raw[at : at + BLOCK_BYTES]
            self._do(Kind.WRITE, address + at, len(block), block)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        self.require_free(address, nbytes)
        found = np.empty(nbytes, np.uint8)
        for at in range(0, nbytes, BLOCK_BYTES):
            block = found[at : at + BLOCK_BYTES]
            answer = self._do(Kind.READ, address + at, block.size)
            if memoryview(answer).nbytes != block.size:
                raise RuntimeError(f"{memoryview(answer).nbytes} bytes came for {block.size} that were asked for")
            block[:] = np.frombuffer(answer, np.uint8)
        return found

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        with self.standing_in():
            for first in range(0, len(descriptors), RING_ENTRIES):
                batch = descriptors[first : first + RING_ENTRIES]
                body = np.concatenate([descriptor.pack() for descriptor in batch])
                try:
                    self._do(Kind.RUN, 0, len(batch), body.data)
                except AcceleratorError as stopped:
                    raise AcceleratorError(stopped.code, first + stopped.index) from None

    def counters(self) -> dict[str, int]:
        now = unpack_counters(self._do(Kind.COUNTERS))
        return {**{name: value - self._opening[name] for name, value in now.items()}, **super().counters()}

    def close(self) -> None:
        """May be called again."""
        if self._context.closed:
            return
        try:
            if not self._lost and any(self._token):
                self._ask(Kind.CLOSE)
        except (RefusedError, OSError, RuntimeError):
            pass  # gone or not this client's: there is nothing to give back
        finally:
            self._socket.disable_monitor()
            self._events.close()
            self._socket.close()
            self._context.term()

    # Messages -------------------------------------------------------------------------------------------------------

    def _do(self, kind: Kind, address: int = 0, count: int = 0, body: Any = b"") -> Any:
        """`_ask`, with errors as a board raises them."""
        try:
            return self._ask(kind, address, count, body)
        except RefusedError as refused:
            if refused.code == Code.STOPPED:
                raise AcceleratorError(refused.address, refused.count) from None
            text = f"board {self.name!r} refuses: {refused}"
            if refused.code == Code.TIMEOUT:
                raise TimeoutError(text) from None
            if refused.code == Code.LEASE:
                raise ConnectionError(text) from None
            raise (ValueError if refused.code in (Code.ADDRESS, Code.LIMIT) else RuntimeError)(text) from None

    def _ask(self, kind: Kind, address: int = 0, count: int = 0, body: Any = b"") -> Any:
        """Send a request; the body of its answer. Raises RefusedError, ConnectionError."""
        if self._lost:
            raise ConnectionError(self._lost)
        if self._answered < self._sequence and kind != Kind.CLOSE:
            self._await()  # whoever asked was interrupted, and the board may still be at it
        self._sequence += 1
        request = Message(kind, self._sequence, self._token, address=address, count=count, body=body)
        try:
            self._socket.send_multipart(request.frames(), zmq.NOBLOCK, copy=False)
        except zmq.Again:  # there is no connection to send to; never more than one message waits
            self._lose(self._end() if self._events.poll(0) else "the connection has ended")
        answer = self._await()
        if answer.code != Code.DONE:
            text = bytes(answer.body[:TEXT_BYTES]).decode(errors="replace")
            raise RefusedError(answer.code, text, answer.address, answer.count)
        if kind == Kind.OPEN:
            self._token = answer.token
        return answer.body

    def _await(self) -> Message:
        """The answer to the last request; what comes before it is of no use any more."""
        while True:
            ready = dict(self._poller.poll(int(1000 * self._patience)))
            if self._socket in ready:
                frames = self._socket.recv_multipart(copy=False)
                try:
                    answer = Message.parse([frame.buffer for frame in frames])
                except RefusedError as error:
                    self._lose(f"it sent {error}")
                if answer.kind == Kind.BEAT:
                    continue
                if answer.sequence not in (0, self._sequence):  # 0: it could not even read that
                    continue
                self._answered = self._sequence
                return answer
            if self._events in ready:
                self._lose(self._end())
            if not ready:
                self._lose(f"nothing was heard of it for {self._patience:g} s")

    def _end(self) -> str:
        """Why there is no connection."""
        return _ENDS[zmq.Event(recv_monitor_message(self._events)["event"])]

    def _lose(self, why: str) -> NoReturn:
        self._lost = f"board {self.name!r} is out of reach: {why}"
        raise ConnectionError(self._lost)
