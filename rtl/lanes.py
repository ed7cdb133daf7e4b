"""Lanes side by side: the elements of as many channels a cycle, under back-pressure, with their noise and sums."""

from __future__ import annotations

from functools import partial

from amaranth.hdl import Array, EnableInserter, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .delay import delayed
from .lane import RESULT_BITS, U_BITS, V_BITS, Coefficients, Lane, Mode
from .noise import KEY_WORDS, NOISE_BITS, NUMBER_BITS, Noise
from .reduction import X_BITS, Reduction, Sums


def word(lanes: int) -> data.StructLayout:
    """Elements of neighbouring channels at one position."""
    return data.StructLayout(
        {
            "u": data.ArrayLayout(signed(U_BITS), lanes),
            "v": data.ArrayLayout(signed(V_BITS), lanes),
            "x": data.ArrayLayout(signed(X_BITS), lanes),  # what the results are multiplied with for the sums
            "mask": lanes,
            "number": NUMBER_BITS,  # in the stream of noise
            "first": 1,  # of its channels: it takes the next coefficients, and sums begin
            "last": 1,  # of its channels: the sums are given
        }
    )


def result(lanes: int) -> data.StructLayout:
    """What the lanes make of a word."""
    return data.StructLayout({"q": data.ArrayLayout(signed(RESULT_BITS), lanes), "mask": lanes})


class VectorLanes(wiring.Component):
    """An even number of lanes.

    Members
    -------
    mode : In(Mode), squares : In(1), key : In(64)
        Of a pass; constant while words are under way. With `squares` the sums of products are those of q q, not q x.
    coefficients : In(stream of Coefficients)
        One for each lane in turn. Those of the next channels may come while words of the last are under way.
    i : In(stream of word)
    o : Out(stream of result)
        `LATENCY` cycles later, if nothing waits.
    sums : Out(stream of Sums)
        Of each lane in turn, behind a word that is the `last` of its channels; nothing moves until they are taken.
    clipped : Out(32)
        Results that a bound has changed, since `clear`; complete three cycles after the last.
    clear : In(1)
    """

    #: Noise is computed from a word's number, for which its elements wait.
    _AHEAD = Noise.LATENCY - Lane.NOISE_DELAY
    LATENCY = _AHEAD + Lane.LATENCY

    def __init__(self, lanes: int):
        if lanes < 2 or lanes % 2:
            raise ValueError(f"lanes is {lanes}, must be even: two share the source of their noise")
        self._lanes = lanes
        super().__init__(
            {
                "mode": In(Mode),
                "squares": In(1),
                "key": In(KEY_WORDS * NOISE_BITS),
                "coefficients": In(stream.Signature(Coefficients)),
                "i": In(stream.Signature(word(lanes))),
                "o": Out(stream.Signature(result(lanes))),
                "sums": Out(stream.Signature(Sums)),
                "clipped": Out(32),
                "clear": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, given = self._lanes, self.i.payload
        moving = Signal()  # everything between `i` and `o` goes on by a cycle
        giving = Signal()  # sums go out

        held = partial(delayed, m, enable=moving)

        accepted = Signal()
        ready = Signal()  # coefficients for new channels are there, and promised to none
        # The coefficients change in the cycle before their first word is at the lanes.
        first = held(accepted & given.first, self._AHEAD - 1, "first", control=True)
        coefficients, complete = self._coefficients(m, moving & first)
        m.d.comb += [
            self.i.ready.eq(moving & (~given.first | ready)),
            accepted.eq(self.i.valid & self.i.ready),
        ]
        m.d.sync += ready.eq(complete | (ready & ~(moving & self.i.valid & given.first)))

        word_at_lanes = held(given, self._AHEAD, "word")
        valid = held(accepted, self.LATENCY, "valid", control=True)
        begins = held(first, 1 + Lane.LATENCY, "begins", control=True)
        ends = held(accepted & given.last, self.LATENCY, "ends", control=True)

        taken = Signal()
        m.d.comb += [self.o.valid.eq(valid & ~giving), taken.eq(self.o.valid & self.o.ready)]
        counts = []
        found = []
        for pair in range(lanes // 2):
            noise = Noise()
            m.submodules[f"noise{pair}"] = EnableInserter(moving)(noise)
            m.d.comb += [
                noise.key.eq(self.key),
                noise.pair.eq(given.number * (lanes // 2) + pair),
            ]
            for lane in (2 * pair, 2 * pair + 1):
                unit, sums = Lane(), Reduction()
                m.submodules[f"lane{lane}"] = EnableInserter(moving)(unit)
                m.submodules[f"sums{lane}"] = sums
                x = held(word_at_lanes.x[lane], Lane.LATENCY, f"x{lane}")
                m.d.comb += [
                    unit.mode.eq(self.mode),
                    unit.coefficients.eq(coefficients[lane]),
                    unit.u.eq(word_at_lanes.u[lane]),
                    unit.v.eq(word_at_lanes.v[lane]),
                    unit.mask.eq(word_at_lanes.mask[lane]),
                    unit.noise.eq(noise.o.word_select(lane % 2, NOISE_BITS)),
                    self.o.payload.q[lane].eq(unit.q),
                    self.o.payload.mask[lane].eq(unit.positive),
                    sums.valid.eq(taken),
                    sums.first.eq(begins),
                    sums.q.eq(unit.q),
                    sums.x.eq(Mux(self.squares, unit.q[:X_BITS].as_signed(), x)),
                ]
                counts.append(unit.clipped)
                found.append(sums.o)
        self._count(m, taken, counts)
        m.d.comb += moving.eq((~valid | self.o.ready) & ~giving)
        self._give(m, taken & ends, giving, found)
        return m

    def _count(self, m: Module, taken, clipped: list) -> None:
        """Adds up the lanes that have clipped: four at a time, then all, then to those before."""
        fours = []
        for i in range(0, self._lanes, 4):
            four = Signal(3, name=f"clipped_from{i}", reset_less=True)
            m.d.sync += four.eq(Mux(taken, sum(clipped[i : i + 4]), 0))
            fours.append(four)
        every = Signal(range(self._lanes + 1), reset_less=True)
        m.d.sync += [every.eq(sum(fours)), self.clipped.eq(Mux(self.clear, 0, self.clipped + every))]

    def _coefficients(self, m: Module, turn) -> tuple[list, Signal]:
        """Returns the coefficients that lanes use, and when the last of those comes that wait for `turn`."""
        lanes = self._lanes
        active = [Signal(Coefficients, name=f"coefficients{lane}", reset_less=True) for lane in range(lanes)]
        waiting = [Signal(Coefficients, name=f"next_coefficients{lane}", reset_less=True) for lane in range(lanes)]
        at = Signal(lanes, init=1)  # one-hot: the lane whose turn it is
        loaded = Signal()
        complete = Signal()
        m.d.comb += [
            self.coefficients.ready.eq(~loaded),
            complete.eq(self.coefficients.valid & ~loaded & at[-1]),
        ]
        with m.If(self.coefficients.valid & ~loaded):
            m.d.sync += [at.eq(at.rotate_left(1)), loaded.eq(at[-1])]
            for lane in range(lanes):
                with m.If(at[lane]):
                    m.d.sync += waiting[lane].eq(self.coefficients.payload)
        with m.If(turn):
            m.d.sync += [loaded.eq(0), *(used.eq(new) for used, new in zip(active, waiting, strict=True))]
        return active, complete

    def _give(self, m: Module, ended, giving, found: list) -> None:
        """Sums go out behind the last word of their channels, when its own are in them."""
        lane = Signal(range(self._lanes))
        settled = delayed(m, ended, Reduction.LATENCY, "settled", control=True)
        offered = Signal()
        with m.If(ended):
            m.d.sync += giving.eq(1)
        with m.If(settled):
            m.d.sync += offered.eq(1)
        m.d.comb += [self.sums.valid.eq(offered), self.sums.payload.eq(Array(found)[lane])]
        with m.If(offered & self.sums.ready):
            m.d.sync += lane.eq(lane + 1)
            with m.If(lane == self._lanes - 1):
                m.d.sync += [giving.eq(0), offered.eq(0), lane.eq(0)]
