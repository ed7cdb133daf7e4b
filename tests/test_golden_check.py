"""What the golden model refuses of a descriptor before it runs."""

from dataclasses import replace

import pytest
from descriptors import TINY, flat, window

from rtl.isa import Error, Flag, Order
from sim.golden_check import check


def test_sound_descriptors_pass():
    assert check(TINY, window()) == Error.NONE
    assert check(TINY, flat()) == Error.NONE


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"opcode": 0}, Error.OPCODE),
        ({"opcode": 3, "flags": 1 << 15, "stream_bits": 0}, Error.OPCODE),
        ({"flags": 1 << 6, "header_reserved": 1}, Error.FLAGS),
        ({"out_format": 3, "stream_bits": 0}, Error.FLAGS),
        ({"out_shift": 31}, Error.NONE),
        ({"out_shift": 32}, Error.SHAPE),
        ({"sink_reserved": 1, "stream_bits": 0}, Error.RESERVED),
        ({"parts_reserved": 1 << 23, "samples": 0}, Error.RESERVED),
        ({"stream_bits": 0}, Error.PRECISION),
        ({"stream_bits": 17}, Error.PRECISION),
        ({"stationary_bits": 0, "out_base": 4}, Error.PRECISION),
        ({"stationary_bits": 17}, Error.PRECISION),
        ({"flags": Flag.STREAM_TABLE, "stream_bits": 99}, Error.NONE),
        ({"flags": Flag.STATIONARY_TABLE, "stationary_bits": 99}, Error.NONE),
        *(
            ({name: 4, "samples": 0}, Error.ALIGNMENT)
            for name in (
                *("stream_base", "stream_stride_n", "stream_stride_c"),
                *("stationary_base", "stationary_stride_n", "stationary_stride_k", "stationary_stride_m"),
                *("out_base", "out_stride_n", "out_stride_m"),
            )
        ),
        ({"stream_table": 3, "stationary_table": 5}, Error.NONE),
        *(
            ({name: 0}, Error.SHAPE)
            for name in (
                *("samples", "height", "width", "out_height", "out_width", "k_blocks", "row_blocks"),
                *("tile_rows", "row_groups", "tile_samples", "sample_parts", "stride", "k_tail"),
            )
        ),
        ({"stride": 3}, Error.SHAPE),
        ({"pad_top": 3}, Error.SHAPE),
        ({"pad_left": 3}, Error.SHAPE),
        ({"pad_top": 2, "pad_left": 2}, Error.NONE),
        ({"log2_row_parts": 5, "sample_parts": 1}, Error.SHAPE),
        ({"log2_row_parts": 1, "sample_parts": 1}, Error.NONE),
        ({"log2_row_parts": 1, "sample_parts": 2}, Error.SHAPE),
        ({"sample_parts": 3}, Error.SHAPE),
        ({"stationary_stride_n": 288}, Error.NONE),
        ({"stationary_order": Order.TAPS}, Error.SHAPE),
        ({"stationary_order": Order.TURNED}, Error.SHAPE),
        ({"stationary_order": Order.WORDS}, Error.SHAPE),
        ({"stationary_order": 4}, Error.FLAGS),
        ({"stationary_stride_n": 288, "tile_samples": 2, "tile_rows": 1, "row_groups": 1}, Error.SHAPE),
        ({"out_height": 6}, Error.NONE),
        ({"out_height": 7}, Error.SHAPE),
        ({"out_width": 7}, Error.SHAPE),
        ({"stride": 2, "out_height": 3, "out_width": 3}, Error.NONE),
        ({"stride": 2, "out_height": 4, "out_width": 3}, Error.SHAPE),
        ({"tile_rows": 3, "row_groups": 1}, Error.SHAPE),
        ({"stride": 2, "out_height": 3, "out_width": 3, "row_groups": 1}, Error.SHAPE),
        ({"tile_samples": 3}, Error.NONE),
        ({"tile_samples": 4}, Error.SHAPE),  # 4 * 10 positions, 32 fit
        ({"row_blocks": 4}, Error.SHAPE),
        ({"row_groups": 17}, Error.SHAPE),  # 17 * 4 * 2 beats, 128 fit
        ({"row_groups": 16}, Error.NONE),
        ({"k_tail": 2}, Error.SHAPE),
        ({"stuffed": 1, "row_groups": 1}, Error.NONE),
        ({"stuffed": 1, "tile_rows": 4, "row_groups": 1}, Error.NONE),
        ({"stuffed": 1, "tile_rows": 5, "row_groups": 1}, Error.SHAPE),
        ({"stuffed": 2}, Error.SHAPE),
        ({"stuffed": 1, "stride": 2, "out_height": 3, "out_width": 3}, Error.SHAPE),
        ({"stuffed": 1, "out_height": 11}, Error.NONE),
        ({"stuffed": 1, "out_height": 12}, Error.SHAPE),
        ({"stuffed": 1, "out_width": 11}, Error.NONE),
        ({"stuffed": 1, "out_width": 12}, Error.SHAPE),
    ],
)
def test_window_descriptor_is_refused_for(changes, error):
    assert check(TINY, replace(window(), **changes)) == error


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        *(({name: 2}, Error.SHAPE) for name in ("height", "out_height", "tile_rows", "row_groups")),
        ({"pad_left": 1}, Error.SHAPE),
        ({"pad_top": 1}, Error.SHAPE),
        ({"k_tail": 10}, Error.SHAPE),
        ({"k_tail": 0}, Error.SHAPE),
        ({"out_width": 9}, Error.SHAPE),
        ({"stream_bits": 14}, Error.NONE),  # 3 * 14 * (2 + 1) beats, 128 fit
        ({"stream_bits": 15}, Error.SHAPE),
        ({"tile_samples": 3}, Error.NONE),
        ({"tile_samples": 4}, Error.SHAPE),
        ({"row_blocks": 5}, Error.SHAPE),
        ({"stuffed": 1}, Error.SHAPE),
    ],
)
def test_flat_descriptor_is_refused_for(changes, error):
    assert check(TINY, replace(flat(), **changes)) == error
