"""The memory on the chip, between the engines and the AXI ports: who reads or writes need not know of it.

Bursts of addresses from `rtl.config.CHIP_BASE` on go to the memory on the chip, all others to the ports, and what comes
back is put into the order of the bursts again. An access beyond the end is answered with an error, as AXI does it.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import ADDRESS_BITS, AXI4, DECERR, OKAY, ReadData, Response, WriteData, address_channel
from .chip_memory import READ_LATENCY, ChipMemory, beat_read, beat_write, chip_beats, place_bits
from .config import BEAT_BYTES, CHIP_BASE, AcceleratorConfig
from .queue import Queue

#: The window is told by the uppermost bits of an address.
WINDOW_BITS = exact_log2((1 << ADDRESS_BITS) - CHIP_BASE)
#: Beats that are read ahead of their turn: as many as keep the memory busy.
AHEAD = READ_LATENCY + 4

_Address = stream.Signature(address_channel(8))
_Reads = wiring.Signature({"ar": Out(_Address), "r": In(stream.Signature(ReadData))})
_Writes = wiring.Signature(
    {"aw": Out(_Address), "w": Out(stream.Signature(WriteData)), "b": In(stream.Signature(Response))}
)


def on_chip(addr):
    """Whether an address is one of the memory on the chip."""
    return addr[WINDOW_BITS:] == CHIP_BASE >> WINDOW_BITS


class _Beats(wiring.Component):
    """The beats of bursts in the memory, one a cycle; the first shows two cycles after its burst is taken.

    Members
    -------
    i : In(stream of `_burst`)
        One is taken every two cycles; it lies in the memory or beyond its end, not across it.
    o : Out(stream of `beat_read`)
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__({"i": In(stream.Signature(_burst(config))), "o": Out(stream.Signature(beat_read(config)))})

    def elaborate(self, platform):
        m = Module()
        o = self.o.payload
        within = exact_log2(self._config.burst_beats)  # a burst stays inside an aligned window of so many beats
        left = Signal(8)
        # The next burst waits in a register, so that what a beat waits for does not reach whoever has the bursts.
        there = Signal()
        then = Signal(_burst(self._config), reset_less=True)
        m.d.comb += self.i.ready.eq(~there)
        with m.If(~there):
            m.d.sync += [there.eq(self.i.valid), then.eq(self.i.payload)]
        with m.If(~self.o.valid | (self.o.ready & o.last)):
            m.d.sync += [
                self.o.valid.eq(there),
                o.at.eq(then.at),
                o.beyond.eq(then.beyond),
                o.last.eq(then.len == 0),
                left.eq(then.len),
            ]
            with m.If(there):
                m.d.sync += there.eq(0)
        with m.Elif(self.o.ready):
            m.d.sync += [
                o.at[:within].eq(o.at[:within] + 1),
                o.last.eq(left == 1),
                left.eq(left - 1),
            ]
        return m


def _burst(config: AcceleratorConfig) -> data.StructLayout:
    return data.StructLayout({"at": place_bits(config), "beyond": 1, "len": 8})


def _place(config: AcceleratorConfig, burst, address) -> list:
    """Statements: `burst` is what the address channel says."""
    number = address.addr[exact_log2(BEAT_BYTES) : WINDOW_BITS]
    return [burst.at.eq(number), burst.beyond.eq(number >= chip_beats(config)), burst.len.eq(address.len)]


class ReadRouter(wiring.Component):
    """Sends the bursts of a read engine to their memory and brings the beats back in order.

    A beat from the chip is there nine cycles after its burst's address at the earliest, and one a cycle from then on.

    Members
    -------
    engine : In(AXI4 read channels)
        `config.outstanding` bursts in flight at the most.
    port : Out(AXI4 read channels)
    reads : Out(stream of `beat_read`), beats : In(stream of ReadData)
        The memory on the chip.
    arrived : Out(1)
        A beat from the chip goes to the engine.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "engine": In(_Reads),
                "port": Out(_Reads),
                "reads": Out(stream.Signature(beat_read(config))),
                "beats": In(stream.Signature(ReadData, always_ready=True)),
                "arrived": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        engine, port = self.engine, self.port
        depth = self._config.outstanding  # so there is always room
        m.submodules.turns = turns = Queue(1, depth)  # whether a burst in flight is the chip's
        m.submodules.bursts = bursts = Queue(_burst(self._config), depth)
        m.submodules.wanted = wanted = _Beats(self._config)
        m.submodules.ahead = ahead = Queue(ReadData, AHEAD)
        wiring.connect(m, bursts.o, wanted.i)

        here = on_chip(engine.ar.payload.addr)
        m.d.comb += [
            port.ar.valid.eq(engine.ar.valid & ~here),
            port.ar.payload.eq(engine.ar.payload),
            engine.ar.ready.eq(port.ar.ready | here),
            bursts.i.valid.eq(engine.ar.valid & here),
            *_place(self._config, bursts.i.payload, engine.ar.payload),
            turns.i.valid.eq(engine.ar.valid & engine.ar.ready),
            turns.i.payload.eq(here),
        ]

        room = Signal(AHEAD, init=-1)  # as many ones as there is room for beats that have not been asked for
        asked, given = Signal(), Signal()
        m.d.comb += [
            self.reads.valid.eq(wanted.o.valid & room[0]),
            self.reads.payload.eq(wanted.o.payload),
            asked.eq(self.reads.valid & self.reads.ready),
            wanted.o.ready.eq(self.reads.ready & room[0]),
            ahead.i.valid.eq(self.beats.valid),
            ahead.i.payload.eq(self.beats.payload),
            given.eq(ahead.o.valid & ahead.o.ready),
            self.arrived.eq(given),
        ]
        with m.If(asked & ~given):
            m.d.sync += room.eq(room >> 1)
        with m.Elif(given & ~asked):
            m.d.sync += room.eq(Cat(1, room))

        chip = turns.o.payload
        free = ~engine.r.valid | engine.r.ready
        beat = Signal(ReadData)
        found = Signal()
        m.d.comb += [
            found.eq(Mux(chip, ahead.o.valid, port.r.valid)),
            beat.eq(Mux(chip, ahead.o.payload.as_value(), port.r.payload.as_value())),
            ahead.o.ready.eq(free & chip),
            port.r.ready.eq(free & ~chip),
            turns.o.ready.eq(free & found & beat.last),
        ]
        with m.If(free):
            m.d.sync += [engine.r.valid.eq(found), engine.r.payload.eq(beat)]
        return m


class WriteRouter(wiring.Component):
    """Sends the bursts of a write engine to their memory and brings the responses back in order.

    Beats have all strobes on or all off. A response means that the beats are written.

    Members
    -------
    engine : In(AXI4 write channels)
        `config.outstanding` bursts in flight at the most.
    port : Out(AXI4 write channels)
    writes : Out(stream of `beat_write`)
        The memory on the chip.
    sent : Out(1)
        A beat of the engine goes to the chip.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "engine": In(_Writes),
                "port": Out(_Writes),
                "writes": Out(stream.Signature(beat_write(config))),
                "sent": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        engine, port = self.engine, self.port
        depth = self._config.outstanding  # so there is always room
        m.submodules.sending = sending = Queue(1, depth)  # whether a burst whose beats are owed is the chip's
        m.submodules.owing = owing = Queue(1, depth)  # and one whose response is
        m.submodules.bursts = bursts = Queue(_burst(self._config), depth)
        m.submodules.places = places = _Beats(self._config)
        m.submodules.beats = beats = Queue(WriteData, 2)  # so that the engine waits for a register alone
        wiring.connect(m, wiring.flipped(engine.w), beats.i)
        m.submodules.answers = answers = Queue(Response, depth)
        wiring.connect(m, bursts.o, places.i)

        here = on_chip(engine.aw.payload.addr)
        begun = engine.aw.valid & engine.aw.ready
        m.d.comb += [
            port.aw.valid.eq(engine.aw.valid & ~here),
            port.aw.payload.eq(engine.aw.payload),
            engine.aw.ready.eq(port.aw.ready | here),
            bursts.i.valid.eq(engine.aw.valid & here),
            *_place(self._config, bursts.i.payload, engine.aw.payload),
            sending.i.valid.eq(begun),
            sending.i.payload.eq(here),
            owing.i.valid.eq(begun),
            owing.i.payload.eq(here),
        ]

        to_chip = sending.o.valid & sending.o.payload
        to_port = sending.o.valid & ~sending.o.payload
        m.d.comb += [
            port.w.valid.eq(beats.o.valid & to_port),
            port.w.payload.eq(beats.o.payload),
            beats.o.ready.eq((to_port & port.w.ready) | (to_chip & places.o.valid & self.writes.ready)),
            sending.o.ready.eq(beats.o.valid & beats.o.ready & beats.o.payload.last),
        ]

        ended, refused = Signal(), Signal()  # the burst of which a beat was sent in the cycle before
        m.d.sync += [ended.eq(self.sent & places.o.payload.last), refused.eq(places.o.payload.beyond)]
        chip = owing.o.payload
        place, write = places.o.payload, self.writes.payload
        m.d.comb += [
            self.writes.valid.eq(beats.o.valid & to_chip & places.o.valid),
            write.at.eq(place.at),
            write.data.eq(beats.o.payload.data),
            write.on.eq(beats.o.payload.strb[0] & ~place.beyond),
            places.o.ready.eq(beats.o.valid & to_chip & self.writes.ready),
            self.sent.eq(self.writes.valid & self.writes.ready),
            answers.i.valid.eq(ended),
            answers.i.payload.resp.eq(Mux(refused, DECERR, OKAY)),
            engine.b.valid.eq(Mux(chip, answers.o.valid, port.b.valid)),
            engine.b.payload.resp.eq(Mux(chip, answers.o.payload.resp, port.b.payload.resp)),
            answers.o.ready.eq(engine.b.ready & chip),
            port.b.ready.eq(engine.b.ready & ~chip),
            owing.o.ready.eq(engine.b.valid & engine.b.ready),
        ]
        return m


class Chip(wiring.Component):
    """The memory, and routers in front of it.

    Members
    -------
    engines : In(AXI4) of each manager
        Of the read and write engines, see the routers.
    ports : Out(AXI4) of each manager
        To DDR.
    beats_read, beats_written : Out
        How many beats of the memory go to and come from the engines in this cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "engines": In(AXI4()).array(config.managers),
                "ports": Out(AXI4()).array(config.managers),
                "beats_read": Out(range(config.managers + 1)),
                "beats_written": Out(range(config.lanes + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = ChipMemory(self._config)
        reading, writing = [], []
        for number, (engine, port) in enumerate(zip(self.engines, self.ports, strict=True)):
            m.submodules[f"read_router{number}"] = router = ReadRouter(self._config)
            _join(m, engine, router, port, ("ar", "r"))
            wiring.connect(m, router.reads, memory.reads[number])
            wiring.connect(m, memory.beats[number], router.beats)
            reading.append(router.arrived)
        for number, writes in enumerate(memory.writes):
            m.submodules[f"write_router{number}"] = router = WriteRouter(self._config)
            _join(m, self.engines[number], router, self.ports[number], ("aw", "w", "b"))
            wiring.connect(m, router.writes, writes)
            writing.append(router.sent)
        m.d.comb += [self.beats_read.eq(sum(reading)), self.beats_written.eq(sum(writing))]
        return m


def _join(m: Module, engine, router, port, channels: tuple[str, ...]) -> None:
    """A router between the channels of an engine and those of a port."""
    for channel in channels:
        wiring.connect(m, wiring.flipped(getattr(engine, channel)), getattr(router.engine, channel))
        wiring.connect(m, getattr(router.port, channel), wiring.flipped(getattr(port, channel)))
