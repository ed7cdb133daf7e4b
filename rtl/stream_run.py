"""A run of beats on its way into the clusters' buffers, as the receiving side of LOAD has to know it."""

from __future__ import annotations

from amaranth.lib import data
from amaranth.utils import ceil_log2

from .config import MAX_BITS, AcceleratorConfig
from .load_block import Order
from .tiles import PLANES, operands

#: A slot is full.
Notice = data.StructLayout({"valid": 1, "planes": MAX_BITS})


def run(config: AcceleratorConfig) -> data.StructLayout:
    """A run on its way, as the receiving side needs to know it."""
    words = ceil_log2(config.stream_slot) + 1
    return data.StructLayout(
        {
            "clusters": config.clusters,
            "weight": 1,
            "done": 1,  # the last run of its slot
            "signed": 1,
            "order": Order,
            "addr": ceil_log2(config.stream_depth),  # of its first beat
            "bank": 2,
            "turn": 2,  # column banks by which the beat is turned
            "gradient": operands(config)["gradient"],  # its words go through the corner
            "entry": 2,  # of its planes' first beats in their words
            "whole": 1,  # its beats complete their words
            "planes": PLANES,
            "plane_beats": words,
            "plane_pitch": words,
            "row_words": words,
        }
    )
