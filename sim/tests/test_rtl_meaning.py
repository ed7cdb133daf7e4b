"""An accepted descriptor means one thing, a refused one has one error: RTL and golden model on the edges of both.

Addresses that wrap, rows that no window reads, lanes that a short k block does not have, several faults at once.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from host.backends.driver import RegisterBoard
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Opcode
from sim.golden import execute
from sim.verilated import VerilatedTransport

CONFIG = AcceleratorConfig.preset("tiny")
MEMORY = 1 << 20
X, W, OUT, TABLE, FAILED = 0x20000, 0x40000, 0x60000, 0x80000, 0xA0000


@pytest.fixture(scope="module")
def board():
    board = RegisterBoard("sim", VerilatedTransport(CONFIG, memory_bytes=MEMORY))
    yield board
    board.close()


def agree(board, memory: np.ndarray, *descriptors: Descriptor) -> Error:
    """Runs the descriptors on both, compares error, index and memory; returns the error.

    A descriptor that fails may have written some of its results; they must lie from `FAILED` on.
    """
    board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
    golden = execute(CONFIG, memory, descriptors)
    error, index = Error.NONE, None
    try:
        board.run(descriptors)
    except AcceleratorError as stopped:
        error, index = stopped.code, stopped.index
    assert (error, index) == (golden.error, golden.index)
    end = FAILED if error else MEMORY
    wrong = np.flatnonzero(board.read(RESERVED_BYTES, end - RESERVED_BYTES) != memory[RESERVED_BYTES:end])
    assert not wrong.size, f"differs from {RESERVED_BYTES + wrong[0]:#x} on"
    return error


@pytest.fixture
def memory(rng):
    """Random bytes in the whole memory, precisions in the table."""
    image = rng.integers(0, 256, MEMORY).astype(np.uint8)
    image[TABLE : TABLE + 4] = 4, 0, 3, 4
    return image


def window(**changes) -> Descriptor:
    sizes = {"samples": 3, "height": 4, "width": 6, "out_height": 4, "out_width": 6, "k_blocks": 2, "row_blocks": 2}
    tile = {"tile_rows": 2, "row_groups": 2, "pad_top": 1, "pad_left": 1}
    strides = {"stream_stride_n": 0x1000, "stream_stride_c": 0x400, "out_stride_n": 0x1000, "out_stride_m": 0x400}
    strides |= {"stationary_stride_k": 0x800, "stationary_stride_m": 0x2000}
    base = Descriptor(
        opcode=Opcode.WINDOW,
        flags=Flag.STATIONARY_SIGNED,
        stream_bits=4,
        stationary_bits=4,
        **sizes,
        **tile,
        **strides,
        stream_base=X,
        stationary_base=W,
        out_base=OUT,
    )
    return replace(base, **changes)


def flat(**changes) -> Descriptor:
    sizes = {"height": 1, "out_height": 1, "tile_rows": 1, "row_groups": 3, "pad_top": 0, "pad_left": 0, "k_tail": 9}
    return replace(window(), opcode=Opcode.FLAT, **{**sizes, **changes})


@pytest.mark.parametrize("k_tail", range(1, 10))
@pytest.mark.parametrize("k_blocks", [1, 2])
def test_absent_lanes_contribute_nothing(board, memory, k_tail, k_blocks):
    """Whatever the stationary operand has for them, and whatever earlier work has left in the stream buffer."""
    before = flat(out_base=OUT + 0x8000)
    assert not agree(board, memory, before, before, flat(k_tail=k_tail, k_blocks=k_blocks))


BACK = 1 << 32
WRAPPING = {
    "samples backwards": {"stream_base": X + 0x2000, "stream_stride_n": BACK - 0x1000},
    "channel blocks backwards": {"stream_base": X + 0x400, "stream_stride_c": BACK - 0x400},
    "k blocks backwards": {"stationary_base": W + 0x800, "stationary_stride_k": BACK - 0x800},
    "row blocks backwards": {"stationary_base": W + 0x2000, "stationary_stride_m": BACK - 0x2000},
    "own operands backwards": {"stationary_base": W + 0x8000, "stationary_stride_n": BACK - 0x4000},
    "results backwards": {"out_base": OUT + 0x2000, "out_stride_n": BACK - 0x1000},
    "row blocks of results backwards": {"out_base": OUT + 0x400, "out_stride_m": BACK - 0x400},
    "a stride of half the space": {"samples": 1, "stream_stride_n": 1 << 31},
}


@pytest.mark.parametrize("name", WRAPPING)
def test_addresses_are_modulo_the_space(board, memory, name):
    assert not agree(board, memory, window(**WRAPPING[name]))


def test_an_address_below_zero_lies_outside_the_memory(board, memory):
    changes = {"stream_base": 0x1000, "stream_stride_n": BACK - 0x1000, "out_base": FAILED}
    assert agree(board, memory, window(), window(**changes)) == Error.AXI_READ


def test_a_skipped_sample_may_lie_outside_the_memory(board, memory):
    changes = {"stream_base": MEMORY - 0x1000, "stream_stride_n": BACK - 0x2000, "out_base": MEMORY}
    flags = Flag.STREAM_TABLE | Flag.STATIONARY_SIGNED
    changes |= {"flags": flags, "stream_table": TABLE + 1, "out_stride_n": BACK - 0x1000}
    assert not agree(board, memory, window(**changes))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 2])
def test_rows_that_no_window_reads_are_not_read(board, memory, stride, pad):
    """Two rows of windows; the image's further rows lie beyond the memory's end."""
    rows = stride + 3 - pad
    row_bytes = 4 * 2 * 8  # planes, beats
    changes = {
        "samples": 1,
        "k_blocks": 1,
        "height": 20,
        "out_height": 2,
        "stride": stride,
        "pad_top": pad,
        "out_base": FAILED,
    }
    changes |= {"stream_base": MEMORY - rows * row_bytes, "out_width": 3}
    assert not agree(board, memory, window(**changes))
    changes["stream_base"] += 8
    assert agree(board, memory, window(**changes)) == Error.AXI_READ


@pytest.mark.parametrize("pad", range(3))
@pytest.mark.parametrize("tile_rows", range(1, 5))
def test_windows_see_zeros_between_pixels(board, memory, pad, tile_rows):
    """Windows up to the very last that may be: those of stuffing alone, too. Bands begin on rows and between them.

    The last sample ends with the memory.
    """
    sizes = {"height": 3, "width": 3, "out_height": 6 + pad, "out_width": 6 + pad, "row_blocks": 1}
    tile = {"tile_rows": tile_rows, "row_groups": -(-((tile_rows + 3) // 2) // 3), "pad_top": pad, "pad_left": pad}
    stuffed = window(stuffed=1, stream_base=MEMORY - 0x2400 - 3 * 32, **sizes, **tile)
    assert not agree(board, memory, stuffed, window(out_base=OUT + 0x8000), replace(stuffed, out_base=OUT + 0x10000))


@pytest.mark.parametrize("pad", range(3))
@pytest.mark.parametrize("out_height", range(2, 6))
def test_rows_that_no_window_of_a_stuffed_image_reads_are_not_read(board, memory, pad, out_height):
    rows = (out_height - pad + 3) // 2
    tile = {"tile_rows": 2, "row_groups": 1, "pad_top": pad, "out_height": out_height, "out_width": 3, "stuffed": 1}
    changes = {"samples": 1, "k_blocks": 1, "height": 20, **tile}
    changes |= {"stream_base": MEMORY - rows * 64, "out_base": FAILED}
    assert not agree(board, memory, window(**changes))
    changes["stream_base"] += 8
    assert agree(board, memory, window(**changes)) == Error.AXI_READ


FAULTS = (
    {"opcode": 3},
    {"flags": 1 << 6},
    {"product_reserved": 1},
    {"stationary_bits": 0},
    {"stationary_order": 1},
    {"out_stride_m": 4},
    {"stride": 3},
    {"stuffed": 2},
    {"tile_samples": 200},
    {"stream_base": MEMORY},
)


@pytest.mark.parametrize(("one", "other"), list(combinations(FAULTS, 2)))
def test_of_two_faults_the_lower_code_is_reported(board, memory, one, other):
    alone = [execute(CONFIG, memory.copy(), [window(**changes)]).error for changes in (one, other)]
    assert agree(board, memory, window(), window(out_base=FAILED, **one, **other)) == min(alone)


@pytest.mark.parametrize(
    ("byte", "changes", "error"),
    [
        (17, {}, Error.PRECISION),
        (16, {"row_groups": 8}, Error.SHAPE),
        (0, {}, Error.AXI_FETCH),
        (0, {"tile_samples": 200}, Error.SHAPE),
    ],
)
def test_precision_bytes_are_judged_in_order(board, memory, byte, changes, error):
    """The table runs beyond the memory's end; a byte before that may stop the descriptor first."""
    memory[MEMORY - 8 :] = 0
    memory[MEMORY - 1] = byte
    table = {"flags": Flag.STREAM_TABLE, "stream_table": MEMORY - 2, "out_base": FAILED}
    assert agree(board, memory, window(), window(**table, **changes)) == error


#: Descriptors that fail on the bus, each in a way of its own.
REFUSED = {
    Error.AXI_FETCH: {"flags": Flag.STREAM_TABLE, "stream_table": MEMORY, "out_base": FAILED},
    Error.AXI_READ: {"stream_base": MEMORY - 0x1000, "out_base": FAILED},
    Error.AXI_WRITE: {"out_base": MEMORY - 0x1000},
}


@pytest.mark.parametrize(("first", "second"), list(product(REFUSED, repeat=2)))
def test_the_first_descriptor_that_fails_is_reported(board, memory, first, second):
    """Operands and tables are read ahead; yet all work before the failed descriptor is complete."""
    before = [window(out_base=OUT + 0x8000 * n, samples=6) for n in range(2)]
    assert agree(board, memory, *before, window(**REFUSED[first]), window(**REFUSED[second]), window()) == first
