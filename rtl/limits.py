"""How much of the buffers a tile takes: the one source of the sizes that a descriptor may ask for.

The tiler refuses what does not fit (`rtl.sizes`), the golden model says so too, and the host cuts its tiles by it.
"""

from __future__ import annotations

from amaranth.utils import ceil_log2

from .config import BEAT_WORDS, WORD_CHANNELS, AcceleratorConfig
from .tiler_block import Opcode

#: Positions of a word of a weight gradient.
WORD_POSITIONS = 16
#: Most columns of its images.
MOST_GRADIENT_WIDTH = 64


def plane_beats(width: int) -> int:
    """Beats of a row of one plane, in DDR."""
    return -(-width // BEAT_WORDS)


def plane_pitch(width: int, opcode: int) -> int:
    """Beats of a row of one plane, in the stream buffer.

    Flat mode skews the channel blocks against each other, which takes one more. A weight gradient has words of the 16
    channels there.
    """
    return WORD_CHANNELS // BEAT_WORDS if opcode == Opcode.WGRAD else plane_beats(width) + (opcode == Opcode.FLAT)


def stream_beats(row_groups: int, bits: int, width: int, opcode: int) -> int:
    """Beats of one sample in each row bank of the stream buffer."""
    return row_groups * bits * plane_pitch(width, opcode)


def images_of_word(width: int) -> int:
    """Images, each of so many columns, that lie side by side in a word of 16 positions."""
    return max(1, WORD_POSITIONS // BEAT_WORDS // 2 ** ceil_log2(plane_beats(width)))


def words_of_row(width: int) -> int:
    """Words of an image row."""
    return -(-width // WORD_POSITIONS)


def result_positions(tile_rows: int, out_width: int, row_blocks: int) -> int:
    """Positions of one sample in the result buffer."""
    return tile_rows * out_width * row_blocks


def most_samples(config: AcceleratorConfig, beats: int, positions: int) -> int:
    """Samples that a tile may have per cluster, of which each takes so much of both buffers; 0: not even one fits."""
    return min(config.stream_slot // beats, config.result_slot // positions)
