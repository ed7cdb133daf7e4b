"""How much of the buffers a tile takes: the one source of the sizes that a descriptor may ask for.

The tiler refuses what does not fit (`rtl.sizes`), the golden model says so too, and the host cuts its tiles by it.
"""

from __future__ import annotations

from .config import BEAT_WORDS, AcceleratorConfig


def plane_beats(width: int) -> int:
    """Beats of a row of one plane, in DDR."""
    return -(-width // BEAT_WORDS)


def plane_pitch(width: int, flat: bool) -> int:
    """Beats of a row of one plane, in the stream buffer.

    Flat mode skews the channel blocks against each other, which takes one more.
    """
    return plane_beats(width) + flat


def stream_beats(row_groups: int, bits: int, width: int, flat: bool) -> int:
    """Beats of one sample in each row bank of the stream buffer."""
    return row_groups * bits * plane_pitch(width, flat)


def result_positions(tile_rows: int, out_width: int, row_blocks: int) -> int:
    """Positions of one sample in the result buffer."""
    return tile_rows * out_width * row_blocks


def most_samples(config: AcceleratorConfig, beats: int, positions: int) -> int:
    """Samples that a tile may have per cluster, of which each takes so much of both buffers; 0: not even one fits."""
    return min(config.stream_slot // beats, config.result_slot // positions)
