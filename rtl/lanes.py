"""Lanes side by side: the elements of as many channels a cycle, under back-pressure, with their noise and sums."""

from __future__ import annotations

from functools import partial

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import AcceleratorConfig
from .delay import delayed
from .hierarchy import Macro
from .lane import RESULT_BITS, U_BITS, V_BITS, Coefficients, Mode
from .lane_pair import LANES, LanePair
from .noise import KEY_WORDS, NOISE_BITS, NUMBER_BITS
from .reduction import X_BITS, Reduction, Sums

#: What is known of a word before its elements, those of neighbouring channels at one position, are read.
Word = data.StructLayout(
    {
        "number": NUMBER_BITS,  # in the stream of noise
        "first": 1,  # of its channels: it takes the next coefficients, and sums begin
        "last": 1,  # of its channels: the sums are given
    }
)


def elements(lanes: int) -> data.StructLayout:
    """The elements of a word."""
    return data.StructLayout(
        {"u": data.ArrayLayout(signed(U_BITS), lanes), "v": data.ArrayLayout(signed(V_BITS), lanes), "mask": lanes}
    )


def factors(lanes: int) -> data.ArrayLayout:
    """What the results of a word are multiplied with for the sums."""
    return data.ArrayLayout(signed(X_BITS), lanes)


def result(lanes: int) -> data.StructLayout:
    """What the lanes make of a word."""
    return data.StructLayout({"q": data.ArrayLayout(signed(RESULT_BITS), lanes), "mask": lanes})


#: Moves after which a word has left the lanes: a power of two.
IDLE = 1 << LanePair.LATENCY.bit_length()


class VectorLanes(wiring.Component):
    """An even number of lanes.

    Members
    -------
    mode : In(Mode), squares : In(1), key : In(64)
        Of a pass; constant while words are under way. With `squares` the sums of products are those of q q, not q x.
    coefficients : In(stream of Coefficients)
        One for each lane in turn. Those of the next channels may come while words of the last are under way.
    i : In(stream of Word)
    elements : In(stream of elements), factors : In(stream of factors)
        Those of every word in turn: taken `AHEAD` and `LATENCY` cycles after it, if nothing waits.
    o : Out(stream of result)
        With its factors.
    moving : Out(1)
        Everything between `i` and `o` goes on by a cycle.
    sums : Out(stream of Sums)
        Of each lane in turn, behind a word that is the `last` of its channels; nothing moves until they are taken.
    clipped : Out(32)
        Results that a bound has changed, since `clear`; complete three cycles after the last.
    clear : In(1)
    """

    AHEAD = LanePair.AHEAD
    LATENCY = LanePair.LATENCY

    def __init__(self, config: AcceleratorConfig, lanes: int):
        if lanes < LANES or lanes % LANES:
            raise ValueError(f"lanes is {lanes}, must be even: two share the source of their noise")
        self._config, self._lanes = config, lanes
        super().__init__(
            {
                "mode": In(Mode),
                "squares": In(1),
                "key": In(KEY_WORDS * NOISE_BITS),
                "coefficients": In(stream.Signature(Coefficients)),
                "i": In(stream.Signature(Word)),
                "elements": In(stream.Signature(elements(lanes))),
                "factors": In(stream.Signature(factors(lanes))),
                "o": Out(stream.Signature(result(lanes))),
                "moving": Out(1),
                "sums": Out(stream.Signature(Sums)),
                "clipped": Out(32),
                "clear": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        given, moving = self.i.payload, self.moving
        giving = Signal()  # sums go out
        held = partial(delayed, m, enable=moving, control=True)

        coming = Signal()  # a word is there and may enter: it does when the lanes move
        ready = Signal()  # coefficients for new channels are there, and promised to none
        # The coefficients change in the cycle before their first word is at the lanes.
        first = held(coming & given.first, self.AHEAD - 1, "first")
        coefficients, complete = self._coefficients(m, moving & first)
        m.d.comb += [
            self.i.ready.eq(moving & (~given.first | ready)),
            coming.eq(self.i.valid & (~given.first | ready)),
        ]
        complete = delayed(m, complete, 1, "complete", control=True)
        m.d.sync += ready.eq(complete | (ready & ~(moving & self.i.valid & given.first)))

        enters = held(coming, self.AHEAD, "enters")  # a word is at the lanes
        leaves = held(enters, self.LATENCY - self.AHEAD, "leaves")  # results are
        begins = held(first, 1 + self.LATENCY - self.AHEAD, "begins")
        ends = held(coming & given.last, self.LATENCY, "ends")

        # Lanes hold while they have no word: without work nothing switches, and a simulator has nothing to do.
        empty = Signal(range(2 * IDLE), init=IDLE)  # moves since the last word, up to as many as empty the lanes
        working = self.i.valid | ~empty[-1]
        with m.If(self.i.valid):
            m.d.sync += empty.eq(0)
        with m.Elif(moving & ~empty[-1]):
            m.d.sync += empty.eq(empty + 1)

        taken = Signal()
        entered, left = ~enters | self.elements.valid, ~leaves | (self.factors.valid & self.o.ready)
        m.d.comb += [
            moving.eq(entered & left & ~giving),
            self.elements.ready.eq(enters & left & ~giving),
            self.factors.ready.eq(leaves & entered & self.o.ready & ~giving),
            self.o.valid.eq(leaves & entered & self.factors.valid & ~giving),
            taken.eq(leaves & moving),
        ]
        counts = []
        found = []
        for at in range(0, self._lanes, LANES):
            m.submodules[f"pair{at // LANES}"] = pair = Macro(LanePair, self._config)
            m.d.comb += [
                pair.moving.eq(moving & working),
                pair.mode.eq(self.mode),
                pair.squares.eq(self.squares),
                pair.key.eq(self.key),
                pair.pair.eq(given.number * (self._lanes // LANES) + at // LANES),
                pair.mask.eq(self.elements.payload.mask[at : at + LANES]),
                pair.valid.eq(taken),
                pair.first.eq(begins),
                self.o.payload.mask[at : at + LANES].eq(pair.positive),
            ]
            for i in range(LANES):
                lane = at + i
                m.d.comb += [
                    pair.coefficients[i].eq(coefficients[lane]),
                    pair.u[i].eq(self.elements.payload.u[lane]),
                    pair.v[i].eq(self.elements.payload.v[lane]),
                    pair.x[i].eq(self.factors.payload[lane]),
                    self.o.payload.q[lane].eq(pair.q[i]),
                ]
                counts.append(pair.clipped[i])
                found.append(pair.sums[i])
        self._count(m, taken, counts)
        self._give(m, moving & ends, giving, found)
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
            m.d.sync += [used.eq(new) for used, new in zip(active, waiting, strict=True)]
        with m.If(delayed(m, turn, 1, "turned", control=True)):
            m.d.sync += loaded.eq(0)
        return active, complete

    def _give(self, m: Module, ended, giving, found: list) -> None:
        """Sums go out behind the last word of their channels, when its own are in them."""
        lane = Signal(range(self._lanes))
        last = Signal()  # it is the last lane
        settled = delayed(m, ended, Reduction.LATENCY, "settled", control=True)
        offered = Signal()
        with m.If(ended):
            m.d.sync += giving.eq(1)
        with m.If(settled):
            m.d.sync += offered.eq(1)
        m.d.comb += [self.sums.valid.eq(offered), self.sums.payload.eq(Array(found)[lane])]
        with m.If(offered & self.sums.ready):
            m.d.sync += [lane.eq(lane + 1), last.eq(lane == self._lanes - 2)]
            with m.If(last):
                m.d.sync += [giving.eq(0), offered.eq(0), lane.eq(0)]
