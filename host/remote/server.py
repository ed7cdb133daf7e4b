"""The server of a remote board: one client at a time leases it.

The lease belongs to a connection. ZeroMQ's own heartbeats end the connection of a client whose machine or process is
gone, and with it the lease. One thread talks, another runs the board, so a long run keeps nobody waiting for an answer
that the server lives.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from host.backends.memory import MemoryBoard
from host.remote import keys as key_files
from host.remote.address import Address
from host.remote.messages import (
    FRAME_BYTES,
    TOKEN_BYTES,
    Code,
    Kind,
    Message,
    RefusedError,
    check_request,
    pack_board,
)
from host.remote.work import MOST_ELEMENTS, Work, refusal

#: Seconds between signs of life, unless the server is told otherwise.
HEARTBEAT = 5.0
#: Signs of life that may be missing until the other end is taken for gone.
MISSED = 3
#: Messages that wait in each direction of a connection.
WAITING = 64
#: Seconds that a client may take to make room for an answer.
_SEND_SECONDS = 1.0
_DOMAIN = "fractrain"
_LOG = logging.getLogger(__name__)


@dataclass
class _Lease:
    """Attributes
    ----------
    peer : name of the connection in the socket.
    sequence : of the last message.
    """

    peer: bytes
    token: bytes
    sequence: int


@dataclass
class _Job:
    """What the board's thread works at, and for whom."""

    peer: bytes
    request: Message
    answer: Future[Message]


class Server:
    """Serves `board` until `stop`; close it afterwards. The board stays the caller's.

    Parameters
    ----------
    board : the board.
    bind : where to listen.
    keys : folder of `host.remote.keys`; None: no encryption, and anybody who reaches the address is let in.
    heartbeat : seconds between signs of life.
    most_elements : limit of the work of a descriptor, see `host.remote.work`.

    Raises
    ------
    ValueError
        If there are no keys and others than this machine could reach the address, or if keys are missing.
    RuntimeError
        If the address cannot be had.
    """

    def __init__(
        self,
        board: MemoryBoard,
        bind: Address,
        keys: Path | None = None,
        *,
        heartbeat: float = HEARTBEAT,
        most_elements: int = MOST_ELEMENTS,
    ):
        if keys is None and not bind.is_loopback:
            raise ValueError(
                f"without keys only this machine may reach a board: bind to 127.0.0.1, not to {bind.host}, or make "
                "keys with `python -m host.remote.keys DIR` and give --keys DIR"
            )
        self._board, self._heartbeat = board, heartbeat
        self._work = Work(board, most_elements)
        self._lease: _Lease | None = None
        self._job: _Job | None = None
        self._stopped = False
        self._context = zmq.Context()
        self._authenticator: ThreadAuthenticator | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._thread = ThreadPoolExecutor(1, "board")
        try:
            self._listen(bind, keys)
        except BaseException:
            self.close()
            raise
        self.address = Address.parse(self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))

    def _listen(self, bind: Address, keys: Path | None) -> None:
        milliseconds = int(1000 * self._heartbeat)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IPV6, int(":" in bind.host)),
            (zmq.MAXMSGSIZE, FRAME_BYTES),
            (zmq.RCVHWM, WAITING),
            (zmq.SNDHWM, WAITING),
            (zmq.SNDTIMEO, int(1000 * _SEND_SECONDS)),
            (zmq.ROUTER_MANDATORY, 1),  # a lease whose connection is gone is found out
            (zmq.HEARTBEAT_IVL, milliseconds),
            (zmq.HEARTBEAT_TIMEOUT, MISSED * milliseconds),
        ):
            self._socket.setsockopt(option, value)
        if keys is not None:
            self._socket.curve_publickey, self._socket.curve_secretkey = key_files.own(keys, key_files.SERVER)
            self._socket.curve_server = True
            # Who is let in is asked of the authenticator; if there were none, nobody would be.
            self._socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN.encode())
            self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self._authenticator = ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve(domain=_DOMAIN, location=str(key_files.clients(keys)))
        try:
            self._socket.bind(bind.endpoint)
        except zmq.ZMQError as error:
            raise RuntimeError(f"cannot listen at {bind.endpoint}: {error}") from None

    def serve(self) -> None:
        """Answer until `stop` is called, from any thread or signal handler."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        beat = time.monotonic() + self._heartbeat
        while not self._stopped:
            ready = dict(poller.poll(max(0, int(1000 * (beat - time.monotonic())))))
            if self._woken.fileno() in ready:
                self._woken.recv(1 << 10)
                if self._job and self._job.answer.done():
                    self._finish(self._job)
            if self._socket in ready:
                self._receive()
            if time.monotonic() >= beat:
                beat = time.monotonic() + self._heartbeat
                self._beat()

    def stop(self) -> None:
        """Let `serve` return soon."""
        self._stopped = True
        self._wake.send(b"\0")

    def close(self) -> None:
        """Let go of the address; waits for what the board is doing. May be called again."""
        self._thread.shutdown()
        if self._authenticator:
            self._authenticator.stop()
            self._authenticator = None
        self._socket.close()
        self._context.term()
        self._woken.close()
        self._wake.close()

    # Messages -------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        frames = self._socket.recv_multipart(copy=False)
        peer = frames[0].bytes
        request = Message(Kind.OPEN)  # what is answered where nothing can be read
        try:
            request = Message.parse([frame.buffer for frame in frames[1:]])
            check_request(request)
            self._take(peer, request)
        except RefusedError as refused:
            self._send(peer, refusal(request, refused))

    def _take(self, peer: bytes, request: Message) -> None:
        if request.kind == Kind.OPEN:
            return self._open(peer, request)
        lease = self._lease
        if lease is None or lease.peer != peer or not compare_digest(lease.token, request.token):
            raise RefusedError(Code.LEASE, f"{request.kind.name} without the lease: open the board first")
        if request.sequence <= lease.sequence:
            text = f"message {request.sequence} after message {lease.sequence}: numbers must grow"
            raise RefusedError(Code.SEQUENCE, text)
        lease.sequence = request.sequence
        if request.kind == Kind.CLOSE:
            self._end("closed")
            self._send(peer, Message(Kind.CLOSE, request.sequence, request.token))
            return None
        if self._job:
            raise RefusedError(Code.BUSY, f"{request.kind.name} while the board still does the last request")
        answer = self._thread.submit(self._work.do, request)
        self._job = _Job(peer, request, answer)
        answer.add_done_callback(lambda _: self._wake.send(b"\0"))
        return None

    def _open(self, peer: bytes, request: Message) -> None:
        if self._lease and self._lives(self._lease.peer):
            raise RefusedError(Code.BUSY, "the board is leased to another client")
        if self._job:
            raise RefusedError(Code.BUSY, "the board still runs what its last client asked for")
        self._lease = _Lease(peer, secrets.token_bytes(TOKEN_BYTES), request.sequence)
        body = pack_board(self._board.config, self._board.memory_bytes)
        _LOG.info("leased")
        self._send(peer, Message(Kind.OPEN, request.sequence, self._lease.token, body=body))

    def _finish(self, job: _Job) -> None:
        self._job = None
        if self._lease and self._lease.peer == job.peer:
            self._send(job.peer, job.answer.result())

    def _beat(self) -> None:
        """A client that waits hears that the server lives; one that is gone loses its lease."""
        if self._lease and self._job:
            self._lives(self._lease.peer)

    def _lives(self, peer: bytes) -> bool:
        """Whether a connection is there, which hears something by that. One that is full of it does not listen now."""
        try:
            self._socket.send_multipart([peer, *Message(Kind.BEAT).frames()], zmq.NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            return not self._gone(peer, error)
        return True

    def _send(self, peer: bytes, message: Message) -> None:
        """Send it, if there is still somebody to take it; who holds the lease and does not loses it. Nobody waits for
        others who leave their answers lying.
        """
        flags = 0 if self._lease and self._lease.peer == peer else zmq.NOBLOCK
        try:
            self._socket.send_multipart([peer, *message.frames()], flags, copy=False)
        except zmq.ZMQError as error:
            self._gone(peer, error)

    def _gone(self, peer: bytes, error: zmq.ZMQError) -> bool:
        """Ends the lease of a connection that could not be sent to."""
        if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            raise error
        if self._lease and self._lease.peer == peer:
            self._end("its client is gone" if error.errno == zmq.EHOSTUNREACH else "its client takes no answers")
        return True

    def _end(self, why: str) -> None:
        self._lease = None
        _LOG.info("free: %s", why)
