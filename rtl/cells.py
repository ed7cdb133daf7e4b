"""Technology cells behind hooks: each has a portable twin and one made of the vendor's primitives.

`vendor="generic"` is plain Amaranth for simulation and any FPGA. `vendor="xc7"` instantiates Series-7 primitives where
inference falls short: a three-input adder in one LUT a bit, and a whole shift-accumulator in one DSP slice.
"""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Shape, Signal, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from .config import ACC_BITS

#: Power of two by which `Accumulator.upper` moves its operand.
UPPER_SHIFT = 12


def _truth_table(function, inputs: int) -> int:
    """INIT value of a LUT: bit i is `function` of the bits of i, least significant first."""
    return sum(int(function(*(i >> k & 1 for k in range(inputs)))) << i for i in range(1 << inputs))


# LUT6_2 of the ternary adder: O5, the lower half, is the majority of a, b, c; O6 their parity and that of the next
# lower bit's majority.
_MAJORITY = _truth_table(lambda a, b, c, carried, _: a + b + c >= 2, 5)
_PARITY = _truth_table(lambda a, b, c, carried, _: a ^ b ^ c ^ carried, 5)
_TERNARY_INIT = _PARITY << 32 | _MAJORITY


class TernaryAdder(wiring.Component):
    """Sum of three numbers, combinational.

    Parameters
    ----------
    shape : ShapeLike
        Of the operands: `signed(width)`, or `unsigned(width)` or `width`.
    vendor : str
        `"xc7"`: one LUT6_2 a bit compresses three bits to two, which the carry chain adds.

    Members
    -------
    a, b, c : In(shape)
    o : Out(shape), two bits wider
    """

    def __init__(self, shape, *, vendor: str = "generic"):
        shape = Shape.cast(shape)
        self._sum, self._vendor = Shape(shape.width + 2, shape.signed), vendor
        super().__init__({"a": In(shape), "b": In(shape), "c": In(shape), "o": Out(self._sum)})

    def elaborate(self, platform):
        m = Module()
        if self._vendor == "generic":
            m.d.comb += self.o.eq(self.a + self.b + self.c)
            return m
        bits = self._sum.width
        operands = []
        for name in ("a", "b", "c"):
            extended = Signal(self._sum, name=f"{name}_extended")
            m.d.comb += extended.eq(getattr(self, name))
            operands.append(extended)
        chain = -(-bits // 4) * 4
        select = Signal(chain)
        carried = Signal(chain + 1)
        total = Signal(chain)
        for i in range(bits):
            m.submodules[f"lut{i}"] = Instance(
                "LUT6_2",
                p_INIT=Const(_TERNARY_INIT, 64),
                **{f"i_I{k}": operand[i] for k, operand in enumerate(operands)},
                i_I3=carried[i],
                i_I4=Const(0, 1),
                i_I5=Const(1, 1),
                o_O6=select[i],
                o_O5=carried[i + 1],
            )
        carry = Const(0, 1)
        for i in range(0, chain, 4):
            carry_out = Signal(4, name=f"carry{i}")
            m.submodules[f"carry{i}"] = Instance(
                "CARRY4",
                i_CI=carry,
                i_CYINIT=Const(0, 1),
                i_DI=carried[i : i + 4],
                i_S=select[i : i + 4],
                o_O=total[i : i + 4],
                o_CO=carry_out,
            )
            carry = carry_out[3]
        m.d.comb += self.o.eq(total[:bits])
        return m


class Select(enum.Enum, shape=2):
    """What an accumulator adds the new product to."""

    ACC = 0  #: its own value
    C = 1  #: input `c`
    ZERO = 2


class Accumulator(wiring.Component):
    """o <= (o | c | 0) + (sum << 12 if upper else sum) * weight, a new one every cycle.

    Members
    -------
    enable : In(1)
        All registers hold while it is low. It is high for `LATENCY` cycles, from cycle t on.
    sum : In(signed(13)), upper : In(1), weight : In(signed(18))
        In cycle t.
    c : In(signed(48)), select : In(Select)
        In cycle t + 2, `BASE_DELAY`.
    o : Out(signed(48))
        In cycle t + 4, `LATENCY`.

    The xc7 variant is one DSP48E1 (UG479): the pre-adder passes either port A (the sum) or port D (the sum times
    2**12), the multiplier applies the weight, the ALU adds P, C or nothing. Its registers are A and D, AD, M and P.
    """

    BASE_DELAY = 2
    LATENCY = 4

    def __init__(self, sum_bits: int = 13, *, vendor: str = "generic"):
        self._sum_bits, self._vendor = sum_bits, vendor
        super().__init__(
            {
                "enable": In(1),
                "sum": In(signed(sum_bits)),
                "upper": In(1),
                "weight": In(signed(18)),
                "c": In(signed(ACC_BITS)),
                "select": In(Select),
                "o": Out(signed(ACC_BITS)),
            }
        )

    def elaborate(self, platform):
        return self._dsp48e1() if self._vendor == "xc7" else self._generic()

    def _generic(self):
        m = Module()
        operand_bits = self._sum_bits + UPPER_SHIFT

        def register(shape, name: str):
            return Signal(shape, name=name, reset_less=True)

        a, upper = register(signed(self._sum_bits), "a"), register(1, "upper_1")
        weight1, weight2 = register(signed(18), "weight_1"), register(signed(18), "weight_2")
        operand = register(signed(operand_bits), "ad")
        product = register(signed(operand_bits + 18), "product")
        c, select = register(signed(ACC_BITS), "c_1"), register(Select, "select_1")
        total = register(signed(ACC_BITS), "p")
        base = Signal(signed(ACC_BITS))
        with m.Switch(select):
            with m.Case(Select.ACC):
                m.d.comb += base.eq(total)
            with m.Case(Select.C):
                m.d.comb += base.eq(c)
        with m.If(self.enable):
            m.d.sync += [
                a.eq(self.sum),
                upper.eq(self.upper),
                weight1.eq(self.weight),
                weight2.eq(weight1),
                operand.eq(Mux(upper, a << UPPER_SHIFT, a)),
                product.eq(operand * weight2),
                c.eq(self.c),
                select.eq(self.select),
                total.eq(base + product),
            ]
        m.d.comb += self.o.eq(total)
        return m

    def _dsp48e1(self):
        m = Module()
        a = Signal(signed(30))
        d = Signal(signed(25))
        z = Signal(3)
        with m.Switch(self.select):
            with m.Case(Select.ACC):
                m.d.comb += z.eq(0b010)
            with m.Case(Select.C):
                m.d.comb += z.eq(0b011)
        m.d.comb += [a.eq(self.sum), d.eq(self.sum << UPPER_SHIFT)]
        # INMODE: bit 1 takes A out of the pre-adder, bit 2 takes D in.
        in_mode = Cat(Const(0, 1), self.upper, self.upper, Const(0, 2))
        enables = ("A1", "A2", "AD", "ALUMODE", "B1", "B2", "C", "CARRYIN", "CTRL", "D", "INMODE", "M", "P")
        resets = ("A", "ALLCARRYIN", "ALUMODE", "B", "C", "CTRL", "D", "INMODE", "M", "P")
        m.submodules.dsp = Instance(
            "DSP48E1",
            p_USE_DPORT="TRUE",
            p_USE_MULT="MULTIPLY",
            p_AREG=1,
            p_ACASCREG=1,
            p_DREG=1,
            p_ADREG=1,
            p_BREG=2,
            p_BCASCREG=2,
            p_CREG=1,
            p_MREG=1,
            p_PREG=1,
            p_INMODEREG=1,
            p_OPMODEREG=1,
            p_ALUMODEREG=1,
            p_CARRYINREG=1,
            p_CARRYINSELREG=1,
            i_CLK=ClockSignal(),
            i_A=a,
            i_B=self.weight,
            i_C=self.c,
            i_D=d,
            i_INMODE=in_mode,
            i_OPMODE=Cat(Const(0b0101, 4), z),
            i_ALUMODE=Const(0, 4),
            i_CARRYIN=Const(0, 1),
            i_CARRYINSEL=Const(0, 3),
            **{f"i_CE{name}": self.enable for name in enables},
            **{f"i_RST{name}": Const(0, 1) for name in resets},
            o_P=self.o,
        )
        return m
