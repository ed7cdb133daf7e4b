"""A multiplexer of few levels."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Mux, Value


def choose(items: Sequence, index: Value):
    """The item that `index` names, where there are as many as it has values.

    Choices are made bit by bit of the index: four items are a LUT for each bit. Amaranth's `Array` compares the index
    with each number first, and the way from those comparisons to all bits of wide items costs a level more.

    Raises ValueError if `items` are not two to the power of the index' width.
    """
    if len(items) != 1 << len(index):
        raise ValueError(f"{len(items)} items for an index of {len(index)} bits, must be {1 << len(index)}")
    if not len(index):
        return items[0]
    half = len(items) // 2
    return Mux(index[-1], choose(items[half:], index[:-1]), choose(items[:half], index[:-1]))
