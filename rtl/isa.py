"""The programming model: layer descriptors, CSR map, error codes and counters, declared once.

RTL, golden model, host and docs all read these tables. A descriptor says *what* to compute. A product is expanded
into tiles, over which LOAD, EXEC and STORE run; a vector pass is the vector unit's, beside them.

Operands in DDR
---------------
*Streaming operand*: 16-bit words, one bit of 16 channels each, in the order (n, channel block, y, plane, x). Plane 0
is the most significant bit. Four words of neighbouring x make a beat; a row of W columns takes ceil(W / 4) beats per
plane. Planes inside rows keep a row band contiguous at every precision, and x innermost lets a beat enter the stream
buffer in one cycle. Rows of images may lie further apart, so the upper planes of a wider tensor are an operand where
they lie.

*Stationary operand*: tiles of rows x 144 lanes of one 4-bit digit, in the order (row block, k block, digit), most
significant digit first; two's complement when the operand is signed, so only digit 0 is a signed digit. A beat has 16
nibbles. Where there is a vector unit, they come in one of four orders:

* ROWS: beat 9 i + t has the channels of row i at tap t. It is the only order where there is no vector unit.
* TAPS: beat 16 t + i has the channels of row i at tap 8 - t.
* TURNED: beat 16 t + c has the rows of channel c at tap t.
* WORDS: beat 16 w + c has those at tap 3 (w % 3) + w // 3, which is where a weight gradient has word w.

So the weights of a convolution are stored once, beat 16 t + c with 16 output channels of input channel c at tap t:
TURNED is the forward product, and TAPS that of the input gradient, whose window is turned round.

*Window mode*: lane (tap, c) is tap = 3 * ky + kx of the 3x3 window and channel c of the k block (16 channels). Windows
see pixel (y, x) of a `stuffed` image at (2 y, 2 x) and zeros between: twice its rows and columns, then padding. So the
input gradient of stride 2 is one product with the turned kernel, its results in order.

*Flat mode*: a k block is 144 channels; channel block cb = 0..8 of it meets tap = 3 * (cb % 3) + cb // 3.

In the last k block of flat mode `k_tail` channel blocks are there; the lanes of the others contribute nothing,
whatever the stationary operand has for them.

*Weight gradient*: lanes are positions. A word is 16 positions of one channel: of a row of an image, which is cut into
words, or of the same row of two or four images of up to 8 or 4 columns side by side. A k block is some rows of an image
and of those beside it, as up to nine words in their order; k blocks go down an image, then to the next, `images` in
all. Sample n is a block of 16 channels of the streaming operand; position 16 t + c is channel c of it at tap t, which
sees pixel (y + t // 3 - 1, x + t % 3 - 1) at position (y, x), or that position itself if there is one tap. What lies
outside an image is zero; columns that fill the last beat are as they are stored. The stationary operand has the rows
at those positions, and zeros at positions that are none.

*Results*: (n, row block, y, x, row), shifted right by the bits that the descriptor names, then in its format; exact but
for what is shifted out, and clipped where they do not fit.

*Tensors of a vector pass*: as streaming operands, but rows and channel blocks lie where strides say. So the upper
planes of a wider tensor can be read alone. Of as many planes as it may have at most, u, v or x is signed in any case. A
pass computes, for every element and with coefficients for each channel,

    t = a u + c v + b
    t = max(t, 0), or t where the mask is 1, else 0
    q = clip(((t + r) >> shift) + raised, -top, top)     r: half a step, or noise below one

in the order (channel block, n, y, x). Coefficients are a and c, 32 bits each, and b, 64 bits. Sums are those of q and
of q x (or q q), 64 bits each, then the smallest and the largest q, 32 bits each, in the order of the channels; the
number of clipped results follows the last. Noise is 16 bits of a hash of the key and the number of the pair of
channels: eight times that of the word (16 channels at one position), which counts x, then y, plus the pair's own.

*Digits* as results of a pass: digit d of a row lies d strides behind the first; a beat holds that of 16 channels at one
position.

*Addresses* are sums of base and strides modulo 2**32, so a stride may also lead backwards. Of an image the rows are
read that windows see, each whole. Where there is a memory on the chip, all addresses from 0xC000_0000 on are its own,
and everything that is said of DDR holds there, too; beyond its end is a bus error. The host does not reach it.
"""

from __future__ import annotations

import enum
from dataclasses import field as attribute
from dataclasses import make_dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data

from .block import Block, Field, Place, places
from .errors import Error
from .load_block import STATIONARY, STREAM, Order
from .store_block import SINK, Format
from .tiler_block import HEADER, PRODUCT, Flag, Opcode
from .vector_block import PARTS, READS, VECTOR, WRITES, Pass, Sink, Source

__all__ = [
    "BLOCKS",
    "COUNTERS",
    "COUNTER_NAMES",
    "CSR",
    "CSR_ADDRESS_BITS",
    "DESCRIPTOR_BYTES",
    "ID",
    "VERSION",
    "Control",
    "Descriptor",
    "DescriptorLayout",
    "Error",
    "Flag",
    "Format",
    "Irq",
    "Opcode",
    "Order",
    "Pass",
    "Sink",
    "Source",
    "Status",
    "config_from_words",
    "config_words",
    "descriptor_class",
    "descriptor_layout",
]

ID = 0x46524143  # "FRAC"
VERSION = 0x0003_0004  # major in the upper half: a host refuses another major

#: The layer descriptor, in memory order. Each block is declared beside the unit that owns it.
BLOCKS = (HEADER, PRODUCT, STREAM, STATIONARY, SINK, VECTOR, *READS, *WRITES, PARTS)
DESCRIPTOR_BYTES = sum(block.nbytes for block in BLOCKS)
assert DESCRIPTOR_BYTES == 256, "the ring's entries are a power of two"


class _Packed:
    """The bytes of a descriptor of any blocks."""

    blocks: tuple[Block, ...]
    places: tuple[Place, ...]

    def pack(self) -> np.ndarray:
        """The bytes of the descriptor, dtype uint8. Raises ValueError if a value does not fit its field."""
        raw = bytearray()
        for name, _, _, field in self.places:
            value = int(getattr(self, name))
            if not 0 <= value < 1 << field.bits:
                text = f"descriptor field {name} is {value}, must fit {field.bits} unsigned bits ({field.meaning})"
                raise ValueError(text)
            raw += value.to_bytes(field.nbytes, "little")
        return np.frombuffer(raw, np.uint8)

    @classmethod
    def unpack(cls, raw: np.ndarray):
        """The descriptor in the first bytes of `raw` (uint8)."""
        whole = raw.tobytes()
        return cls(
            **{
                name: int.from_bytes(whole[offset : offset + field.nbytes], "little")
                for name, offset, _, field in cls.places
            }
        )


def descriptor_class(blocks: tuple[Block, ...]) -> Any:
    """A dataclass with an int for each field of `blocks`, called by the block's prefix and the field's name."""
    found = places(blocks)
    members = [
        (name, int) if field.default is None else (name, int, attribute(default=field.default))
        for name, _, _, field in found
    ]
    constants = {"blocks": blocks, "places": found}
    return make_dataclass("Descriptor", members, bases=(_Packed,), kw_only=True, namespace=constants)


class Descriptor(descriptor_class(BLOCKS)):
    """One layer's work. Fields are those of `BLOCKS`; unnamed ones take the neutral value, only `opcode` has none."""


def _shape(field: Field):
    """Named bits for flags, and names for the values of an enumeration that is as wide as the field."""
    if field.values is None:
        return field.bits
    if issubclass(field.values, enum.IntFlag):
        named = {flag.name.lower(): 1 for flag in field.values}
        return data.StructLayout({**named, "unknown": field.bits - len(named)})
    return field.values if Shape.cast(field.values).width == field.bits else field.bits


def descriptor_layout(blocks: tuple[Block, ...]) -> data.StructLayout:
    """The descriptor as the RTL sees it: a struct of each block's fields."""
    return data.StructLayout(
        {block.name: data.StructLayout({field.name: _shape(field) for field in block.members}) for block in blocks}
    )


DescriptorLayout = descriptor_layout(BLOCKS)


class Control(enum.IntFlag):
    """Bits of CSR CONTROL."""

    ENABLE = 1  #: fetch descriptors while HEAD differs from TAIL
    RESET = 2  #: drain the bus, then reset everything but the CSR port; reads 1 until done
    CLEAR_COUNTERS = 4  #: write 1: all counters start again at zero


class Status(enum.IntFlag):
    """Bits of CSR STATUS."""

    IDLE = 1  #: nothing fetched, nothing in flight
    ERROR = 2  #: stopped; only a reset goes on


class Irq(enum.IntFlag):
    """Bits of CSR IRQ (pending, write 1 to clear) and IRQ_ENABLE."""

    DONE = 1  #: a descriptor with the interrupt flag has completed
    ERROR = 2  #: the ring has stopped


#: Event counters, 48 bits, in the order of their CSRs.
COUNTERS = (
    ("cycles", "clock cycles since the last clear"),
    ("busy", "cycles in which a descriptor was in flight"),
    ("load_busy", "beats received by LOAD"),
    ("load_stall_slot", "cycles LOAD waited for a free stream or weight slot"),
    ("load_stall_axi", "cycles LOAD waited for the bus: read data outstanding, no beat"),
    ("table_busy", "cycles the table loader wrote entries"),
    ("exec_busy", "plane-cycles: cycles in which the array took a plane"),
    ("exec_stall_stream", "cycles EXEC waited for streaming data"),
    ("exec_stall_table", "cycles EXEC waited for a table context"),
    ("exec_stall_result", "cycles EXEC waited for a free result slot"),
    ("store_busy", "beats sent by STORE"),
    ("store_stall_result", "cycles STORE had a tile but its results were not complete"),
    ("store_stall_axi", "cycles STORE waited for the bus"),
    ("read_bytes", "bytes read from DDR"),
    ("write_bytes", "bytes written to DDR"),
    ("planes_skipped", "plane-cycles saved because a plane of the tile was all zero"),
    ("overflows", "results that did not fit int16 or int32 and were clipped"),
    ("descriptors", "descriptors completed"),
    ("vector_busy", "words, of 16 channels at one position, that the vector unit took"),
    ("vector_stall", "cycles in which a vector pass was in work and took none"),
    ("chip_read_bytes", "bytes read from the memory on the chip"),
    ("chip_write_bytes", "bytes written to it"),
)
COUNTER_NAMES = tuple(name for name, _ in COUNTERS)


class CSR(enum.IntEnum):
    """Byte addresses of the 32-bit control and status registers."""

    ID = 0x00  #: identification, constant
    VERSION = 0x04  #: major in the upper half, minor in the lower
    CONTROL = 0x08  #: bits of Control
    STATUS = 0x0C  #: bits of Status, read only
    IRQ = 0x10  #: pending interrupts, bits of Irq; write 1 to clear
    IRQ_ENABLE = 0x14  #: interrupts that raise the pin
    ERROR_CODE = 0x18  #: an Error
    ERROR_INDEX = 0x1C  #: number of the failed descriptor, counted from the last reset
    RING_BASE = 0x20  #: address of the descriptor ring, a multiple of 256
    RING_MASK = 0x24  #: entries of the ring minus one; the entries are a power of two
    HEAD = 0x28  #: descriptors fetched since the last reset
    TAIL = 0x2C  #: descriptors written by the host since the last reset
    COMPLETED = 0x30  #: descriptors completed since the last reset
    CONFIG0 = 0x40  #: clusters | rows << 8 | pe kind << 16 | log2(burst_beats) << 24
    CONFIG1 = 0x44  #: stream_depth | result_depth << 16
    CONFIG2 = 0x48  #: outstanding | queue_depth << 8 | managers << 16 | vector << 24 | chip_kib / 16 << 25
    COUNTERS = 0x80  #: low word of counter i at COUNTERS + 8 i, high word at COUNTERS + 8 i + 4


CSR_ADDRESS_BITS = 9
assert CSR.COUNTERS + 8 * len(COUNTERS) <= 1 << CSR_ADDRESS_BITS


def config_words(config) -> tuple[int, int, int]:
    """CSRs CONFIG0..2 of an `AcceleratorConfig`."""
    from .config import CHIP_STEP_KIB, PE_KINDS

    return (
        config.clusters
        | config.rows << 8
        | PE_KINDS.index(config.pe) << 16
        | (config.burst_beats.bit_length() - 1) << 24,
        config.stream_depth | config.result_depth << 16,
        config.outstanding
        | config.queue_depth << 8
        | config.managers << 16
        | config.vector << 24
        | config.chip_kib // CHIP_STEP_KIB << 25,
    )


def config_from_words(words: tuple[int, int, int]):
    """The `AcceleratorConfig` that CSRs CONFIG0..2 describe. Raises ValueError if they describe none."""
    from .config import CHIP_STEP_KIB, PE_KINDS, AcceleratorConfig

    w0, w1, w2 = words
    kind = w0 >> 16 & 0xFF
    if kind >= len(PE_KINDS):
        raise ValueError(f"processing element kind {kind} is unknown to this host")
    return AcceleratorConfig(
        clusters=w0 & 0xFF,
        rows=w0 >> 8 & 0xFF,
        pe=PE_KINDS[kind],
        burst_beats=1 << (w0 >> 24),
        stream_depth=w1 & 0xFFFF,
        result_depth=w1 >> 16,
        outstanding=w2 & 0xFF,
        queue_depth=w2 >> 8 & 0xFF,
        managers=w2 >> 16 & 0xFF,
        vector=bool(w2 >> 24 & 1),
        chip_kib=(w2 >> 25) * CHIP_STEP_KIB,
    )
