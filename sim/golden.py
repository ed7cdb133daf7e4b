"""The accelerator's behaviour in numpy, bit for bit: the reference that RTL and host are tested against.

`execute` takes the same bytes as the hardware: it decodes planes and digits from the memory image as `rtl.isa`
defines them, multiplies, and writes the results back. It knows nothing of tiles beyond the limits that
`sim.golden_check` enforces, because tiles change when a result is computed and never its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rtl.config import (
    ACC_BITS,
    BEAT_BYTES,
    BEAT_WORDS,
    DIGIT_BITS,
    FLAT_TAPS,
    MAX_BITS,
    TAPS,
    WORD_BYTES,
    WORD_CHANNELS,
    AcceleratorConfig,
)
from rtl.isa import Descriptor, Error, Flag, Format, Opcode, Order
from sim.golden_check import check_fields, result_fits, stream_fits
from sim.golden_gradient import gradient_operand
from sim.golden_memory import Memory, Stop
from sim.golden_vector import run_pass

#: Elements of the largest temporary array; more samples than fit it are computed one part after the other.
_WORKING_SET = 1 << 22


@dataclass(frozen=True)
class Completion:
    """What the ring reports after `execute`.

    Attributes
    ----------
    completed : descriptors that completed, all before the one at fault.
    error : why the ring stopped, or `Error.NONE`.
    index : position of the descriptor at fault, or None.
    overflows : results that did not fit int16 or int32 and were clipped.
    """

    completed: int
    error: Error
    index: int | None
    overflows: int


def precisions(config: AcceleratorConfig, memory: Memory, d: Descriptor) -> tuple[int, np.ndarray, Error]:
    """What a descriptor is worked with: bits of the stationary operand and of every sample, uint8; and what stops it.

    Bits are 0 where there is no work for the array: samples that are skipped, all from the one on that stops the
    descriptor, and those of a vector pass.
    """
    bits = np.zeros(d.samples, np.uint8)
    if error := check_fields(config, d):
        return 0, bits, error
    if d.opcode == Opcode.VECTOR:
        return 0, bits, Error.NONE

    # The stationary operand's byte comes first: a descriptor that it skips may have tiles of any size.
    stationary = d.stationary_bits
    if d.flags & Flag.STATIONARY_TABLE:
        try:
            stationary = memory.byte(d.stationary_table)
        except Stop as stop:
            return 0, bits, stop.error
        if stationary > MAX_BITS:
            return 0, bits, Error.PRECISION
        if stationary == 0:
            return 0, bits, Error.NONE
    if not result_fits(config, d):
        return stationary, bits, Error.SHAPE

    if not d.flags & Flag.STREAM_TABLE:
        fits = stream_fits(config, d, d.stream_bits)
        bits[:] = d.stream_bits if fits else 0
        return stationary, bits, Error.NONE if fits else Error.SHAPE
    for n in range(d.samples):
        try:
            value = memory.byte(d.stream_table + n)
        except Stop as stop:
            return stationary, bits, stop.error
        if value > MAX_BITS:
            return stationary, bits, Error.PRECISION
        if not stream_fits(config, d, value):
            return stationary, bits, Error.SHAPE
        bits[n] = value
    return stationary, bits, Error.NONE


def execute(
    config: AcceleratorConfig, memory: np.ndarray, descriptors: Sequence[Descriptor], chip: np.ndarray | None = None
) -> Completion:
    """Run descriptors in order, as the ring does, up to the first error.

    Parameters
    ----------
    config : the accelerator that is modelled; rows and buffer sizes matter.
    memory : uint8, shape (bytes,), up to 2 GiB. The DDR image, changed in place. Any address beyond its end is a bus
        error.
    descriptors : the work. Results of different samples must not overlap.
    chip : uint8, shape (config.chip_bytes,). The memory on the chip, changed in place; zeros if there is no other.

    Results are sums modulo 2**48, the width of the accumulators; they are shifted, and int16 and int32 results clipped
    and counted where that changes them. Where the precision byte of sample n stops a descriptor, the samples before n
    are done.
    """
    memories = Memory(memory, np.zeros(config.chip_bytes, np.uint8) if chip is None else chip)
    overflows = 0
    for index, descriptor in enumerate(descriptors):
        try:
            for count in _run(config, memories, descriptor):
                overflows += count
        except Stop as stop:
            return Completion(index, stop.error, index, overflows)
    return Completion(len(descriptors), Error.NONE, None, overflows)


def _run(config: AcceleratorConfig, memory: Memory, d: Descriptor) -> Iterator[int]:
    """Execute one descriptor; yield overflows as they are counted. Raises Stop."""
    stationary_bits, bits, error = precisions(config, memory, d)
    if d.opcode == Opcode.VECTOR and not error:
        run_pass(memory, d)
    elif bits.any():
        yield from _samples(config, memory, d, stationary_bits, bits)
    if error:
        raise Stop(error)


def _samples(
    config: AcceleratorConfig, memory: Memory, d: Descriptor, stationary_bits: int, bits: np.ndarray
) -> Iterator[int]:
    """The samples of one precision at a time. Of those of 0 bits nothing is read and nothing is stored."""
    shared = None if d.stationary_stride_n else _stationary(config, memory, d, np.zeros(1, int), stationary_bits)
    lanes = d.k_blocks * TAPS * WORD_CHANNELS
    gradient = d.opcode == Opcode.WGRAD
    operand = gradient_operand if gradient else _streaming
    step = max(1, _WORKING_SET // (d.out_height * d.out_width * lanes))
    for value in np.unique(bits[bits > 0]).tolist():
        chosen = np.flatnonzero(bits == value)
        for first in range(0, len(chosen), step):
            samples = chosen[first : first + step]
            stationary = _stationary(config, memory, d, samples, stationary_bits) if shared is None else shared
            sums = _product(operand(memory, d, samples, value), stationary)
            yield _store(config, memory, d, samples, sums)


def _streaming(memory: Memory, d: Descriptor, samples: np.ndarray, bits: int) -> np.ndarray:
    """Operand vectors of all positions: (samples, positions, lanes), integers.

    Lanes are ordered (tap, channel) in window mode and by channel in flat mode.
    """
    flat = d.opcode == Opcode.FLAT
    blocks = (d.k_blocks - 1) * TAPS + d.k_tail if flat else d.k_blocks
    row_bytes = -(-d.width // BEAT_WORDS) * BEAT_BYTES
    # Rows below the last window are not read, so they need not lie in memory.
    under = (d.out_height - 1) * d.stride + 3 - d.pad_top
    height = 1 if flat else min(d.height, (under + 1) // 2 if d.stuffed else under)
    shape = (blocks, height, bits, row_bytes)
    strides = (d.stream_stride_c, d.stream_stride_y or bits * row_bytes, row_bytes, 1)
    planes = memory.read(d.stream_base + samples * d.stream_stride_n, shape, strides, Error.AXI_READ)

    # Shift the planes in, most significant bit first: each byte holds one bit of eight channels.
    codes = np.zeros((len(samples), blocks, height, row_bytes * 8), np.uint16)
    for plane in range(bits):
        codes <<= 1
        codes |= np.unpackbits(planes[:, :, :, plane], axis=-1, bitorder="little")
    if d.flags & Flag.STREAM_SIGNED:
        codes = (codes << (16 - bits)).view(np.int16) >> (16 - bits)
    codes = codes.reshape(len(samples), blocks, height, -1, WORD_CHANNELS)[:, :, :, : d.width]
    image = codes.transpose(0, 2, 3, 1, 4).reshape(len(samples), height, d.width, blocks * WORD_CHANNELS)

    if flat:
        return image[:, 0, :: d.stride][:, : d.out_width]
    if d.stuffed:
        pixels = image
        image = np.zeros((len(samples), 2 * height, 2 * d.width, pixels.shape[-1]), pixels.dtype)
        image[:, ::2, ::2] = pixels
    width = (d.out_width - 1) * d.stride + 3
    padded = np.zeros((len(samples), (d.out_height - 1) * d.stride + 3, width, image.shape[-1]), image.dtype)
    inside = image[:, :under, : width - d.pad_left]
    padded[:, d.pad_top : d.pad_top + inside.shape[1], d.pad_left : d.pad_left + inside.shape[2]] = inside
    s0, s1, s2, s3 = padded.strides
    windows = as_strided(
        padded,
        (len(samples), d.out_height, d.out_width, 3, 3, image.shape[-1]),
        (s0, s1 * d.stride, s2 * d.stride, s1, s2, s3),
    )
    return windows.reshape(len(samples), d.out_height * d.out_width, -1)


def _stationary(config: AcceleratorConfig, memory: Memory, d: Descriptor, samples: np.ndarray, bits: int) -> np.ndarray:
    """Stationary operand as (samples, lanes, rows of all row blocks), int64, lanes ordered as in `_streaming`."""
    gradient = d.opcode == Opcode.WGRAD
    digits = -(-bits // DIGIT_BITS)
    blocks = d.row_blocks << d.log2_row_parts
    tile_bytes = config.weight_tile_beats * BEAT_BYTES
    shape = (blocks, d.k_blocks, digits, tile_bytes)
    apart = d.stationary_stride_d * WORD_BYTES or tile_bytes
    strides = (d.stationary_stride_m, d.stationary_stride_k, apart, 1)
    starts = d.stationary_base + samples * d.stationary_stride_n
    tiles = memory.read(starts, shape, strides, Error.AXI_READ)

    nibbles = np.stack([tiles & 15, tiles >> 4], axis=-1)
    if d.stationary_order == Order.ROWS:
        nibbles = nibbles.reshape(*tiles.shape[:-1], config.rows, TAPS, WORD_CHANNELS)
    else:
        nibbles = nibbles.reshape(*tiles.shape[:-1], TAPS, WORD_CHANNELS, WORD_CHANNELS)
        if d.stationary_order == Order.TAPS:
            nibbles = nibbles[..., ::-1, :, :].swapaxes(-3, -2)  # (tap, row, channel), the last tap first
        else:
            nibbles = np.moveaxis(nibbles, -1, -3)  # (row, tap, channel)
            if d.stationary_order == Order.WORDS:
                nibbles = nibbles[..., FLAT_TAPS, :]  # which are their own inverse
    codes = np.zeros((len(samples), blocks, d.k_blocks, config.rows, TAPS, WORD_CHANNELS), np.int64)
    for digit in range(digits):
        value = nibbles[:, :, :, digit].astype(np.int64)
        if digit == 0 and d.flags & Flag.STATIONARY_SIGNED:
            value = (value ^ 8) - 8
        codes = (codes << DIGIT_BITS) + value

    codes = codes.transpose(0, 1, 3, 2, 4, 5)  # (sample, block, row, k block, tap, channel)
    if d.opcode != Opcode.WINDOW:
        used = (d.k_blocks * TAPS if gradient else (d.k_blocks - 1) * TAPS + d.k_tail) * WORD_CHANNELS
        lanes = codes[..., FLAT_TAPS, :].reshape(len(samples), blocks * config.rows, -1)[..., :used]
    else:
        lanes = codes.transpose(0, 1, 2, 4, 3, 5).reshape(len(samples), blocks * config.rows, -1)
    return lanes.transpose(0, 2, 1)


def _product(streaming: np.ndarray, stationary: np.ndarray) -> np.ndarray:
    """Exact product (samples, positions, rows) in int64, by the fastest arithmetic that is exact for these numbers."""
    # No partial sum of any order of additions exceeds the largest code times the largest sum of magnitudes of a row.
    largest = int(np.abs(streaming.astype(np.int32)).max(initial=0))
    bound = largest * int(np.abs(stationary).sum(axis=1).max(initial=0))
    if bound >= 1 << 53:
        # Two products of half the width; the sum is below 2**63 for every reduction that a descriptor can hold.
        high, low = stationary >> 8, stationary & 255
        return (_product(streaming, high) << 8) + _product(streaming, low)
    dtype = np.float32 if bound < 1 << 24 else np.float64
    n, positions, lanes = streaming.shape
    left, right = streaming.astype(dtype), stationary.astype(dtype)
    sums = left.reshape(n * positions, lanes) @ right[0] if len(right) == 1 else left @ right
    return sums.astype(np.int64).reshape(n, positions, -1)


def _store(config: AcceleratorConfig, memory: Memory, d: Descriptor, samples: np.ndarray, sums: np.ndarray) -> int:
    """Write results in the order (sample, row block, position, row); return how many were clipped."""
    spare = 64 - ACC_BITS
    sums = (sums << spare) >> spare + d.out_shift
    dtype = np.dtype(f"<i{Format(d.out_format).nbytes}")
    stored = np.clip(sums, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    overflows = int(np.count_nonzero(stored != sums))
    blocks = d.row_blocks << d.log2_row_parts
    n, positions, _ = sums.shape
    ordered = stored.reshape(n, positions, blocks, config.rows).transpose(0, 2, 1, 3)
    raw = np.ascontiguousarray(ordered).reshape(n, blocks, -1).view(np.uint8)
    starts = d.out_base + samples * d.out_stride_n
    memory.write(starts, raw, (d.out_stride_m, 1), Error.AXI_WRITE)
    return overflows
