"""The tiler's blocks of the descriptor: what is computed, and the sizes of the product and of its tiles."""

from __future__ import annotations

import enum

from amaranth.lib import enum as amaranth_enum

from .block import Block, Field, size
from .config import TAPS
from .errors import Error


class Opcode(amaranth_enum.IntEnum, shape=16):
    """What a descriptor computes."""

    WINDOW = 1  #: 3x3 window over images, im2col on the fly
    FLAT = 2  #: vectors of 144 lanes a k block: 1x1 convolution, matrix product, weight gradient
    VECTOR = 3  #: an affine operation on every element of tensors, with sums over each channel
    WGRAD = 4  #: weight gradient of a convolution at stride 1: the reduction goes over the positions of images


class Flag(enum.IntFlag):
    """Bits of `flags`."""

    STREAM_SIGNED = 1  #: plane 0 of the streaming operand is its sign
    STATIONARY_SIGNED = 2  #: digit 0 of the stationary operand is signed
    STREAM_TABLE = 4  #: bits of sample n are the byte at stream_table + n; 0 skips the sample
    STATIONARY_TABLE = 8  #: bits of the stationary operand are the byte at stationary_table; 0 skips the descriptor
    FENCE = 16  #: start only after all earlier descriptors have completed
    INTERRUPT = 32  #: raise the interrupt on completion


HEADER = Block(
    "header",
    "",
    "what to do",
    8,
    (
        Field("opcode", 16, "Opcode", None, least=min(Opcode), most=max(Opcode), values=Opcode, error=Error.OPCODE),
        Field("flags", 16, "Flag bits", most=sum(Flag), values=Flag, error=Error.FLAGS),
    ),
)

PRODUCT = Block(
    "product",
    "",
    "sizes of the product and of its tiles",
    32,
    (
        size("samples", 16, "samples: images, chunks of vectors, or the blocks of 16 channels of a weight gradient"),
        size("height", 16, "rows of an input image, or of a tensor; 1 in flat mode"),
        size("width", 16, "columns of an input image or of a tensor, or vectors of a chunk"),
        size("out_height", 16, "rows of an output image; 1 in flat mode; taps of a weight gradient: 9 or 1"),
        size("out_width", 16, "columns of an output image, or vectors of a chunk; 16 channels of a weight gradient"),
        size(
            "k_blocks",
            16,
            "blocks of the reduction: 16 channels x 9 taps, or 144 channels; of a pass: blocks of 16 channels",
        ),
        size(
            "row_blocks", 16, "row blocks done one after the other per cluster (in all: row_blocks << log2_row_parts)"
        ),
        size("tile_rows", 16, "output rows in a tile"),
        size(
            "row_groups",
            16,
            "rows of the image, or words of a weight gradient, in a tile divided by 3, rounded up; 3 in flat mode",
        ),
        size("tile_samples", 8, "most samples in a tile per cluster"),
        size("sample_parts", 8, "groups of clusters that work on different samples"),
        Field("log2_row_parts", 8, "log2 of the clusters of a group, which work on different row blocks", most=4),
        Field(
            *("k_tail", 8, "flat mode: channel blocks in the last k block; 1 in window mode"),
            *(1, 1, TAPS),
        ),
        Field("stride", 8, "both axes", 1, least=1, most=2),
        Field("pad_top", 8, "zero rows above the image", most=2),
        Field("pad_left", 8, "zero columns left of the image", most=2),
        Field(
            "stuffed", 8, "1: zeros between the pixels, a row behind each row and a column behind each column", most=1
        ),
        Field("images", 16, "weight gradient: images that the reduction goes over"),
    ),
)
