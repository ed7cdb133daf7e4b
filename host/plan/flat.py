"""Matrix products for the flat mode of the array: what exceeds an accumulator, a descriptor or the memory is cut.

`plan_flat` multiplies a stationary matrix with streaming vectors; `plan_dot` chooses which of two matrices takes which
part.
"""

from __future__ import annotations

from math import inf

import numpy as np

from host.geometry import ceil_div
from host.plan.arrange import call, middle_tap
from host.plan.formats import Part, Stationary, Stream, Sums, Table
from host.plan.packing import row_bytes
from host.plan.plan import Draft, Source
from host.plan.rounds import round_sizes, rounds
from host.plan.sums import most_terms, result_bytes
from host.plan.tiling import MAX_SIZE, Widths, flat_tiling
from host.plan.window import plan_window
from rtl.config import BEAT_BYTES, LANES, TAPS, WORD_CHANNELS
from rtl.isa import Opcode


def plan_dot(draft: Draft, a: Source, b: Source) -> None:
    """Add the product a @ b.T of a (U, K) and b (V, K), none of them zero; the cheaper one is made stationary."""

    def cycles(stationary: Source, stream: Source) -> float:
        widths = Widths(stream.bits, stationary.bits, result_bytes(draft.reach))
        (vectors, channels), rows = stream.shape, stationary.shape[0]
        tiling = flat_tiling(draft.target.config, widths, 1, vectors, channels, rows, True)
        return inf if tiling is None else tiling.cycles

    swap = cycles(a, b) > cycles(b, a)
    stationary, stream = (b, a) if swap else (a, b)
    plan_flat(draft, stationary, stream.then((1, *stream.shape), call(np.expand_dims, 0)))
    draft.then(call(np.squeeze, 0), call(np.transpose) if swap else ())


def plan_flat(draft: Draft, matrix: Source, vectors: Source, *, mixed: bool = False) -> None:
    """Add matrix times vectors, vectors streaming, whose result is (G, M, P).

    Parameters
    ----------
    matrix : (M, K), stationary.
    vectors : (G, P, K): G groups of P vectors. None of the sizes is zero.
    mixed : the groups differ in width.
    """
    target, config = draft.target, draft.target.config
    groups, count, channels = vectors.shape
    rows = matrix.shape[0]
    most_channels = min(most_terms(draft.reach, channels, matrix.largest * vectors.largest), MAX_SIZE * LANES)
    widths = Widths(vectors.bits, matrix.bits, result_bytes(draft.reach))
    split_k = not mixed

    if flat_tiling(config, widths, 1, 1, 1, 1, False) is None:
        # The stream buffer is too small for three rows of this many planes: use one tap of nine of a 3x3 window.
        rearranged = call(np.transpose, (0, 2, 1)) + call(np.expand_dims, 2)
        image = vectors.then((groups, channels, 1, count), rearranged)
        kernel = matrix.then((rows, channels, 3, 3), call(middle_tap))
        plan_window(draft, image, kernel, 1, (1, 1), (1, count), mixed=mixed)
        draft.then(call(np.squeeze, 2))
        return

    def footprint(part_groups: int, part_count: int, part_rows: int, part_channels: int) -> float:
        tiling = flat_tiling(config, widths, part_groups, part_count, part_channels, part_rows, split_k)
        assert tiling is not None  # the smallest tile fits, and so does one of any size
        samples = part_groups * tiling.chunks
        if samples > MAX_SIZE:
            return inf
        k_blocks = tiling.k_parts * ceil_div(ceil_div(part_channels, LANES), tiling.k_parts)
        blocks = tiling.covered(ceil_div(part_rows, config.rows))
        stream = samples * (k_blocks * TAPS * widths.stream_bits * row_bytes(tiling.width) + 1)
        stationary = blocks * k_blocks * widths.digits * config.weight_tile_beats * BEAT_BYTES
        results = samples * tiling.k_parts * blocks * config.rows * tiling.width * widths.out_bytes
        return stream + stationary + results

    draft.shape = (groups, rows, count)
    product = (groups, count, rows, channels)
    most = (min(groups, MAX_SIZE), min(count, 4 * MAX_SIZE), rows, most_channels)
    for part in rounds(product, round_sizes(product, most, (1, 1, config.rows, LANES), footprint, target.room)):
        _add_round(draft, widths, matrix, vectors, part, mixed)


def _add_round(draft: Draft, widths: Widths, matrix: Source, vectors: Source, part: Part, mixed: bool) -> None:
    """Add the product of some groups, vectors of each, rows and channels."""
    config = draft.target.config
    some_groups, some_vectors, some_rows, some_channels = part
    groups, count, rows, channels = (stop - start for start, stop in part)
    tiling = flat_tiling(config, widths, groups, count, channels, rows, not mixed)
    assert tiling is not None  # every size has one that fits
    chunks, width, k_parts = tiling.chunks, tiling.width, tiling.k_parts
    samples, needed = groups * chunks, ceil_div(rows, config.rows)
    blocks = tiling.covered(needed)
    part_blocks = ceil_div(ceil_div(channels, LANES), k_parts)  # k blocks of a part of the reduction

    # Whole chunks of vectors, and whole parts of the reduction where it is split.
    padded = (groups, chunks * width, channels if k_parts == 1 else k_parts * part_blocks * LANES)
    words = ceil_div(padded[-1], WORD_CHANNELS)
    table = Table(1, (some_groups,), chunks) if mixed else None
    cut = (some_groups, some_vectors, some_channels)
    shape = (samples, 1, width, padded[-1])
    stream = Stream(vectors.arrange, cut, padded, shape, vectors.bits, vectors.signed, table)
    digits = (matrix.bits, matrix.signed, config.rows, blocks, k_parts * part_blocks)
    stationary = Stationary(matrix.arrange, (some_rows, some_channels), *digits)
    place, skipped = (some_groups, some_rows, some_vectors), Table(1, (some_groups,)) if mixed else None
    sums = Sums(place, widths.out_bytes, width, blocks, config.rows, chunks, k_parts, skipped)
    common = {
        "opcode": Opcode.FLAT,
        "width": width,
        "out_width": width,
        "k_blocks": part_blocks,
        "row_groups": 3,
        "k_tail": words - (k_parts * part_blocks - 1) * TAPS,
        "tile_samples": tiling.tile_samples,
        "sample_parts": tiling.sample_parts,
        "log2_row_parts": tiling.log2_row_parts,
    }
    if k_parts == 1:
        common["samples"] = samples
    else:
        # The samples of a descriptor are the parts of the reduction of one chunk, each with its own part of the matrix.
        common["samples"] = k_parts
        common["stream_stride_n"] = part_blocks * TAPS * stream.block_bytes
        common["stationary_stride_n"] = part_blocks * stationary.k_bytes
    descriptors = (
        {
            **common,
            "row_blocks": row_blocks,
            "stream_base": chunk * stream.sample_bytes,
            "stationary_base": first * stationary.block_bytes,
            "out_base": first * sums.block_bytes + chunk * k_parts * sums.sample_bytes,
        }
        for first, row_blocks in tiling.blocks(needed)
        for chunk in range(1 if k_parts == 1 else chunks)
    )
    draft.product((vectors.operand, stream), (matrix.operand, stationary), sums, descriptors)
