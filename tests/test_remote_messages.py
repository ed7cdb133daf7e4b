"""Messages that no client of this project sends: a server answers each with what is wrong, and lives."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
from remotes import opened, served_elsewhere, serving
from test_remote import right

from host import selftest
from host.remote.messages import (
    BLOCK_BYTES,
    FRAME_BYTES,
    HEADER_BYTES,
    PROTOCOL,
    TEXT_BYTES,
    Code,
    Kind,
    Message,
    RefusedError,
    check_request,
)
from host.ring import RESERVED_BYTES, RING_ENTRIES
from rtl.isa import DESCRIPTOR_BYTES, Descriptor

LEASED = bytes(16)
#: Arguments of a server whose descriptors do not take long, whatever they say.
QUICK = ("--preset", "tiny", "--most-elements", "20000")


class Stranger:
    """A client that sends what it likes."""

    def __init__(self, name: str):
        self._context = zmq.Context()
        self._name = name
        self._connect()

    def _connect(self, **options: int) -> None:
        self.socket = self._context.socket(zmq.DEALER)
        for option, value in options.items():
            self.socket.setsockopt(getattr(zmq, option), value)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 30_000)
        self.socket.connect(self._name)
        self.token, self.sequence = LEASED, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self._context.term()

    def again(self, **options: int) -> None:
        """With a new connection."""
        self.socket.close()
        self._connect(**options)

    def open(self) -> None:
        """Lease the board; the one who had it before may be gone only just now."""
        for _ in range(200):
            answer = self.ask(Kind.OPEN)
            if answer.code == Code.DONE:
                self.token = answer.token
                return
            assert answer.code == Code.BUSY
            self.socket.poll(20)
        raise AssertionError("the board is never free")

    def message(self, kind: Kind, **fields) -> Message:
        self.sequence += 1
        return Message(kind, **{"sequence": self.sequence, "token": self.token, **fields})

    def ask(self, kind: Kind, **fields) -> Message:
        return self.send(self.message(kind, **fields).frames())

    def send(self, frames) -> Message:
        """The answer."""
        self.socket.send_multipart(frames)
        while True:
            answer = Message.parse(self.socket.recv_multipart())
            if (answer.kind, answer.code) != (Kind.BEAT, Code.DONE):
                break
        assert len(answer.body) <= max(TEXT_BYTES, BLOCK_BYTES)
        if answer.code != Code.DONE:
            assert answer.body
            assert b"Traceback" not in answer.body
        return answer


def write(**changes) -> Message:
    return Message(Kind.WRITE, **{"address": RESERVED_BYTES, "count": 3, "body": b"abc", **changes})


def run(**changes) -> Message:
    return Message(Kind.RUN, **{"count": 1, "body": bytes(DESCRIPTOR_BYTES), **changes})


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (write(count=4), "WRITE of 4 bytes with a body of 3"),
        (write(count=0, body=b""), f"WRITE of 0 bytes, must be 1 to {BLOCK_BYTES}"),
        (write(count=BLOCK_BYTES + 1), f"WRITE of {BLOCK_BYTES + 1} bytes, must be"),
        (write(count=(1 << 64) - 1), "WRITE of 18446744073709551615 bytes"),
        (write(code=Code.BUSY), "WRITE with code 3, must be 0"),
        (Message(Kind.READ, count=BLOCK_BYTES + 1), "READ of .* bytes, must be"),
        (Message(Kind.READ, count=1, body=b"x"), "READ with a body of 1 bytes, must be empty"),
        (run(count=0, body=b""), f"RUN of 0 descriptors, must be 1 to {RING_ENTRIES}"),
        (run(count=RING_ENTRIES + 1), "RUN of 65 descriptors"),
        (run(count=2), "RUN of 2 descriptors with a body of 256 bytes"),
        (run(address=8), "RUN with address 0x8, must be 0"),
        (Message(Kind.COUNTERS, count=1), "COUNTERS with count 1"),
        (Message(Kind.COUNTERS, body=b"x"), "COUNTERS with a body of 1 bytes"),
        (Message(Kind.CLOSE, address=1), "CLOSE with address 0x1"),
        (Message(Kind.BEAT), "BEAT is the server's to send"),
    ],
)
def test_requests_that_contradict_themselves(message, said):
    with pytest.raises(RefusedError, match=said) as refused:
        check_request(Message.parse(message.frames()))
    assert refused.value.code == Code.MALFORMED


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "a message of 0 frames"),
        ([b"x"], "a message of 1 frames"),
        ([b"", b"", b""], "a message of 3 frames"),
        ([b"", b""], f"a header of 0 bytes, must be {HEADER_BYTES}"),
        ([bytes(HEADER_BYTES), b""], "a header that begins with"),
    ],
)
def test_what_is_no_message(frames, said):
    with pytest.raises(RefusedError, match=said):
        Message.parse(frames)


def test_other_protocols_and_kinds_are_refused():
    header, body = write().frames()
    other = header[:4] + bytes([PROTOCOL + 1]) + header[5:]
    with pytest.raises(RefusedError, match=f"protocol {PROTOCOL + 1}, this end speaks {PROTOCOL}") as refused:
        Message.parse([other, body])
    assert refused.value.code == Code.PROTOCOL
    for at in (5, 6):
        with pytest.raises(RefusedError, match="one of which does not exist"):
            Message.parse([header[:at] + b"\x63" + header[at + 1 :], body])
    assert Message.parse([header, body]) == Message(**{**vars(write()), "body": memoryview(b"abc")})


def test_every_refusal_is_answered():
    """With its code; then the same connection goes on."""
    with serving() as name, Stranger(name) as stranger, Stranger(name) as thief:
        reading = {"address": RESERVED_BYTES, "count": 8}
        assert stranger.ask(Kind.READ, **reading).code == Code.LEASE
        stranger.open()
        assert stranger.ask(Kind.OPEN).code == Code.BUSY
        assert stranger.ask(Kind.READ, token=os.urandom(16), **reading).code == Code.LEASE
        assert thief.ask(Kind.READ, token=stranger.token, sequence=99, **reading).code == Code.LEASE
        assert thief.ask(Kind.CLOSE, token=stranger.token, sequence=99).code == Code.LEASE
        for address in (0, RESERVED_BYTES - 1, 1 << 24, (1 << 64) - 1):
            assert stranger.ask(Kind.READ, address=address, count=8).code == Code.ADDRESS
            assert stranger.ask(Kind.WRITE, address=address, count=8, body=bytes(8)).code == Code.ADDRESS
        stopped = stranger.ask(Kind.RUN, count=1, body=bytes(DESCRIPTOR_BYTES))
        assert (stopped.code, stopped.address, stopped.count) == (Code.STOPPED, 1, 0)
        assert stranger.send([b"", b""]).code == Code.MALFORMED
        assert stranger.ask(Kind.READ, **reading).code == Code.DONE
        assert stranger.ask(Kind.CLOSE).code == Code.DONE
        assert stranger.ask(Kind.READ, **reading).code == Code.LEASE


def test_a_message_counts_once():
    with serving() as name, Stranger(name) as stranger:
        stranger.open()
        frames = stranger.message(Kind.WRITE, address=RESERVED_BYTES, count=1, body=b"a").frames()
        assert stranger.send(frames).code == Code.DONE
        later = stranger.ask(Kind.WRITE, address=RESERVED_BYTES, count=1, body=b"b")
        assert later.code == Code.DONE
        assert stranger.send(frames).code == Code.SEQUENCE
        assert bytes(stranger.ask(Kind.READ, address=RESERVED_BYTES, count=1).body) == b"b"
        # A request that was refused counts as well.
        refused = stranger.message(Kind.READ, address=0, count=1).frames()
        assert [stranger.send(refused).code for _ in range(2)] == [Code.ADDRESS, Code.SEQUENCE]
        # Nor does an old one open the next lease.
        stranger.ask(Kind.CLOSE)
        assert stranger.send(frames).code == Code.LEASE
        stranger.open()
        assert stranger.send(frames).code == Code.LEASE


def test_a_message_that_is_too_large_ends_its_connection():
    """Nothing of it is kept, and the board is free."""
    with serving() as name, Stranger(name) as stranger:
        stranger.open()
        largest = stranger.ask(Kind.WRITE, address=RESERVED_BYTES, count=BLOCK_BYTES, body=bytes(BLOCK_BYTES))
        assert largest.code == Code.DONE
        frames = stranger.message(Kind.WRITE, address=RESERVED_BYTES, count=FRAME_BYTES + 1).frames()
        stranger.socket.send_multipart([frames[0], bytes(FRAME_BYTES + 1)])
        with opened(name, wait=20) as board:
            assert right(board)


@pytest.mark.slow
def test_who_leaves_answers_lying_keeps_nobody_waiting():
    with serving() as name, opened(name) as board, Stranger(name) as stranger:
        stranger.again(RCVHWM=1, RCVBUF=4096)
        slowest = 0.0
        for _ in range(20):
            for _ in range(5000):
                stranger.socket.send_multipart(stranger.message(Kind.OPEN).frames())
            started = time.monotonic()
            board.counters()
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 0.9
        assert right(board)


def bad_message(rng: np.random.Generator, stranger: Stranger) -> list[bytes]:
    """A message that is sound, or was before something happened to it."""
    sound = selftest.sound(RESERVED_BYTES).pack().tobytes()
    count = RING_ENTRIES if rng.random() < 0.02 else int(rng.integers(1, 6))
    odd = [bytearray(sound) for _ in range(count)]
    for each in odd:
        for at in rng.integers(0, DESCRIPTOR_BYTES, int(rng.integers(0, 4))):
            each[at] = rng.integers(256)
    nbytes = int(rng.integers(1, 5000))
    address = int(rng.integers(RESERVED_BYTES, 1 << 24))
    made = [
        {"kind": Kind.OPEN},
        {"kind": Kind.WRITE, "address": address, "count": nbytes, "body": rng.bytes(nbytes)},
        {"kind": Kind.READ, "address": address, "count": nbytes},
        {"kind": Kind.RUN, "count": count, "body": b"".join(odd)},
        {"kind": Kind.RUN, "count": count, "body": rng.bytes(count * DESCRIPTOR_BYTES)},
        {"kind": Kind.COUNTERS},
        {"kind": Kind.CLOSE},
    ]
    fields = made[rng.choice(len(made), p=[0.05, 0.2, 0.2, 0.3, 0.1, 0.1, 0.05])]
    header, body = stranger.message(**fields).frames()
    frames = [bytearray(header), bytearray(body)]
    what = rng.integers(8)
    if what == 0:  # a few bytes of the header are others
        for at in rng.integers(0, HEADER_BYTES, int(rng.integers(1, 4))):
            frames[0][at] = rng.integers(256)
    elif what == 1:  # truncated
        which = int(rng.integers(2))
        del frames[which][int(rng.integers(len(frames[which]) + 1)) :]
    elif what == 2:  # any bytes
        frames = [rng.bytes(int(rng.integers(200))) for _ in range(int(rng.integers(1, 5)))]
    elif what == 3:  # longer
        frames[int(rng.integers(2))] += rng.bytes(int(rng.integers(1, 300)))
    return [bytes(frame) for frame in frames]


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def bombarded(name: str, process: int, rng: np.random.Generator, count: int) -> int:
    """Send so many messages, some of them twice; the bytes that the server has grown by in their second half."""
    seen = dict.fromkeys(Code, 0)
    sizes: list[int] = []
    with Stranger(name) as stranger:
        stranger.open()
        for number in range(count):
            if number % (count // 10) == 0:
                sizes.append(resident(process))
            if number % 50 == 49:  # with a lease again, if it has come to an end
                stranger.again()
                stranger.open()
            frames = bad_message(rng, stranger)
            answer = stranger.send(frames)
            seen[answer.code] += 1
            if answer.kind == Kind.OPEN and answer.code == Code.DONE:
                stranger.token = answer.token
            if rng.random() < 0.1:
                twice = stranger.send(frames)
                assert twice.code != Code.DONE or answer.kind in (Kind.OPEN, Kind.CLOSE)
        sizes.append(resident(process))
    counts = ", ".join(f"{code.name} {number}" for code, number in seen.items())
    print(f"{count} messages: {counts}; MB of the server: {', '.join(f'{size / 1e6:.1f}' for size in sizes)}")
    assert min(seen[code] for code in (Code.DONE, Code.MALFORMED, Code.LEASE, Code.STOPPED)) > count // 100
    with opened(name, wait=20) as board:
        assert board.config
        board.run([selftest.sound(RESERVED_BYTES)])
    return sizes[-1] - sizes[len(sizes) // 2]


def test_random_messages(rng):
    with served_elsewhere(*QUICK) as (name, process):
        bombarded(name, process, rng, 500)


@pytest.mark.slow
def test_a_hundred_thousand_random_messages(rng):
    with served_elsewhere(*QUICK) as (name, process):
        with opened(name) as board:  # the pages of its memory that descriptors reach are no growth
            board.write(RESERVED_BYTES, np.ones(board.memory_bytes - RESERVED_BYTES, np.uint8))
        assert bombarded(name, process, rng, 100_000) < 2 << 20


def test_descriptors_of_random_bytes_stop_the_run(rng):
    with serving() as name, Stranger(name) as stranger:
        stranger.open()
        for _ in range(20):
            raw = Descriptor.unpack(rng.integers(0, 256, DESCRIPTOR_BYTES, dtype=np.uint8)).pack().tobytes()
            assert stranger.ask(Kind.RUN, count=1, body=raw).code == Code.STOPPED
