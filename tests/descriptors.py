"""Small sound products as descriptors, and the memory that they work in."""

from __future__ import annotations

import numpy as np

from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Flag, Opcode

TINY = AcceleratorConfig.preset("tiny")
STREAM, STATIONARY, TABLE, OUT = 0x0, 0x4000, 0x8000, 0x9000
MEMORY = 1 << 16


def window(n=3, size=5, bits=4, **changes) -> Descriptor:
    """Sound descriptor: one channel block, 4 rows, images of size x size, padding 1."""
    words = -(-size // 4)
    fields = {
        "opcode": Opcode.WINDOW,
        "flags": Flag.STATIONARY_SIGNED,
        "stream_bits": bits,
        "stationary_bits": 4,
        "samples": n,
        **dict.fromkeys(("height", "width", "out_height", "out_width"), size),
        "tile_rows": 2,
        "row_groups": 2,
        "sample_parts": 2,
        "pad_top": 1,
        "pad_left": 1,
        "stream_base": STREAM,
        "stream_stride_n": size * bits * words * 8,
        "stream_stride_c": size * bits * words * 8,
        "stationary_base": STATIONARY,
        "stationary_stride_k": 288,
        "stationary_stride_m": 288,
        "out_base": OUT,
        "out_stride_n": size * size * 16,
        "out_stride_m": size * size * 16,
        "stream_table": TABLE,
        "stationary_table": TABLE,
    }
    return Descriptor(**{**fields, **changes})


def flat(width=8, bits=4, k_blocks=1, k_tail=9, **changes) -> Descriptor:
    """Sound descriptor: one chunk of `width` vectors of 144 channels a k block, 4 rows."""
    plane = -(-width // 4) * 8
    fields = {
        "opcode": Opcode.FLAT,
        "flags": Flag.STATIONARY_SIGNED,
        "stream_bits": bits,
        "stationary_bits": 4,
        "width": width,
        "out_width": width,
        "k_blocks": k_blocks,
        "k_tail": k_tail,
        "row_groups": 3,
        "stream_base": STREAM,
        "stream_stride_n": ((k_blocks - 1) * 9 + k_tail) * bits * plane,
        "stream_stride_c": bits * plane,
        "stationary_base": STATIONARY,
        "stationary_stride_k": 288,
        "stationary_stride_m": 288 * k_blocks,
        "out_base": OUT,
        "out_stride_n": width * 16,
        "out_stride_m": width * 16,
    }
    return Descriptor(**{**fields, **changes})


def image(*parts: tuple[int, np.ndarray]) -> np.ndarray:
    """Memory with the given bytes at the given addresses, and a mark everywhere else."""
    memory = np.full(MEMORY, 0xA5, np.uint8)
    for address, data in parts:
        memory[address : address + data.nbytes] = data.reshape(-1)
    return memory


def results(memory: np.ndarray, n: int, positions: int, kind: str = "<i4") -> np.ndarray:
    """First samples' results as (n, position, row), one block of 4 rows."""
    size = n * positions * 4 * np.dtype(kind).itemsize
    return memory[OUT : OUT + size].view(kind).reshape(n, positions, 4)
