"""Drained sums on their way to DDR: shifted right, then clipped to their format."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import ACC_BITS
from .control import DRAIN_ROWS
from .delay import delayed
from .store_block import MOST_SHIFT, Format

_Sums = data.ArrayLayout(ACC_BITS, DRAIN_ROWS)


class Narrow(wiring.Component):
    """Four sums a cycle, which nothing holds up.

    Members
    -------
    valid : In(1), sums : In(4 sums of 48 bits), format : In(Format), shift : In(5)
        Sums, the format in which they are stored, and the bits that they lose first.
    narrowed_valid, narrowed, narrowed_format : Out
        `LATENCY` cycles later. Of a sum that does not fit the format it is the number nearest to it that does; bits
        above the format's have no meaning.
    overflows : Out
        Sums that did not fit int16 or int32, `LATENCY` + 2 cycles after they came.
    """

    LATENCY = 4

    def __init__(self):
        super().__init__(
            {
                "valid": In(1),
                "sums": In(_Sums),
                "format": In(Format),
                "shift": In(range(MOST_SHIFT + 1)),
                "narrowed_valid": Out(1),
                "narrowed": Out(_Sums),
                "narrowed_format": Out(Format),
                "overflows": Out(range(DRAIN_ROWS + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        form = delayed(m, self.format, self.LATENCY - 1, "format")  # of the sums that are about to be clipped
        valid = delayed(m, self.valid, self.LATENCY, "valid", control=True)
        m.d.sync += self.narrowed_format.eq(form)
        m.d.comb += self.narrowed_valid.eq(valid)
        fine = delayed(m, self.shift[:3], 1, "fine")
        lost = Signal(DRAIN_ROWS)
        for k in range(DRAIN_ROWS):
            m.d.sync += lost[k].eq(self._clipped(m, k, self._shifted(m, k, fine), form))
        counted = Signal(DRAIN_ROWS)
        m.d.sync += [
            counted.eq(Mux(valid, lost, 0)),
            self.overflows.eq(sum(counted[k] for k in range(DRAIN_ROWS))),
        ]
        return m

    def _shifted(self, m: Module, k: int, fine) -> Signal:
        """Sum k without its lowest bits: eights a cycle later, the rest, `fine`, in the next."""
        coarse = Signal(signed(ACC_BITS), name=f"coarse{k}", reset_less=True)
        shifted = Signal(signed(ACC_BITS), name=f"shifted{k}", reset_less=True)
        number = self.sums[k].as_signed()
        m.d.sync += [
            coarse.eq(Array(number >> distance for distance in range(0, MOST_SHIFT + 1, 8))[self.shift[3:]]),
            shifted.eq(Array(coarse >> distance for distance in range(8))[fine]),
        ]
        return shifted

    def _clipped(self, m: Module, k: int, shifted, form):
        """Clip sum k within two cycles; returns whether that changes it, in the second.

        A sum fits if all bits above its format's are as the sign.
        """
        fits = {}
        for name, bits in (("middle", slice(15, 31)), ("upper", slice(31, ACC_BITS))):
            ones = Signal(name=f"{name}_ones{k}", reset_less=True)
            zeros = Signal(name=f"{name}_zeros{k}", reset_less=True)
            m.d.sync += [ones.eq(shifted[bits].all()), zeros.eq(~shifted[bits].any())]
            fits[name] = ones, zeros
        kept = delayed(m, shifted, 1, f"kept{k}")
        (middle_ones, middle_zeros), (ones, zeros) = fits["middle"], fits["upper"]
        narrow, medium = form == Format.INT16, form == Format.INT32
        lost = Signal(name=f"lost{k}")
        m.d.comb += lost.eq(
            (narrow & ~(middle_ones & ones | middle_zeros & zeros)) | (medium & ~(ones | zeros)),
        )
        sign = kept[-1]
        end = Cat((~sign).replicate(15), Mux(narrow, sign, ~sign), (~sign).replicate(15), sign)
        m.d.sync += self.narrowed[k].eq(Cat(Mux(lost, end, kept[: len(end)]), kept[len(end) :]))
        return lost
