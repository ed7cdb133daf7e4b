"""The buffer of a stream that comes as bit-planes: beats of one plane in, words of whole numbers out."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .config import BEAT_BITS, BEAT_WORDS, WORD_CHANNELS, AcceleratorConfig
from .hierarchy import Macro
from .vector_issue import RING
from .vector_shape import PLANES


class Plane(wiring.Component):
    """The memory of one plane, of groups of four positions.

    Members
    -------
    data : In(64), address : In, write : In(1)
        A beat, its group, and whether it is written.
    read_address : In, position : In(2), read : In(1)
        Where a word lies, and whether it is read.
    absent : In(1)
        Words are zero.
    o : Out(16)
        The word that was read last, from the next cycle on.
    """

    macro = "vector_plane"

    @staticmethod
    def ports(config: AcceleratorConfig) -> dict:
        return {
            "data": In(BEAT_BITS),
            "address": In(ceil_log2(RING)),
            "write": In(1),
            "read_address": In(ceil_log2(RING)),
            "position": In(ceil_log2(BEAT_WORDS)),
            "read": In(1),
            "absent": In(1),
            "o": Out(WORD_CHANNELS),
        }

    def __init__(self, config: AcceleratorConfig):
        super().__init__(self.ports(config))

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=BEAT_BITS, depth=RING, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        word = Signal(WORD_CHANNELS, reset_less=True)
        m.d.comb += [
            write.addr.eq(self.address),
            write.data.eq(self.data),
            write.en.eq(self.write),
            read.addr.eq(self.read_address),
            self.o.eq(word),
        ]
        words = Array(read.data.word_select(j, WORD_CHANNELS) for j in range(BEAT_WORDS))
        with m.If(self.read):
            m.d.sync += word.eq(words[self.position])
        # A reset of the registers, which costs no logic beside them.
        with m.If(self.absent):
            m.d.sync += word.eq(0)
        return m


class PlaneBuffer(wiring.Component):
    """As many planes as a stream may have; all planes of a position are read at once.

    Members
    -------
    planes : In(5), signed : In(1)
        How many planes there are, and whether the highest is the sign; stable. Planes above them are not written unless
        there is a sign, and read as zero.
    data : In(64), address : In, write : In(bits)
        A beat, its group, and the planes that it is written to.
    read_address : In, position : In(2), read : In(1)
        Where a word lies, and whether it is read.
    o : Out(16 * signed(bits))
        The word that was read last, from the next cycle on.
    """

    def __init__(self, config: AcceleratorConfig, bits: int):
        self._config, self._bits = config, bits
        super().__init__(
            {
                "planes": In(PLANES),
                "signed": In(1),
                "data": In(BEAT_BITS),
                "address": In(ceil_log2(RING)),
                "write": In(bits),
                "read_address": In(ceil_log2(RING)),
                "position": In(ceil_log2(BEAT_WORDS)),
                "read": In(1),
                "o": Out(data.ArrayLayout(signed(bits), WORD_CHANNELS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        empty = Signal()  # no plane stands for those above the highest
        m.d.sync += empty.eq((self.planes == 0) | ~self.signed)
        for i in range(self._bits):
            m.submodules[f"plane{i}"] = plane = Macro(Plane, self._config)
            absent = Signal(name=f"absent{i}")
            m.d.sync += absent.eq(empty & (self.planes <= i))
            m.d.comb += [
                plane.data.eq(self.data),
                plane.address.eq(self.address),
                plane.write.eq(self.write[i]),
                plane.read_address.eq(self.read_address),
                plane.position.eq(self.position),
                plane.read.eq(self.read),
                plane.absent.eq(absent),
                *(self.o[channel][i].eq(plane.o[channel]) for channel in range(WORD_CHANNELS)),
            ]
        return m
