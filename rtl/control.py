"""The control words that the sequencers broadcast to all clusters, which run in lockstep.

Each bundle is registered once more inside every cluster, so that no net fans out over the whole array.
"""

from __future__ import annotations

from amaranth.lib import data, enum
from amaranth.utils import ceil_log2

from .config import BEAT_BITS, BEAT_WORDS, GROUP_LANES, TAPS, WEIGHT_SLOTS, AcceleratorConfig

#: Rows and columns of the window.
SIDE = 3
ROW_BANKS = SIDE
COL_BANKS = BEAT_WORDS
#: Rows whose sums leave a cluster together.
DRAIN_ROWS = 4


class Form(enum.Enum, shape=3):
    """Which positions of images the lanes of a weight gradient's words are."""

    QUARTERS = 0  #: rows of four images side by side in a word
    HALVES = 1  #: of two
    WHOLE = 2  #: one row a word
    TWO = 3  #: a row of so many words
    THREE = 4
    FOUR = 5


#: Lanes take what their left or their right neighbour has, of the same row of an image; zero where there is none.
Shift = data.StructLayout({"left": 1, "right": 1, "form": Form})


def stream_fill(config: AcceleratorConfig) -> data.StructLayout:
    """A beat from DDR on its way into the stream buffer of some clusters."""
    return data.StructLayout(
        {
            "valid": 1,
            "clusters": config.clusters,  # which take it
            "row_bank": 2,
            "addr": data.ArrayLayout(ceil_log2(config.stream_depth), COL_BANKS),  # one a column bank
            "data": BEAT_BITS,
        }
    )


def weight_fill(config: AcceleratorConfig) -> data.StructLayout:
    """A beat on its way into the weight buffer of some clusters."""
    return data.StructLayout(
        {
            "valid": 1,
            "clusters": config.clusters,
            "addr": ceil_log2(WEIGHT_SLOTS * config.weight_tile_beats),
            "data": BEAT_BITS,
        }
    )


def table_step(config: AcceleratorConfig) -> data.StructLayout:
    """One cycle of writing tables: fetching a row's digits and, beside it, building the entries of the row before."""
    return data.StructLayout(
        {
            "fetch_addr": ceil_log2(WEIGHT_SLOTS * config.weight_tile_beats),
            "capture": TAPS,  # which tap's beat arrives now, one hot
            "start": 1,  # take the fetched row, first entry (the empty sum)
            "lane": 2,  # lane that enters or leaves the sum
            "leave": 1,
            "signed": 1,  # digits are -8..7
            "write": config.rows,  # row whose table takes the entry, one hot
            "entry": GROUP_LANES,
            "context": 1,
        }
    )


def step(config: AcceleratorConfig) -> data.StructLayout:
    """One plane-cycle of the array."""
    return data.StructLayout(
        {
            "valid": 1,
            "addr": data.ArrayLayout(
                data.ArrayLayout(ceil_log2(config.stream_depth), COL_BANKS), ROW_BANKS
            ),  # of every bank
            # Column bank that holds each column of the window, of every row bank.
            "column": data.ArrayLayout(data.ArrayLayout(2, SIDE), ROW_BANKS),
            "row": data.ArrayLayout(2, SIDE),  # row bank that holds each row of the window
            "kill": TAPS,  # taps in the zero padding
            "shift": Shift,  # of the lanes
            "context": 1,
            "unsigned_digit": 1,
            "weight": 18,  # signed power of two: plane and digit weight
            "upper": 1,  # times 2**12
            "first": 1,  # first plane of a position
            "clear": 1,  # the position starts from zero, else from its stored sum
            "last": 1,  # last plane of a position: store the sum
            "position": ceil_log2(config.result_depth),
        }
    )


def drain(config: AcceleratorConfig) -> data.StructLayout:
    """Request for four neighbouring rows' sums of one position of one cluster."""
    return data.StructLayout(
        {
            "position": ceil_log2(config.result_depth),
            "cluster": max(1, ceil_log2(-(-config.clusters // config.lanes))),  # among those of its lane
            "quad": max(1, ceil_log2(config.rows // DRAIN_ROWS)),
        }
    )
