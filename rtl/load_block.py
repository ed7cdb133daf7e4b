"""LOAD's blocks of the descriptor: where the two operands lie, and their bits."""

from __future__ import annotations

from amaranth.lib import enum

from .block import Block, Field, address
from .config import BEAT_BYTES, MAX_BITS, WORD_BYTES
from .errors import Error
from .tiler_block import Flag


class Order(enum.IntEnum, shape=2):
    """How the beats of a stationary tile follow each other."""

    ROWS = 0  #: nine beats a row, one for each tap
    TAPS = 1  #: 16 beats a tap, the last tap first, one for each row
    TURNED = 2  #: 16 beats a tap, one for each channel, with the rows as nibbles
    WORDS = 3  #: likewise, but of the taps as they meet the words of a weight gradient


def is_turned(order):
    """Whether taps are transposed on their way into the weight buffer."""
    return (order == Order.TURNED) | (order == Order.WORDS)


def _precision(operand: str, table: Flag, meaning: str) -> tuple[Field, Field]:
    """Address of the precision bytes, and the bits where there are none."""
    return (
        Field("table", 32, f"address of the {operand} operand's precision {meaning}"),
        Field(
            "bits",
            8,
            f"bits of the {operand} operand, where no table says it",
            1,
            least=1,
            most=MAX_BITS,
            unless=table,
            error=Error.PRECISION,
        ),
    )


STREAM = Block(
    "stream",
    "stream_",
    "the streaming operand",
    24,
    (
        address("base", "address of the streaming operand"),
        address("stride_n", "bytes from sample to sample"),
        address("stride_c", "bytes from channel block to channel block; weight gradient: from image to image"),
        *_precision("streaming", Flag.STREAM_TABLE, "bytes"),
        Field("block_rows", 8, "weight gradient: rows of an image in a k block"),
        Field(
            "stride_y",
            16,
            "of images: bytes from row to row; 0: rows are as close as can be",
            multiple=BEAT_BYTES,
            error=Error.ALIGNMENT,
        ),
        address("stride_k", "weight gradient: bytes from k block to k block of an image"),
    ),
)

STATIONARY = Block(
    "stationary",
    "stationary_",
    "the stationary operand",
    24,
    (
        address("base", "address of the stationary operand"),
        address("stride_n", "bytes from sample to sample; 0: all samples share it. Else tile_samples must be 1"),
        address("stride_k", "bytes from k block to k block"),
        address("stride_m", "bytes from row block to row block"),
        *_precision("stationary", Flag.STATIONARY_TABLE, "byte"),
        Field("order", 8, "Order; 0 unless there is a vector unit", most=max(Order), values=Order, error=Error.FLAGS),
        Field("stride_d", 16, f"{WORD_BYTES} bytes each, from digit to digit; 0: a tile"),
    ),
)
