"""Flat AXI ports, as the rest of the world names them, around our streams.

A wrapper with a member `m_axi` of `FLAT_AXI4` has the ports `m_axi__araddr` and so on, which cocotbext-axi finds with
the prefix `m_axi_`.
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib.wiring import In, Out, Signature

from .axi import ADDRESS_BITS, CACHE
from .config import BEAT_BITS, BEAT_BYTES

_ADDRESS = {
    "id": (Out, 1),
    "addr": (Out, ADDRESS_BITS),
    "len": (Out, 8),
    "size": (Out, 3),
    "burst": (Out, 2),
    "cache": (Out, 4),
    "valid": (Out, 1),
    "ready": (In, 1),
}
_INCR = 0b01


def _channel(prefix: str, members: dict) -> dict:
    return {f"{prefix}{name}": flow(width) for name, (flow, width) in members.items()}


#: AXI4 manager, 64-bit data.
FLAT_AXI4 = Signature(
    {
        **_channel("ar", _ADDRESS),
        **_channel("aw", _ADDRESS),
        **_channel(
            "r",
            {
                "id": (In, 1),
                "data": (In, BEAT_BITS),
                "resp": (In, 2),
                "last": (In, 1),
                "valid": (In, 1),
                "ready": (Out, 1),
            },
        ),
        **_channel(
            "w",
            {
                "data": (Out, BEAT_BITS),
                "strb": (Out, BEAT_BYTES),
                "last": (Out, 1),
                "valid": (Out, 1),
                "ready": (In, 1),
            },
        ),
        **_channel("b", {"id": (In, 1), "resp": (In, 2), "valid": (In, 1), "ready": (Out, 1)}),
    }
)


def flat_axilite(address_bits: int) -> Signature:
    """AXI4-Lite manager, 32-bit data."""
    address = {"addr": (Out, address_bits), "prot": (Out, 3), "valid": (Out, 1), "ready": (In, 1)}
    return Signature(
        {
            **_channel("ar", address),
            **_channel("aw", address),
            **_channel("r", {"data": (In, 32), "resp": (In, 2), "valid": (In, 1), "ready": (Out, 1)}),
            **_channel("w", {"data": (Out, 32), "strb": (Out, 4), "valid": (Out, 1), "ready": (In, 1)}),
            **_channel("b", {"resp": (In, 2), "valid": (In, 1), "ready": (Out, 1)}),
        }
    )


def connect_manager(m: Module, channels: dict, flat) -> None:
    """Drives the flat manager port from streams: `channels` maps `"ar"`, `"r"`, ... to the unit's ports."""
    for name, stream in channels.items():
        valid, ready = getattr(flat, f"{name}valid"), getattr(flat, f"{name}ready")
        fields = stream.payload.shape().members
        if name in ("r", "b"):
            m.d.comb += [stream.valid.eq(valid), ready.eq(stream.ready)]
            m.d.comb += [stream.payload[field].eq(getattr(flat, name + field)) for field in fields]
        else:
            m.d.comb += [valid.eq(stream.valid), stream.ready.eq(ready)]
            m.d.comb += [getattr(flat, name + field).eq(stream.payload[field]) for field in fields]
        if name in ("ar", "aw"):
            m.d.comb += [
                getattr(flat, f"{name}size").eq(BEAT_BYTES.bit_length() - 1),
                getattr(flat, f"{name}burst").eq(_INCR),
                getattr(flat, f"{name}cache").eq(CACHE),
            ]


def connect_subordinate(m: Module, flat, bus) -> None:
    """Drives a unit's AXI4-Lite port from the flat one, which points the other way."""
    for name in ("ar", "r", "aw", "w", "b"):
        stream = getattr(bus, name)
        valid, ready = getattr(flat, f"{name}valid"), getattr(flat, f"{name}ready")
        fields = stream.payload.shape().members
        if name in ("r", "b"):
            m.d.comb += [valid.eq(stream.valid), stream.ready.eq(ready)]
            m.d.comb += [getattr(flat, name + field).eq(stream.payload[field]) for field in fields]
        else:
            m.d.comb += [stream.valid.eq(valid), ready.eq(stream.ready)]
            m.d.comb += [stream.payload[field].eq(getattr(flat, name + field)) for field in fields]
