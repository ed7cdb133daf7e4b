"""Writing the tables of subset sums, behind computation.

`TableLoader` is the sequencer that all clusters share. It takes stationary tiles from the weight buffer in the order
in which LOAD filled it and writes one context while EXEC reads the other: 16 entries a row, row after row. `SubsetSums`
is a cluster's part: the weight buffer, the digits of one row, and an accumulator for each of the 36 tables that walks
through the subsets in Gray-code order, adding or removing one lane a cycle.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import (
    BEAT_BITS,
    DIGIT_BITS,
    ENTRY_BITS,
    GROUP_LANES,
    GROUPS,
    LANES,
    SLOTS,
    TAPS,
    WEIGHT_SLOTS,
    AcceleratorConfig,
)
from .control import table_step, weight_fill

ENTRIES = 2**GROUP_LANES


class SubsetSums(wiring.Component):
    """Weight buffer and entry generators of one cluster.

    Members
    -------
    fill : In(control.weight_fill), take : In(1)
        See `StreamBuffer`.
    step : In(control.table_step)
        `fetch_addr` in cycle t belongs to `capture` in cycle t + 1, which has its beat in the row two cycles later, in
        time for a `start` in that cycle. `lane` and `leave` in cycle t show the entry in cycle t + 2, `ENTRY_LATENCY`,
        and so does `start` the first.
    entries : Out(36 * 6)
    """

    ENTRY_LATENCY = 2

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "fill": In(weight_fill(config)),
                "take": In(1),
                "step": In(table_step(config)),
                "entries": Out(GROUPS * ENTRY_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = WEIGHT_SLOTS * self._config.weight_tile_beats
        m.submodules.buffer = buffer = Memory(shape=BEAT_BITS, depth=depth, init=[])
        write, read = buffer.write_port(), buffer.read_port()
        m.d.comb += [
            write.en.eq(self.take & self.fill.valid),
            write.addr.eq(self.fill.addr),
            write.data.eq(self.fill.data),
            read.addr.eq(self.step.fetch_addr),
            read.en.eq(1),
        ]

        # A block RAM is slow to show its word: nothing but a register follows it.
        beat = Signal(BEAT_BITS, reset_less=True)
        capture = Signal(TAPS, reset_less=True)
        m.d.sync += [beat.eq(read.data), capture.eq(self.step.capture)]
        fetched = Signal(LANES * DIGIT_BITS, reset_less=True)
        current = Signal(LANES * DIGIT_BITS, reset_less=True)
        for tap in range(TAPS):
            with m.If(capture[tap]):
                m.d.sync += fetched.word_select(tap, BEAT_BITS).eq(beat)
        with m.If(self.step.start):
            m.d.sync += current.eq(fetched)

        # The digits are chosen in one cycle and added in the next.
        start = Signal(reset_less=True)
        leave = Signal(reset_less=True)
        digits_signed = Signal(reset_less=True)
        m.d.sync += [start.eq(self.step.start), leave.eq(self.step.leave), digits_signed.eq(self.step.signed)]
        for g in range(GROUPS):
            entry = Signal(ENTRY_BITS, name=f"entry{g}", reset_less=True)
            digits = Array(current.word_select(g * GROUP_LANES + lane, DIGIT_BITS) for lane in range(GROUP_LANES))
            digit = Signal(DIGIT_BITS, name=f"digit{g}", reset_less=True)
            m.d.sync += digit.eq(digits[self.step.lane])
            extended = Cat(digit, (digit[-1] & digits_signed).replicate(ENTRY_BITS - DIGIT_BITS))
            # One adder for all: the bit below the least significant one carries the two's complement's one in, and a
            # start adds nothing to the empty sum.
            empty = Mux(digits_signed, 32, 0)
            term = Cat(leave, extended ^ leave.replicate(ENTRY_BITS))
            m.d.sync += entry.eq((Cat(Const(1, 1), Mux(start, empty, entry)) + Mux(start, 0, term))[1:])
            m.d.comb += self.entries.word_select(g, ENTRY_BITS).eq(entry)
        return m


#: What LOAD says of a filled weight slot: whether its digits are signed.
WeightSlot = data.StructLayout({"signed": 1})


class TableLoader(wiring.Component):
    """Sequencer of the table writes.

    Members
    -------
    i : In(stream of WeightSlot)
        One item for each filled weight slot, in order.
    weight_free : Out(1)
        Pulses when a weight slot may be filled again.
    context_free : In(1)
        Pulses when EXEC has read a context for the last time. Both contexts are free after reset.
    context_full : Out(1)
        Pulses when a context may be read.
    step : Out(control.table_step)
        To every cluster, which registers it once.
    busy : Out(1)
        Entries are being written.

    A context takes `config.table_load_cycles`, back to back while weight slots are full and contexts free.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(WeightSlot)),
                "weight_free": Out(1),
                "context_free": In(1),
                "context_full": Out(1),
                "step": Out(table_step(config)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        rows = config.rows
        out = Signal(table_step(config), reset_less=True)
        m.d.comb += self.step.eq(out)

        # Fetch: nine beats of a row into the clusters' `fetched` register, one row ahead of the entries.
        beats = WEIGHT_SLOTS * config.weight_tile_beats
        address = Signal(range(beats))
        tap = Signal(TAPS + 2, init=1)  # one hot; the last beat arrives before anybody can use the row
        fetch_row = Signal(rows, init=1)  # one hot
        fetched = Signal()  # a whole row waits in `fetched`
        fetched_row = Signal(rows)
        fetched_signed = Signal()
        take = Signal()  # the entries' side takes the row
        issued = Signal(TAPS)  # the beat addressed in the last cycle
        m.d.sync += [issued.eq(0), out.capture.eq(issued), self.weight_free.eq(0)]
        with m.If(take):
            m.d.sync += fetched.eq(0)
        with m.If(self.i.valid & ~fetched):
            m.d.sync += [tap.eq(tap.rotate_left(1)), issued.eq(tap)]
            with m.If(tap[:TAPS].any()):
                m.d.sync += [
                    out.fetch_addr.eq(address),
                    address.eq(Mux(address == beats - 1, 0, address + 1)),
                ]
            with m.If(tap[-1]):
                m.d.sync += [
                    fetched.eq(1),
                    fetched_row.eq(fetch_row),
                    fetched_signed.eq(self.i.payload.signed),
                    fetch_row.eq(fetch_row.rotate_left(1)),
                    self.weight_free.eq(fetch_row[-1]),
                ]
                m.d.comb += self.i.ready.eq(fetch_row[-1])

        # Entries: 16 cycles a row.
        free = Signal(range(SLOTS + 1), init=SLOTS)
        entry = Signal(range(ENTRIES))
        row = Signal(rows)
        running = Signal()
        context = Signal()
        use = Signal()  # a context is taken into use
        m.d.sync += free.eq(free + self.context_free - use)
        last_entry = Signal()  # only while running
        m.d.comb += [
            take.eq(fetched & (~running | last_entry) & (~fetched_row[0] | free.any())),
            use.eq(take & fetched_row[0]),
            self.busy.eq(running),
        ]

        gray = entry ^ (entry >> 1)
        lane = Signal(2)  # the bit in which this Gray code differs from the one before
        leave = Signal()
        m.d.comb += lane.eq(Mux(entry[0], 0, Mux(entry[1], 1, Mux(entry[2], 2, 3))))
        m.d.comb += leave.eq(~Array(gray[k] for k in range(GROUP_LANES))[lane])
        m.d.sync += [entry.eq(entry + 1), last_entry.eq(running & (entry == ENTRIES - 2))]
        with m.If(take):
            m.d.sync += [running.eq(1), entry.eq(0), row.eq(fetched_row)]
        with m.Elif(last_entry):
            m.d.sync += running.eq(0)

        row_signed = Signal()
        with m.If(take):
            m.d.sync += row_signed.eq(fetched_signed)
        write = Signal(rows)
        number = Signal(GROUP_LANES)
        m.d.sync += [
            out.start.eq(running & (entry == 0)),
            out.lane.eq(lane),
            out.leave.eq(leave),
            out.signed.eq(row_signed),
            # The entry shows one cycle after the step that makes it.
            write.eq(Mux(running, row, 0)),
            number.eq(gray),
            out.write.eq(write),
            out.entry.eq(number),
        ]
        # The context changes between two tiles' writes, and is full once the last of them has reached the tables.
        finished = Signal(4)
        m.d.sync += [finished.eq(Cat(last_entry & row[-1], finished)), out.context.eq(context)]
        with m.If(finished[0]):
            m.d.sync += context.eq(~context)
        m.d.comb += self.context_full.eq(finished[3])
        return m
