"""Weight gradients as descriptors: passes that make digits of the gradient, and the products of those with the images.

A word is 16 positions: of an image row, or of one row of several narrow images side by side. Digits of 16 channels lie
word after word, in k blocks of some rows; for stride 2 every second row and position is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from host.geometry import ceil_div
from host.step.arrange import Kernel, arranged_shape
from host.step.places import Place, blocks, result_strides
from rtl.config import (
    BEAT_BYTES,
    BEAT_WORDS,
    DIGIT_BITS,
    TAPS,
    WEIGHT_TILE_BYTES,
    WORD_BYTES,
    WORD_CHANNELS,
    AcceleratorConfig,
)
from rtl.isa import Descriptor, Flag, Format, Opcode, Order, Pass, Sink
from rtl.limits import WORD_POSITIONS, images_of_word, plane_pitch, result_positions, words_of_row

Shape = tuple[int, int, int, int]

#: Words of a digit that a descriptor can name.
_MOST_WORDS = 0xFFFF


@dataclass(frozen=True)
class Operand:
    """A tensor of planes, where it lies."""

    shape: Shape
    bits: int
    signed: bool
    place: Place


@dataclass(frozen=True)
class WeightGradient:
    """The gradient of a kernel (M, C, k, k) from that at the results, g (N, M, H', W'), and from x (N, C, H, W).

    Raises ValueError if no tile of it fits the buffers, or if there are too many images for a descriptor.
    """

    config: AcceleratorConfig
    g: Operand
    x: Operand
    kernel: Kernel
    stride: int

    def __post_init__(self) -> None:
        if self.digit_words > _MOST_WORDS:
            n = self.x.shape[0]
            raise ValueError(
                f"{n} images of a weight gradient are more than {_MOST_WORDS} words; a smaller --micro-batch has less"
            )
        if self.tile_rows < 1 or self.words * self.block_rows > TAPS or not self._fits(self.block_rows):
            raise ValueError(f"no tile of a weight gradient of {self.x.shape} in {self.x.bits} bits fits the buffers")

    @property
    def words(self) -> int:
        """Words of an image row."""
        return words_of_row(self.x.shape[3])

    @property
    def side(self) -> int:
        """Images side by side."""
        return images_of_word(self.x.shape[3])

    @property
    def columns(self) -> int:
        """Positions of a row of one image."""
        return self.words * WORD_POSITIONS // self.side

    @property
    def pad(self) -> int:
        return self.kernel[2] // 2

    def _row_groups(self, rows: int) -> int:
        return ceil_div((rows + 2 * self.pad) * self.words, 3)

    def _fits(self, rows: int) -> bool:
        beats = self._row_groups(rows) * self.x.bits * plane_pitch(self.x.shape[3], Opcode.WGRAD)
        return beats <= self.config.stream_slot

    @cached_property
    def block_rows(self) -> int:
        """Image rows of a k block: as few blocks as can be, of equal size."""
        height = self.x.shape[2]
        most = min(max((n for n in range(1, TAPS // self.words + 1) if self._fits(n)), default=1), height)
        return ceil_div(height, ceil_div(height, most))

    @property
    def image_blocks(self) -> int:
        """k blocks of an image."""
        return ceil_div(self.x.shape[2], self.block_rows)

    @property
    def k_blocks(self) -> int:
        return ceil_div(self.x.shape[0], self.side) * self.image_blocks

    @property
    def block_bytes(self) -> int:
        """Bytes of a digit of a k block."""
        return self.block_rows * self.words * WORD_BYTES

    @property
    def digits(self) -> int:
        return ceil_div(self.g.bits, DIGIT_BITS)

    @property
    def digit_words(self) -> int:
        """Words of a digit."""
        return self.k_blocks * self.block_rows * self.words

    @property
    def row_bytes(self) -> int:
        """Bytes of the digits of 16 channels of the gradient."""
        return self.digits * self.digit_words * WORD_BYTES

    @property
    def digits_bytes(self) -> int:
        """Bytes of all digits, and of what is read behind the last."""
        return blocks(self.kernel[0]) * self.row_bytes + WEIGHT_TILE_BYTES

    @property
    def has_gaps(self) -> bool:
        """Whether there are positions that no pass writes, and that must be zero."""
        return self.stride == 2 or self.columns != self.x.shape[3]

    def zeros(self, digits: int, coefficients: int) -> Descriptor:
        """A pass that makes all digits zero, with 16 coefficients that are zero."""
        return Descriptor(
            opcode=Opcode.VECTOR,
            samples=blocks(self.kernel[0]) * self.digits,
            height=self.digit_words,
            width=WORD_POSITIONS,
            k_blocks=1,
            vector_coefficients=coefficients,
            vector_sink=Sink.DIGITS,
            q_base=digits,
            q_stride_n=self.digit_words * WORD_BYTES,
            q_stride_y=WORD_BYTES,
            q_planes=DIGIT_BITS,
        )

    def passes(self, digits: int, coefficients: int) -> list[Descriptor]:
        """Passes that write the digits of g; the coefficients leave it as it is."""
        n, channels, height, width = self.g.shape
        place, sample = self.g.place, self.image_blocks * self.block_bytes
        common = {
            "opcode": Opcode.VECTOR,
            "k_blocks": blocks(channels),
            "height": height,
            "width": width,
            "vector_coefficients": coefficients,
            "vector_sink": Sink.DIGITS,
            "vector_controls": Pass.SPREAD * (self.stride == 2),
            "vector_stride_d": self.digit_words,
            "vector_top": (1 << self.g.bits) - 1,
            "u_planes": self.g.bits,
            "u_signed": int(self.g.signed),
            "u_stride_n": self.side * place.stride_n,
            "u_stride_c": place.stride_c,
            "u_stride_y": place.stride_y,
            "q_planes": self.g.bits,
            "q_stride_n": sample,
            "q_stride_c": self.row_bytes,
            "q_stride_y": self.stride * self.words * WORD_BYTES,
        }
        return [
            Descriptor(
                **common,
                samples=ceil_div(n - image, self.side),
                u_base=place.region.address + image * place.stride_n,
                q_base=digits + image * WORD_BYTES // self.side,
            )
            for image in range(min(self.side, n))
        ]

    # Products -------------------------------------------------------------------------------------------------------

    @property
    def out_bytes(self) -> int:
        """Of a result: the sums are bounded by the widths alone, as nobody has seen the codes."""
        n, _, height, width = self.g.shape
        largest = 1 << self.g.bits - self.g.signed + self.x.bits - self.x.signed
        return 4 if n * height * width * largest < 1 << 31 else 8

    @property
    def part_bytes(self) -> int:
        """Bytes of the results of some of the images."""
        shape = arranged_shape(self.kernel)
        return shape[0] * result_strides(shape, self.out_bytes)[0]

    @property
    def results_bytes(self) -> int:
        return self.parts * self.part_bytes

    @property
    def tile_rows(self) -> int:
        """Taps in a tile."""
        taps = arranged_shape(self.kernel)[2]
        return min(taps, self.config.result_slot // WORD_CHANNELS)

    @cached_property
    def _log2_row_parts(self) -> int:
        """log2 of the clusters that work on different blocks of g's channels."""
        rows, log2 = blocks(self.kernel[0]), 0
        while rows >> log2 & 1 == 0 and 2 << log2 <= self.config.clusters and log2 < 4:
            log2 += 1
        return log2

    @property
    def _groups(self) -> int:
        """Of such clusters."""
        return self.config.clusters >> self._log2_row_parts

    @cached_property
    def parts(self) -> int:
        """Equal parts of the images, whose results are added up later: each has a group of clusters of its own.

        One part means that the groups work on different blocks of x's channels instead, which share the digits. What is
        least work for array and LOAD, the fewest parts of that.
        """
        channels, images = blocks(self.kernel[1]), self.x.shape[0]
        tile = arranged_shape(self.kernel)[2] * WORD_CHANNELS * self.x.bits * self.digits
        digits = (self.digits << self._log2_row_parts) * WEIGHT_TILE_BYTES // BEAT_BYTES
        planes = self._row_groups(self.block_rows) * 3 * BEAT_WORDS * self.x.bits

        def cycles(parts: int) -> float:
            """Of the products, for a k block of all channels."""
            if parts == 1:
                side = min(channels, self._groups)
                return ceil_div(channels, side) * max(tile, digits, side * planes)
            return channels * max(tile / parts, digits, planes)

        whole = [n for n in range(1, self._groups + 1) if images % (n * self.side) == 0]
        return min(whole or [1], key=cycles)

    def products(self, digits: int, out: int) -> list[Descriptor]:
        """Products of digits and images: of as many blocks of g's channels as there are clusters, and of each block of
        x's channels where the images are in parts.
        """
        n, _, height, width = self.x.shape
        shape, place = arranged_shape(self.kernel), self.x.place
        stride_n, stride_m, _ = result_strides(shape, self.out_bytes)
        log2, channels, images = self._log2_row_parts, shape[0], n // self.parts
        assert result_positions(self.tile_rows, WORD_CHANNELS, 1) <= self.config.result_slot
        common = {
            "opcode": Opcode.WGRAD,
            "flags": Flag.STREAM_SIGNED * self.x.signed | Flag.STATIONARY_SIGNED * self.g.signed,
            "samples": channels if self.parts == 1 else self.parts,
            "images": images,
            "height": height,
            "width": width,
            "out_height": shape[2],
            "out_width": WORD_CHANNELS,
            "k_blocks": self.k_blocks // self.parts,
            "tile_rows": self.tile_rows,
            "row_groups": self._row_groups(self.block_rows),
            "sample_parts": min(channels, self._groups) if self.parts == 1 else self.parts,
            "log2_row_parts": log2,
            "pad_top": self.pad,
            "pad_left": self.pad,
            "stream_stride_n": place.stride_c if self.parts == 1 else images * place.stride_n,
            "stream_stride_c": place.stride_n,
            "stream_stride_y": place.stride_y,
            "stream_stride_k": self.block_rows * place.stride_y,
            "stream_block_rows": self.block_rows,
            "stream_bits": self.x.bits,
            "stationary_bits": self.digits * DIGIT_BITS,
            "stationary_order": Order.WORDS,
            "stationary_stride_n": 0 if self.parts == 1 else self.k_blocks // self.parts * self.block_bytes,
            "stationary_stride_k": self.block_bytes,
            "stationary_stride_m": self.row_bytes,
            "stationary_stride_d": self.digit_words,
            "out_format": Format.of(self.out_bytes),
            "out_stride_n": stride_n if self.parts == 1 else self.part_bytes,
            "out_stride_m": stride_m,
        }
        return [
            Descriptor(
                **common,
                stream_base=place.region.address + channel * place.stride_c,
                stationary_base=digits + block * self.row_bytes,
                out_base=out + block * stride_m + channel * stride_n,
            )
            for block in range(0, blocks(self.kernel[0]), 1 << log2)
            for channel in range(1 if self.parts == 1 else channels)
        ]
