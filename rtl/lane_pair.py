"""Two neighbouring lanes, with the source of their noise and their sums."""

from __future__ import annotations

from amaranth.hdl import EnableInserter, Module, Mux, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import AcceleratorConfig
from .lane import RESULT_BITS, U_BITS, V_BITS, Coefficients, Lane, Mode
from .noise import KEY_WORDS, NOISE_BITS, Noise
from .reduction import X_BITS, Reduction, Sums

LANES = 2


def _each(shape) -> data.ArrayLayout:
    return data.ArrayLayout(shape, LANES)


class LanePair(wiring.Component):
    """What the lanes have in common is given once, what each has is given in arrays.

    Members
    -------
    moving : In(1)
        Everything but the sums holds while it is low; cycles with it are counted here.
    mode : In(Mode), squares : In(1), key : In(64)
        See `rtl.lanes`.
    pair : In(32)
        Number of the pair in the stream of noise, in cycle t.
    coefficients, u, v, mask : In
        In cycle t + `AHEAD`.
    x : In
        In cycle t + `LATENCY`.
    q : Out, positive : Out, clipped : Out
        In cycle t + `LATENCY`, see `rtl.lane`.
    valid : In(1), first : In(1)
        The results of this cycle belong to the sums, and begin new ones.
    sums : Out
        See `rtl.reduction`.
    """

    macro = "lane_pair"
    #: Noise is computed from a pair's number, long before its elements are needed.
    AHEAD = Noise.LATENCY - Lane.NOISE_DELAY
    LATENCY = AHEAD + Lane.LATENCY

    @staticmethod
    def ports(config: AcceleratorConfig) -> dict:
        return {
            "moving": In(1),
            "mode": In(Mode),
            "squares": In(1),
            "key": In(KEY_WORDS * NOISE_BITS),
            "pair": In(2 * NOISE_BITS),
            "coefficients": In(_each(Coefficients)),
            "u": In(_each(signed(U_BITS))),
            "v": In(_each(signed(V_BITS))),
            "mask": In(LANES),
            "x": In(_each(signed(X_BITS))),
            "q": Out(_each(signed(RESULT_BITS))),
            "positive": Out(LANES),
            "clipped": Out(LANES),
            "valid": In(1),
            "first": In(1),
            "sums": Out(_each(Sums)),
        }

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(self.ports(config))

    def elaborate(self, platform):
        m = Module()
        moves = EnableInserter(self.moving)
        noise = Noise()
        m.submodules.noise = moves(noise)
        m.d.comb += [noise.key.eq(self.key), noise.pair.eq(self.pair)]
        for i in range(LANES):
            lane, sums = Lane(), Reduction(vendor=self._config.vendor)
            m.submodules[f"lane{i}"] = moves(lane)
            m.submodules[f"sums{i}"] = sums
            m.d.comb += [
                lane.mode.eq(self.mode),
                lane.coefficients.eq(self.coefficients[i]),
                lane.u.eq(self.u[i]),
                lane.v.eq(self.v[i]),
                lane.mask.eq(self.mask[i]),
                lane.noise.eq(noise.o.word_select(i, NOISE_BITS)),
                self.q[i].eq(lane.q),
                self.positive[i].eq(lane.positive),
                self.clipped[i].eq(lane.clipped),
                sums.valid.eq(self.valid),
                sums.first.eq(self.first),
                sums.q.eq(lane.q),
                sums.x.eq(Mux(self.squares, lane.q[:X_BITS].as_signed(), self.x[i])),
                self.sums[i].eq(sums.o),
            ]
        return m
