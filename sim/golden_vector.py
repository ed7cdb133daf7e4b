"""The vector unit's behaviour in numpy, bit for bit: a pass over tensors in a memory image.

`rtl.isa` defines what a pass computes and how its tensors lie; `host.step.rules` is the same arithmetic as the training
step uses it, with operands that are known to fit. Here nothing is known: sums wrap as the hardware's registers do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rtl.config import (
    BEAT_BYTES,
    BEAT_WORDS,
    DIGIT_BITS,
    WEIGHT_TILE_BYTES,
    WORD_BYTES,
    WORD_CHANNELS,
    AcceleratorConfig,
)
from rtl.isa import Descriptor, Error, Flag, Opcode, Pass, Sink, Source
from rtl.lane import A_BITS, C_BITS, SUM_BITS, U_BITS, V_BITS
from rtl.noise import KEY_WORDS, NOISE_BITS, NUMBER_BITS, ROUNDS
from rtl.reduction import X_BITS
from rtl.vector_block import (
    COEFFICIENTS_BYTES,
    MOST_DIGITS_PLANES,
    MOST_WIDTH,
    PASS_FLAGS,
    SUMS_BYTES,
)
from sim.golden_memory import Memory

_NOISE = (1 << NOISE_BITS) - 1


class Tensor(NamedTuple):
    """The fields of a descriptor's tensor."""

    base: int
    stride_n: int
    stride_c: int
    stride_y: int
    planes: int
    signed: int

    @classmethod
    def of(cls, d: Descriptor, name: str) -> Tensor:
        return cls(*(getattr(d, f"{name}_{field}") for field in cls._fields))


def wrong_fields(config: AcceleratorConfig, d: Descriptor) -> set[Error]:
    """What contradicts in a pass whose fields are sound by themselves."""
    if d.opcode != Opcode.VECTOR:
        return set()
    digits = d.vector_sink == Sink.DIGITS
    wrong = (
        (Error.OPCODE, not config.vector),
        (Error.FLAGS, d.flags & ~PASS_FLAGS & sum(Flag)),
        (Error.SHAPE, d.width > MOST_WIDTH),
        (Error.SHAPE, digits and d.q_planes > MOST_DIGITS_PLANES),
        (Error.SHAPE, d.vector_controls & Pass.MASKED and not d.mask_planes),
        (Error.SHAPE, d.vector_source != Source.PLANES and d.u_planes),
        (Error.SHAPE, d.parts_more and d.vector_source not in (Source.INT32, Source.INT64)),
    )
    return {error for error, applies in wrong if applies}


def run_pass(memory: Memory, d: Descriptor) -> None:
    """Execute a pass that `wrong_fields` has nothing against. Raises Stop if it leaves the memory."""
    shape = d.samples, d.k_blocks * WORD_CHANNELS, d.height, d.width
    controls = Pass(d.vector_controls)
    u = _results(memory, d) if d.vector_source != Source.PLANES else _planes(memory, d, "u")
    v, x, mask = (_planes(memory, d, name) for name in ("v", "x", "mask"))
    u, v, x = _wrapped(u, U_BITS), _wrapped(v, V_BITS), _wrapped(x, X_BITS)  # as wide as a lane's: signed in any case
    a, c, b = (np.broadcast_to(k[:, :, None, None], shape) for k in _coefficients(memory, d))

    t = _wrapped(a * u + c * v + b, SUM_BITS)
    passes = np.ones(shape, bool)
    if controls & Pass.RELU:
        passes = t > 0
    elif controls & Pass.MASKED:
        passes = mask != 0
    below = _noise(d) if controls & Pass.STOCHASTIC else 1 << (NOISE_BITS - 1)
    aligned = (np.where(passes, t, 0) << NOISE_BITS) >> d.vector_shift
    # Whole steps apart from their fractions: the largest sums fill all 64 bits of both.
    rounded = (aligned >> NOISE_BITS) + d.vector_raised + (((aligned & _NOISE) + below) >> NOISE_BITS)
    q = np.clip(rounded, -d.vector_top, d.vector_top)

    if d.q_planes:
        (_put_digits if d.vector_sink == Sink.DIGITS else _put_planes)(memory, d, "q", q)
    if d.positive_planes:
        _put_planes(memory, d, "positive", passes.astype(np.int64))
    if controls & Pass.SUMS:
        factor = _wrapped(q, X_BITS) if controls & Pass.SQUARES else x
        _put_sums(memory, d, q, factor, int(np.count_nonzero(rounded != q)))


def _wrapped(values: np.ndarray, bits: int) -> np.ndarray:
    """The lowest bits of int64 numbers, as signed ones."""
    return (values << (64 - bits)) >> (64 - bits)


def _rows(d: Descriptor, tensor: Tensor, row: tuple, strides: tuple) -> tuple[np.ndarray, tuple, tuple]:
    """Where a tensor's rows lie, bytes (n, block, y, *row): start, shape and strides as `Memory` takes them."""
    shape = (d.samples, d.k_blocks, d.height, *row)
    return np.array([tensor.base]), shape, (tensor.stride_n, tensor.stride_c, tensor.stride_y, *strides)


def _channels(words: np.ndarray) -> np.ndarray:
    """(n, block, y, x, channel) -> (n, block * channel, y, x)."""
    n, blocks, height, width, channels = words.shape
    return words.transpose(0, 1, 4, 2, 3).reshape(n, blocks * channels, height, width)


def _words(values: np.ndarray) -> np.ndarray:
    """The inverse of `_channels`."""
    n, channels, height, width = values.shape
    blocks = values.reshape(n, channels // WORD_CHANNELS, WORD_CHANNELS, height, width)
    return blocks.transpose(0, 1, 3, 4, 2)


def _plane_row(d: Descriptor, planes: int) -> tuple[tuple, tuple]:
    """Shape and strides of a row of planes, in bytes."""
    nbytes = -(-d.width // BEAT_WORDS) * BEAT_BYTES
    return (planes, nbytes), (nbytes, 1)


def _planes(memory: Memory, d: Descriptor, name: str) -> np.ndarray:
    """A tensor of planes, int64 (N, C, H, W); 0 if there is none."""
    tensor = Tensor.of(d, name)
    if not tensor.planes:
        return np.zeros((d.samples, d.k_blocks * WORD_CHANNELS, d.height, d.width), np.int64)
    raw = memory.read(*_rows(d, tensor, *_plane_row(d, tensor.planes)), Error.AXI_READ)
    bits = np.unpackbits(raw[0], axis=-1, bitorder="little").astype(np.int64)
    weights = 1 << np.arange(tensor.planes - 1, -1, -1)
    if tensor.signed:
        weights[0] = -weights[0]
    codes = np.einsum("p,nbypx->nbyx", weights, bits)
    return _channels(codes.reshape(*codes.shape[:3], -1, WORD_CHANNELS)[:, :, :, : d.width])


def _results(memory: Memory, d: Descriptor) -> np.ndarray:
    """Results of a product as stream u, the sum of its parts as wide as they are, int64 (N, C, H, W)."""
    nbytes = 1 << d.vector_source
    row = d.width * WORD_CHANNELS * nbytes
    _, shape, strides = _rows(d, Tensor.of(d, "u"), (row,), (1,))
    starts = d.u_base + np.arange(d.parts_more + 1) * d.parts_stride
    raw = memory.read(starts, shape, strides, Error.AXI_READ)
    parts = np.ascontiguousarray(raw).view(f"<i{nbytes}")
    sums = parts.sum(axis=0, dtype=parts.dtype).astype(np.int64)
    u = _wrapped(_wrapped(sums, SUM_BITS) >> d.vector_dropped, U_BITS)
    return _channels(u.reshape(*u.shape[:3], d.width, WORD_CHANNELS))


def _coefficients(memory: Memory, d: Descriptor) -> tuple[np.ndarray, ...]:
    """a, c and b, int64 (N or 1, C)."""
    samples = d.samples if d.vector_controls & Pass.EACH_SAMPLE else 1
    shape = samples, d.k_blocks * WORD_CHANNELS, COEFFICIENTS_BYTES
    strides = d.vector_coefficients_stride, COEFFICIENTS_BYTES, 1
    raw = np.ascontiguousarray(memory.read(np.array([d.vector_coefficients]), shape, strides, Error.AXI_READ)[0])
    halves, whole = raw.view("<i4").astype(np.int64), raw.view("<i8")
    return _wrapped(halves[..., 0], A_BITS), _wrapped(halves[..., 1], C_BITS), _wrapped(whole[..., 1], SUM_BITS)


def _noise(d: Descriptor) -> np.ndarray:
    """16 bits for every element, int64 (N, C, H, W)."""
    n, block, y, x = np.ogrid[: d.samples, : d.k_blocks, : d.height, : d.width]
    number = d.vector_number + n * d.vector_number_stride_n + block * d.vector_number_stride_c + y * d.width + x
    pairs = WORD_CHANNELS // 2
    place = ((number & ((1 << NUMBER_BITS) - 1)) * pairs)[..., None] + np.arange(pairs)
    key = d.vector_key_low | d.vector_key_high << 32
    left, right = place >> NOISE_BITS & _NOISE, place & _NOISE
    for turn in range(ROUNDS):
        word = key >> turn % KEY_WORDS * NOISE_BITS & _NOISE
        one, two, eight = ((left << by | left >> (NOISE_BITS - by)) & _NOISE for by in (1, 2, 8))
        left, right = right ^ (one & eight) ^ two ^ word ^ turn, left
    return _channels(np.stack([right, left], axis=-1).reshape(*number.shape, WORD_CHANNELS))


def _put_planes(memory: Memory, d: Descriptor, name: str, values: np.ndarray) -> None:
    """Store the lowest bits of `values` as planes; columns that fill the last beat are 0."""
    tensor = Tensor.of(d, name)
    words = _words(values)
    spare = -d.width % BEAT_WORDS
    words = np.pad(words, ((0, 0), (0, 0), (0, 0), (0, spare), (0, 0)))
    bits = words[:, :, :, None] >> np.arange(tensor.planes - 1, -1, -1)[:, None, None] & 1
    flat = bits.astype(np.uint8).reshape(*bits.shape[:4], -1)
    raw = np.packbits(flat, axis=-1, bitorder="little")
    _put_rows(memory, d, tensor, raw, _plane_row(d, tensor.planes)[1])


def _put_rows(memory: Memory, d: Descriptor, tensor: Tensor, raw: np.ndarray, strides: tuple) -> None:
    """Store bytes (n, block, y, *row)."""
    start, _, steps = _rows(d, tensor, raw.shape[3:], strides)
    memory.write(start, raw[None], steps, Error.AXI_WRITE)


def _put_digits(memory: Memory, d: Descriptor, name: str, values: np.ndarray) -> None:
    """Store `values` as digits, the most significant first."""
    tensor = Tensor.of(d, name)
    digits = -(-tensor.planes // DIGIT_BITS)
    places = np.arange(digits - 1, -1, -1) * DIGIT_BITS
    words = _words(values)
    if d.vector_controls & Pass.SPREAD:
        words = np.stack([words, 0 * words], axis=4).reshape(*words.shape[:3], -1, WORD_CHANNELS)
    nibbles = words[:, :, :, None] >> places[:, None, None] & 15
    raw = (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).astype(np.uint8).reshape(*nibbles.shape[:4], -1)
    _put_rows(memory, d, tensor, raw, (d.vector_stride_d * WORD_BYTES or WEIGHT_TILE_BYTES, 1))


def _put_sums(memory: Memory, d: Descriptor, q: np.ndarray, x: np.ndarray, clipped: int) -> None:
    """The sums of each channel, in the order of the work, and the number of clipped results."""
    axes = (2, 3) if d.vector_controls & Pass.EACH_SAMPLE else (0, 2, 3)
    parts = q.sum(axis=axes), (q * x).sum(axis=axes), q.min(axis=axes), q.max(axis=axes)
    sums, products, low, high = (np.atleast_2d(part) for part in parts)
    record = np.empty((*sums.shape, SUMS_BYTES), np.uint8)
    record[..., :8] = _bytes(_wrapped(sums, SUM_BITS), "<i8")
    record[..., 8:16] = _bytes(_wrapped(products, SUM_BITS), "<i8")
    record[..., 16:20], record[..., 20:] = _bytes(low, "<i4"), _bytes(high, "<i4")
    samples = len(record)
    ordered = record.reshape(samples, d.k_blocks, -1).transpose(1, 0, 2).reshape(-1)
    raw = np.concatenate([ordered, np.array([clipped & 0xFFFF_FFFF], "<u8").view(np.uint8)])
    memory.write(np.array([d.vector_sums]), raw[None], (1,), Error.AXI_WRITE)


def _bytes(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(dtype)[..., None].view(np.uint8)
