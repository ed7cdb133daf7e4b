"""The programming model: layer descriptors, CSR map, error codes and counters, declared once.

RTL, golden model, host and docs all read these tables. A descriptor says *what* to compute; the hardware expands it
into tiles and runs LOAD, EXEC and STORE over them.

Operands in DDR
---------------
*Streaming operand*: 16-bit words, one bit of 16 channels each, in the order (n, channel block, y, plane, x). Plane 0
is the most significant bit. Four words of neighbouring x make a beat; a row of W columns takes ceil(W / 4) beats per
plane. Planes inside rows keep a row band contiguous at every precision, and x innermost lets a beat enter the stream
buffer in one cycle.

*Stationary operand*: tiles of rows x 144 lanes of one 4-bit digit, in the order (row block, k block, digit), most
significant digit first; two's complement when the operand is signed, so only digit 0 is a signed digit. A row is nine
beats, one per tap; nibble c of a beat is channel c.

*Window mode*: lane (tap, c) is tap = 3 * ky + kx of the 3x3 window and channel c of the k block (16 channels).
*Flat mode*: a k block is 144 channels; channel block cb = 0..8 of it meets tap = 3 * (cb % 3) + cb // 3.

*Results*: (n, row block, y, x, row), int16, int32 or int64, exact.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

import numpy as np
from amaranth.lib import data

ID = 0x46524143  # "FRAC"
VERSION = 0x0001_0000  # major in the upper half: a host refuses another major

DESCRIPTOR_BYTES = 128


class Opcode(enum.IntEnum):
    """What a descriptor computes."""

    WINDOW = 1  #: 3x3 window over images, im2col on the fly
    FLAT = 2  #: vectors of 144 lanes a k block: 1x1 convolution, matrix product, weight gradient


class Flag(enum.IntFlag):
    """Bits of `Descriptor.flags`."""

    STREAM_SIGNED = 1  #: plane 0 of the streaming operand is its sign
    STATIONARY_SIGNED = 2  #: digit 0 of the stationary operand is signed
    STREAM_TABLE = 4  #: bits of sample n are the byte at stream_table + n; 0 skips the sample
    STATIONARY_TABLE = 8  #: bits of the stationary operand are the byte at stationary_table; 0 skips the descriptor
    OUT64 = 16  #: results are int64
    FENCE = 32  #: start only after all earlier descriptors have completed
    INTERRUPT = 64  #: raise the interrupt on completion
    OUT16 = 128  #: results are int16; with neither they are int32, with both the descriptor is refused


#: (name, bits, meaning), in memory order, little endian. The rest of the 128 bytes must be zero.
DESCRIPTOR_FIELDS = (
    ("opcode", 8, "Opcode"),
    ("flags", 8, "Flag bits"),
    ("stream_bits", 8, "bits of the streaming operand, 1..16"),
    ("stationary_bits", 8, "bits of the stationary operand, 1..16"),
    ("samples", 16, "samples (images) or chunks of vectors"),
    ("height", 16, "rows of an input image; 1 in flat mode"),
    ("width", 16, "columns of an input image, or vectors of a chunk"),
    ("out_height", 16, "rows of an output image; 1 in flat mode"),
    ("out_width", 16, "columns of an output image, or vectors of a chunk"),
    ("k_blocks", 16, "blocks of the reduction: 16 channels x 9 taps, or 144 channels"),
    ("row_blocks", 16, "row blocks done one after the other per cluster (in all: row_blocks << log2_row_parts)"),
    ("tile_rows", 16, "output rows in a tile"),
    ("row_groups", 16, "input rows of a tile divided by 3, rounded up; 3 in flat mode"),
    ("k_tail", 8, "flat mode: channel blocks in the last k block, 1..9; 1 in window mode"),
    ("tile_samples", 8, "most samples in a tile per cluster"),
    ("sample_parts", 8, "groups of clusters that work on different samples"),
    ("log2_row_parts", 8, "log2 of the clusters of a group, which work on different row blocks"),
    ("stride", 8, "1 or 2, both axes"),
    ("pad_top", 8, "zero rows above the image, 0..2"),
    ("pad_left", 8, "zero columns left of the image, 0..2"),
    ("reserved", 8, "zero"),
    ("stream_base", 32, "address of the streaming operand; all addresses and strides are multiples of 8 bytes"),
    ("stream_stride_n", 32, "bytes from sample to sample"),
    ("stream_stride_c", 32, "bytes from channel block to channel block"),
    ("stationary_base", 32, "address of the stationary operand"),
    ("stationary_stride_n", 32, "bytes from sample to sample; 0: all samples share it. Else tile_samples must be 1"),
    ("stationary_stride_k", 32, "bytes from k block to k block"),
    ("stationary_stride_m", 32, "bytes from row block to row block"),
    ("out_base", 32, "address of the results"),
    ("out_stride_n", 32, "bytes from sample to sample"),
    ("out_stride_m", 32, "bytes from row block to row block"),
    ("stream_table", 32, "address of the streaming operand's precision bytes"),
    ("stationary_table", 32, "address of the stationary operand's precision byte"),
)

#: The descriptor as the RTL sees it.
DescriptorLayout = data.StructLayout({name: bits for name, bits, _ in DESCRIPTOR_FIELDS})
_USED_BYTES = sum(bits for _, bits, _ in DESCRIPTOR_FIELDS) // 8
assert _USED_BYTES <= DESCRIPTOR_BYTES
_DTYPE = np.dtype([(name, f"<u{bits // 8}") for name, bits, _ in DESCRIPTOR_FIELDS])


@dataclass(kw_only=True)
class Descriptor:
    """One layer's work. Fields are those of `DESCRIPTOR_FIELDS`; unnamed ones take the neutral value.

    Raises ValueError from `pack` if a value does not fit its field.
    """

    opcode: int
    flags: int = 0
    stream_bits: int = 0
    stationary_bits: int = 0
    samples: int = 1
    height: int = 1
    width: int = 1
    out_height: int = 1
    out_width: int = 1
    k_blocks: int = 1
    row_blocks: int = 1
    tile_rows: int = 1
    row_groups: int = 1
    k_tail: int = 1
    tile_samples: int = 1
    sample_parts: int = 1
    log2_row_parts: int = 0
    stride: int = 1
    pad_top: int = 0
    pad_left: int = 0
    reserved: int = 0
    stream_base: int = 0
    stream_stride_n: int = 0
    stream_stride_c: int = 0
    stationary_base: int = 0
    stationary_stride_n: int = 0
    stationary_stride_k: int = 0
    stationary_stride_m: int = 0
    out_base: int = 0
    out_stride_n: int = 0
    out_stride_m: int = 0
    stream_table: int = 0
    stationary_table: int = 0

    def pack(self) -> np.ndarray:
        """The 128 bytes of the descriptor, dtype uint8."""
        record = np.zeros((), _DTYPE)
        for name, bits, meaning in DESCRIPTOR_FIELDS:
            value = int(getattr(self, name))
            if not 0 <= value < 1 << bits:
                raise ValueError(f"descriptor field {name} is {value}, must fit {bits} unsigned bits ({meaning})")
            record[name] = value
        out = np.zeros(DESCRIPTOR_BYTES, np.uint8)
        out[:_USED_BYTES] = np.frombuffer(record.tobytes(), np.uint8)
        return out

    @classmethod
    def unpack(cls, raw: np.ndarray) -> Descriptor:
        """The descriptor in the first bytes of `raw` (uint8)."""
        record = np.frombuffer(raw[:_USED_BYTES].tobytes(), _DTYPE)[0]
        return cls(**{name: int(record[name]) for name, _, _ in DESCRIPTOR_FIELDS})


assert [f.name for f in fields(Descriptor)] == [name for name, _, _ in DESCRIPTOR_FIELDS]


class Error(enum.IntEnum):
    """Why the ring stopped; `ERROR_INDEX` says at which descriptor."""

    NONE = 0  #: no error
    OPCODE = 1  #: unknown opcode
    FLAGS = 2  #: flags that exclude each other
    PRECISION = 3  #: bits of an operand outside 1..16
    SHAPE = 4  #: a size is zero or contradicts another, or a tile does not fit the buffers
    ALIGNMENT = 5  #: an address or stride is no multiple of 8
    AXI_FETCH = 6  #: error response while reading a descriptor or a precision table
    AXI_READ = 7  #: error response while reading an operand
    AXI_WRITE = 8  #: error response while writing a result


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
    ("overflows", "results that did not fit int16 or int32 and were stored wrapped"),
    ("descriptors", "descriptors completed"),
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
    RING_BASE = 0x20  #: address of the descriptor ring, a multiple of 128
    RING_MASK = 0x24  #: entries of the ring minus one; the entries are a power of two
    HEAD = 0x28  #: descriptors fetched since the last reset
    TAIL = 0x2C  #: descriptors written by the host since the last reset
    COMPLETED = 0x30  #: descriptors completed since the last reset
    CONFIG0 = 0x40  #: clusters | rows << 8 | pe kind << 16 | log2(burst_beats) << 24
    CONFIG1 = 0x44  #: stream_depth | result_depth << 16
    CONFIG2 = 0x48  #: outstanding | queue_depth << 8
    COUNTERS = 0x80  #: low word of counter i at COUNTERS + 8 i, high word at COUNTERS + 8 i + 4


CSR_ADDRESS_BITS = 9
assert CSR.COUNTERS + 8 * len(COUNTERS) <= 1 << CSR_ADDRESS_BITS


def config_words(config) -> tuple[int, int, int]:
    """CSRs CONFIG0..2 of an `AcceleratorConfig`."""
    from .config import PE_KINDS

    return (
        config.clusters
        | config.rows << 8
        | PE_KINDS.index(config.pe) << 16
        | (config.burst_beats.bit_length() - 1) << 24,
        config.stream_depth | config.result_depth << 16,
        config.outstanding | config.queue_depth << 8,
    )


def config_from_words(words: tuple[int, int, int]):
    """The `AcceleratorConfig` that CSRs CONFIG0..2 describe. Raises ValueError if they describe none."""
    from .config import PE_KINDS, AcceleratorConfig

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
    )
