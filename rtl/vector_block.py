"""The vector unit's blocks of the descriptor: what a pass does to every element, and where its tensors lie."""

from __future__ import annotations

import enum

from amaranth.lib import enum as amaranth_enum

from .block import Block, Field, address
from .config import WORD_BYTES
from .errors import Error
from .lane import MOST_SHIFT, RESULT_BITS, U_BITS, V_BITS
from .reduction import X_BITS
from .tiler_block import Flag

#: Flags that mean something to a pass.
PASS_FLAGS = Flag.FENCE | Flag.INTERRUPT
#: Most columns of a tensor of planes.
MOST_WIDTH = 64
#: Bytes of a channel's coefficients: a and c, 32 bits each, then b, 64 bits; all signed.
COEFFICIENTS_BYTES = 16
#: Bytes of a channel's sums: sum and sum of products, 64 bits each, then smallest and largest result, 32 bits each.
SUMS_BYTES = 24
#: Bits of a sum of the array that may be dropped.
MOST_DROPPED = 23
#: Widest results, and widest of those that are stored as digits.
MOST_PLANES, MOST_DIGITS_PLANES = RESULT_BITS - 1, 16


class Source(amaranth_enum.IntEnum, shape=2):
    """What stream u is."""

    PLANES = 0  #: bit-planes; without any u is 0
    INT16 = 1  #: results of a product, as STORE writes them
    INT32 = 2  #: likewise
    INT64 = 3  #: likewise


class Sink(amaranth_enum.IntEnum, shape=1):
    """How results are stored."""

    PLANES = 0  #: as a streaming operand
    DIGITS = 1  #: as digits of 4 bits, most significant first: a beat is a digit of 16 channels at one position


class Pass(enum.IntFlag):
    """Bits of `vector_controls`."""

    RELU = 1  #: negative sums become 0
    MASKED = 2  #: sums become 0 where the mask is 0
    STOCHASTIC = 4  #: round by noise, not to nearest
    SQUARES = 8  #: sums of products are of squares, not of products with stream x
    SUMS = 16  #: write the sums of each channel, and how many results were clipped
    EACH_SAMPLE = 32  #: every sample has coefficients and sums of its own
    SPREAD = 64  #: behind each position of digits follows one of zeros


VECTOR = Block(
    "vector",
    "vector_",
    "what a vector pass does",
    48,
    (
        address("coefficients", f"address of the coefficients, {COEFFICIENTS_BYTES} bytes a channel"),
        address("coefficients_stride", "bytes from sample to sample, with EACH_SAMPLE"),
        address("sums", f"address of the sums, {SUMS_BYTES} bytes a channel, and of the results clipped, 8 bytes"),
        Field("key_low", 32, "key of the noise"),
        Field("key_high", 32, "upper half of the key"),
        Field("number", 32, "number of the first word in the stream of noise"),
        Field("number_stride_n", 32, "words from sample to sample"),
        Field("number_stride_c", 32, "words from channel block to channel block"),
        Field("raised", 32, "is added to every result", most=(1 << (RESULT_BITS - 2)) - 1),
        Field("top", 32, "results are clipped to -top..top", 1, least=1, most=(1 << MOST_PLANES) - 1),
        Field("shift", 8, "bits that sums are shifted right by", most=MOST_SHIFT),
        Field("dropped", 8, "bits that stream u loses first, where it is results of a product", most=MOST_DROPPED),
        Field("source", 8, "Source", most=max(Source), values=Source, error=Error.FLAGS),
        Field("sink", 8, "Sink", most=max(Sink), values=Sink, error=Error.FLAGS),
        Field("controls", 16, "Pass bits", most=sum(Pass), values=Pass, error=Error.FLAGS),
        Field("stride_d", 16, f"{WORD_BYTES} bytes each, from digit to digit; 0: a stationary tile"),
    ),
)


def _tensor(name: str, meaning: str, most: int, planes: str) -> Block:
    return Block(
        name,
        f"{name}_",
        meaning,
        16,
        (
            address("base", "address"),
            address("stride_n", "bytes from sample to sample"),
            address("stride_c", "bytes from channel block to channel block"),
            Field("stride_y", 16, "bytes from row to row", multiple=8, error=Error.ALIGNMENT),
            Field("planes", 8, planes, most=most),
            Field("signed", 8, "plane 0 is the sign", most=1),
        ),
    )


#: The tensors that a pass reads.
U = _tensor("u", "stream u", U_BITS, "planes; 0 where it is results of a product, or 0")
V = _tensor("v", "stream v", V_BITS, "planes; 0 for none")
X = _tensor("x", "stream x, with which results are multiplied for the sums", X_BITS, "planes; 0 for none")
MASK = _tensor("mask", "the mask", 1, "1, or 0 for none")
#: The tensors that it writes.
Q = _tensor("q", "the results", MOST_PLANES, "bits; 0: they are not stored")
POSITIVE = _tensor("positive", "where a sum was positive, or the mask", 1, "1, or 0: it is not stored")

READS = (U, V, X, MASK)
WRITES = (Q, POSITIVE)

#: Results of a product in parts, of which stream u is the sum; it is as wide as they are, int32 or int64.
PARTS = Block(
    "parts",
    "parts_",
    "stream u as a sum of parts",
    8,
    (
        address("stride", "bytes from part to part"),
        Field("more", 8, "parts beside the first"),
    ),
)
