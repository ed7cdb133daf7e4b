"""The processing element: 144 lanes of a 4-bit digit against one bit-plane, every cycle.

`TablePE` is distributed arithmetic in LUTRAM: four lanes share a table of the 16 subset sums of their digits, the four
plane bits address it, and an adder tree sums the 36 entries. Two contexts per table let the next digits be written
while the present ones are read. `PopcountPE` computes the same with AND gates and popcounts, from the same table
writes, as an independent cross-check.

An entry is the sum of four digits, 0..60, or, where digits are signed, that sum plus 32, 0..60 too: no adder but the
last extends a sign. An element of signed digits so reads 32 * 36 too much whatever the data, which its last adder takes
off again.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .cells import TernaryAdder
from .config import DIGIT_BITS, ENTRY_BITS, GROUP_LANES, GROUPS, LANES, AcceleratorConfig

#: Signed width of a row's sum: -8*144 .. 15*144.
SUM_BITS = 13
#: What the entries of signed digits add up to beyond their sums.
SIGNED_BIAS = 32 * GROUPS
ENTRIES = 2**GROUP_LANES


class ProcessingElement(wiring.Component):
    """Ports of a processing element. Another one derives from this and states its own latencies.

    Members
    -------
    enable : In(1)
        All registers but the tables hold while it is low: without work nothing switches, and a simulator has nothing
        to do. It is high for `LATENCY` cycles, from the one of each plane on.
    plane : In(144)
        One bit of each lane.
    context : In(1)
        Which of the two contexts `plane` meets.
    unsigned_digit : In(1)
        The digits are 0..15; presented `BIAS_DELAY` cycles after the plane it belongs to.
    entries : In(36 * 6), entry_address : In(4), entry_context : In(1), write : In(1)
        Writes one entry of every table.
    sum : Out(signed(13))
        Dot product of digits and plane, `LATENCY` cycles after the plane.
    """

    macro = "pe"
    LATENCY = 5
    BIAS_DELAY = 4

    @staticmethod
    def ports(config: AcceleratorConfig) -> dict:
        return {
            "enable": In(1),
            "plane": In(LANES),
            "context": In(1),
            "unsigned_digit": In(1),
            "entries": In(GROUPS * ENTRY_BITS),
            "entry_address": In(GROUP_LANES),
            "entry_context": In(1),
            "write": In(1),
            "sum": Out(signed(SUM_BITS)),
        }

    def __init__(self, config: AcceleratorConfig):
        self._vendor = config.vendor
        super().__init__(self.ports(config))


class TablePE(ProcessingElement):
    """Subset sums in LUTRAM: RAM32M holds two contexts of 16 entries."""

    def elaborate(self, platform):
        m = Module()
        level = []
        for g in range(GROUPS):
            m.submodules[f"table{g}"] = table = Memory(shape=ENTRY_BITS, depth=2 * ENTRIES, init=[])
            write, read = table.write_port(), table.read_port(domain="comb")
            entry = Signal(ENTRY_BITS, name=f"entry{g}", reset_less=True)
            m.d.comb += [
                write.addr.eq((self.entry_context << GROUP_LANES) | self.entry_address),
                write.data.eq(self.entries.word_select(g, ENTRY_BITS)),
                write.en.eq(self.write),
                read.addr.eq((self.context << GROUP_LANES) | self.plane.word_select(g, GROUP_LANES)),
            ]
            with m.If(self.enable):
                m.d.sync += entry.eq(read.data)
            level.append(entry)

        def reduce(values: list[Signal], depth: int) -> list[Signal]:
            """One registered level of three-input adders; what is left over is only delayed."""
            out = []
            for i in range(0, len(values), 3):
                terms = values[i : i + 3]
                if len(terms) == 3:
                    width = max(len(t) for t in terms)
                    m.submodules[f"add{depth}_{i // 3}"] = adder = TernaryAdder(width, vendor=self._vendor)
                    m.d.comb += [adder.a.eq(terms[0]), adder.b.eq(terms[1]), adder.c.eq(terms[2])]
                    result = Signal(width + 2, name=f"sum{depth}_{i // 3}", reset_less=True)
                    with m.If(self.enable):
                        m.d.sync += result.eq(adder.o)
                    out.append(result)
                else:
                    for k, term in enumerate(terms):
                        result = Signal.like(term, name=f"pass{depth}_{k}", reset_less=True)
                        with m.If(self.enable):
                            m.d.sync += result.eq(term)
                        out.append(result)
            return out

        level = reduce(reduce(reduce(level, 1), 2), 3)  # 36 -> 12 -> 4 -> 2
        bias = Signal(signed(SUM_BITS))
        m.d.comb += bias.eq(Mux(self.unsigned_digit, 0, -SIGNED_BIAS))
        # The sum fits 13 bits, so the adder may drop its two carry bits.
        m.submodules.add4 = adder = TernaryAdder(signed(SUM_BITS), vendor=self._vendor)
        m.d.comb += [adder.a.eq(level[0]), adder.b.eq(level[1]), adder.c.eq(bias)]
        total = Signal(signed(SUM_BITS), reset_less=True)
        with m.If(self.enable):
            m.d.sync += total.eq(adder.o)
        m.d.comb += self.sum.eq(total)
        return m


class PopcountPE(ProcessingElement):
    """AND and popcount over the four bits of every digit, taken from the single-lane entries of the table writes."""

    def elaborate(self, platform):
        m = Module()
        bits = [Signal(2 * LANES, name=f"digit_bit{k}", reset_less=True) for k in range(DIGIT_BITS)]
        for lane in range(LANES):
            group, slot = divmod(lane, GROUP_LANES)
            with m.If(self.write & (self.entry_address == 1 << slot)):
                for k in range(DIGIT_BITS):
                    # The low four bits of an entry are the digit, whether 32 was added or not.
                    bit = self.entries[group * ENTRY_BITS + k]
                    for context in range(2):
                        with m.If(self.entry_context == context):
                            m.d.sync += bits[k][context * LANES + lane].eq(bit)

        counts = []
        for k in range(DIGIT_BITS):
            masked = Signal(LANES, name=f"masked{k}", reset_less=True)
            with m.If(self.enable):
                m.d.sync += masked.eq(self.plane & bits[k].word_select(self.context, LANES))
            terms = [masked[i : i + 6] for i in range(0, LANES, 6)]
            for depth, size in enumerate((1, 4, 6)):  # 24 counts of 6 bits -> 6 -> 1, a register each
                sums = []
                for i in range(0, len(terms), size):
                    chunk = terms[i : i + size]
                    value = sum(sum(t[j] for j in range(6)) for t in chunk) if depth == 0 else sum(chunk)
                    result = Signal(range(LANES + 1), name=f"count{k}_{depth}_{i // size}", reset_less=True)
                    with m.If(self.enable):
                        m.d.sync += result.eq(value)
                    sums.append(result)
                terms = sums
            counts.append(terms[0])

        low = counts[0] + (counts[1] << 1) + (counts[2] << 2)
        high = counts[3] << 3
        total = Signal(signed(SUM_BITS), reset_less=True)
        with m.If(self.enable):
            m.d.sync += total.eq(Mux(self.unsigned_digit, low + high, low - high))
        m.d.comb += self.sum.eq(total)
        return m


#: The elements by the names of `rtl.config.PE_KINDS`.
ELEMENTS: dict[str, type[ProcessingElement]] = {"table": TablePE, "popcount": PopcountPE}


def processing_element(config: AcceleratorConfig) -> type[ProcessingElement]:
    """The class that `config.pe` names."""
    return ELEMENTS[config.pe]
