"""Random vector passes: descriptors, and places in memory for all that they read and write."""

from __future__ import annotations

import numpy as np

from rtl.config import BEAT_BYTES, DIGIT_BITS, WEIGHT_TILE_BYTES, WORD_BYTES, WORD_CHANNELS
from rtl.isa import Descriptor, Opcode, Pass, Sink, Source
from rtl.lane import A_BITS, B_BITS, C_BITS, MOST_SHIFT
from rtl.tiles import VectorTile
from rtl.vector_block import (
    COEFFICIENTS_BYTES,
    MOST_DIGITS_PLANES,
    MOST_DROPPED,
    MOST_PLANES,
    MOST_WIDTH,
    PARTS,
    READS,
    SUMS_BYTES,
    VECTOR,
    WRITES,
)
from sim.tests.test_lane import drawn

#: Most planes of each tensor.
TENSORS = {block.name: {field.name: field for field in block.fields}["planes"].most for block in (*READS, *WRITES)}


#: Bytes of the parts of stream u behind its first: many passes have to fit a memory.
MOST_OF_PARTS = 1 << 15


class Space:
    """Hands a memory out in pieces, with gaps that nobody may touch.

    Attributes
    ----------
    image : uint8, the memory, filled at random: anything is a tensor of planes, or results.
    """

    def __init__(self, rng: np.random.Generator, size: int, base: int = 0):
        self._rng, self._base, self._next = rng, base, 0
        self.image = rng.integers(0, 256, size, dtype=np.uint8)

    def take(self, count: int) -> int:
        """The address of `count` bytes."""
        start = self._next + BEAT_BYTES * int(self._rng.integers(4))
        self._next = start + count
        assert self._next <= self.image.size
        return self._base + start

    def has_room(self, count: int) -> bool:
        """Whether `take` may be asked for so many bytes."""
        return self._next + 4 * BEAT_BYTES + count <= self.image.size

    def at(self, address: int, count: int) -> np.ndarray:
        """Bytes that were taken."""
        start = address - self._base
        return self.image[start : start + count]


class TwoSpaces:
    """Pieces of either memory, as they come: of `near` half of those that fit."""

    def __init__(self, rng: np.random.Generator, far: Space, near: Space):
        self._rng, self.far, self.near = rng, far, near
        self._of: dict[int, Space] = {}

    def take(self, count: int) -> int:
        space = self.near if self._rng.integers(2) and self.near.has_room(count) else self.far
        address = space.take(count)
        self._of[address] = space
        return address

    def at(self, address: int, count: int) -> np.ndarray:
        start = max(start for start in self._of if start <= address)
        return self._of[start].at(address, count)


def packed(d: Descriptor, index: int) -> int:
    """The record of a pass, as the unit takes it."""
    sizes = {name: getattr(d, name) for name in ("samples", "height", "width")}
    blocks = {
        block.name: {field.name: getattr(d, block.flat(field)) for field in block.members}
        for block in (VECTOR, *READS, *WRITES, PARTS)
    }
    controls = blocks["vector"]["controls"]
    blocks["vector"]["controls"] = {flag.name.lower(): int(bool(controls & flag)) for flag in Pass}
    return VectorTile.const({"index": index, "channel_blocks": d.k_blocks, **sizes, **blocks}).as_value().value


def words(d: Descriptor) -> int:
    """Of 16 channels."""
    return d.samples * d.k_blocks * d.height * d.width


def row_beats(d: Descriptor, tensor: str) -> int:
    """Beats of a row of a tensor."""
    if tensor == "u" and d.vector_source:
        return d.width * WORD_CHANNELS << d.vector_source >> 3
    return getattr(d, f"{tensor}_planes") * -(-d.width // 4)


def drawn_pass(rng: np.random.Generator, space: Space, **fixed) -> Descriptor:
    """A random pass with everything that it needs in `space`; fields that are `fixed` are not drawn."""

    def chance(p: float = 0.5) -> bool:
        return bool(rng.random() < p)

    def one_of(least: int, most: int) -> int:
        return int(rng.integers(least, most + 1))

    sink = Sink.DIGITS if chance(0.25) else Sink.PLANES
    source = Source(one_of(1, 3)) if chance(0.4) else Source.PLANES
    planes = {name: one_of(1, most) * chance(0.8) for name, most in TENSORS.items()}
    controls = Pass(one_of(0, sum(Pass)))
    if source:
        planes["u"] = 0
    if controls & Pass.MASKED:
        planes["mask"] = 1
    if sink == Sink.DIGITS:
        planes["q"] = min(planes["q"], MOST_DIGITS_PLANES)
    width = one_of(1, MOST_WIDTH if chance() else 9)
    samples, blocks = one_of(1, 3), one_of(1, 3)
    fields = {
        "opcode": Opcode.VECTOR,
        "samples": samples,
        "k_blocks": blocks,
        "width": width,
        "height": one_of(1, max(1, 400 // (width * samples * blocks))),
        **{f"vector_{name}": one_of(0, (1 << 32) - 1) for name in ("key_low", "key_high")},
        **{f"vector_number{name}": one_of(0, (1 << 32) - 1) for name in ("", "_stride_n", "_stride_c")},
        "vector_controls": int(controls),
        "vector_source": source,
        "vector_sink": sink,
        "vector_raised": one_of(0, 1 << one_of(0, 20)) * chance(),
        "vector_top": one_of(1, (1 << one_of(1, MOST_PLANES)) - 1) if chance() else (1 << MOST_PLANES) - 1,
        "vector_shift": one_of(0, MOST_SHIFT if chance() else 12),
        "vector_dropped": one_of(0, MOST_DROPPED),
        "vector_stride_d": one_of(8, 12) * chance(),  # the longest row fits
        **{f"{name}_planes": number for name, number in planes.items()},
        **{f"{name}_signed": int(chance()) for name in TENSORS},
    }
    d = Descriptor(**fields | fixed)
    if d.vector_source in (Source.INT32, Source.INT64) and "parts_more" not in fixed:
        one = words(d) * WORD_CHANNELS << d.vector_source
        d.parts_more = one_of(0, min(3, MOST_OF_PARTS // one))
    for name in TENSORS:
        _place(rng, space, d, name)
    _coefficients(rng, space, d)
    sets = d.k_blocks * (d.samples if d.vector_controls & Pass.EACH_SAMPLE else 1)
    d.vector_sums = space.take(sets * WORD_CHANNELS * SUMS_BYTES + BEAT_BYTES)
    return d


def _place(rng: np.random.Generator, space: Space, d: Descriptor, name: str) -> None:
    """A place for a tensor: its axes nested in any order, with gaps, strides in either direction."""
    size = BEAT_BYTES * row_beats(d, name)
    sizes = {"n": d.samples, "c": d.k_blocks, "y": d.height}
    if name == "u":
        sizes["part"] = d.parts_more + 1
    order = [str(axis) for axis in rng.permutation(list(sizes))]
    strides, base = {"y": BEAT_BYTES * d.width * (2 if d.vector_controls & Pass.SPREAD else 1)}, 0
    if name == "q" and d.vector_sink == Sink.DIGITS:
        apart = d.vector_stride_d * WORD_BYTES or WEIGHT_TILE_BYTES
        size = apart * -(-d.q_planes // DIGIT_BITS)
        if d.height * strides["y"] <= apart:  # rows lie between the digits of the first
            order.remove("y")
    for axis in order:
        strides[axis] = size + BEAT_BYTES * int(rng.integers(3))
        way = strides[axis] * (sizes[axis] - 1)
        size += way
        if axis != "y" and rng.random() < 0.3:
            base += way
            strides[axis] = -strides[axis] % (1 << 32)
    if strides["y"] >= 1 << 16:  # the field has 16 bits
        return _place(rng, space, d, name)
    setattr(d, f"{name}_base", space.take(size) + base)
    for axis, stride in strides.items():
        setattr(d, "parts_stride" if axis == "part" else f"{name}_stride_{axis}", stride)


def _coefficients(rng: np.random.Generator, space: Space, d: Descriptor) -> None:
    """Numbers of all sizes, or small ones so that results are not clipped; anything in the bits that do not count."""
    samples = d.samples if d.vector_controls & Pass.EACH_SAMPLE else 1
    channels = d.k_blocks * WORD_CHANNELS
    stride = channels * COEFFICIENTS_BYTES + BEAT_BYTES * int(rng.integers(3))
    d.vector_coefficients, d.vector_coefficients_stride = space.take(samples * stride), stride
    widths = (A_BITS, C_BITS, B_BITS) if rng.random() < 0.5 else (6, 6, 16)
    for sample in range(samples):
        start = d.vector_coefficients + sample * stride
        raw = space.at(start, channels * COEFFICIENTS_BYTES).view(np.uint64).reshape(channels, 2)
        for column, at, bits, width in zip((0, 0, 1), (0, 32, 0), (A_BITS, C_BITS, B_BITS), widths, strict=True):
            field = np.uint64(((1 << bits) - 1) << at)
            numbers = drawn(rng, width, channels).astype(np.uint64) << np.uint64(at)
            raw[:, column] = raw[:, column] & ~field | numbers & field
