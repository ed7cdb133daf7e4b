"""Control and status registers behind AXI4-Lite, and the event counters. The map is `rtl.isa.CSR`."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .axi import ADDRESS_BITS, OKAY, AXILite
from .config import AcceleratorConfig
from .errors import Error
from .isa import COUNTER_NAMES, COUNTERS, CSR, CSR_ADDRESS_BITS, ID, VERSION, Control, Irq, Status, config_words
from .multiplexer import choose
from .tiles import INDEX

COUNTER_BITS = 48
#: Widest increment: planes skipped at one position.
EVENT_BITS = 5
#: Words that one multiplexer of the read path chooses from.
BANK = 8
BANK_BITS = exact_log2(BANK)


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

    A write takes effect two cycles after both AW and W are there; a read answers after three cycles. Events count two
    cycles after they were seen.
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
        clear = Signal()  # counters
        pending = Signal(2)
        irq_enable = Signal(2)
        counters = self._counters(m, clear)
        self._writes(m, clear, pending, irq_enable)
        words = {
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
            **dict(zip((CSR.CONFIG0, CSR.CONFIG1, CSR.CONFIG2), config_words(self._config), strict=True)),
        }
        self._reads(m, words, counters)
        return m

    def _counters(self, m: Module, clear) -> list[Signal]:
        """Counters of registered events."""
        clearing = Signal()
        m.d.sync += clearing.eq(clear)
        counters = []
        for name, event in zip(COUNTER_NAMES, self.events, strict=True):
            counter = Signal(COUNTER_BITS, name=f"counter_{name}")
            step = Signal(EVENT_BITS, name=f"event_{name}")
            m.d.sync += [step.eq(event), counter.eq(Mux(clearing, 0, counter + step))]
            counters.append(counter)
        return counters

    def _writes(self, m: Module, clear, pending, irq_enable) -> None:
        """A write is taken, then decoded; its response leaves as it takes effect."""
        aw, w, b = self.bus.aw, self.bus.w, self.bus.b
        taken = Signal()
        write = Signal()
        value = Signal.like(w.payload.data)
        # Which register is written, a bit for each: decoded as the address is taken.
        to = {}
        for register in (CSR.CONTROL, CSR.IRQ, CSR.IRQ_ENABLE, CSR.RING_BASE, CSR.RING_MASK, CSR.TAIL):
            to[register] = Signal(name=f"to_{register.name.lower()}")
            m.d.sync += to[register].eq(aw.payload.addr == register)
        m.d.comb += [
            taken.eq(aw.valid & w.valid & ~write & ~b.valid),
            aw.ready.eq(taken),
            w.ready.eq(taken),
            b.payload.resp.eq(OKAY),
        ]
        m.d.sync += [write.eq(taken), value.eq(w.payload.data)]
        with m.If(write):
            m.d.sync += b.valid.eq(1)
        with m.Elif(b.ready):
            m.d.sync += b.valid.eq(0)

        failed = Signal()
        failed_before = Signal()
        m.d.sync += [
            failed.eq(self.error != 0),
            failed_before.eq(failed),
            pending.eq(
                (pending & ~Mux(write & to[CSR.IRQ], value[:2], 0))
                | Mux(self.done, Irq.DONE, 0)
                | Mux(failed & ~failed_before, Irq.ERROR, 0)
            ),
            self.interrupt.eq((pending & irq_enable) != 0),
        ]
        with m.If(self.reset_done):
            m.d.sync += [self.reset_request.eq(0), self.tail.eq(0), self.enable.eq(0), pending.eq(0)]
        with m.If(write & to[CSR.CONTROL]):
            m.d.sync += self.enable.eq(value[_bit(Control.ENABLE)])
            m.d.comb += clear.eq(value[_bit(Control.CLEAR_COUNTERS)])
            with m.If(value[_bit(Control.RESET)]):
                m.d.sync += self.reset_request.eq(1)
        for register, target in (
            (CSR.IRQ_ENABLE, irq_enable),
            (CSR.RING_BASE, self.ring_base),
            (CSR.RING_MASK, self.ring_mask),
            (CSR.TAIL, self.tail),
        ):
            with m.If(write & to[register]):
                m.d.sync += target.eq(value)

    def _reads(self, m: Module, words: dict, counters: list[Signal]) -> None:
        """A read is taken, chooses one of `BANK` words in each bank of registers and counters, then one bank."""
        ar, r = self.bus.ar, self.bus.r
        addr = Signal.like(ar.payload.addr)
        taken = Signal()
        chosen = Signal()
        m.d.comb += [ar.ready.eq(~taken & ~chosen & ~r.valid), r.payload.resp.eq(OKAY)]
        m.d.sync += [taken.eq(ar.valid & ar.ready), addr.eq(ar.payload.addr), chosen.eq(taken)]

        def bank(name: str, items: list, low: int, number: int) -> Signal:
            """The item that the address names from bit `low` on, or 0 if the bits above are not `number`."""
            here = Signal(name=f"in_{name}")  # decoded as the address is taken
            item = Signal(COUNTER_BITS, name=name)
            index = addr[low : low + BANK_BITS]
            m.d.sync += [
                here.eq(ar.payload.addr[low + BANK_BITS :] == number),
                item.eq(Mux(here, choose(items + [0] * (BANK - len(items)), index), 0)),
            ]
            return item

        registers = [
            bank(
                f"registers_{base:x}",
                [words.get(base + 4 * i, 0) for i in range(BANK)],
                2,
                base // (4 * BANK),
            )
            for base in range(0, CSR.COUNTERS, 4 * BANK)
        ]
        events = [
            bank(
                f"counters_{first}",
                counters[first : first + BANK],
                3,
                (CSR.COUNTERS + 8 * first) // (8 * BANK),
            )
            for first in range(0, len(counters), BANK)
        ]
        register, counter = (reduce(or_, banks) for banks in (registers, events))

        # The low word of a counter latches the high word, so the pair is consistent.
        high = Signal(COUNTER_BITS - 32)
        low_read = Signal()
        high_read = Signal()
        of_counter = (addr >= CSR.COUNTERS) & (addr < CSR.COUNTERS + 8 * len(counters))
        m.d.sync += [low_read.eq(of_counter & ~addr[2]), high_read.eq(of_counter & addr[2])]
        with m.If(chosen):
            m.d.sync += [r.valid.eq(1), r.payload.data.eq(Mux(high_read, high, register | counter[:32]))]
            with m.If(low_read):
                m.d.sync += high.eq(counter[32:])
        with m.Elif(r.ready):
            m.d.sync += r.valid.eq(0)


def _bit(flag) -> int:
    """Place of a flag's bit."""
    return exact_log2(flag)
