"""What the tiler hands to LOAD, EXEC and STORE for each tile: one record each, all sizes resolved.

A tile is a run of consecutive samples of one precision times a band of output rows. Sample t of the run belongs to
sample part t % parts (a group of clusters) and is that part's sample number t // parts.
"""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data
from amaranth.utils import bits_for

from .axi import ADDRESS_BITS
from .config import BEAT_WORDS, DIGIT_BITS, MAX_BITS, TAPS, AcceleratorConfig
from .isa import descriptor_layout
from .limits import MOST_GRADIENT_WIDTH, words_of_row
from .load_block import Order
from .store_block import MOST_SHIFT, Format
from .tiler_block import PRODUCT
from .vector_block import PARTS, READS, VECTOR, WRITES

_FIELD_BITS = {field.name: field.bits for field in PRODUCT.fields}

PLANES = bits_for(MAX_BITS)
DIGITS = bits_for(-(-MAX_BITS // DIGIT_BITS))
SIZE = 16  # widths, heights, counts of blocks
WORDS = bits_for(words_of_row(MOST_GRADIENT_WIDTH))
BLOCK_ROWS = bits_for(TAPS)
TOP = signed(SIZE + 2)  # a row under windows: of the image, between its rows, or in the padding above
INDEX = 32


def parts_bits(config: AcceleratorConfig) -> int:
    """Bits of a number of groups of clusters."""
    return bits_for(config.clusters)


def slots_bits(config: AcceleratorConfig) -> int:
    """Bits of a number of samples in a tile, per cluster."""
    return _FIELD_BITS["tile_samples"]


def samples_bits(config: AcceleratorConfig) -> int:
    """Bits of a number of samples in a tile."""
    return bits_for((2 ** _FIELD_BITS["tile_samples"] - 1) * config.clusters)


def words_bits(config: AcceleratorConfig) -> int:
    """Bits of a number of words in a row bank's slot of the stream buffer."""
    return bits_for(config.stream_slot)


def positions_bits(config: AcceleratorConfig) -> int:
    """Bits of a number of positions in a slot of the result buffer."""
    return bits_for(config.result_slot)


def _of_gradient(config: AcceleratorConfig, bits: int) -> int:
    """Bits of what only a weight gradient needs: none where there are no weight gradients.

    A flag of no bits is zero, but so is its inverse: ask whether it is 0.
    """
    return bits if config.vector else 0


def gradient_sizes(config: AcceleratorConfig) -> dict:
    """What the tiler and EXEC know of a weight gradient's words."""
    fields = {
        "side": bits_for(BEAT_WORDS),  # images side by side in a word
        "block_words": bits_for(TAPS),  # of a k block
        "height_words": SIZE + 2,  # and of an image
    }
    return {name: _of_gradient(config, bits) for name, bits in fields.items()}


def operands(config: AcceleratorConfig) -> dict:
    """What LOAD and EXEC both know of the operands."""
    words = words_bits(config)
    return {
        "flat": 1,
        "gradient": _of_gradient(config, 1),  # of weights
        "words": _of_gradient(config, WORDS),  # of an image row
        "padded": _of_gradient(config, 1),  # windows reach a row beyond those of a k block
        "height": SIZE,
        "planes": PLANES,
        "digits": DIGITS,
        "signed": 1,  # stationary operand
        "k_blocks": SIZE,
        "k_tail": bits_for(TAPS),  # channel blocks in the last flat k block
        "row_blocks": SIZE,
        "plane_pitch": words,  # beats of a row of one plane, in the stream buffer
        "row_words": words,  # planes * plane_pitch
        "sample_words": words,  # row groups * row_words
    }


def _clusters(config: AcceleratorConfig) -> dict:
    """What LOAD and STORE both know of the work's place in the clusters."""
    return {
        "samples": samples_bits(config),
        "parts": parts_bits(config),
        "log2_row_parts": bits_for(bits_for(config.clusters) - 1),
    }


def load_tile(config: AcceleratorConfig) -> data.StructLayout:
    return data.StructLayout(
        {
            "index": INDEX,  # of the descriptor, for error reports
            **operands(config),
            **_clusters(config),
            "first_bank": 2,  # row bank of the first loaded image row
            "runs": SIZE,  # of one sample's channel block: its rows where each is read alone, else 1
            "run_beats": SIZE,
            "plane_beats": words_bits(config),  # beats of a row of one plane, in DDR
            "stream_addr": ADDRESS_BITS,
            "stream_stride_n": ADDRESS_BITS,
            "stream_stride_c": ADDRESS_BITS,
            "stream_stride_y": SIZE,
            "stream_stride_k": _of_gradient(config, ADDRESS_BITS),
            "side": gradient_sizes(config)["side"],
            "images": _of_gradient(config, SIZE),
            "block_rows": _of_gradient(config, BLOCK_ROWS),
            "own_stationary": 1,  # every sample has its own stationary operand
            "order": Order,  # of its beats
            "stationary_addr": ADDRESS_BITS,
            "stationary_stride_n": ADDRESS_BITS,
            "stationary_stride_k": ADDRESS_BITS,
            "stationary_stride_m": ADDRESS_BITS,
            "stationary_stride_d": SIZE,
        }
    )


def exec_tile(config: AcceleratorConfig) -> data.StructLayout:
    return data.StructLayout(
        {
            **operands(config),
            "stream_signed": 1,
            "samples": slots_bits(config),  # of one cluster
            "rows": SIZE,
            "out_width": SIZE,
            "stride": 2,
            "stuffed": 1,  # zeros stand between the pixels: `top` and `left` count them
            "top": TOP,  # row of the first window's first row; negative in the padding
            "left": 2,  # padding columns
            "width": SIZE,
            **gradient_sizes(config),
            "first_tap": bits_for(TAPS),
        }
    )


def store_tile(config: AcceleratorConfig) -> data.StructLayout:
    positions = positions_bits(config)
    return data.StructLayout(
        {
            "index": INDEX,
            "end": 1,  # no tile: the descriptor's end
            "vector": 1,  # that of a vector pass
            "interrupt": 1,
            "format": Format,
            "shift": bits_for(MOST_SHIFT),
            **_clusters(config),
            "row_blocks": SIZE,
            "area": positions,  # positions of one sample
            "block_positions": positions,  # positions of one row block: all samples of a cluster
            "out_addr": ADDRESS_BITS,
            "out_stride_n": ADDRESS_BITS,
            "out_stride_m": ADDRESS_BITS,
        }
    )


#: A vector pass, for the vector unit: it is not cut. The blocks are as the descriptor has them.
VectorTile = data.StructLayout(
    {
        "index": INDEX,
        "samples": SIZE,
        "height": SIZE,
        "width": SIZE,
        "channel_blocks": SIZE,
        **descriptor_layout((VECTOR, *READS, *WRITES, PARTS)).members,
    }
)
