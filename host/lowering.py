"""Exact integer products as programs: two forms, one for each mode of the array.

* `lower_window`: 3x3 convolution of images.
* `lower_flat`: matrix times vectors; `lower_dot` chooses which of two matrices takes which part.

What exceeds an accumulator, a descriptor or the memory is cut into several programs. Lowering needs the operands and
the built configuration, and touches no board.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from host.layout import (
    ceil_div,
    flat_lanes,
    pack_stationary,
    pack_stream,
    pack_stream_table,
    row_bytes,
    unpack_results,
    window_lanes,
)
from host.program import (
    Arena,
    Lowered,
    Operand,
    Program,
    descriptor_flags,
    most_terms,
    result_bytes,
    round_sizes,
    rounds,
    sum_bound,
)
from host.tiling import MAX_SIZE, Precision, Tiling, flat_tiling, window_tiling
from rtl.config import BEAT_BYTES, LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.isa import Descriptor, Opcode

#: Zero rows and columns that the array adds by itself above and left of an image.
MAX_PADDING = 2


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

    def footprint(size: tuple[int, int], out: tuple[int, int], sizes: tuple[int, ...]) -> float:
        samples, part_rows, part_channels = sizes
        tiling = window_tiling(config, precision, samples, part_channels, part_rows, size, out, stride)
        if tiling is None or max(*size, samples) > MAX_SIZE:
            return inf
        words, blocks = ceil_div(part_channels, WORD_CHANNELS), tiling.covered(ceil_div(part_rows, config.rows))
        stream = samples * (words * size[0] * precision.stream_bits * row_bytes(size[1]) + 1)
        stationary = blocks * words * precision.digits * config.weight_tile_beats * BEAT_BYTES
        return stream + stationary + samples * blocks * config.rows * out[0] * out[1] * precision.out_bytes

    # Images that do not fit as they are become patches with their halo, which count as samples.
    smallest = (1, min(rows, config.rows), min(most_channels, WORD_CHANNELS))
    whole_fits = max(padding) <= MAX_PADDING and footprint((height, width), out_size, smallest) <= room
    patch = _patch(config, precision, image.codes.shape, rows, stride, out_size, whole_fits, footprint, room)
    if patch is None:
        size, codes, out = (height, width), image.codes, out_size
        finish = None
    else:
        out, padding_before = patch, padding
        codes, finish = _cut_patches(image.codes, stride, padding_before, out_size, out)
        size, padding = codes.shape[2:], (0, 0)
        table = None if table is None else np.repeat(table, len(codes) // n)
    patched = image._replace(codes=codes)

    whole = (len(codes), rows, channels)
    sizes = round_sizes(
        (min(len(codes), MAX_SIZE), rows, most_channels),
        (1, config.rows, WORD_CHANNELS),
        lambda sizes: footprint(size, out, sizes),
        room,
    )

    def programs() -> Iterator[Program]:
        for samples, part_rows, part_channels in rounds(whole, sizes):
            part = patched._replace(codes=patched.codes[samples, part_channels])
            weights = kernel._replace(codes=kernel.codes[part_rows, part_channels])
            bits = None if table is None else table[samples]
            yield _window_program(
                config, precision, part, weights, stride, padding, out, bits, (samples, part_rows, slice(None))
            )

    lowered = Lowered((len(codes), rows, out[0] * out[1]), programs(), lambda y: y.reshape(len(codes), rows, *out))
    return lowered if finish is None else lowered.then(finish)


def _patch(config, precision, shape, rows, stride, out_size, whole_fits, footprint, room) -> tuple[int, int] | None:
    """Output height and width of the patches to cut, or None to leave the images whole."""
    n, channels, height, width = shape
    most_width = min(out_size[1], config.result_slot)
    while (
        ceil_div((most_width - 1) * stride + 3, 4) * precision.stream_bits > config.stream_slot
        or (most_width - 1) * stride + 3 > MAX_SIZE
    ):
        most_width -= 1
    best = None
    if whole_fits:
        tiling = window_tiling(config, precision, n, channels, rows, (height, width), out_size, stride)
        best = (tiling.cycles, None)
        if tiling.row_blocks << tiling.log2_row_parts >= ceil_div(rows, config.rows):
            return None  # every column is read once already
    # Narrower patches leave room for more row blocks in the result buffer, so that images are read less often.
    fewest = ceil_div(out_size[1], most_width)
    smallest = (1, min(rows, config.rows), min(channels, WORD_CHANNELS))
    for patches in {fewest, 2 * fewest, 4 * fewest}:
        out = [out_size[0], ceil_div(out_size[1], patches)]
        while (size := tuple((side - 1) * stride + 3 for side in out)) and footprint(size, tuple(out), smallest) > room:
            if out == [1, 1]:
                break
            axis = 0 if out[0] > 1 else 1
            out[axis] = ceil_div(out[axis], 2)
        samples = n * ceil_div(out_size[0], out[0]) * ceil_div(out_size[1], out[1])
        tiling = window_tiling(config, precision, samples, channels, rows, size, tuple(out), stride)
        if tiling is not None and (best is None or tiling.cycles < best[0]):
            best = (tiling.cycles, tuple(out))
    return best[1]


def _cut_patches(codes: np.ndarray, stride: int, padding: tuple[int, int], out_size: tuple[int, int], out):
    """Patches (N * patches, C, h, w) with halo and padding, and how to join their results (N * patches, M, *out)."""
    n, channels = codes.shape[:2]
    count = [ceil_div(side, part) for side, part in zip(out_size, out, strict=True)]
    padded_size = [(c * part - 1) * stride + 3 for c, part in zip(count, out, strict=True)]
    inside = codes[:, :, : max(0, padded_size[0] - padding[0]), : max(0, padded_size[1] - padding[1])]
    padded = np.zeros((n, channels, *padded_size), codes.dtype)
    padded[:, :, padding[0] : padding[0] + inside.shape[2], padding[1] : padding[1] + inside.shape[3]] = inside
    size = tuple((part - 1) * stride + 3 for part in out)
    windows = sliding_window_view(padded, size, axis=(2, 3))[:, :, :: out[0] * stride, :: out[1] * stride]
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels, *size)

    def join(results: np.ndarray) -> np.ndarray:
        rows = results.shape[1]
        grid = results.reshape(n, *count, rows, *out).transpose(0, 3, 1, 4, 2, 5)
        return grid.reshape(n, rows, count[0] * out[0], count[1] * out[1])[:, :, : out_size[0], : out_size[1]]

    return patches, join


def _window_program(config, precision, image, kernel, stride, padding, out, table, place) -> Program:
    """Images and kernel of one round as they go to the board."""
    n, channels, height, width = image.codes.shape
    rows = kernel.codes.shape[0]
    words, needed = ceil_div(channels, WORD_CHANNELS), ceil_div(rows, config.rows)
    tiling = window_tiling(config, precision, n, channels, rows, (height, width), tuple(out), stride)
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
            flags=descriptor_flags(image, kernel, precision.out_bytes, table is not None),
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
            stride=stride,
            pad_top=padding[0],
            pad_left=padding[1],
            stream_base=stream,
            stream_stride_n=words * stride_c,
            stream_stride_c=stride_c,
            stationary_base=stationary + first * words * stride_k,
            stationary_stride_k=stride_k,
            stationary_stride_m=words * stride_k,
            out_base=results + first * block_bytes,
            out_stride_n=blocks * block_bytes,
            out_stride_m=block_bytes,
            stream_table=stream_table,
        )
        for first, row_blocks in tiling.blocks(needed)
    ]

    def unpack(raw: np.ndarray) -> np.ndarray:
        part = unpack_results(raw, n, blocks, config.rows, precision.out_bytes)
        return _without_skipped(part[:, :rows], table)

    return Program(arena.writes, descriptors, results, nbytes, place, unpack)


def _without_skipped(part: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """Zeros for samples of 0 bits: the board leaves their results unwritten."""
    return part if table is None else np.where((table > 0)[:, None, None], part, 0)


def lower_dot(config: AcceleratorConfig, memory_bytes: int, a: Operand, b: Operand) -> Lowered:
    """Product a @ b.T of a (U, K) and b (V, K), none of them zero; the cheaper one is made stationary."""
    channels = a.codes.shape[1]
    bound = min(sum_bound(a, b), sum_bound(b, a))

    def cycles(stationary: Operand, stream: Operand) -> float:
        precision = Precision(stream.bits, stationary.bits, result_bytes(bound))
        vectors, rows = len(stream.codes), len(stationary.codes)
        tiling = flat_tiling(config, precision, 1, vectors, channels, rows, True)
        return inf if tiling is None else tiling.cycles

    if cycles(a, b) <= cycles(b, a):
        lowered = lower_flat(config, memory_bytes, a, b._replace(codes=b.codes[None]), bound)
        return lowered.then(lambda whole: whole[0])
    lowered = lower_flat(config, memory_bytes, b, a._replace(codes=a.codes[None]), bound)
    return lowered.then(lambda whole: whole[0].T)


def lower_flat(
    config: AcceleratorConfig,
    memory_bytes: int,
    matrix: Operand,
    vectors: Operand,
    bound: int,
    table: np.ndarray | None = None,
) -> Lowered:
    """Matrix times vectors, vectors streaming.

    Parameters
    ----------
    matrix : (M, K), stationary.
    vectors : (G, P, K): G groups of P vectors. None of the sizes is zero.
    bound : no sum of the product, nor any part of one, exceeds this magnitude.
    table : uint8 (G,), bits of each group, at most `vectors.bits`; 0 gives zeros.

    Returns
    -------
    Lowered
        Product (G, M, P).
    """
    groups, count, channels = vectors.codes.shape
    rows = matrix.codes.shape[0]
    most_channels = min(most_terms(bound, channels, matrix, vectors), MAX_SIZE * LANES)
    precision = Precision(vectors.bits, matrix.bits, result_bytes(bound))
    split_k = table is None

    if flat_tiling(config, precision, 1, 1, 1, 1, False) is None:
        # The stream buffer is too small for three rows of this many planes: use one tap of nine of a 3x3 window.
        image = vectors._replace(codes=vectors.codes.transpose(0, 2, 1)[:, :, None])
        kernel = np.zeros((rows, channels, 3, 3), matrix.codes.dtype)
        kernel[:, :, 1, 1] = matrix.codes
        window = matrix._replace(codes=kernel)
        return lower_window(config, memory_bytes, image, window, 1, (1, 1), (1, count), table).then(
            lambda whole: whole[:, :, 0]
        )

    def footprint(sizes: tuple[int, ...]) -> float:
        part_groups, part_count, part_rows, part_channels = sizes
        tiling = flat_tiling(config, precision, part_groups, part_count, part_channels, part_rows, split_k)
        samples = part_groups * tiling.chunks
        if samples > MAX_SIZE:
            return inf
        k_blocks = tiling.k_parts * ceil_div(ceil_div(part_channels, LANES), tiling.k_parts)
        blocks = tiling.covered(ceil_div(part_rows, config.rows))
        stream = samples * (k_blocks * TAPS * precision.stream_bits * row_bytes(tiling.width) + 1)
        stationary = blocks * k_blocks * precision.digits * config.weight_tile_beats * BEAT_BYTES
        results = samples * tiling.k_parts * blocks * config.rows * tiling.width * precision.out_bytes
        return stream + stationary + results

    sizes = round_sizes(
        (min(groups, MAX_SIZE), min(count, 4 * MAX_SIZE), rows, most_channels),
        (1, 1, config.rows, LANES),
        footprint,
        Arena.room(memory_bytes, config.burst_beats * BEAT_BYTES),
    )

    def programs() -> Iterator[Program]:
        for part_groups, part_count, part_rows, part_channels in rounds((groups, count, rows, channels), sizes):
            part = vectors._replace(codes=vectors.codes[part_groups, part_count, part_channels])
            weights = matrix._replace(codes=matrix.codes[part_rows, part_channels])
            bits = None if table is None else table[part_groups]
            yield _flat_program(config, precision, weights, part, bits, (part_groups, part_rows, part_count))

    return Lowered((groups, rows, count), programs())


def _flat_program(config, precision, matrix, vectors, table, place) -> Program:
    """Matrix and vectors of one round as they go to the board."""
    groups, count, channels = vectors.codes.shape
    rows = matrix.codes.shape[0]
    tiling: Tiling = flat_tiling(config, precision, groups, count, channels, rows, table is None)
    chunks, width, k_parts = tiling.chunks, tiling.width, tiling.k_parts
    samples, needed = groups * chunks, ceil_div(rows, config.rows)
    blocks = tiling.covered(needed)
    part_blocks = ceil_div(ceil_div(channels, LANES), k_parts)  # k blocks of a part of the reduction

    # Whole chunks of vectors, and whole parts of the reduction where it is split.
    padded = (groups, chunks * width, channels if k_parts == 1 else k_parts * part_blocks * LANES)
    codes = vectors.codes
    if codes.shape != padded:
        codes = np.zeros(padded, codes.dtype)
        codes[:, :count, :channels] = vectors.codes
    codes = codes.reshape(samples, 1, width, -1)
    words = ceil_div(codes.shape[-1], WORD_CHANNELS)

    arena = Arena(config.burst_beats * BEAT_BYTES)
    bits = None if table is None else np.repeat(table, chunks)
    packed = pack_stream(codes, vectors.bits) if bits is None else pack_stream_table(codes, vectors.bits, bits)
    stream = arena.put(packed)
    lanes = flat_lanes(matrix.codes)
    stationary = arena.put(pack_stationary(lanes, matrix.bits, config.rows, blocks, k_parts * part_blocks))
    stream_table = 0 if bits is None else arena.put(bits)
    block_bytes = width * config.rows * precision.out_bytes
    nbytes = samples * k_parts * blocks * block_bytes
    results = arena.reserve(nbytes)
    stride_c = vectors.bits * row_bytes(width)
    stride_k = precision.digits * config.weight_tile_beats * BEAT_BYTES
    stride_m = k_parts * part_blocks * stride_k
    common = {
        "opcode": Opcode.FLAT,
        "flags": descriptor_flags(vectors, matrix, precision.out_bytes, bits is not None),
        "stream_bits": vectors.bits,
        "stationary_bits": matrix.bits,
        "width": width,
        "out_width": width,
        "k_blocks": part_blocks,
        "row_groups": 3,
        "k_tail": words - (k_parts * part_blocks - 1) * TAPS,
        "tile_samples": tiling.tile_samples,
        "sample_parts": tiling.sample_parts,
        "log2_row_parts": tiling.log2_row_parts,
        "stream_stride_c": stride_c,
        "stationary_stride_k": stride_k,
        "stationary_stride_m": stride_m,
        "out_stride_n": blocks * block_bytes,
        "out_stride_m": block_bytes,
        "stream_table": stream_table,
    }
    descriptors = []
    for first, row_blocks in tiling.blocks(needed):
        weights, out = stationary + first * stride_m, results + first * block_bytes
        if k_parts == 1:
            descriptors.append(
                Descriptor(
                    **common,
                    samples=samples,
                    row_blocks=row_blocks,
                    stream_base=stream,
                    stream_stride_n=words * stride_c,
                    stationary_base=weights,
                    out_base=out,
                )
            )
            continue
        # The samples of a descriptor are the parts of the reduction of one chunk, each with its own part of the matrix.
        descriptors += [
            Descriptor(
                **common,
                samples=k_parts,
                row_blocks=row_blocks,
                stream_base=stream + chunk * words * stride_c,
                stream_stride_n=part_blocks * TAPS * stride_c,
                stationary_base=weights,
                stationary_stride_n=part_blocks * stride_k,
                out_base=out + chunk * k_parts * blocks * block_bytes,
            )
            for chunk in range(chunks)
        ]

    def unpack(raw: np.ndarray) -> np.ndarray:
        part = unpack_results(raw, samples * k_parts, blocks, config.rows, precision.out_bytes)
        part = part.reshape(groups, chunks, k_parts, blocks * config.rows, width)[:, :, :, :rows]
        summed = part.sum(axis=2, dtype=np.int64).transpose(0, 2, 1, 3).reshape(groups, rows, -1)
        return _without_skipped(summed[..., :count], table)

    return Program(arena.writes, descriptors, results, nbytes, place, unpack)
