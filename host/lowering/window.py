"""3x3 convolutions as programs for the window mode of the array.

What exceeds an accumulator, a descriptor or the memory is cut into several programs. Lowering needs the operands and
the built configuration, and touches no board.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from host.lowering.layout import (
    ceil_div,
    pack_stationary,
    pack_stream,
    pack_stream_table,
    row_bytes,
    unpack_results,
    window_lanes,
)
from host.lowering.program import (
    Arena,
    Lowered,
    Program,
    descriptor_flags,
    most_terms,
    result_bytes,
    round_sizes,
    rounds,
    sum_bound,
    without_skipped,
)
from host.lowering.tiling import MAX_SIZE, Precision, Tiling, window_tiling
from host.qtensor import Operand
from rtl.config import BEAT_BYTES, BEAT_WORDS, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.isa import Descriptor, Format, Opcode

#: Zero rows and columns that the array adds by itself above and left of an image.
MAX_PADDING = 2


@dataclass(frozen=True)
class _Form:
    """What the rounds of a product have in common.

    Attributes
    ----------
    padding : zero rows above and columns left that the array adds.
    size, out : height and width of an image and of its result.
    """

    config: AcceleratorConfig
    precision: Precision
    stride: int
    padding: tuple[int, int]
    size: tuple[int, int]
    out: tuple[int, int]

    def patches(self, out: tuple[int, int]) -> _Form:
        """The form for patches of `out` results, which bring their halo and padding along."""
        height, width = ((side - 1) * self.stride + 3 for side in out)
        return replace(self, padding=(0, 0), size=(height, width), out=out)

    def tiling(self, samples: int, rows: int, channels: int) -> Tiling | None:
        """Tiles, or None if no descriptor describes the images or no tile of them fits."""
        if max(*self.size, *self.out, samples) > MAX_SIZE or max(self.padding) > MAX_PADDING:
            return None
        return window_tiling(self.config, self.precision, samples, channels, rows, self.size, self.out, self.stride)

    def cycles(self, samples: int, rows: int, channels: int) -> float:
        """Estimate for a product; infinite where there is no tiling."""
        part = min(samples, MAX_SIZE)
        tiling = self.tiling(part, rows, channels)
        return inf if tiling is None else tiling.cycles * samples / part

    def footprint(self, samples: int, rows: int, channels: int) -> float:
        """Bytes of memory for operands and results; infinite where there is no tiling."""
        tiling = self.tiling(samples, rows, channels)
        if tiling is None:
            return inf
        words, blocks = ceil_div(channels, WORD_CHANNELS), tiling.covered(ceil_div(rows, self.config.rows))
        image = words * self.size[0] * self.precision.stream_bits * row_bytes(self.size[1])
        stationary = blocks * words * self.precision.digits * self.config.weight_tile_beats * BEAT_BYTES
        result = blocks * self.config.rows * self.out[0] * self.out[1] * self.precision.out_bytes
        return stationary + samples * (image + 1 + result)  # 1: the sample's precision byte


def lower_window(
    config: AcceleratorConfig,
    memory_bytes: int,
    image: Operand,
    kernel: Operand,
    stride: int,
    padding: tuple[int, int],
    out_size: tuple[int, int],
    table: np.ndarray | None = None,
) -> Lowered:
    """3x3 convolution, images streaming.

    Parameters
    ----------
    image : (N, C, H, W), none of them zero.
    kernel : (M, C, 3, 3).
    stride : 1 or 2.
    padding : zero rows above and zero columns left of the image; below and right as many as `out_size` needs.
    out_size : height and width of the result.
    table : uint8 (N,), bits of each image, at most `image.bits`; 0 gives zeros.

    Returns
    -------
    Lowered
        Product (N, M, height, width).
    """
    n, channels, height, width = image.codes.shape
    rows = kernel.codes.shape[0]
    bound = sum_bound(kernel, image)
    most_channels = min(most_terms(bound, channels * TAPS, kernel, image) // TAPS, MAX_SIZE * WORD_CHANNELS)
    precision = Precision(image.bits, kernel.bits, result_bytes(bound))
    room = Arena.room(memory_bytes, config.burst_beats * BEAT_BYTES)

    whole = _Form(config, precision, stride, padding, (height, width), out_size)
    form = _choose_form(whole, n, rows, most_channels, room)
    if form is not whole:
        patches = _cut_patches(image.codes, stride, padding, out_size, form)
        table = None if table is None else np.repeat(table, len(patches) // n)
        image = image._replace(codes=patches)

    samples = len(image.codes)
    product = (samples, rows, channels)
    most = (min(samples, MAX_SIZE), rows, most_channels)
    sizes = round_sizes(product, most, (1, config.rows, WORD_CHANNELS), form.footprint, room)

    def programs() -> Iterator[Program]:
        for chosen, some_rows, some_channels in rounds(product, sizes):
            part = image._replace(codes=image.codes[chosen, some_channels])
            weights = kernel._replace(codes=kernel.codes[some_rows, some_channels])
            bits = None if table is None else table[chosen]
            yield _window_program(form, part, weights, bits, (chosen, some_rows, slice(None)))

    def finish(results: np.ndarray) -> np.ndarray:
        return _join_patches(results.reshape(samples, rows, *form.out), n, out_size)

    return Lowered((samples, rows, form.out[0] * form.out[1]), programs(), finish)


def _choose_form(whole: _Form, n: int, rows: int, channels: int, room: int) -> _Form:
    """Images as they are or, where these do not fit or something is won, patches with their halo.

    Patches count as samples. Narrow ones leave room for more row blocks in the result buffer, so that images are read
    less often.
    """
    config, stride = whole.config, whole.stride
    smallest = (1, min(rows, config.rows), min(channels, WORD_CHANNELS))
    best, best_cycles = whole, inf
    if whole.footprint(*smallest) <= room:
        tiling = whole.tiling(min(n, MAX_SIZE), rows, channels)
        if tiling.row_blocks << tiling.log2_row_parts >= ceil_div(rows, config.rows):
            return whole  # every image is read once already
        best_cycles = whole.cycles(n, rows, channels)

    widest = min(config.stream_slot // whole.precision.stream_bits * BEAT_WORDS, MAX_SIZE)
    most_columns = min(whole.out[1], config.result_slot, (widest - 3) // stride + 1)
    fewest = ceil_div(whole.out[1], most_columns)
    for count in (fewest, 2 * fewest, 4 * fewest):
        form = whole.patches((whole.out[0], ceil_div(whole.out[1], count)))
        while form.footprint(*smallest) > room and form.out != (1, 1):
            height, width = form.out
            form = form.patches((ceil_div(height, 2), width) if height > 1 else (1, ceil_div(width, 2)))
        pieces = ceil_div(whole.out[0], form.out[0]) * ceil_div(whole.out[1], form.out[1])
        cycles = form.cycles(n * pieces, rows, channels)
        if cycles < best_cycles:
            best, best_cycles = form, cycles
    return best


def _cut_patches(
    codes: np.ndarray, stride: int, padding: tuple[int, int], out_size: tuple[int, int], form: _Form
) -> np.ndarray:
    """Patches (N * patches, C, *form.size) of padded images, overlapping by their halo."""
    n, channels = codes.shape[:2]
    covered = [ceil_div(side, part) * part for side, part in zip(out_size, form.out, strict=True)]
    height, width = ((side - 1) * stride + 3 for side in covered)
    inside = codes[:, :, : max(0, height - padding[0]), : max(0, width - padding[1])]
    padded = np.zeros((n, channels, height, width), codes.dtype)
    padded[:, :, padding[0] : padding[0] + inside.shape[2], padding[1] : padding[1] + inside.shape[3]] = inside
    windows = sliding_window_view(padded, form.size, axis=(2, 3))
    windows = windows[:, :, :: form.out[0] * stride, :: form.out[1] * stride]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels, *form.size)


def _join_patches(results: np.ndarray, n: int, out_size: tuple[int, int]) -> np.ndarray:
    """Results (N * patches, M, h, w) as (N, M, *out_size)."""
    _, rows, height, width = results.shape
    down, right = ceil_div(out_size[0], height), ceil_div(out_size[1], width)
    grid = results.reshape(n, down, right, rows, height, width).transpose(0, 3, 1, 4, 2, 5)
    return grid.reshape(n, rows, down * height, right * width)[:, :, : out_size[0], : out_size[1]]


def _window_program(
    form: _Form, image: Operand, kernel: Operand, table: np.ndarray | None, place: tuple[slice, ...]
) -> Program:
    """Images and kernel of one round as they go to the board."""
    config, precision, out = form.config, form.precision, form.out
    n, channels, height, width = image.codes.shape
    rows = kernel.codes.shape[0]
    words, needed = ceil_div(channels, WORD_CHANNELS), ceil_div(rows, config.rows)
    tiling = form.tiling(n, rows, channels)
    blocks = tiling.covered(needed)
    arena = Arena(config.burst_beats * BEAT_BYTES)
    channels_last = image.codes.transpose(0, 2, 3, 1)
    if table is None:
        stream = arena.put(pack_stream(channels_last, image.bits))
    else:
        stream = arena.put(pack_stream_table(channels_last, image.bits, table))
    stationary = arena.put(pack_stationary(window_lanes(kernel.codes), kernel.bits, config.rows, blocks, words))
    stream_table = 0 if table is None else arena.put(table)
    block_bytes = out[0] * out[1] * config.rows * precision.out_bytes
    nbytes = n * blocks * block_bytes
    results = arena.reserve(nbytes)
    stride_c = height * image.bits * row_bytes(width)
    stride_k = precision.digits * config.weight_tile_beats * BEAT_BYTES
    descriptors = [
        Descriptor(
            opcode=Opcode.WINDOW,
            flags=descriptor_flags(image, kernel, table is not None),
            stream_bits=image.bits,
            stationary_bits=kernel.bits,
            samples=n,
            height=height,
            width=width,
            out_height=out[0],
            out_width=out[1],
            k_blocks=words,
            row_blocks=row_blocks,
            tile_rows=tiling.tile_rows,
            row_groups=tiling.row_groups,
            tile_samples=tiling.tile_samples,
            sample_parts=tiling.sample_parts,
            log2_row_parts=tiling.log2_row_parts,
            stride=form.stride,
            pad_top=form.padding[0],
            pad_left=form.padding[1],
            stream_base=stream,
            stream_stride_n=words * stride_c,
            stream_stride_c=stride_c,
            stationary_base=stationary + first * words * stride_k,
            stationary_stride_k=stride_k,
            stationary_stride_m=words * stride_k,
            out_format=Format.of(precision.out_bytes),
            out_base=results + first * block_bytes,
            out_stride_n=blocks * block_bytes,
            out_stride_m=block_bytes,
            stream_table=stream_table,
        )
        for first, row_blocks in tiling.blocks(needed)
    ]

    def unpack(raw: np.ndarray) -> np.ndarray:
        part = unpack_results(raw, n, blocks, config.rows, precision.out_bytes)
        return without_skipped(part[:, :rows], table)

    return Program(arena.writes, descriptors, results, nbytes, place, unpack)
