"""Where tensors of the device step lie in a board's memory."""

from __future__ import annotations

from typing import NamedTuple

from host.geometry import ceil_div
from host.plan.formats import Digits
from host.plan.memory import Region
from host.plan.packing import row_bytes
from rtl.config import BEAT_BYTES, WORD_CHANNELS
from rtl.isa import Sink, Source


class Place(NamedTuple):
    """A tensor (N, C, H, W) in a region.

    Attributes
    ----------
    stride_n, stride_c, stride_y : bytes from sample to sample, from channel block to channel block, from row to row.
    source : bit-planes, or results of a product, and of which width.
    dropped : lowest bits of such results that do not count.
    parts, stride_parts : of such results, which are to be added up, and the bytes from one to the next.
    sink : bit-planes, or digits, which no pass reads.
    first : number of the first sample in the region.
    """

    region: Region
    stride_n: int
    stride_c: int
    stride_y: int
    source: Source = Source.PLANES
    dropped: int = 0
    sink: Sink = Sink.PLANES
    parts: int = 1
    stride_parts: int = 0
    first: int = 0

    @property
    def address(self) -> int:
        """Of the first sample."""
        return self.region.address + self.first * self.stride_n


def blocks(channels: int) -> int:
    """Channel blocks."""
    return ceil_div(channels, WORD_CHANNELS)


def plane_strides(shape: tuple[int, int, int, int], bits: int) -> tuple[int, int, int]:
    """The strides of a tensor whose planes are as close as can be; samples times the first are its bytes."""
    _, channels, height, width = shape
    stride_y = bits * row_bytes(width)
    return blocks(channels) * height * stride_y, height * stride_y, stride_y


def result_strides(shape: tuple[int, int, int, int], out_bytes: int) -> tuple[int, int, int]:
    """The strides of results of a product, likewise."""
    _, channels, height, width = shape
    stride_y = width * WORD_CHANNELS * out_bytes
    return blocks(channels) * height * stride_y, height * stride_y, stride_y


def digit_place(region: Region, form: Digits) -> Place:
    """Weights as `host.step.arrange` has them, a row for each tap, as digits in the form of stationary tiles."""
    strides = form.input_bytes, form.output_bytes, WORD_CHANNELS * BEAT_BYTES
    return Place(region, *strides, sink=Sink.DIGITS)
