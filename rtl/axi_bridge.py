"""From the AXI3 manager of a Zynq's GP port to AXI4-Lite.

A processor's access to a memory-mapped register is a burst of one beat, but nothing keeps a compiler or a cache from
longer ones. The bridge takes any burst apart into single accesses, reflects the ID, and ends every burst properly.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import ADDRESS_BITS, AXILite
from .states import States

#: AxBURST of a burst whose beats all go to one address.
FIXED = 0


class AXI3GP(wiring.Signature):
    """AXI3 manager port as the PS7 has it on M_AXI_GP0: 32-bit data, 12-bit IDs, 16 beats at most."""

    ID_BITS = 12

    def __init__(self):
        ident = self.ID_BITS
        address = data.StructLayout({"id": ident, "addr": ADDRESS_BITS, "len": 4, "burst": 2})
        super().__init__(
            {
                "ar": Out(stream.Signature(address)),
                "r": In(stream.Signature(data.StructLayout({"id": ident, "data": 32, "resp": 2, "last": 1}))),
                "aw": Out(stream.Signature(address)),
                "w": Out(stream.Signature(data.StructLayout({"data": 32, "strb": 4, "last": 1}))),
                "b": In(stream.Signature(data.StructLayout({"id": ident, "resp": 2}))),
            }
        )


class AXI3ToLite(wiring.Component):
    """The bridge. One burst at a time; writes and reads take turns when both wait.

    Members
    -------
    i : In(AXI3GP)
    o : Out(AXILite)

    Beats are counted by the burst's length. WRAP bursts, which only caches make, are taken as INCR. A write burst's
    response is the worst of its beats'. A beat takes three cycles beside the subordinate's own.
    """

    def __init__(self, address_bits: int):
        super().__init__({"i": In(AXI3GP()), "o": Out(AXILite(address_bits))})

    def elaborate(self, platform):
        m = Module()
        i, o = self.i, self.o
        ident = Signal(AXI3GP.ID_BITS)
        addr = Signal(ADDRESS_BITS)
        left = Signal(4)
        fixed = Signal()
        resp = Signal(2)
        wrote = Signal()  # the last burst was a write
        address_sent = Signal()
        data_sent = Signal()
        word = Signal(32)
        strobes = Signal(4)
        following = Mux(fixed, addr, addr + 4)
        m.d.comb += [
            o.ar.payload.addr.eq(addr),
            o.aw.payload.addr.eq(addr),
            o.w.payload.data.eq(word),
            o.w.payload.strb.eq(strobes),
            i.r.payload.id.eq(ident),
            i.r.payload.data.eq(word),
            i.r.payload.resp.eq(resp),
            i.r.payload.last.eq(left == 0),
            i.b.payload.id.eq(ident),
            i.b.payload.resp.eq(resp),
        ]

        # Registers take what a state may offer before it is known to be valid: fewer levels to their enables.
        names = ("IDLE", "READ ADDRESS", "READ", "READ DATA", "WRITE DATA", "WRITE", "RESPOND")
        states = States(m, *names)
        with states.state("IDLE"):
            write = i.aw.valid & ~(i.ar.valid & wrote)
            burst = Signal(i.aw.payload.shape())
            m.d.comb += [
                i.aw.ready.eq(write),
                i.ar.ready.eq(~write),
                burst.eq(Mux(write, i.aw.payload.as_value(), i.ar.payload.as_value())),
            ]
            m.d.sync += [
                ident.eq(burst.id),
                addr.eq(burst.addr),
                left.eq(burst.len),
                fixed.eq(burst.burst == FIXED),
                resp.eq(0),
            ]
            with m.If(write):
                m.d.sync += wrote.eq(1)
                states.go("WRITE DATA")
            with m.Elif(i.ar.valid):
                m.d.sync += wrote.eq(0)
                states.go("READ ADDRESS")

        with states.state("READ ADDRESS"):
            m.d.comb += o.ar.valid.eq(1)
            with m.If(o.ar.ready):
                states.go("READ")
        with states.state("READ"):
            m.d.comb += o.r.ready.eq(1)
            m.d.sync += [word.eq(o.r.payload.data), resp.eq(o.r.payload.resp)]
            with m.If(o.r.valid):
                states.go("READ DATA")
        with states.state("READ DATA"):
            m.d.comb += i.r.valid.eq(1)
            with m.If(i.r.ready):
                m.d.sync += [left.eq(left - 1), addr.eq(following)]
                with m.If(left == 0):
                    states.go("IDLE")
                with m.Else():
                    states.go("READ ADDRESS")

        with states.state("WRITE DATA"):
            m.d.comb += i.w.ready.eq(1)
            m.d.sync += [
                address_sent.eq(0),
                data_sent.eq(0),
                word.eq(i.w.payload.data),
                strobes.eq(i.w.payload.strb),
            ]
            with m.If(i.w.valid):
                states.go("WRITE")
        with states.state("WRITE"):
            m.d.comb += [
                o.aw.valid.eq(~address_sent),
                o.w.valid.eq(~data_sent),
                o.b.ready.eq(address_sent & data_sent),
            ]
            with m.If(o.aw.ready):
                m.d.sync += address_sent.eq(1)
            with m.If(o.w.ready):
                m.d.sync += data_sent.eq(1)
            with m.If(o.b.ready & o.b.valid):
                m.d.sync += [resp.eq(Mux(o.b.payload.resp > resp, o.b.payload.resp, resp)), addr.eq(following)]
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    states.go("RESPOND")
                with m.Else():
                    states.go("WRITE DATA")
        with states.state("RESPOND"):
            m.d.comb += i.b.valid.eq(1)
            with m.If(i.b.ready):
                states.go("IDLE")
        return m
