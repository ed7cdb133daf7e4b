"""Random descriptors of products: their sizes, which fit the buffers; where operands and results lie is the user's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Format, Opcode, Order
from sim.golden_check import check

BOTH_TABLES = Flag.STREAM_TABLE | Flag.STATIONARY_TABLE
SIGNS = Flag.STREAM_SIGNED | Flag.STATIONARY_SIGNED


def drawn_product(
    rng: np.random.Generator,
    config: AcceleratorConfig,
    *,
    flags: Flag = SIGNS | BOTH_TABLES | Flag.FENCE,
    samples: int = 5,
    sides: int = 8,
    k_blocks: int = 2,
    table_bits: int = 6,
) -> Descriptor:
    """A product that nothing is wrong with, at address 0, its results as close as can be.

    Parameters
    ----------
    flags : those that it may have.
    samples, sides, k_blocks : the most that it has of each.
    table_bits : the most that a table may say of a sample.
    """

    def up_to(most: int, least: int = 1) -> int:
        return int(rng.integers(least, most + 1))

    while True:
        flat, stride = bool(rng.integers(2)), up_to(2)
        stuffed = 0 if flat or stride == 2 else up_to(1, 0)
        chosen = [flag for flag in Flag if rng.random() < (0.2 if flag == Flag.STATIONARY_TABLE else 0.5)]
        d = Descriptor(
            opcode=Opcode.FLAT if flat else Opcode.WINDOW,
            flags=sum(chosen) & flags,
            stream_bits=up_to(16),
            stationary_bits=up_to(16),
            samples=up_to(samples),
            height=1 if flat else up_to(sides),
            width=up_to(sides),
            out_height=1 if flat else up_to(sides),
            out_width=up_to(sides),
            k_blocks=up_to(k_blocks),
            row_blocks=up_to(2),
            k_tail=up_to(9) if flat else 1,
            tile_samples=up_to(3),
            sample_parts=up_to(2),
            log2_row_parts=up_to(1, 0),
            stride=stride,
            stuffed=stuffed,
            pad_top=0 if flat else up_to(2, 0),
            pad_left=0 if flat else up_to(2, 0),
            stationary_stride_n=8 * up_to(31) if rng.random() < 0.2 else 0,
            stationary_order=int(rng.choice(list(Order))) if config.vector else Order.ROWS,
            out_format=up_to(2, 0),
            out_shift=up_to(31, 0) if rng.random() < 0.5 else 0,
        )
        d.tile_rows = 1 if flat else up_to(d.out_height)
        span = (d.tile_rows + 3) // 2 if stuffed else (d.tile_rows - 1) * stride + 3
        d.row_groups = 3 if flat else -(-span // 3)
        if config.vector and not flat and rng.random() < 0.3:
            d = as_gradient(rng, d)
        d.out_stride_m = d.out_height * d.out_width * config.rows * Format(d.out_format).nbytes
        d.out_stride_n = d.out_stride_m * (d.row_blocks << d.log2_row_parts)
        # Windows of many planes do not always fit the small buffers: take what does, whatever a table may say.
        widest = replace(d, flags=Flag(0), stream_bits=table_bits)
        if check(config, d) == check(config, widest) == Error.NONE:
            return d


def as_gradient(rng: np.random.Generator, d: Descriptor) -> Descriptor:
    """A weight gradient of about the sizes of a convolution; it may be a wrong one."""
    side, words = int(rng.choice([1, 3])), -(-d.width // 16)
    rows = int(rng.integers(1, 9 // words + 1))
    pad = side // 2
    fields = {
        "opcode": Opcode.WGRAD,
        "out_height": side**2,
        "out_width": 16,
        "tile_rows": int(rng.integers(1, side**2 + 1)),
        "row_groups": -(-(rows + 2 * pad) * words // 3),
        **dict.fromkeys(("pad_top", "pad_left"), pad),
        **dict.fromkeys(("stride", "tile_samples", "row_blocks"), 1),
        "stuffed": 0,
        "images": int(rng.integers(1, 9)),
        "stream_block_rows": rows,
        "stream_stride_k": 8 * int(rng.integers(1 << 8)),
        "stationary_order": Order.WORDS,
        "stationary_stride_d": int(rng.integers(1 << 6)),
    }
    return Descriptor(**{**vars(d), **fields})
