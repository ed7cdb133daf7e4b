"""Matrix products as programs for the flat mode of the array.

`lower_flat` multiplies a stationary matrix with streaming vectors; `lower_dot` chooses which of two matrices takes
which part. What exceeds an accumulator, a descriptor or the memory is cut into several programs, as in
`host.lowering.window`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np

from host.lowering.layout import (
    ceil_div,
    flat_lanes,
    pack_stationary,
    pack_stream,
    pack_stream_table,
    row_bytes,
    unpack_results,
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
from host.lowering.tiling import MAX_SIZE, Precision, Tiling, flat_tiling
from host.lowering.window import lower_window
from host.qtensor import Operand
from rtl.config import BEAT_BYTES, LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.isa import Descriptor, Format, Opcode


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

    def footprint(part_groups: int, part_count: int, part_rows: int, part_channels: int) -> float:
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

    product = (groups, count, rows, channels)
    most = (min(groups, MAX_SIZE), min(count, 4 * MAX_SIZE), rows, most_channels)
    room = Arena.room(memory_bytes, config.burst_beats * BEAT_BYTES)
    sizes = round_sizes(product, most, (1, 1, config.rows, LANES), footprint, room)

    def programs() -> Iterator[Program]:
        for part_groups, part_count, part_rows, part_channels in rounds(product, sizes):
            part = vectors._replace(codes=vectors.codes[part_groups, part_count, part_channels])
            weights = matrix._replace(codes=matrix.codes[part_rows, part_channels])
            bits = None if table is None else table[part_groups]
            yield _flat_program(config, precision, weights, part, bits, (part_groups, part_rows, part_count))

    return Lowered((groups, rows, count), programs())


def _flat_program(
    config: AcceleratorConfig,
    precision: Precision,
    matrix: Operand,
    vectors: Operand,
    table: np.ndarray | None,
    place: tuple[slice, ...],
) -> Program:
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
        "flags": descriptor_flags(vectors, matrix, bits is not None),
        "out_format": Format.of(precision.out_bytes),
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
        return without_skipped(summed[..., :count], table)

    return Program(arena.writes, descriptors, results, nbytes, place, unpack)
