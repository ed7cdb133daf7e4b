"""Products of operands as a vector pass leaves them: one stored set of digits is both ways' stationary operand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import references

from host import QTensor
from host.backends.driver import RegisterBoard
from host.plan.packing import pack_stream
from host.ring import RESERVED_BYTES
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Format, Opcode, Order
from sim.golden import execute
from sim.golden_check import check
from sim.verilated import VerilatedTransport

CONFIG = AcceleratorConfig(clusters=2, managers=2, vector=True)
MEMORY = 1 << 20
X, W, OUT = 0x20000, 0x60000, 0x80000
SIZE = 6  # of an image, both ways
TILE = CONFIG.weight_tile_beats * 8


@pytest.fixture(scope="module")
def board():
    board = RegisterBoard("sim", VerilatedTransport(CONFIG, memory_bytes=MEMORY))
    yield board
    board.close()


def stored(w: np.ndarray, bits: int) -> np.ndarray:
    """Weights (outputs, inputs, taps) as digits: bytes (block of outputs, of inputs, digit, tap, input, 8)."""
    rows, channels, taps = w.shape
    blocks = w.reshape(rows // 16, 16, channels // 16, 16, taps)
    digits = np.stack([blocks >> shift & 15 for shift in range(bits - 4, -1, -4)])
    nibbles = digits.transpose(1, 3, 0, 5, 4, 2).astype(np.uint8)
    return nibbles[..., ::2] | nibbles[..., 1::2] << 4


@dataclass(frozen=True)
class Product:
    """A convolution with the stored digits, or its input gradient, as a descriptor."""

    x: QTensor
    rows: int
    digits: int
    order: Order

    @property
    def descriptor(self) -> Descriptor:
        n, channels = self.x.shape[:2]
        block = -(-SIZE // 4) * 8 * self.x.bits * SIZE
        results = SIZE * SIZE * 16 * Format.INT64.nbytes
        # Tiles are stored by blocks of output channels, then of input channels.
        inner = self.digits * TILE
        outer = inner * (channels if self.order == Order.TURNED else self.rows) // 16
        by_rows, by_channels = (outer, inner) if self.order == Order.TURNED else (inner, outer)
        return Descriptor(
            opcode=Opcode.WINDOW,
            flags=Flag.STATIONARY_SIGNED | Flag.STREAM_SIGNED * self.x.signed,
            samples=n,
            height=SIZE,
            width=SIZE,
            out_height=SIZE,
            out_width=SIZE,
            k_blocks=channels // 16,
            row_blocks=self.rows // 32,
            log2_row_parts=1,
            tile_rows=2,
            row_groups=2,
            pad_top=1,
            pad_left=1,
            stream_bits=self.x.bits,
            stream_base=X,
            stream_stride_n=block * (channels // 16),
            stream_stride_c=block,
            stationary_bits=4 * self.digits,
            stationary_order=self.order,
            stationary_base=W,
            stationary_stride_k=by_channels,
            stationary_stride_m=by_rows,
            out_base=OUT,
            out_stride_n=results * (self.rows // 16),
            out_stride_m=results,
            out_format=Format.INT64,
        )

    def run(self, board, weights: np.ndarray) -> np.ndarray:
        """Sums (n, rows, y, x) of the RTL, which are those of the golden model."""
        d = self.descriptor
        assert check(CONFIG, d) == Error.NONE
        memory = np.zeros(MEMORY, np.uint8)
        planes = pack_stream(self.x.codes.transpose(0, 2, 3, 1), self.x.bits)
        for base, operand in ((X, planes), (W, weights)):
            memory[base : base + operand.nbytes] = operand.ravel()
        board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
        board.run([d])
        assert execute(CONFIG, memory, [d]).error == Error.NONE
        assert np.array_equal(board.read(RESERVED_BYTES, MEMORY - RESERVED_BYTES), memory[RESERVED_BYTES:])
        n = len(self.x.codes)
        sums = memory[OUT : OUT + n * d.out_stride_n].view("<i8").reshape(n, self.rows // 16, SIZE, SIZE, 16)
        return sums.transpose(0, 1, 4, 2, 3).reshape(n, self.rows, SIZE, SIZE)


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_one_set_of_digits_is_read_both_ways(board, rng, bits):
    outputs, inputs = 64, 32
    w = references.random_tensor(rng, (outputs, inputs, 3, 3), bits, True)
    digits = stored(w.codes.reshape(outputs, inputs, 9), bits)
    x = references.random_tensor(rng, (3, inputs, SIZE, SIZE), 5, False)
    g = references.random_tensor(rng, (3, outputs, SIZE, SIZE), 6, True)
    y = Product(x, outputs, bits // 4, Order.TURNED).run(board, digits)
    assert np.array_equal(y, references.conv2d(x.codes, w.codes, 1, 1))
    dx = Product(g, inputs, bits // 4, Order.TAPS).run(board, digits)
    assert np.array_equal(dx, references.conv2d_input_grad(g.codes, w.codes, x.shape, 1, 1))
