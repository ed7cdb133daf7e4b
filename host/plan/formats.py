"""How tensors lie in a board's memory: each format packs or unpacks its bytes, whatever planned or runs them.

A format describes a part of an operand or a result. `arrange` says what the host does to the operand first; `part` cuts
the arranged array, (start, stop) for each axis. Equal formats of one operand have equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from host.geometry import ceil_div
from host.plan.arrange import Calls
from host.plan.packing import (
    flat_lanes,
    pack_stationary,
    pack_stream,
    pack_stream_table,
    row_bytes,
    unpack_results,
    window_lanes,
)
from rtl.config import BEAT_BYTES, DIGIT_BITS, TAPS, WEIGHT_TILE_BYTES, WORD_CHANNELS
from rtl.isa import Order

Part = tuple[tuple[int, int], ...]


def cut(array: np.ndarray, part: Part) -> np.ndarray:
    """A part of `array`, as a view."""
    return array[tuple(slice(*ends) for ends in part)]


def sizes(part: Part) -> tuple[int, ...]:
    """Shape of a part."""
    return tuple(stop - start for start, stop in part)


@dataclass(frozen=True)
class Table:
    """Precision bytes of samples.

    Attributes
    ----------
    patches, chunks : samples that each image is first cut into, and each of `part` after that.
    """

    patches: int
    part: Part
    chunks: int = 1

    @property
    def nbytes(self) -> int:
        return prod(sizes(self.part)) * self.chunks

    def pack(self, table: np.ndarray | None) -> np.ndarray:
        """uint8 (samples,) of the bits of all images, uint8 (N,). Raises ValueError if there is no table."""
        if table is None:
            raise ValueError("samples that differ in width need a table of their widths")
        return np.repeat(cut(np.repeat(table, self.patches), self.part), self.chunks)


@dataclass(frozen=True)
class Stream:
    """Bit planes of a streaming operand.

    Attributes
    ----------
    padded : shape that the part is extended to by zeros.
    shape : its samples, height, width and channels after that.
    table : precision bytes of the samples where these differ; then `bits` is the widest.
    """

    arrange: Calls
    part: Part
    padded: tuple[int, ...]
    shape: tuple[int, int, int, int]
    bits: int
    signed: bool
    table: Table | None = None

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of 16 channels of one sample."""
        return self.shape[1] * self.bits * row_bytes(self.shape[2])

    @property
    def sample_bytes(self) -> int:
        return ceil_div(self.shape[3], WORD_CHANNELS) * self.block_bytes

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.sample_bytes

    def pack(self, arranged: np.ndarray, table: np.ndarray | None) -> np.ndarray:
        """The bytes, uint8; `table` is that of all images."""
        codes = cut(arranged, self.part)
        if codes.shape != self.padded:
            whole = np.zeros(self.padded, codes.dtype)
            whole[tuple(slice(size) for size in codes.shape)] = codes
            codes = whole
        codes = codes.reshape(self.shape)
        if self.table is None:
            return pack_stream(codes, self.bits)
        return pack_stream_table(codes, self.bits, self.table.pack(table))


@dataclass(frozen=True)
class Stationary:
    """Digit tiles of a stationary operand: of a kernel (M, C, 3, 3) or a matrix (M, K).

    Attributes
    ----------
    tile_rows : rows of a cluster.
    row_blocks, k_blocks : blocks that are written, at least those of the part; the others are zero.
    """

    arrange: Calls
    part: Part
    bits: int
    signed: bool
    tile_rows: int
    row_blocks: int
    k_blocks: int

    order = Order.ROWS

    @property
    def shape(self) -> tuple[int, ...]:
        return sizes(self.part)

    @property
    def k_bytes(self) -> int:
        """Bytes of all digits of one tile, from k block to k block."""
        return ceil_div(self.bits, DIGIT_BITS) * self.tile_rows * TAPS * BEAT_BYTES

    @property
    def block_bytes(self) -> int:
        """Bytes of a row block."""
        return self.k_blocks * self.k_bytes

    @property
    def nbytes(self) -> int:
        return self.row_blocks * self.block_bytes

    def pack(self, arranged: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        """The bytes, uint8."""
        codes = cut(arranged, self.part)
        lanes = window_lanes(codes) if codes.ndim == 4 else flat_lanes(codes)
        return pack_stationary(lanes, self.bits, self.tile_rows, self.row_blocks, self.k_blocks)


@dataclass(frozen=True)
class Digits:
    """Digit tiles of a convolution's weights as a vector pass stores them, once for both ways: see `rtl.isa`.

    Attributes
    ----------
    outputs, inputs : blocks of output and of input channels, the latter following each other.
    order : TURNED as the convolution reads them, TAPS as its input gradient does.
    """

    bits: int
    signed: bool
    outputs: int
    inputs: int
    order: Order

    @property
    def input_bytes(self) -> int:
        """Bytes of all digits of one tile, from one block of input channels to the next."""
        return ceil_div(self.bits, DIGIT_BITS) * WEIGHT_TILE_BYTES

    @property
    def output_bytes(self) -> int:
        """Bytes from one block of output channels to the next."""
        return self.inputs * self.input_bytes

    @property
    def k_bytes(self) -> int:
        return self.input_bytes if self.order == Order.TURNED else self.output_bytes

    @property
    def block_bytes(self) -> int:
        return self.output_bytes if self.order == Order.TURNED else self.input_bytes

    @property
    def nbytes(self) -> int:
        return self.outputs * self.output_bytes


@dataclass(frozen=True)
class Sums:
    """Results of a part of a product (groups, rows, positions).

    Attributes
    ----------
    part : where they belong. Results of one part add up.
    out_bytes : of a result.
    width, chunks : positions of a sample, and samples that the positions of a group are cut into.
    k_parts : samples that the reduction of each chunk is cut into; they add up.
    row_blocks, tile_rows : blocks of rows that are stored, of so many rows; those beyond the part are padding.
    table : precision bytes of the groups, where these differ.
    """

    part: Part
    out_bytes: int
    width: int
    row_blocks: int
    tile_rows: int
    chunks: int = 1
    k_parts: int = 1
    table: Table | None = None

    bits = property(lambda self: 8 * self.out_bytes)
    signed = True

    @property
    def shape(self) -> tuple[int, ...]:
        return sizes(self.part)

    @property
    def samples(self) -> int:
        return self.shape[0] * self.chunks * self.k_parts

    @property
    def block_bytes(self) -> int:
        """Bytes of a row block of one sample."""
        return self.width * self.tile_rows * self.out_bytes

    @property
    def sample_bytes(self) -> int:
        return self.row_blocks * self.block_bytes

    @property
    def nbytes(self) -> int:
        return self.samples * self.sample_bytes

    def unpack(self, raw: np.ndarray, table: np.ndarray | None) -> np.ndarray:
        """The part in int64 (groups, rows, positions); `table` is that of all images, which may skip some."""
        groups, rows, positions = self.shape
        results = unpack_results(raw, self.samples, self.row_blocks, self.tile_rows, self.out_bytes)[:, :rows]
        split = results.reshape(groups, self.chunks, self.k_parts, rows, self.width)
        summed = split[:, :, 0] if self.k_parts == 1 else split.sum(axis=2)
        whole = summed.transpose(0, 2, 1, 3).reshape(groups, rows, -1)[..., :positions]
        if self.table is None:
            return whole
        # The board leaves the results of samples that it skips unwritten.
        return np.where((self.table.pack(table) > 0)[:, None, None], whole, 0)
