"""AXI4, AXI3 and AXI4-Lite as Amaranth signatures.

Every channel is a stream (`amaranth.lib.stream`): payload, valid, ready. Directions are the manager's; a subordinate
takes the flipped signature. Data buses are 64 bits wide; bursts are INCR, whole beats, one ID, in order.
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import BEAT_BITS

OKAY, DECERR = 0, 3
ADDRESS_BITS = 32

#: Normal, bufferable, modifiable memory, as Xilinx DMA engines drive it.
CACHE = 0b0011


def address_channel(length_bits: int) -> data.StructLayout:
    return data.StructLayout({"addr": ADDRESS_BITS, "len": length_bits})


WriteData = data.StructLayout({"data": BEAT_BITS, "strb": BEAT_BITS // 8, "last": 1})
ReadData = data.StructLayout({"data": BEAT_BITS, "resp": 2, "last": 1})
Response = data.StructLayout({"resp": 2})


def _bus(length_bits: int) -> dict:
    return {
        "ar": Out(stream.Signature(address_channel(length_bits))),
        "r": In(stream.Signature(ReadData)),
        "aw": Out(stream.Signature(address_channel(length_bits))),
        "w": Out(stream.Signature(WriteData)),
        "b": In(stream.Signature(Response)),
    }


class AXI4(wiring.Signature):
    """AXI4 manager, 64-bit data, bursts of up to 256 beats (`len` is beats - 1)."""

    def __init__(self):
        super().__init__(_bus(8))


class AXI3(wiring.Signature):
    """AXI3 manager for the Zynq HP ports: bursts of at most 16 beats. One ID, so WID is that ID."""

    def __init__(self):
        super().__init__(_bus(4))


class AXILite(wiring.Signature):
    """AXI4-Lite manager, 32-bit data."""

    def __init__(self, address_bits: int):
        address = data.StructLayout({"addr": address_bits})
        super().__init__(
            {
                "ar": Out(stream.Signature(address)),
                "r": In(stream.Signature(data.StructLayout({"data": 32, "resp": 2}))),
                "aw": Out(stream.Signature(address)),
                "w": Out(stream.Signature(data.StructLayout({"data": 32, "strb": 4}))),
                "b": In(stream.Signature(Response)),
            }
        )


class AXI4ToAXI3(wiring.Component):
    """Narrows the burst length; purely combinational.

    The accelerator's bursts are as long as `AcceleratorConfig.burst_beats` at the most, so with 16 nothing is lost.
    """

    def __init__(self, *, burst_beats: int):
        if burst_beats > 16:
            raise ValueError(f"AXI3 bursts have at most 16 beats, burst_beats is {burst_beats}")
        super().__init__({"i": In(AXI4()), "o": Out(AXI3())})

    def elaborate(self, platform):
        m = Module()
        forward = [(getattr(self.i, name), getattr(self.o, name)) for name in ("ar", "aw", "w")]
        backward = [(getattr(self.o, name), getattr(self.i, name)) for name in ("r", "b")]
        for source, sink in forward + backward:
            m.d.comb += [sink.valid.eq(source.valid), source.ready.eq(sink.ready)]
            m.d.comb += [getattr(sink.payload, f).eq(getattr(source.payload, f)) for f, _ in source.payload.shape()]
        return m
