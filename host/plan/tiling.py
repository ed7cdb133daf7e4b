"""How a product is cut into tiles: the sizes that fit the buffers and, by an analytic model, take the fewest cycles.

Everything here is a pure function of the built configuration and the sizes, so the results are cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from host.geometry import ceil_div
from rtl.config import BEAT_BYTES, BEAT_WORDS, DIGIT_BITS, LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.ddr import Ddr
from rtl.isa import Descriptor

#: Cycles that a tile and a descriptor cost beside their work: filling the pipelines, control. Rough, and not critical.
TILE_OVERHEAD = 48
DESCRIPTOR_OVERHEAD = 128

#: Beats a cycle of the bus.
BUS_RATE = float(Ddr().bandwidth)

#: What the fields of a descriptor hold at the most.
_MOST = {name: (1 << field.bits) - 1 if field.most is None else field.most for name, _, _, field in Descriptor.places}
#: Of the fields for sizes, of `tile_samples`, and of the zero rows and columns that the array adds by itself.
MAX_SIZE, MAX_TILE_SAMPLES, MAX_PADDING = _MOST["samples"], _MOST["tile_samples"], _MOST["pad_top"]


@dataclass(frozen=True)
class Widths:
    """Widths of a product: planes of the streaming operand, bits of the stationary one, bytes of a result."""

    stream_bits: int
    stationary_bits: int
    out_bytes: int

    @property
    def digits(self) -> int:
        return ceil_div(self.stationary_bits, DIGIT_BITS)


@dataclass(frozen=True)
class Tiling:
    """Tile sizes, named as in the descriptor, and what they lead to.

    Attributes
    ----------
    row_blocks : blocks of output rows that a cluster does in one descriptor; more blocks take more descriptors.
    width : positions of a chunk (flat mode) or columns of the output (window mode).
    chunks : chunks that the vectors of one group are cut into; 1 in window mode.
    k_parts : parts of the reduction that different clusters take; the host adds their results.
    cycles : estimate for the whole product.
    """

    row_blocks: int
    log2_row_parts: int
    sample_parts: int
    tile_samples: int
    tile_rows: int
    row_groups: int
    width: int
    chunks: int
    k_parts: int
    cycles: int

    def blocks(self, row_blocks_needed: int) -> Iterator[tuple[int, int]]:
        """First block and `row_blocks` of each descriptor, so that `row_blocks_needed` blocks are covered."""
        parts = 1 << self.log2_row_parts
        for first in range(0, row_blocks_needed, self.row_blocks * parts):
            yield first, min(self.row_blocks, ceil_div(row_blocks_needed - first, parts))

    def covered(self, row_blocks_needed: int) -> int:
        """Blocks that the descriptors compute; those beyond need are padding."""
        return ceil_div(row_blocks_needed, 1 << self.log2_row_parts) << self.log2_row_parts


@dataclass(frozen=True)
class _Band:
    """A kind of tile: positions of one sample in it, beats of one sample's whole reduction, how often it occurs."""

    positions: int
    beats: int
    count: int


def _shares(n: int, limit: int) -> list[int]:
    """All different ceil(n / j) that do not exceed `limit`."""
    sizes, size = [], min(n, limit)
    while size >= 1:
        sizes.append(ceil_div(n, ceil_div(n, size)))
        size = sizes[-1] - 1
    return sizes


def _cycles(
    config: AcceleratorConfig,
    widths: Widths,
    samples: int,
    sample_parts: int,
    tile_samples: int,
    row_blocks: int,
    row_parts: int,
    k_blocks: int,
    bands: tuple[_Band, ...],
    own_stationary: bool = False,
) -> int:
    """Estimate for one descriptor: LOAD, EXEC and STORE overlap, so every tile takes as long as the slowest of them."""
    passes = k_blocks * row_blocks * widths.digits
    out_beats = config.rows * widths.out_bytes // BEAT_BYTES
    full, rest = divmod(samples, sample_parts * tile_samples)
    total = first_load = last_store = 0
    for run, count in ((sample_parts * tile_samples, full), (rest, min(rest, 1))):
        if not count:
            continue
        for band in bands:
            positions = ceil_div(run, sample_parts) * band.positions
            execute = passes * max(positions * widths.stream_bits, config.table_load_cycles)
            own = run if own_stationary else 1
            load = (run * band.beats + passes * row_parts * own * config.weight_tile_beats) / BUS_RATE
            store = run * band.positions * row_blocks * row_parts * out_beats / BUS_RATE
            total += count * band.count * (max(execute, load, store) + TILE_OVERHEAD)
            # EXEC waits for the first k block of the first tile; the results of the last tile leave behind it.
            first_load = first_load or load / k_blocks
            last_store = store
    return round(total + first_load + last_store + DESCRIPTOR_OVERHEAD)


def _row_splits(
    config: AcceleratorConfig, rows: int, limit: int, *, exact: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Ways to share the row blocks: (log2_row_parts, row_blocks, number of descriptors).

    If it is to be `exact`, none computes blocks that nobody needs.
    """
    blocks = ceil_div(rows, config.rows)
    for log2_row_parts in range(5):
        parts = 1 << log2_row_parts
        if parts > config.clusters or (parts > 1 and parts >= 2 * blocks):
            return
        if exact and blocks % parts:
            return
        per_part = ceil_div(blocks, parts)
        for row_blocks in _shares(per_part, min(limit, MAX_SIZE)):
            yield log2_row_parts, row_blocks, ceil_div(per_part, row_blocks)


def _sample_split(samples: int, most_parts: int, most_per_tile: int) -> tuple[int, int]:
    """(sample_parts, tile_samples) with equally full tiles."""
    parts = min(samples, most_parts)
    tiles = ceil_div(samples, parts * most_per_tile)
    tile_samples = ceil_div(samples, parts * tiles)
    return ceil_div(samples, tile_samples * tiles), tile_samples


@lru_cache(maxsize=4096)
def window_tiling(
    config: AcceleratorConfig,
    widths: Widths,
    samples: int,
    channels: int,
    rows: int,
    image: tuple[int, int],
    out: tuple[int, int],
    stride: int,
    zoom: int,
    exact: bool,
) -> Tiling | None:
    """Tiles of a 3x3 window over `image` (height, width); None if no tile of one output row fits the buffers.

    Windows see `zoom` rows and columns for each of the image. If it is to be `exact`, no row blocks but those of `rows`
    are computed.
    """
    height, width = image
    out_height, out_width = out
    k_blocks = ceil_div(channels, WORD_CHANNELS)
    row_beats = widths.stream_bits * ceil_div(width, BEAT_WORDS)
    best = None
    splits = _row_splits(config, rows, config.result_slot // out_width, exact=exact)
    for log2_row_parts, row_blocks, descriptors in splits:
        for tile_rows in _shares(out_height, config.result_slot // (out_width * row_blocks)):
            span = ceil_div((tile_rows - 1) * stride + 3, zoom)
            row_groups = ceil_div(span, 3)
            most = min(
                config.result_slot // (tile_rows * out_width * row_blocks),
                config.stream_slot // (row_groups * row_beats),
                MAX_TILE_SAMPLES,
            )
            if most == 0:
                continue
            sample_parts, tile_samples = _sample_split(samples, config.clusters >> log2_row_parts, most)
            full, rest = divmod(out_height, tile_rows)
            bands = [_Band(tile_rows * out_width, k_blocks * row_beats * min(span, height), full)]
            if rest:
                span = ceil_div((rest - 1) * stride + 3, zoom)
                bands.append(_Band(rest * out_width, k_blocks * row_beats * min(span, height), 1))
            cycles = descriptors * _cycles(
                *(config, widths, samples, sample_parts, tile_samples, row_blocks, 1 << log2_row_parts),
                *(k_blocks, tuple(bands)),
            )
            if best is None or cycles < best.cycles:
                best = Tiling(
                    row_blocks=row_blocks,
                    log2_row_parts=log2_row_parts,
                    sample_parts=sample_parts,
                    tile_samples=tile_samples,
                    tile_rows=tile_rows,
                    row_groups=row_groups,
                    width=out_width,
                    chunks=1,
                    k_parts=1,
                    cycles=cycles,
                )
    return best


@lru_cache(maxsize=4096)
def flat_tiling(
    config: AcceleratorConfig, widths: Widths, groups: int, vectors: int, channels: int, rows: int, split_k: bool
) -> Tiling | None:
    """Tiles of a product of `rows` x `channels` with `groups` x `vectors` vectors; None if no tile fits the buffers.

    A chunk never crosses a group. With `split_k` the reduction may be split over clusters, which needs one group.
    """
    words = ceil_div(channels, WORD_CHANNELS)
    k_blocks = ceil_div(channels, LANES)
    bits = widths.stream_bits
    widest = BEAT_WORDS * (config.stream_slot // (3 * bits) - 1)
    best = None

    def consider(width: int, chunks: int, k_parts: int, log2_row_parts: int, row_blocks: int, descriptors: int):
        nonlocal best
        beats = ceil_div(width, BEAT_WORDS)
        row_parts = 1 << log2_row_parts
        if k_parts > 1:
            # Parts of the reduction are the samples; every chunk is a descriptor of its own.
            samples, descriptors, part_blocks = k_parts, descriptors * chunks, ceil_div(k_blocks, k_parts)
            sample_parts, tile_samples, part_words = k_parts, 1, part_blocks * TAPS
        else:
            most = min(
                config.result_slot // (width * row_blocks),
                config.stream_slot // (3 * bits * (beats + 1)),
                MAX_TILE_SAMPLES,
            )
            samples, part_blocks, part_words = groups * chunks, k_blocks, words
            sample_parts, tile_samples = _sample_split(samples, config.clusters >> log2_row_parts, most)
        cycles = descriptors * _cycles(
            *(config, widths, samples, sample_parts, tile_samples, row_blocks, row_parts, part_blocks),
            (_Band(width, part_words * bits * beats, 1),),
            own_stationary=k_parts > 1,
        )
        if best is None or cycles < best.cycles:
            best = Tiling(
                row_blocks=row_blocks,
                log2_row_parts=log2_row_parts,
                sample_parts=sample_parts,
                tile_samples=tile_samples,
                tile_rows=1,
                row_groups=3,
                width=width,
                chunks=chunks,
                k_parts=k_parts,
                cycles=cycles,
            )

    for log2_row_parts, row_blocks, descriptors in _row_splits(config, rows, config.result_slot):
        limit = min(config.result_slot // row_blocks, widest, MAX_SIZE - BEAT_WORDS)
        if limit < 1:
            continue
        if limit >= BEAT_WORDS:
            limit -= limit % BEAT_WORDS
        parts = config.clusters >> log2_row_parts
        fewest = ceil_div(vectors, limit)
        # Either the largest chunks, or as many as keep all clusters equally busy.
        for chunks in {fewest, ceil_div(ceil_div(fewest * groups, parts) * parts, groups)}:
            width = ceil_div(vectors, chunks)
            if chunks > 1 and limit >= BEAT_WORDS:
                width = ceil_div(width, BEAT_WORDS) * BEAT_WORDS
            chunks = ceil_div(vectors, width)
            consider(width, chunks, 1, log2_row_parts, row_blocks, descriptors)
        if split_k and groups == 1:
            for k_parts in _shares(min(parts, k_blocks), MAX_SIZE):
                if k_parts > 1:
                    consider(width, chunks, k_parts, log2_row_parts, row_blocks, descriptors)
    return best
