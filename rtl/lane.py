"""A lane of the vector unit: an affine operation on two streams, rounded and clipped, one element a cycle.

    t = a u + c v + b
    t = max(t, 0), or t where a mask bit is set, else 0
    q = clip(((t + r) >> shift) + raised, low, high)    r: half a step, or noise below one

Everything that a training step does between two products is this, with other coefficients (`docs/numerics.md`): batch
norm forward and backward, ReLU, the residual sum, requantisation, momentum and the update of the weights.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .delay import delayed
from .multiplexer import choose
from .noise import NOISE_BITS

# Signed widths. A DSP slice multiplies 25 x 18 bits: the first of a lane has the wider port for its stream, the second
# for its coefficient, so that a stream of 16 bits may pass beside one that is scaled down a lot.
U_BITS, A_BITS = 25, 18
V_BITS, C_BITS = 18, 25
B_BITS = SUM_BITS = 48
RESULT_BITS = 25
SHIFT_BITS = 6
MOST_SHIFT = SUM_BITS - 1
#: Bits of a shifted sum that decide a result: what does not fit one bit more than a result has is beyond all bounds,
#: even with the most added.
KEPT_BITS = NOISE_BITS + RESULT_BITS + 1

#: What a channel's elements are scaled with.
Coefficients = data.StructLayout({"a": signed(A_BITS), "c": signed(C_BITS), "b": signed(B_BITS)})

#: What holds for all elements of a pass.
Mode = data.StructLayout(
    {
        "relu": 1,
        "masked": 1,
        "stochastic": 1,
        "shift": SHIFT_BITS,  # 0 to MOST_SHIFT
        "raised": RESULT_BITS - 1,
        "low": signed(RESULT_BITS),
        "high": signed(RESULT_BITS),
    }
)


class Lane(wiring.Component):
    """The arithmetic. Where it has to wait, an enable inserter holds it as a whole.

    Members
    -------
    mode : In(Mode)
        Constant from cycle t to t + `LATENCY`.
    coefficients : In(Coefficients), u : In(signed(25)), v : In(signed(18)), mask : In(1)
        In cycle t.
    noise : In(16)
        In cycle t + `NOISE_DELAY`, if the mode asks for it.
    q : Out(signed(25)), positive : Out(1), clipped : Out(1)
        In cycle t + `LATENCY`: the result; whether t let it pass, which is the mask that a ReLU leaves; whether a bound
        changed it.
    """

    #: Registers: operands, first product, two sums, what passes, three of the shift, rounding, comparison, choice.
    LATENCY = 11
    NOISE_DELAY = 8

    def __init__(self):
        super().__init__(
            {
                "mode": In(Mode),
                "coefficients": In(Coefficients),
                "u": In(signed(U_BITS)),
                "v": In(signed(V_BITS)),
                "mask": In(1),
                "noise": In(NOISE_BITS),
                "q": Out(signed(RESULT_BITS)),
                "positive": Out(1),
                "clipped": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mode = self.mode

        def register(name: str, value, shape=None) -> Signal:
            signal = Signal(Value.cast(value).shape() if shape is None else shape, name=name, reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        # The sum, of two DSP slices one behind the other.
        k = self.coefficients
        first = register("a_u", register("a", k.a) * register("u_1", self.u))
        first = register("a_u_b", first + delayed(m, k.b, 2, "b"), signed(SUM_BITS))
        second = register("c_v", delayed(m, k.c, 2, "c") * delayed(m, self.v, 2, "v"))
        total = register("t", first + second, signed(SUM_BITS))

        # What passes: what is positive, what the mask says, or everything. Whether a sum is 0 takes two cycles.
        held = register("t_held", total)
        bits = register("t_bits", Cat(total[i : i + 8].any() for i in range(0, SUM_BITS, 8)))
        mask = delayed(m, self.mask, 5, "mask")
        positive = ~held[-1] & bits.any()
        passes = Mux(mode.relu, positive, Mux(mode.masked, mask, 1))
        passes = delayed(m, passes, 3, "passes")
        m.d.comb += self.positive.eq(delayed(m, passes, self.LATENCY - 8, "positive"))

        # The shift, in units of which 2**16 are a step of the result: noise is whole in them.
        far = choose([(held << NOISE_BITS) >> distance for distance in (0, 16, 32, 48)], mode.shift[4:])
        far = register("shifted_far", far, signed(SUM_BITS + NOISE_BITS))
        coarse, fine = mode.shift[2:4], mode.shift[:2]
        near = choose([(far >> distance)[: KEPT_BITS + 3] for distance in (0, 4, 8, 12)], coarse)
        near = register("shifted_near", near)
        kept = choose([(near >> distance)[:KEPT_BITS] for distance in range(4)], fine)
        kept = register("shifted", kept.as_signed())

        # Of what is beyond all bounds, whatever is added to it, the sign is enough: a bit above those kept differs.
        negative = register("negative", far[-1])
        first = len(near)
        groups = [far[i : i + 4] for i in range(first, first + 12, 4)] + [far[first + 12 :]]
        others = register("others", Cat(group.any() & ~far[-1] | ~group.all() & far[-1] for group in groups))
        beyond = Cat(others[i] & (coarse <= i) for i in range(len(groups))).any()
        beyond |= Cat((near[KEPT_BITS - 1 + i] ^ negative) & (fine <= i) for i in range(4)).any()
        above = register("above", register("is_above", beyond & ~negative) & passes)
        below = register("below", register("is_below", beyond & negative) & passes)

        # Only here does zero take the place of what does not pass: in a shift it would be a reset with an enable, whose
        # way to all bits is long.
        kept = (kept & passes.replicate(KEPT_BITS))[:KEPT_BITS].as_signed()
        part = Mux(mode.stochastic, self.noise, 1 << (NOISE_BITS - 1))
        rounded = register("rounded", kept + Cat(part, mode.raised), signed(KEPT_BITS + 1)) >> NOISE_BITS
        over = register("over", above | ~below & (rounded > mode.high))
        under = register("under", below | ~above & (rounded < mode.low))
        plain = register("plain", rounded[:RESULT_BITS].as_signed())
        m.d.comb += [
            self.q.eq(register("result", Mux(over, mode.high, Mux(under, mode.low, plain)))),
            self.clipped.eq(register("was_clipped", over | under)),
        ]
        return m
