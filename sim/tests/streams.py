"""Drivers and monitors for Amaranth streams in cocotb: `<name>__payload`, `<name>__valid`, `<name>__ready`."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import Event, ReadOnly, RisingEdge


async def start(dut, **inputs: int) -> None:
    """Starts the clock, sets inputs, and resets. Bus models attached later log warnings only."""
    dut._log.setLevel(logging.WARNING)
    for name, value in inputs.items():
        getattr(dut, name).value = value
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
    dut.rst.value = 1
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


class StreamSource:
    """Feeds a stream input.

    Parameters
    ----------
    idle : float
        Chance, each cycle, to wait although there is an item.
    """

    def __init__(self, dut, name: str, *, idle: float = 0.0, rng: random.Random | None = None):
        self._clk = dut.clk
        self._payload, self._valid, self._ready = (getattr(dut, f"{name}__{s}") for s in ("payload", "valid", "ready"))
        self.idle, self._rng = idle, rng or random.Random(random.getrandbits(32))
        self._queue: deque[int] = deque()
        self._empty = Event()
        self._valid.value = 0
        self._payload.value = 0
        cocotb.start_soon(self._drive())

    def put(self, item: int) -> None:
        """Queues an item: the packed payload."""
        self._queue.append(int(item))
        self._empty.clear()

    async def drained(self) -> None:
        """Waits until every item has been taken."""
        if self._queue:
            await self._empty.wait()

    @property
    def pending(self) -> int:
        """Items that have not been taken yet."""
        return len(self._queue)

    def clear(self) -> None:
        """Forgets what has not been taken, and withdraws an offer: for use under reset only."""
        self._queue.clear()
        self._valid.value = 0
        self._empty.set()

    async def _drive(self) -> None:
        while True:
            if not self._queue or self._rng.random() < self.idle:
                await RisingEdge(self._clk)
                continue
            self._payload.value = self._queue[0]
            self._valid.value = 1
            taken = False
            while not taken and self._queue:
                await ReadOnly()
                taken = bool(self._ready.value)
                await RisingEdge(self._clk)
            self._valid.value = 0
            if taken and self._queue:
                self._queue.popleft()
            if not self._queue:
                self._empty.set()


class StreamSink:
    """Takes what a stream output offers, in `items`, and fails if an offer changes before it is taken.

    Parameters
    ----------
    stall : float
        Chance, each cycle, not to be ready.
    decode : callable, optional
        From the packed payload to an item.
    """

    def __init__(
        self,
        dut,
        name: str,
        *,
        stall: float = 0.0,
        rng: random.Random | None = None,
        decode: Callable[[int], object] = int,
    ):
        self._clk, self._name = dut.clk, name
        self._payload, self._valid, self._ready = (getattr(dut, f"{name}__{s}") for s in ("payload", "valid", "ready"))
        self.stall, self._rng = stall, rng or random.Random(random.getrandbits(32))
        self._decode = decode
        self.items: list = []
        self._arrived = Event()
        self._ready.value = 0
        cocotb.start_soon(self._watch())

    async def wait(self, count: int) -> list:
        """The first `count` items, once they are there."""
        while len(self.items) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return self.items[:count]

    async def _watch(self) -> None:
        waiting = None
        while True:
            self._ready.value = ready = int(self._rng.random() >= self.stall)
            await ReadOnly()
            offer = self._payload.value.to_unsigned() if self._valid.value else None
            assert waiting is None or offer == waiting, f"{self._name} changed its offer {waiting:#x} to {offer}"
            await RisingEdge(self._clk)
            waiting = None if ready else offer
            if ready and offer is not None:
                self.items.append(self._decode(offer))
                self._arrived.set()
