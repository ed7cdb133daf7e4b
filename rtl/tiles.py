"""What the tiler hands to LOAD, EXEC and STORE for each tile: one record each, all sizes resolved.

A tile is a run of consecutive samples of one precision times a band of output rows. Sample t of the run belongs to
sample part t % parts (a group of clusters) and is that part's sample number t // parts.
"""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data
from amaranth.utils import bits_for, ceil_log2

from .axi import ADDRESS_BITS
from .config import MAX_BITS, AcceleratorConfig
from .store_block import Format

PLANES = bits_for(MAX_BITS)
SIZE = 16  # widths, heights, counts of blocks
COUNT = 13  # samples of a tile: up to 20 parts x 255
INDEX = 32


def load_tile(config: AcceleratorConfig) -> data.StructLayout:
    words = ceil_log2(config.stream_slot) + 1
    return data.StructLayout(
        {
            "index": INDEX,  # of the descriptor, for error reports
            "flat": 1,
            "planes": PLANES,
            "digits": 3,
            "signed": 1,  # stationary operand
            "samples": COUNT,
            "parts": 5,
            "log2_row_parts": 3,
            "k_blocks": SIZE,
            "k_tail": 4,
            "row_blocks": SIZE,
            "first_bank": 2,  # row bank of the first loaded image row
            "run_beats": SIZE,  # beats of one sample's channel block
            "plane_beats": words,  # beats of a row of one plane, in DDR
            "plane_pitch": words,  # and in the stream buffer
            "row_words": words,  # planes * plane_pitch
            "sample_words": words,  # row groups * row_words
            "stream_addr": ADDRESS_BITS,
            "stream_stride_n": ADDRESS_BITS,
            "stream_stride_c": ADDRESS_BITS,
            "own_stationary": 1,  # every sample has its own stationary operand
            "stationary_addr": ADDRESS_BITS,
            "stationary_stride_n": ADDRESS_BITS,
            "stationary_stride_k": ADDRESS_BITS,
            "stationary_stride_m": ADDRESS_BITS,
        }
    )


def exec_tile(config: AcceleratorConfig) -> data.StructLayout:
    words = ceil_log2(config.stream_slot) + 1
    return data.StructLayout(
        {
            "flat": 1,
            "planes": PLANES,
            "digits": 3,
            "stream_signed": 1,
            "signed": 1,  # stationary operand
            "k_blocks": SIZE,
            "k_tail": 4,
            "row_blocks": SIZE,
            "samples": COUNT,  # of one cluster
            "rows": SIZE,
            "out_width": SIZE,
            "stride": 2,
            "top": signed(SIZE + 2),  # image row of the first window's first row; negative in the padding
            "left": 2,  # padding columns
            "height": SIZE,
            "width": SIZE,
            "plane_pitch": words,
            "row_words": words,
            "sample_words": words,
        }
    )


def store_tile(config: AcceleratorConfig) -> data.StructLayout:
    positions = ceil_log2(config.result_slot) + 1
    return data.StructLayout(
        {
            "index": INDEX,
            "end": 1,  # no tile: the descriptor's end
            "interrupt": 1,
            "format": Format,
            "samples": COUNT,
            "parts": 5,
            "log2_row_parts": 3,
            "row_blocks": SIZE,
            "area": positions,  # positions of one sample
            "block_positions": positions,  # positions of one row block: all samples of a cluster
            "out_addr": ADDRESS_BITS,
            "out_stride_n": ADDRESS_BITS,
            "out_stride_m": ADDRESS_BITS,
        }
    )
