"""Cutting a product into rounds, each of which fits the board's memory and its descriptors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import inf

from host.geometry import ceil_div
from host.plan.formats import Part


def round_sizes(
    whole: Sequence[int],
    most: Sequence[int],
    units: Sequence[int],
    footprint: Callable[..., float],
    room: int,
) -> tuple[int, ...]:
    """Sizes of a round: `most`, halved wherever it helps most until every round fits the room.

    Parameters
    ----------
    whole, most, units : for each dimension its size, the most that a round may take of it, and the unit of a cut.
    footprint : bytes of a round, called with a size for each dimension; infinite if no descriptor can describe it.

    Raises
    ------
    ValueError
        If not even one unit of each dimension fits.
    """

    def worst(sizes: tuple[int, ...]) -> float:
        # The rounds at the end of a dimension are smaller but may be tiled less densely.
        kinds = [{size, length % size or size} for length, size in zip(whole, sizes, strict=True)]
        return max(footprint(*kind) for kind in product(*kinds))

    sizes = tuple(most)
    while (need := worst(sizes)) > room:
        options = []
        for i, (size, unit) in enumerate(zip(sizes, units, strict=True)):
            if size > unit:
                half = ceil_div(ceil_div(size, 2), unit) * unit
                options.append((*sizes[:i], half, *sizes[i + 1 :]))
        if not options:
            what = f"needs {need} bytes" if need < inf else "fits no descriptor"
            raise ValueError(f"the smallest part of the product {what}, the board's memory has room for {room} bytes")
        sizes = min(options, key=worst)
    return sizes


def rounds(whole: Sequence[int], sizes: Sequence[int]) -> Iterator[Part]:
    """All rounds of `sizes` that cover `whole`."""
    axes = [[(i, min(i + s, n)) for i in range(0, n, s)] for n, s in zip(whole, sizes, strict=True)]
    return product(*axes)
