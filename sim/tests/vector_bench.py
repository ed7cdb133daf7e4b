"""The vector unit alone: its ports one by one, and a memory behind them."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from rtl.config import BEAT_BITS, BEAT_BYTES, AcceleratorConfig
from rtl.dma import Beat, Command
from rtl.tiles import VectorTile
from rtl.vector import Vector


class VectorBench(wiring.Component):
    """`Vector` with a name for the port of each manager."""

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(VectorTile)),
                **{f"command{i}": Out(stream.Signature(Command)) for i in range(config.managers)},
                **{f"beats{i}": In(stream.Signature(Beat)) for i in range(config.managers)},
                "write": Out(stream.Signature(Command)),
                "data": Out(stream.Signature(BEAT_BITS)),
                "finished": Out(1),
                "words": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.vector = vector = Vector(self._config)
        wiring.connect(m, wiring.flipped(self.i), vector.i)
        for i in range(self._config.managers):
            beats = getattr(self, f"beats{i}")
            wiring.connect(m, vector.command[i], wiring.flipped(getattr(self, f"command{i}")))
            m.d.comb += [
                vector.beats[i].payload.eq(beats.payload),
                vector.beats[i].valid.eq(beats.valid),
                beats.ready.eq(1),
            ]
        wiring.connect(m, vector.write, wiring.flipped(self.write))
        wiring.connect(m, vector.data, wiring.flipped(self.data))
        m.d.comb += vector.quiet.eq(1)
        for name in ("finished", "words", "waiting"):
            m.d.comb += getattr(self, name).eq(getattr(vector, name))
        return m


class Memory:
    """Readers and a writer behind the unit's ports, with a memory of their own.

    Parameters
    ----------
    image : uint8, what the memory holds.
    stall : chance, each cycle, that a command or a beat has to wait.
    latency : cycles from a command to its first beat, at least and at most; more if others are before it.

    Attributes
    ----------
    cycle, words : cycles so far, and those in which a word went into the lanes.
    ends : the cycle in which each pass ended, and what the memory held.
    indices : of the descriptors that commands named.
    """

    def __init__(self, dut, image: np.ndarray, managers: int, stall: float, latency: tuple[int, int]):
        self._dut, self._image, self._stall, self._latency = dut, image, stall, latency
        self._rng = random.Random(random.getrandbits(32))
        self._managers = range(managers)
        self._reads: list[deque] = [deque() for _ in self._managers]  # (first cycle, address, beats left)
        self._writes: deque = deque()  # (address, beats left)
        self.ends: list[tuple[int, np.ndarray]] = []
        self.indices: set[int] = set()
        self.words = self.cycle = 0

    async def run(self) -> None:
        dut = self._dut
        outputs = [*(f"command{i}" for i in self._managers), "write", "data"]
        waiting: dict[str, int | None] = dict.fromkeys(outputs)
        while True:
            ready = {name: self._go() for name in outputs}
            ready["data"] &= bool(self._writes)
            for name, value in ready.items():
                getattr(dut, f"{name}__ready").value = int(value)
            for i in self._managers:
                self._send(i)
            await ReadOnly()
            taken = {}
            for name in outputs:
                valid = bool(getattr(dut, f"{name}__valid").value)
                offer = getattr(dut, f"{name}__payload").value.to_unsigned() if valid else None
                assert waiting[name] in (None, offer), f"{name} changed its offer"
                waiting[name] = None if ready[name] else offer
                if ready[name] and valid:
                    taken[name] = offer
            assert not (dut.words.value and dut.waiting.value)
            self.words += int(dut.words.value)
            finished = bool(dut.finished.value)
            await RisingEdge(dut.clk)
            self.cycle += 1
            for name, payload in taken.items():
                if name == "data":
                    self._store(payload)
                else:
                    self._order(name, Command.from_bits(payload))
            if finished:
                assert not any((self._writes, *self._reads))
                self.ends.append((self.cycle, self._image.copy()))

    def _go(self) -> bool:
        return self._rng.random() >= self._stall

    def _send(self, i: int) -> None:
        """The next beat over manager i, if it is due."""
        reads = self._reads[i]
        valid = bool(reads) and reads[0][0] <= self.cycle and self._go()
        getattr(self._dut, f"beats{i}__valid").value = int(valid)
        if valid:
            start, address, left = reads.popleft()
            beat = {"data": int(self._image[address:].view("<u8")[0]), "last": left == 1}
            getattr(self._dut, f"beats{i}__payload").value = Beat.const(beat).as_value().value
            if left > 1:
                reads.appendleft((start, address + BEAT_BYTES, left - 1))

    def _store(self, beat: int) -> None:
        address, left = self._writes.popleft()
        self._image[address:].view("<u8")[0] = beat
        if left > 1:
            self._writes.appendleft((address + BEAT_BYTES, left - 1))

    def _order(self, port: str, command) -> None:
        assert command.beats, f"{port} has a command without beats"
        assert command.addr % BEAT_BYTES == 0
        assert command.addr + command.beats * BEAT_BYTES <= self._image.size
        self.indices.add(command.index)
        if port == "write":
            self._writes.append((command.addr, command.beats))
        else:
            start = self.cycle + self._rng.randint(*self._latency)
            self._reads[int(port[-1])].append((start, command.addr, command.beats))
