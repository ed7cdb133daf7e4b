"""Control and status registers behind AXI4-Lite, and the event counters. The map is `rtl.isa.CSR`."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi import ADDRESS_BITS, AXILite
from .config import AcceleratorConfig
from .errors import Error
from .isa import COUNTER_NAMES, COUNTERS, CSR, CSR_ADDRESS_BITS, ID, VERSION, Control, Irq, Status, config_words
from .tiles import INDEX

COUNTER_BITS = 48
#: Widest increment: planes skipped at one position.
EVENT_BITS = 5


class RegisterBank(wiring.Component):
    """CSRs.

    Members
    -------
    bus : In(AXILite)
    enable, ring_base, ring_mask, tail : Out
        To the fetch unit.
    reset_request : Out(1), reset_done : In(1)
        A soft reset is wanted until `reset_done` pulses.
    head, completed, error, error_index, idle : In
    done : In(1)
        Pulse: a descriptor with the interrupt flag has completed.
    events : In
        How far each counter moves in this cycle, in the order of `rtl.isa.COUNTERS`.
    interrupt : Out(1)

    A write takes effect two cycles after both AW and W are there; a read answers after two cycles.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "bus": In(AXILite(CSR_ADDRESS_BITS)),
                "enable": Out(1),
                "ring_base": Out(ADDRESS_BITS),
                "ring_mask": Out(16),
                "tail": Out(INDEX),
                "reset_request": Out(1),
                "reset_done": In(1),
                "head": In(INDEX),
                "completed": In(INDEX),
                "error": In(Error),
                "error_index": In(INDEX),
                "idle": In(1),
                "done": In(1),
                "events": In(EVENT_BITS).array(len(COUNTERS)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        pending, irq_enable = Signal(2), Signal(2)

        # Counters.
        counters = [Signal(COUNTER_BITS, name=f"counter_{name}") for name in COUNTER_NAMES]
        clear = Signal()
        for counter, event in zip(counters, self.events, strict=True):
            m.d.sync += counter.eq(Mux(clear, 0, counter + event))

        # Writes.
        aw, w = bus.aw, bus.w
        write = Signal()
        m.d.comb += [
            write.eq(aw.valid & w.valid & ~bus.b.valid),
            aw.ready.eq(write),
            w.ready.eq(write),
            bus.b.payload.resp.eq(0),
        ]
        with m.If(bus.b.valid & bus.b.ready):
            m.d.sync += bus.b.valid.eq(0)
        error_seen = Signal()
        value = w.payload.data
        with m.If(write):
            m.d.sync += bus.b.valid.eq(1)
        m.d.sync += [
            error_seen.eq(self.error != 0),
            pending.eq(
                (pending & ~Mux(write & (aw.payload.addr == CSR.IRQ), value[:2], 0))
                | Mux(self.done, Irq.DONE, 0)
                | Mux((self.error != 0) & ~error_seen, Irq.ERROR, 0)
            ),
        ]
        with m.If(self.reset_done):
            m.d.sync += [self.reset_request.eq(0), self.tail.eq(0), self.enable.eq(0), pending.eq(0)]
        with m.If(write):
            with m.Switch(aw.payload.addr):
                with m.Case(CSR.CONTROL):
                    m.d.sync += self.enable.eq(value[0])
                    m.d.comb += clear.eq(value[Control.CLEAR_COUNTERS.bit_length() - 1])
                    with m.If(value[Control.RESET.bit_length() - 1]):
                        m.d.sync += self.reset_request.eq(1)
                with m.Case(CSR.IRQ_ENABLE):
                    m.d.sync += irq_enable.eq(value)
                with m.Case(CSR.RING_BASE):
                    m.d.sync += self.ring_base.eq(value)
                with m.Case(CSR.RING_MASK):
                    m.d.sync += self.ring_mask.eq(value)
                with m.Case(CSR.TAIL):
                    m.d.sync += self.tail.eq(value)
        m.d.sync += self.interrupt.eq((pending & irq_enable) != 0)

        # Reads. The low word of a counter latches the high word, so the pair is consistent.
        readable = {
            CSR.ID: ID,
            CSR.VERSION: VERSION,
            CSR.CONTROL: Cat(self.enable, self.reset_request),
            CSR.STATUS: Mux(self.idle, int(Status.IDLE), 0) | Mux(self.error != 0, int(Status.ERROR), 0),
            CSR.IRQ: pending,
            CSR.IRQ_ENABLE: irq_enable,
            CSR.ERROR_CODE: self.error,
            CSR.ERROR_INDEX: self.error_index,
            CSR.RING_BASE: self.ring_base,
            CSR.RING_MASK: self.ring_mask,
            CSR.HEAD: self.head,
            CSR.TAIL: self.tail,
            CSR.COMPLETED: self.completed,
        }
        for register, word in zip((CSR.CONFIG0, CSR.CONFIG1, CSR.CONFIG2), config_words(self._config), strict=True):
            readable[register] = word
        high = Signal(COUNTER_BITS - 32)
        addr, pending_read = Signal(CSR_ADDRESS_BITS), Signal()
        m.d.comb += bus.ar.ready.eq(~pending_read & ~bus.r.valid)
        with m.If(bus.ar.valid & bus.ar.ready):
            m.d.sync += [addr.eq(bus.ar.payload.addr), pending_read.eq(1)]
        with m.If(bus.r.valid & bus.r.ready):
            m.d.sync += bus.r.valid.eq(0)
        with m.If(pending_read):
            m.d.sync += [pending_read.eq(0), bus.r.valid.eq(1), bus.r.payload.resp.eq(0), bus.r.payload.data.eq(0)]
            with m.Switch(addr):
                for register, word in readable.items():
                    with m.Case(register):
                        m.d.sync += bus.r.payload.data.eq(word)
            counter_index = ((addr - CSR.COUNTERS) >> 3)[: CSR_ADDRESS_BITS - 3]
            chosen = Signal(COUNTER_BITS)
            m.d.comb += chosen.eq(Array(counters)[counter_index])
            with m.If((addr >= CSR.COUNTERS) & (counter_index < len(counters))):
                with m.If(addr[2]):
                    m.d.sync += bus.r.payload.data.eq(high)
                with m.Else():
                    m.d.sync += [bus.r.payload.data.eq(chosen[:32]), high.eq(chosen[32:])]
        return m
