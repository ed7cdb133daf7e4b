"""Bad input stops the ring with a code and an index, hangs nothing, and later work runs right.

Each test prints what the host reports.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from references import random_tensor

from host import open_board, ops
from host.backends.driver import RegisterBoard
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES, RING_ENTRIES
from rtl.config import AcceleratorConfig
from rtl.isa import CSR, DESCRIPTOR_BYTES, Descriptor, Error, Flag, Format, Opcode, Order
from sim.verilated import VerilatedTransport

CONFIG = AcceleratorConfig.preset("tiny")
X, W, OUT, TABLE = (RESERVED_BYTES + i * 0x10000 for i in range(4))


@pytest.fixture(scope="module", params=[1, 2], ids=["one manager", "two managers"])
def transport(request):
    return VerilatedTransport(replace(CONFIG, managers=request.param))


@pytest.fixture(scope="module")
def board(transport):
    board = RegisterBoard("sim", transport)
    yield board
    board.close()


def good(**changes) -> Descriptor:
    """A small window descriptor; its operands are whatever lies in DDR."""
    base = Descriptor(
        opcode=Opcode.WINDOW,
        stream_bits=4,
        stationary_bits=4,
        samples=4,
        height=4,
        width=4,
        out_height=4,
        out_width=4,
        tile_rows=4,
        row_groups=2,
        pad_top=1,
        pad_left=1,
        stream_base=X,
        stream_stride_n=0x80,
        stationary_base=W,
        out_base=OUT,
        out_stride_n=0x100,
    )
    return replace(base, **changes)


def works(board, rng):
    """Later work runs right."""
    x, w = random_tensor(rng, (2, 5, 6, 6), 5, False), random_tensor(rng, (7, 5, 3, 3), 6, True)
    golden = open_board("golden", config=CONFIG)
    assert np.array_equal(ops.conv2d(board, x, w), ops.conv2d(golden, x, w))


BAD = {
    "unknown opcode": (Error.OPCODE, {"opcode": 9}),
    "weight gradient without its unit": (Error.OPCODE, {"opcode": Opcode.WGRAD}),
    "order of tiles without the unit": (Error.SHAPE, {"stationary_order": Order.TAPS}),
    "unknown flag": (Error.FLAGS, {"flags": 1 << 6}),
    "unknown result format": (Error.FLAGS, {"out_format": 3}),
    "reserved byte of the product": (Error.RESERVED, {"product_reserved": 1}),
    "room for post-processing": (Error.RESERVED, {"parts_reserved": 1 << 23}),
    "0 streaming bits": (Error.PRECISION, {"stream_bits": 0}),
    "17 stationary bits": (Error.PRECISION, {"stationary_bits": 17}),
    "table byte of 77 bits": (Error.PRECISION, {"flags": Flag.STREAM_TABLE, "stream_table": TABLE}),
    "misaligned address": (Error.ALIGNMENT, {"stream_base": X + 4}),
    "no samples": (Error.SHAPE, {"samples": 0}),
    "stride 3": (Error.SHAPE, {"stride": 3}),
    "more clusters than built": (Error.SHAPE, {"sample_parts": 3}),
    "tile larger than the result buffer": (Error.SHAPE, {"tile_samples": 200}),
    "tile larger than the stream buffer": (Error.SHAPE, {"tile_samples": 2, "row_groups": 60}),
    "output larger than the image": (Error.SHAPE, {"out_height": 9}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_descriptor(board, rng, name):
    error, changes = BAD[name]
    board.write(TABLE, np.array([4, 4, 77, 4], np.uint8))
    with pytest.raises(AcceleratorError, match="descriptor 2") as caught:
        board.run([good(), good(), good(**changes), good()])
    print(f"{name}: {caught.value}")
    assert (caught.value.code, caught.value.index) == (error, 2)
    works(board, rng)


@pytest.mark.parametrize(
    ("name", "error", "kind", "address"),
    [
        ("descriptor fetch", Error.AXI_FETCH, "read", None),
        ("precision table", Error.AXI_FETCH, "read", TABLE),
        ("streaming operand", Error.AXI_READ, "read", X + 0x80),
        ("stationary operand", Error.AXI_READ, "read", W + 64),
        ("result of the first cluster", Error.AXI_WRITE, "write", OUT + 0x40),
        ("result of the second cluster", Error.AXI_WRITE, "write", OUT + 0x140),
    ],
)
def test_error_response(board, transport, rng, name, error, kind, address):
    board.write(TABLE, np.full(4, 4, np.uint8))
    if address is None:  # the ring slot that the second descriptor will lie in
        address = (transport.csr_read(CSR.TAIL) + 1) % RING_ENTRIES * DESCRIPTOR_BYTES
    transport.inject_fault(kind, address, 8)
    work = good(flags=Flag.STREAM_TABLE, stream_table=TABLE, sample_parts=2)
    with pytest.raises(AcceleratorError) as caught:
        board.run([good(stream_base=X + 0x1000, out_base=OUT + 0x1000, stationary_base=W + 0x1000), work, work])
    print(f"{name}: {caught.value}")
    assert caught.value.code == error
    assert caught.value.index == 1
    works(board, rng)


def test_address_outside_the_memory(board, rng):
    with pytest.raises(AcceleratorError) as caught:
        board.run([good(stream_base=0xFFFF_0000)])
    print(f"outside the memory: {caught.value}")
    assert caught.value.code == Error.AXI_READ
    works(board, rng)


def test_overflow_is_counted(board):
    """The driver of a descriptor that promises too narrow results hears of it."""
    before = board.counters()["overflows"]
    board.write(X, np.full(0x1000, 0xFF, np.uint8))
    board.write(W, np.full(0x1000, 0x77, np.uint8))
    board.run([good(flags=Flag.STATIONARY_SIGNED, out_format=Format.INT16, stream_bits=8, stream_stride_n=0)])
    # 4 x 4 positions of 4 samples and rows; the 2 x 2 inner ones of each sum 144 * 255 * 7, the border 4 or 6 taps
    assert board.counters()["overflows"] - before == 4 * 16 * CONFIG.rows
