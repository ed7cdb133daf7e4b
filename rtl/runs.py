"""The tiler's runs: consecutive samples of one precision, as many as fit a tile."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import ADDRESS_BITS
from .config import MAX_BITS, AcceleratorConfig
from .errors import Error
from .isa import DescriptorLayout
from .multiplier import Multiplier
from .precisions import Precision
from .sizes import sizes_layout
from .tiles import PLANES, SIZE, parts_bits, samples_bits, slots_bits, words_bits


def run_layout(config: AcceleratorConfig) -> data.StructLayout:
    words = words_bits(config)
    return data.StructLayout(
        {
            "planes": PLANES,
            "samples": samples_bits(config),
            "slots": slots_bits(config),  # samples of one cluster
            "row_words": words,  # planes * plane_pitch
            "sample_words": words,  # row groups * row_words
            "row_beats": words,  # beats of an image row of one channel block, in DDR
            "stream": ADDRESS_BITS,  # where the operands and the results of the first sample lie
            "stationary": ADDRESS_BITS,
            "out": ADDRESS_BITS,
        }
    )


class Runs(wiring.Component):
    """Gathers runs.

    Members
    -------
    descriptor : In(DescriptorLayout), sizes : In(sizes_layout)
    start : In(1)
        Begin; `precisions` holds those of the samples.
    precisions : In(stream of Precision)
        A sample of 0 bits is skipped.
    o : Out(stream of run_layout)
    done : Out(1)
        The last run has been taken; until the next `start`.
    error : Out(Error)
        Why there is no run of the next sample, for good.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "descriptor": In(DescriptorLayout),
                "sizes": In(sizes_layout(config)),
                "start": In(1),
                "precisions": In(stream.Signature(Precision)),
                "o": Out(stream.Signature(run_layout(config))),
                "done": Out(1),
                "error": Out(Error),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, d, sizes, run = self._config, self.descriptor, self.sizes, self.o.payload
        m.submodules.multiplier = multiplier = Multiplier(SIZE)
        precision = self.precisions.payload

        def multiply(a, b):
            m.d.comb += [multiplier.a.eq(a), multiplier.b.eq(b)]

        # The sample that has not been taken yet: where it lies, and whether it is none.
        ahead = {
            name: (Signal(ADDRESS_BITS, name=f"{name}_ahead"), block)
            for name, block in (("stream", d.stream), ("stationary", d.stationary), ("out", d.sink))
        }
        ended = Signal()
        first = Signal()  # the first sample of a run is taken: only now may the table be read beyond it
        join = Signal()  # one more sample of a run is taken
        joinable = Signal()  # the next sample may join if its precision is that of the run
        taken = Signal()  # in the cycle before
        joined = Signal()
        m.d.comb += self.precisions.ready.eq(first | (joinable & precision.again))
        m.d.sync += [first.eq(0), taken.eq(first | join), joined.eq(join)]
        with m.If(first | join):
            m.d.sync += ended.eq(precision.last)
        resting = Signal(init=1)
        with m.If(resting):
            m.d.sync += [place.eq(block.base) for place, block in ahead.values()]
        with m.If(taken):
            m.d.sync += [place.eq(place + block.stride_n) for place, block in ahead.values()]

        skipped = Signal()
        too_wide = Signal()
        too_big = Signal()
        room = Signal(samples_bits(config))  # samples that may still join
        spare = Signal(parts_bits(config))  # clusters' parts without a sample in the last slot

        multiply(run.planes, sizes.slot_words)
        m.d.comb += join.eq(joinable & self.precisions.valid & precision.again)
        with m.If(join):
            m.d.sync += [room.eq(room - 1), joinable.eq(~precision.last & (room != 1))]
        with m.Elif(self.precisions.valid):
            m.d.sync += joinable.eq(0)
        with m.If(joined):
            m.d.sync += [run.samples.eq(run.samples + 1), spare.eq(spare - 1)]
            with m.If(spare == 0):
                m.d.sync += [run.slots.eq(run.slots + 1), spare.eq(d.product.sample_parts - 1)]

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += resting.eq(0)
                    m.next = "SAMPLE"
            with m.State("SAMPLE"):
                m.d.sync += [
                    run.planes.eq(precision.bits),
                    skipped.eq(precision.bits == 0),
                    too_wide.eq(precision.bits > MAX_BITS),
                ]
                with m.If(self.precisions.valid):
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.sync += [
                    run.samples.eq(1),
                    run.slots.eq(1),
                    *(run[name].eq(place) for name, (place, _) in ahead.items()),
                    spare.eq(d.product.sample_parts - 1),
                    room.eq(sizes.most - 1),
                ]
                with m.If(too_wide):
                    m.d.sync += self.error.eq(Error.PRECISION)
                    m.next = "FAILED"
                with m.Elif(skipped):
                    m.d.sync += first.eq(1)
                    m.next = "SKIPPED"
                with m.Else():
                    m.next = "ROW WORDS"
            with m.State("SKIPPED"):
                m.next = "SAMPLE"
                with m.If(precision.last):
                    m.next = "DONE"

            # Sizes at this precision. A state names the factors of a product that the state after the next one finds.
            with m.State("ROW WORDS"):
                multiply(run.planes, sizes.plane_pitch)
                m.next = "SAMPLE WORDS"
            with m.State("SAMPLE WORDS"):
                m.d.sync += too_big.eq(~sizes.plane_fits | (multiplier.o > config.stream_slot))
                multiply(run.planes, sizes.sample_words)
                m.next = "ROW BEATS"
            with m.State("ROW BEATS"):
                m.d.sync += run.row_words.eq(multiplier.o)
                multiply(run.planes, sizes.plane_beats)
                m.d.sync += first.eq(~too_big)
                m.next = "SIZES"
                with m.If(too_big):
                    m.d.sync += self.error.eq(Error.SHAPE)
                    m.next = "FAILED"
            with m.State("SIZES"):
                m.d.sync += run.sample_words.eq(multiplier.o)
                m.next = "LAST SIZE"
            with m.State("LAST SIZE"):
                m.d.sync += [run.row_beats.eq(multiplier.o), joinable.eq(~ended & ~sizes.single)]
                m.next = "EXTEND"
            with m.State("EXTEND"):
                with m.If(~joinable):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.next = "SAMPLE"
                    with m.If(ended):
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.d.sync += resting.eq(1)
                m.next = "IDLE"
            with m.State("FAILED"):
                pass
        return m
