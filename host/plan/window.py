"""3x3 convolutions for the window mode of the array: what exceeds an accumulator, a descriptor or the memory is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, prod

import numpy as np

from host.geometry import ceil_div
from host.plan.arrange import Calls, call, cut_patches, join_patches
from host.plan.formats import Digits, Part, Stationary, Stream, Sums, Table
from host.plan.packing import row_bytes
from host.plan.plan import Draft, Source
from host.plan.rounds import round_sizes, rounds
from host.plan.sums import most_terms, result_bytes
from host.plan.tiling import MAX_PADDING, MAX_SIZE, Tiling, Widths, window_tiling
from rtl.config import BEAT_BYTES, BEAT_WORDS, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.isa import Opcode


@dataclass(frozen=True)
class _Form:
    """What the rounds of a product have in common.

    Attributes
    ----------
    zoom : rows and columns that windows see for each of an image: 2 with zeros between its pixels, else 1.
    padding : zero rows above and columns left that the array adds.
    size, out : height and width of an image and of its result.
    exact : no blocks of rows are computed that nobody needs, as there is no stationary operand for them.
    """

    config: AcceleratorConfig
    widths: Widths
    stride: int
    zoom: int
    padding: tuple[int, int]
    size: tuple[int, int]
    out: tuple[int, int]
    exact: bool = False

    def patches(self, out: tuple[int, int]) -> _Form:
        """The form for patches of `out` results or a few more, which bring their halo and padding along.

        All begin alike, on a pixel or on a zero before one.
        """
        down, right = (ceil_div(side, self.zoom) * self.zoom for side in out)
        above, left = (pad % self.zoom for pad in self.padding)
        size = self._span(down, above), self._span(right, left)
        return replace(self, padding=(above, left), size=size, out=(down, right))

    def _span(self, out: int, padding: int) -> int:
        """Rows or columns of an image under the windows of `out` results."""
        return ceil_div((out - 1) * self.stride + 3 - padding, self.zoom)

    def cut(self, patches: _Form) -> Calls:
        """What cuts images into such patches."""
        before = tuple(pad // self.zoom for pad in self.padding)
        step = tuple(side * self.stride // self.zoom for side in patches.out)
        count = tuple(ceil_div(side, part) for side, part in zip(self.out, patches.out, strict=True))
        return call(cut_patches, before, step, patches.size, count)

    def tiling(self, samples: int, rows: int, channels: int) -> Tiling | None:
        """Tiles, or None if no descriptor describes the images or no tile of them fits."""
        if max(*self.size, *self.out, samples) > MAX_SIZE or max(self.padding) > MAX_PADDING:
            return None
        sizes = self.size, self.out, self.stride, self.zoom, self.exact
        return window_tiling(self.config, self.widths, samples, channels, rows, *sizes)

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
        image = words * self.size[0] * self.widths.stream_bits * row_bytes(self.size[1])
        stationary = blocks * words * self.widths.digits * self.config.weight_tile_beats * BEAT_BYTES
        result = blocks * self.config.rows * self.out[0] * self.out[1] * self.widths.out_bytes
        return stationary + samples * (image + 1 + result)  # 1: the sample's precision byte


def plan_window(
    draft: Draft,
    image: Source,
    kernel: Source,
    stride: int,
    padding: tuple[int, int],
    out_size: tuple[int, int],
    *,
    stuffed: bool = False,
    mixed: bool = False,
) -> None:
    """Add a 3x3 convolution, images streaming, whose result is (N, M, height, width).

    Parameters
    ----------
    image : (N, C, H, W), none of them zero.
    kernel : (M, C, 3, 3).
    stride : 1 or 2.
    padding : zero rows above and zero columns left of the image; below and right as many as `out_size` needs.
    out_size : height and width of the result.
    stuffed : windows see zeros between the pixels, a row behind each row and a column behind each column.
    mixed : the images differ in width.
    """
    target, config = draft.target, draft.target.config
    n, channels, height, width = image.shape
    rows = kernel.shape[0]
    terms = most_terms(draft.reach, channels * TAPS, kernel.largest * image.largest)
    most_channels = min(terms // TAPS, MAX_SIZE * WORD_CHANNELS)
    widths = Widths(image.bits, kernel.bits, result_bytes(draft.reach))

    whole = _Form(config, widths, stride, 2 if stuffed else 1, padding, (height, width), out_size)
    form = _choose_form(whole, n, rows, most_channels, target.room)
    samples = n
    if form is not whole:
        samples = n * prod(ceil_div(side, part) for side, part in zip(out_size, form.out, strict=True))
        image = image.then((samples, channels, *form.size), whole.cut(form))
    image = image.then((samples, *image.shape[2:], channels), call(np.transpose, (0, 2, 3, 1)))

    draft.shape = (samples, rows, prod(form.out))
    draft.then(call(join_patches, out_size, form.out))
    product = (samples, rows, channels)
    most = (min(samples, MAX_SIZE), rows, most_channels)
    for part in rounds(
        product, round_sizes(product, most, (1, config.rows, WORD_CHANNELS), form.footprint, target.room)
    ):
        _add_round(draft, form, image, kernel, part, samples // n if mixed else 0)


def plan_whole(
    draft: Draft,
    image: Source,
    digits: Digits,
    rows: int,
    stride: int,
    padding: tuple[int, int],
    out_size: tuple[int, int],
    *,
    stuffed: bool = False,
) -> None:
    """As `plan_window`, but of whole images in a single node, so that operands and results may lie there anyway.

    The operand "digits" has `rows` rows in the way in which `digits` reads it.

    Raises
    ------
    ValueError
        If the images exceed what a descriptor or the buffers hold.
    """
    n, channels, height, width = image.shape
    widths = Widths(image.bits, digits.bits, result_bytes(draft.reach))
    sizes = padding, (height, width), out_size
    form = _Form(draft.target.config, widths, stride, 2 if stuffed else 1, *sizes, exact=True)
    if form.tiling(n, rows, channels) is None:
        raise ValueError(f"no tile of {n} images {height} x {width} of {image.bits} bits fits the buffers")
    image = image.then((n, height, width, channels), call(np.transpose, (0, 2, 3, 1)))
    draft.shape = (n, rows, prod(out_size))
    _add_round(draft, form, image, digits, ((0, n), (0, rows), (0, channels)), 0)


def _choose_form(whole: _Form, n: int, rows: int, channels: int, room: int) -> _Form:
    """Images as they are or, where these do not fit or something is won, patches with their halo.

    Patches count as samples. Narrow ones leave room for more row blocks in the result buffer, so that images are read
    less often.
    """
    config, zoom = whole.config, whole.zoom
    smallest = (1, min(rows, config.rows), min(channels, WORD_CHANNELS))
    best, best_cycles = whole, inf
    if whole.footprint(*smallest) <= room:
        tiling = whole.tiling(min(n, MAX_SIZE), rows, channels)
        assert tiling is not None  # the footprint was finite
        if tiling.row_blocks << tiling.log2_row_parts >= ceil_div(rows, config.rows):
            return whole  # every image is read once already
        best_cycles = whole.cycles(n, rows, channels)

    widest = min(config.stream_slot // whole.widths.stream_bits * BEAT_WORDS, MAX_SIZE)
    most_columns = min(config.result_slot, (widest * zoom - 3) // whole.stride + 1) // zoom * zoom
    fewest = ceil_div(whole.out[1], most_columns)
    for count in (fewest, 2 * fewest, 4 * fewest):
        form = whole.patches((whole.out[0], ceil_div(whole.out[1], count)))
        while form.footprint(*smallest) > room and form.out != (zoom, zoom):
            height, width = form.out
            form = form.patches((ceil_div(height, 2), width) if height > zoom else (zoom, ceil_div(width, 2)))
        pieces = ceil_div(whole.out[0], form.out[0]) * ceil_div(whole.out[1], form.out[1])
        cycles = form.cycles(n * pieces, rows, channels)
        if cycles < best_cycles:
            best, best_cycles = form, cycles
    return best


def _add_round(draft: Draft, form: _Form, image: Source, kernel: Source | Digits, part: Part, patches: int) -> None:
    """Add the product of some samples, rows and channels; `patches` of each image, or 0 where none differs in width."""
    config, widths, out = form.config, form.widths, form.out
    chosen, some_rows, some_channels = part
    n, rows, channels = (stop - start for start, stop in part)
    height, width = form.size
    words, needed = ceil_div(channels, WORD_CHANNELS), ceil_div(rows, config.rows)
    tiling = form.tiling(n, rows, channels)
    assert tiling is not None  # its footprint was finite
    blocks = tiling.covered(needed)

    table = Table(patches, (chosen,)) if patches else None
    cut = (chosen, (0, height), (0, width), some_channels)
    shape = (n, height, width, channels)
    stream = Stream(image.arrange, cut, shape, shape, image.bits, image.signed, table)
    if isinstance(kernel, Digits):
        operand, stationary = "digits", kernel
    else:
        digits = (kernel.bits, kernel.signed, config.rows, blocks, words)
        operand = kernel.operand
        stationary = Stationary(kernel.arrange, (some_rows, some_channels, (0, 3), (0, 3)), *digits)
    place = (chosen, some_rows, (0, prod(out)))
    sums = Sums(place, widths.out_bytes, prod(out), blocks, config.rows, table=table)
    common = {
        "opcode": Opcode.WINDOW,
        "samples": n,
        "height": height,
        "width": width,
        "out_height": out[0],
        "out_width": out[1],
        "k_blocks": words,
        "tile_rows": tiling.tile_rows,
        "row_groups": tiling.row_groups,
        "tile_samples": tiling.tile_samples,
        "sample_parts": tiling.sample_parts,
        "log2_row_parts": tiling.log2_row_parts,
        "stride": form.stride,
        "stuffed": form.zoom - 1,
        "pad_top": form.padding[0],
        "pad_left": form.padding[1],
    }
    descriptors = (
        {
            **common,
            "row_blocks": row_blocks,
            "stationary_base": first * stationary.block_bytes,
            "out_base": first * sums.block_bytes,
        }
        for first, row_blocks in tiling.blocks(needed)
    )
    draft.product((image.operand, stream), (operand, stationary), sums, descriptors)
