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

        # A token goes from flag to flag, so that each next flag is a matter of one LUT.
        resting = Signal(init=1)
        looking = Signal()  # at the next sample
        opened = Signal()  # that sample may begin a run
        skipping = Signal()
        steps = Signal(5)  # one-hot: the run's sizes
        extending = Signal()

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
        m.d.comb += [
            self.precisions.ready.eq(first | (joinable & precision.again)),
            join.eq(joinable & self.precisions.valid & precision.again),
        ]
        m.d.sync += [first.eq(0), taken.eq(first | join), joined.eq(join)]
        with m.If(first | join):
            m.d.sync += ended.eq(precision.last)
        with m.If(resting):
            m.d.sync += [place.eq(block.base) for place, block in ahead.values()]
        with m.If(taken):
            m.d.sync += [place.eq(place + block.stride_n) for place, block in ahead.values()]

        # Look at a sample.
        skipped = Signal()
        too_wide = Signal()
        with m.If(self.start):
            m.d.sync += [resting.eq(0), looking.eq(1)]
        m.d.sync += [opened.eq(0), skipping.eq(0), steps.eq(steps << 1), self.done.eq(0)]
        with m.If(looking):
            m.d.sync += [
                run.planes.eq(precision.bits),
                skipped.eq(precision.bits == 0),
                too_wide.eq(precision.bits > MAX_BITS),
            ]
            with m.If(self.precisions.valid):
                m.d.sync += [looking.eq(0), opened.eq(1)]
        with m.If(opened):
            with m.If(too_wide):
                m.d.sync += self.error.eq(Error.PRECISION)
            with m.Elif(skipped):
                m.d.sync += [first.eq(1), skipping.eq(1)]
            with m.Else():
                m.d.sync += steps.eq(1)
        with m.If(skipping):
            m.d.sync += [looking.eq(~precision.last), self.done.eq(precision.last), resting.eq(precision.last)]

        # Sizes at its precision. A step names the factors of a product that the step after the next one finds.
        too_long = Signal()
        too_big = Signal()
        m.d.comb += too_big.eq(too_long | ~sizes.plane_fits)
        multiply(run.planes, sizes.slot_words)
        with m.If(steps[0]):
            multiply(run.planes, sizes.plane_pitch)
        with m.If(steps[1]):
            multiply(run.planes, sizes.sample_words)
            m.d.sync += too_long.eq(multiplier.o > config.stream_slot)
        with m.If(steps[2]):
            multiply(run.planes, sizes.plane_beats)
            m.d.sync += [run.row_words.eq(multiplier.o), first.eq(~too_big)]
            with m.If(too_big):
                m.d.sync += [self.error.eq(Error.SHAPE), steps.eq(0)]
        with m.If(steps[3]):
            m.d.sync += run.sample_words.eq(multiplier.o)
        with m.If(steps[4]):
            m.d.sync += [run.row_beats.eq(multiplier.o), extending.eq(1)]

        # Further samples join.
        room = Signal(samples_bits(config))  # samples that may still join
        spare = Signal(parts_bits(config))  # clusters' parts without a sample in the last slot
        with m.If(opened):
            m.d.sync += [
                run.samples.eq(1),
                run.slots.eq(1),
                spare.eq(d.product.sample_parts - 1),
                room.eq(sizes.most - 1),
                *(run[name].eq(place) for name, (place, _) in ahead.items()),
            ]
        with m.If(join):
            m.d.sync += [room.eq(room - 1), joinable.eq(~precision.last & (room != 1))]
        with m.Elif(self.precisions.valid):
            m.d.sync += joinable.eq(0)
        with m.If(steps[4]):
            m.d.sync += joinable.eq(~ended & ~sizes.single)
        with m.If(joined):
            m.d.sync += [run.samples.eq(run.samples + 1), spare.eq(spare - 1)]
            with m.If(spare == 0):
                m.d.sync += [run.slots.eq(run.slots + 1), spare.eq(d.product.sample_parts - 1)]
        with m.If(extending & ~joinable):
            m.d.sync += [extending.eq(0), self.o.valid.eq(1)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [self.o.valid.eq(0), looking.eq(~ended), self.done.eq(ended), resting.eq(ended)]
        return m
