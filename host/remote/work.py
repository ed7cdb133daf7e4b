"""What the server does to its board for a request, whoever sent it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from host.backends.memory import MemoryBoard
from host.errors import AcceleratorError
from host.remote.extent import largest_array, outside
from host.remote.messages import TEXT_BYTES, Code, Kind, Message, RefusedError, pack_counters
from host.ring import RESERVED_BYTES
from rtl.isa import DESCRIPTOR_BYTES, Descriptor, Error
from sim.golden_check import check_fields

#: Elements of the largest array that a descriptor may need, unless the server is told otherwise. A training step of
#: ResNet-38 on 128 images of 32 x 32 needs a third of it; a model may need a hundred bytes for each.
MOST_ELEMENTS = 1 << 26


class Work:
    """Requests on `board`. Not for several threads at a time.

    Parameters
    ----------
    board : what to do it on.
    most_elements : limit of `host.remote.extent.largest_array` for each descriptor.
    """

    def __init__(self, board: MemoryBoard, most_elements: int = MOST_ELEMENTS):
        self._board, self._most = board, most_elements

    def do(self, request: Message) -> Message:
        """The answer to a request that `check_request` has nothing against; a refusal if it fails."""
        answer = replace(request, address=0, count=0, body=b"")
        try:
            return replace(answer, body=self._do(request))
        except RefusedError as refused:
            return refusal(request, refused)
        except AcceleratorError as stopped:
            return refusal(request, RefusedError(Code.STOPPED, str(stopped), int(stopped.code), stopped.index))
        except TimeoutError as error:
            return refusal(request, RefusedError(Code.TIMEOUT, str(error)))
        except Exception as error:  # whatever a board may raise, the server goes on
            logging.getLogger(__name__).exception("the board failed at %s", request.kind.name)
            return refusal(request, RefusedError(Code.BOARD, f"the board failed: {type(error).__name__} {error}"))

    def _do(self, request: Message) -> object:
        if request.kind == Kind.WRITE:
            self._require_memory(request.address, request.count)
            self._board.write(request.address, np.frombuffer(request.body, np.uint8))
        elif request.kind == Kind.READ:
            self._require_memory(request.address, request.count)
            return self._board.read(request.address, request.count)
        elif request.kind == Kind.RUN:
            self._run(request)
        elif request.kind == Kind.COUNTERS:
            return pack_counters(self._board.counters())
        return b""

    def _require_memory(self, address: int, nbytes: int) -> None:
        try:
            self._board.require_free(address, nbytes)
        except ValueError as error:
            raise RefusedError(Code.ADDRESS, str(error)) from None

    def _run(self, request: Message) -> None:
        """Descriptors up to the first that is wrong or leaves the memory; that one never reaches the board."""
        raw = np.frombuffer(request.body, np.uint8).reshape(-1, DESCRIPTOR_BYTES)
        sound: list[Descriptor] = []
        error = Error.NONE
        for each in raw:
            descriptor = Descriptor.unpack(each)
            error = self._wrong(descriptor)
            if error:
                break
            elements = largest_array(self._board.config, descriptor)
            if elements > self._most:
                text = (
                    f"descriptor {len(sound)} needs an array of {elements} elements, the server's limit is {self._most}"
                )
                raise RefusedError(Code.LIMIT, f"{text} (--most-elements)")
            sound.append(descriptor)
        if sound:
            self._board.run(sound)
        if error:
            raise AcceleratorError(error, len(sound))

    def _wrong(self, descriptor: Descriptor) -> Error:
        config = self._board.config
        return check_fields(config, descriptor) or outside(config, RESERVED_BYTES, self._board.target.end, descriptor)


def refusal(request: Message, refused: RefusedError) -> Message:
    """The answer to a request that is not done."""
    body = str(refused).encode()[:TEXT_BYTES]
    return Message(request.kind, request.sequence, request.token, refused.code, refused.address, refused.count, body)
