"""A stand-in for the accelerator: copies bursts. It proves the harness, whatever state the accelerator is in."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.axi import AXI4, AXILite
from rtl.isa import CSR, CSR_ADDRESS_BITS

# Registers. The one at STATUS reads 1 when a copy has ended; writing it starts one.
SOURCE, TARGET, LENGTH, GO, RESPONSES, STROBES, QUIRKS = 0x00, 0x04, 0x08, int(CSR.STATUS), 0x10, 0x14, 0x18
#: Bytes from what one manager copies, and where to, to what the next one does.
APART = 0x10000
# What it can be told to do wrong.
EARLY_LAST, RESTLESS_AR, RESTLESS_W = 1, 2, 4


class Engine(wiring.Component):
    """Copies one burst.

    Members
    -------
    axi : Out(AXI4)
    source, target, length, strobes, quirks : In
        Stable while it copies.
    go : In(1), done : Out(1)
        A pulse that starts it; high from the copy's end until then.
    responses : Out(4)
        The worst read response in bits 1:0 and the write response in bits 3:2.
    """

    def __init__(self):
        super().__init__(
            {
                "axi": Out(AXI4()),
                "source": In(32),
                "target": In(32),
                "length": In(8),
                "strobes": In(8),
                "quirks": In(3),
                "go": In(1),
                "done": Out(1),
                "responses": Out(4),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axi, length, quirks = self.axi, self.length, self.quirks
        read_resp, write_resp = Signal(2), Signal(2)
        m.d.comb += self.responses.eq(read_resp | (write_resp << 2))

        m.submodules.beats = beats = Memory(shape=64, depth=256, init=[])
        store, fetch = beats.write_port(), beats.read_port(domain="comb")
        count, restless = Signal(8), Signal()
        m.d.sync += restless.eq(~restless)
        m.d.comb += [
            axi.ar.payload.addr.eq(self.source ^ ((quirks[1] & restless) << 3)),
            axi.ar.payload.len.eq(length),
            axi.aw.payload.addr.eq(self.target),
            axi.aw.payload.len.eq(length),
            axi.w.payload.data.eq(fetch.data ^ (quirks[2] & restless)),
            axi.w.payload.strb.eq(self.strobes),
            axi.w.payload.last.eq(count == Mux(quirks[0], length - 1, length)),
            store.addr.eq(count),
            fetch.addr.eq(count),
            store.data.eq(axi.r.payload.data),
        ]
        aw_sent = Signal()
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.go):
                    m.d.sync += [self.done.eq(0), read_resp.eq(0), count.eq(0), aw_sent.eq(0)]
                    m.next = "AR"
            with m.State("AR"):
                m.d.comb += axi.ar.valid.eq(1)
                with m.If(axi.ar.ready):
                    m.next = "R"
            with m.State("R"):
                m.d.comb += [axi.r.ready.eq(1), store.en.eq(axi.r.valid)]
                with m.If(axi.r.valid):
                    m.d.sync += [count.eq(count + 1), read_resp.eq(read_resp | axi.r.payload.resp)]
                    with m.If(axi.r.payload.last):
                        m.d.sync += count.eq(0)
                        m.next = "W"
            with m.State("W"):
                m.d.comb += [axi.aw.valid.eq(~aw_sent), axi.w.valid.eq(1)]
                with m.If(axi.aw.ready):
                    m.d.sync += aw_sent.eq(1)
                with m.If(axi.w.ready):
                    m.d.sync += count.eq(count + 1)
                    with m.If(axi.w.payload.last):
                        m.next = "B"
            with m.State("B"):
                m.d.comb += [axi.aw.valid.eq(~aw_sent), axi.b.ready.eq(1)]
                with m.If(axi.aw.ready):
                    m.d.sync += aw_sent.eq(1)
                with m.If(axi.b.valid):
                    m.d.sync += [write_resp.eq(axi.b.payload.resp), self.done.eq(1)]
                    m.next = "IDLE"
        return m


class Copier(wiring.Component):
    """Reads LENGTH + 1 beats at SOURCE in one burst, then writes them to TARGET in one; interrupts until restarted.

    Every manager does so, each `APART` bytes behind the one before. RESPONSES has the worst read response in bits 1:0
    and the worst write response in bits 3:2.
    """

    def __init__(self, managers: int = 1):
        self._managers = managers
        super().__init__(
            {"axi": Out(AXI4()).array(managers), "csr": In(AXILite(CSR_ADDRESS_BITS)), "interrupt": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        csr = self.csr
        source, target, length = Signal(32), Signal(32), Signal(8)
        strobes, quirks = Signal(8, init=0xFF), Signal(3)
        go = Signal()
        engines = []
        for number, axi in enumerate(self.axi):
            m.submodules[f"engine{number}"] = engine = Engine()
            wiring.connect(m, engine.axi, wiring.flipped(axi))
            m.d.comb += [
                engine.source.eq(source + number * APART),
                engine.target.eq(target + number * APART),
                engine.length.eq(length),
                engine.strobes.eq(strobes),
                engine.quirks.eq(quirks),
                engine.go.eq(go),
            ]
            engines.append(engine)
        m.d.comb += self.interrupt.eq(Cat(engine.done for engine in engines).all())

        # Registers: one access at a time.
        write = csr.aw.valid & csr.w.valid & ~csr.b.valid
        m.d.comb += [csr.aw.ready.eq(write), csr.w.ready.eq(write), csr.ar.ready.eq(~csr.r.valid)]
        with m.If(csr.b.valid & csr.b.ready):
            m.d.sync += csr.b.valid.eq(0)
        with m.If(write):
            m.d.sync += csr.b.valid.eq(1)
            with m.Switch(csr.aw.payload.addr):
                for address, register in (
                    (SOURCE, source),
                    (TARGET, target),
                    (LENGTH, length),
                    (STROBES, strobes),
                    (QUIRKS, quirks),
                ):
                    with m.Case(address):
                        m.d.sync += register.eq(csr.w.payload.data)
                with m.Case(GO):
                    m.d.comb += go.eq(1)
        with m.If(csr.r.valid & csr.r.ready):
            m.d.sync += csr.r.valid.eq(0)
        with m.If(csr.ar.valid & csr.ar.ready):
            m.d.sync += csr.r.valid.eq(1)
            status = Mux(csr.ar.payload.addr == GO, self.interrupt, reduce(or_, (e.responses for e in engines)))
            m.d.sync += csr.r.payload.data.eq(Mux(csr.ar.payload.addr == SOURCE, source, status))
        return m
