"""The aperture between the accelerator and a memory that is not its own alone.

Where a processor's system lies in the same memory, the accelerator gets a part of it: addresses of descriptors are
offsets from `base`, and a burst that does not lie below `size` is answered with an error and never reaches the memory.
Both are in pages of 4 KiB. No burst of AXI crosses a page, so the page of its first beat decides; one that would cross
is refused as well, as is one whose address would pass the end of the address space.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import ADDRESS_BITS, AXI4, DECERR, AXILite, address_channel
from .config import BEAT_BYTES
from .states import States

PAGE_BITS = 12
PAGE_BYTES = 1 << PAGE_BITS
PAGE_NUMBER_BITS = ADDRESS_BITS - PAGE_BITS

#: Registers of the aperture, behind those of the accelerator: byte offsets from the end of the latter.
BASE, SIZE = 0, 4

_Address = stream.Signature(address_channel(8))
_BEAT_SHIFT = BEAT_BYTES.bit_length() - 1


class Gate(wiring.Component):
    """Bursts whose addresses are checked and moved; one is taken every two cycles.

    Members
    -------
    i : In(stream of `address_channel`), with offsets
    o : Out(stream of `address_channel`), with addresses
        What it shows stays until it is taken, while `base` and `size` stay.
    base, size : In(20)
        In pages. A size of 0 admits nothing.
    admitted : Out(1)
        A burst goes to `o` in this cycle; it is shown there from the next one on.
    refused : Out(1)
        A burst waits that is not to pass; its `len` is at `len`. It goes with `drop`.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(_Address),
                "o": Out(_Address),
                "base": In(PAGE_NUMBER_BITS),
                "size": In(PAGE_NUMBER_BITS),
                "admitted": Out(1),
                "refused": Out(1),
                "len": Out(8),
                "drop": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        there = Signal()
        burst = Signal(address_channel(8), reset_less=True)
        page = burst.addr[PAGE_BITS:]
        moved = Signal(PAGE_NUMBER_BITS + 1)
        last = Signal(PAGE_BITS - _BEAT_SHIFT + 1)  # the last beat, counted from the page's beginning
        inside = Signal()
        free = Signal()
        m.d.comb += [
            self.i.ready.eq(~there),
            moved.eq(page + self.base),
            last.eq(burst.addr[_BEAT_SHIFT:PAGE_BITS] + burst.len),
            inside.eq((page < self.size) & ~moved[-1] & ~last[-1]),
            free.eq(~self.o.valid | self.o.ready),
            self.admitted.eq(there & inside & free),
            self.refused.eq(there & ~inside),
            self.len.eq(burst.len),
        ]
        with m.If(~there):
            m.d.sync += [there.eq(self.i.valid), burst.eq(self.i.payload)]
        with m.Elif(self.admitted | self.drop):
            m.d.sync += there.eq(0)
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(there & inside),
                self.o.payload.addr.eq(Cat(burst.addr[:PAGE_BITS], moved[:PAGE_NUMBER_BITS])),
                self.o.payload.len.eq(burst.len),
            ]
        return m


class Aperture(wiring.Component):
    """The aperture of one manager.

    A refused burst waits until all before it have been answered, so responses stay in order; the time does not matter,
    as the accelerator stops at it. The beats of a write pass when its address has.

    Members
    -------
    i : In(AXI4), with offsets
    o : Out(AXI4), with addresses
    base, size : In(20)
        In pages; they change only while no burst is on its way.
    """

    def __init__(self, *, outstanding: int):
        """`outstanding` is how many bursts the manager has on their way in each direction, at the most."""
        self._outstanding = outstanding
        pages = In(PAGE_NUMBER_BITS)
        super().__init__({"i": In(AXI4()), "o": Out(AXI4()), "base": pages, "size": pages})

    def elaborate(self, platform):
        m = Module()
        m.submodules.reads = reads = Gate()
        m.submodules.writes = writes = Gate()
        for gate, name in ((reads, "ar"), (writes, "aw")):
            wiring.connect(m, wiring.flipped(getattr(self.i, name)), gate.i)
            wiring.connect(m, gate.o, wiring.flipped(getattr(self.o, name)))
            m.d.comb += [gate.base.eq(self.base), gate.size.eq(self.size)]
        self._read(m, reads)
        self._write(m, writes)
        return m

    def _counter(self, m, name: str, up, down) -> Signal:
        """Whether more `up` than `down` have been; a register."""
        count = Signal(range(self._outstanding + 1), name=f"{name}_count")
        some = Signal(name=f"some_{name}")
        with m.If(up & ~down):
            m.d.sync += [count.eq(count + 1), some.eq(1)]
        with m.If(down & ~up):
            m.d.sync += [count.eq(count - 1), some.eq(count != 1)]
        return some

    def _read(self, m, gate: Gate) -> None:
        i, o = self.i.r, self.o.r
        done = o.valid & o.ready & o.payload.last
        waits = self._counter(m, "reads", gate.admitted, done)
        # Nothing comes from `o` while a refused burst is answered, so the two need no multiplexer.
        answers = Signal()
        last = Signal()
        left = Signal(8)
        m.d.comb += [
            i.valid.eq(o.valid | answers),
            i.payload.data.eq(o.payload.data),
            i.payload.resp.eq(o.payload.resp | Mux(answers, DECERR, 0)),
            i.payload.last.eq(Mux(answers, last, o.payload.last)),
            o.ready.eq(i.ready & ~answers),
            gate.drop.eq(answers & i.ready & last),
        ]
        with m.If(~answers):
            m.d.sync += [answers.eq(gate.refused & ~waits), last.eq(gate.len == 0), left.eq(gate.len)]
        with m.Elif(i.ready):
            m.d.sync += [answers.eq(~last), last.eq(left == 1), left.eq(left - 1)]

    def _write(self, m, gate: Gate) -> None:
        i, o = self.i, self.o
        sent = o.w.valid & o.w.ready & o.w.payload.last
        passes = self._counter(m, "beats", gate.admitted, sent)  # the next beat is of an admitted burst
        waits = self._counter(m, "writes", gate.admitted, o.b.valid & o.b.ready)
        drops = Signal()
        answers = Signal()
        m.d.comb += [
            o.w.payload.eq(i.w.payload),
            o.w.valid.eq(i.w.valid & passes),
            i.w.ready.eq((o.w.ready & passes) | drops),
            i.b.valid.eq(o.b.valid | answers),
            i.b.payload.resp.eq(o.b.payload.resp | Mux(answers, DECERR, 0)),
            o.b.ready.eq(i.b.ready & ~answers),
            gate.drop.eq(answers & i.b.ready),
        ]
        with m.If(~drops & ~answers):
            m.d.sync += drops.eq(gate.refused & ~waits)
        with m.Elif(drops & i.w.valid & i.w.payload.last):
            m.d.sync += [drops.eq(0), answers.eq(1)]
        with m.Elif(answers & i.b.ready):
            m.d.sync += answers.eq(0)


class ApertureRegisters(wiring.Component):
    """Registers BASE and SIZE behind those of the accelerator, which lie in the lower half of the addresses.

    Whole words are written; their lower 12 bits are zero. Both are zero after a reset, so nothing is admitted. One
    access at a time.

    Members
    -------
    i : In(AXILite(address_bits + 1))
    o : Out(AXILite(address_bits))
    base, size : Out(20)
        In pages.
    """

    def __init__(self, address_bits: int):
        self._address_bits = address_bits
        super().__init__(
            {
                "i": In(AXILite(address_bits + 1)),
                "o": Out(AXILite(address_bits)),
                "base": Out(PAGE_NUMBER_BITS),
                "size": Out(PAGE_NUMBER_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i, o = self.i, self.o
        second = Signal()  # of the two registers
        value = Signal(32)
        m.d.comb += [
            o.ar.payload.addr.eq(i.ar.payload.addr),
            o.aw.payload.addr.eq(i.aw.payload.addr),
            o.w.payload.eq(i.w.payload),
        ]
        names = ("IDLE", "READ ADDRESS", "READ", "WRITE", "RESPOND", "OWN READ", "OWN WRITE", "OWN END")
        states = States(m, *names)
        address_sent = Signal()
        with states.state("IDLE"):
            m.d.sync += address_sent.eq(0)
            with m.If(i.aw.valid):
                m.d.sync += second.eq(i.aw.payload.addr[2])
                with m.If(i.aw.payload.addr[-1]):
                    m.d.comb += i.aw.ready.eq(1)
                    states.go("OWN WRITE")
                with m.Else():
                    states.go("WRITE")
            with m.Elif(i.ar.valid):
                m.d.sync += value.eq(Cat(Const(0, PAGE_BITS), Mux(i.ar.payload.addr[2], self.size, self.base)))
                with m.If(i.ar.payload.addr[-1]):
                    m.d.comb += i.ar.ready.eq(1)
                    states.go("OWN READ")
                with m.Else():
                    states.go("READ ADDRESS")

        with states.state("READ ADDRESS"):
            m.d.comb += [o.ar.valid.eq(1), i.ar.ready.eq(o.ar.ready)]
            with m.If(o.ar.ready):
                states.go("READ")
        with states.state("READ"):
            m.d.comb += [i.r.valid.eq(o.r.valid), i.r.payload.eq(o.r.payload), o.r.ready.eq(i.r.ready)]
            with m.If(o.r.valid & i.r.ready):
                states.go("IDLE")
        with states.state("OWN READ"):
            m.d.comb += [i.r.valid.eq(1), i.r.payload.data.eq(value)]
            with m.If(i.r.ready):
                states.go("IDLE")

        # The subordinate may want a write's data before it takes the address.
        with states.state("WRITE"):
            m.d.comb += [
                o.aw.valid.eq(~address_sent),
                i.aw.ready.eq(o.aw.ready & ~address_sent),
                o.w.valid.eq(i.w.valid),
                i.w.ready.eq(o.w.ready),
            ]
            with m.If(o.aw.ready):
                m.d.sync += address_sent.eq(1)
            with m.If(i.w.valid & o.w.ready):
                states.go("RESPOND")
        with states.state("RESPOND"):
            m.d.comb += [o.aw.valid.eq(~address_sent), i.aw.ready.eq(o.aw.ready & ~address_sent)]
            with m.If(o.aw.ready):
                m.d.sync += address_sent.eq(1)
            m.d.comb += [i.b.valid.eq(o.b.valid), i.b.payload.eq(o.b.payload), o.b.ready.eq(i.b.ready)]
            with m.If(o.b.valid & i.b.ready):
                states.go("IDLE")
        with states.state("OWN WRITE"):
            m.d.comb += i.w.ready.eq(1)
            with m.If(i.w.valid):
                with m.If(i.w.payload.strb.all()):
                    pages = i.w.payload.data[PAGE_BITS:]
                    with m.If(second):
                        m.d.sync += self.size.eq(pages)
                    with m.Else():
                        m.d.sync += self.base.eq(pages)
                states.go("OWN END")
        with states.state("OWN END"):
            m.d.comb += i.b.valid.eq(1)
            with m.If(i.b.ready):
                states.go("IDLE")
        return m
