"""The receiving side of LOAD: beats from DDR become words at bank addresses."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import MAX_BITS, SLOTS, WEIGHT_SLOTS, WORD_CHANNELS, AcceleratorConfig
from .control import COL_BANKS, ROW_BANKS, fill
from .dma import Beats
from .queue import Queue
from .table import WeightSlot
from .tiles import PLANES

#: What LOAD says of a filled stream slot: bit q is set if plane q has a set bit anywhere in the tile.
StreamSlot = data.StructLayout({"planes": MAX_BITS})


def run(config: AcceleratorConfig) -> data.StructLayout:
    """A run on its way, as the receiving side needs to know it."""
    words = ceil_log2(config.stream_slot) + 1
    return data.StructLayout(
        {
            "clusters": config.clusters,
            "weight": 1,
            "done": 1,  # the last run of its slot
            "signed": 1,
            "addr": ceil_log2(config.stream_depth),  # of its first beat
            "bank": 2,
            "turn": 2,  # column banks by which the beat is turned
            "planes": PLANES,
            "plane_beats": words,
            "plane_pitch": words,
            "row_words": words,
        }
    )


class Unpack(wiring.Component):
    """Puts the beats of runs where the array expects them.

    Members
    -------
    i : In(stream of run)
        A note for each run on its way, in order; taken with the run's last beat.
    beats : In(dma.Beats)
        What was read.
    fill : Out(control.fill)
        One cycle behind the beat.
    stream_slots : Out(stream of StreamSlot), weight_slots : Out(stream of table.WeightSlot)
        Filled slots, in order.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(run(config))),
                "beats": In(Beats),
                "fill": Out(fill(config)),
                "stream_slots": Out(stream.Signature(StreamSlot)),
                "weight_slots": Out(stream.Signature(WeightSlot)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, runs = self._config, self.i
        run = runs.payload
        fresh = Signal(init=1)  # the next beat is the first of its run
        addr, base = Signal.like(run.addr), Signal.like(run.addr)
        bank, plane, column = Signal(2), Signal(range(MAX_BITS)), Signal.like(run.plane_beats)
        seen = Signal(MAX_BITS)  # planes with a set bit, in this slot
        weight_addr = Signal(range(WEIGHT_SLOTS * config.weight_tile_beats))
        slot_addr = Signal.like(weight_addr)  # where this weight slot starts

        now = {
            "addr": Mux(fresh, run.addr, addr),
            "base": Mux(fresh, run.addr, base),
            "bank": Mux(fresh, run.bank, bank),
            "plane": Mux(fresh, 0, plane),
            "column": Mux(fresh, 0, column),
        }
        last = self.beats.payload.last
        words = Array(self.beats.payload.data.word_select(j, WORD_CHANNELS) for j in range(COL_BANKS))
        out = Signal(fill(config), reset_less=True)
        valid = Signal()  # gates `out`, which is not reset
        m.d.comb += self.fill.eq(out)
        m.d.comb += valid.eq(self.beats.valid & runs.valid)
        m.d.comb += runs.ready.eq(valid & last)
        m.d.sync += [
            out.clusters.eq(run.clusters),
            out.stream.eq(valid & ~run.weight),
            out.weight.eq(valid & run.weight),
            out.row_bank.eq(now["bank"]),
            out.weight_addr.eq(weight_addr),
            out.data.eq(
                Mux(
                    run.weight,
                    self.beats.payload.data,
                    # Bank j takes word j - turn: the skew of flat mode.
                    Cat(words[(j - run.turn)[: ceil_log2(COL_BANKS)]] for j in range(COL_BANKS)),
                )
            ),
        ]
        m.d.sync += [out.addr[j].eq(now["addr"] + (j < run.turn)) for j in range(COL_BANKS)]

        full = Signal()  # the slot is complete
        m.d.comb += full.eq(valid & last & run.done)
        planes = Signal(MAX_BITS)
        m.d.comb += planes.eq(seen | ((self.beats.payload.data != 0) << now["plane"]))
        with m.If(valid):
            m.d.sync += fresh.eq(last)
        with m.If(valid & ~run.weight):
            m.d.sync += [
                seen.eq(planes),
                base.eq(now["base"]),
                bank.eq(now["bank"]),
                plane.eq(now["plane"]),
                column.eq(now["column"] + 1),
                addr.eq(now["addr"] + 1),
            ]
            with m.If(now["column"] == run.plane_beats - 1):
                m.d.sync += [
                    column.eq(0),
                    plane.eq(now["plane"] + 1),
                    addr.eq(now["addr"] + 1 + run.plane_pitch - run.plane_beats),
                ]
                with m.If(now["plane"] == run.planes - 1):  # next image row, next bank
                    wrap = now["bank"] == ROW_BANKS - 1
                    following = Mux(wrap, now["base"] + run.row_words, now["base"])
                    m.d.sync += [
                        plane.eq(0),
                        bank.eq(Mux(wrap, 0, now["bank"] + 1)),
                        base.eq(following),
                        addr.eq(following),
                    ]
            with m.If(full):
                m.d.sync += seen.eq(0)
        with m.If(valid & run.weight):
            m.d.sync += weight_addr.eq(weight_addr + 1)
            with m.If(last):  # every run of a slot fills the same addresses of other clusters
                m.d.sync += weight_addr.eq(slot_addr)
                with m.If(run.done):
                    following = Mux(
                        slot_addr == (WEIGHT_SLOTS - 1) * config.weight_tile_beats,
                        0,
                        slot_addr + config.weight_tile_beats,
                    )
                    m.d.sync += [slot_addr.eq(following), weight_addr.eq(following)]

        # The notices queue up behind the writes, which take two more cycles to reach the buffers.
        m.submodules.stream_notices = stream_notices = Queue(StreamSlot, SLOTS)
        m.submodules.weight_notices = weight_notices = Queue(WeightSlot, WEIGHT_SLOTS)
        m.d.sync += [
            stream_notices.i.valid.eq(full & ~run.weight),
            stream_notices.i.payload.planes.eq(planes),
            weight_notices.i.valid.eq(full & run.weight),
            weight_notices.i.payload.signed.eq(run.signed),
        ]
        wiring.connect(m, stream_notices.o, wiring.flipped(self.stream_slots))
        wiring.connect(m, weight_notices.o, wiring.flipped(self.weight_slots))
        return m
