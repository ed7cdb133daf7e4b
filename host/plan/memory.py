"""Addresses of a board's memory: regions that plans take while they run, and those that keep tensors between plans."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from weakref import ref

from host.geometry import ceil_div


class NoRoom(Exception):
    """No gap is left that is wide enough, not even without the tensors that are kept but not in use."""


@dataclass(eq=False)
class Region:
    """Bytes of the memory.

    Attributes
    ----------
    users : who needs it now; while there is one, it stays.
    owner : weak reference to the object whose bytes are kept here; None if nothing is.
    """

    address: int
    nbytes: int
    users: int = 1
    owner: ref | None = None
    key: Hashable = field(default=None, repr=False)

    @property
    def is_free(self) -> bool:
        return not self.users and (self.owner is None or self.owner() is None)


class Memory:
    """Hands out addresses, each at a multiple of `step`, between `start` and `end`.

    What an owner keeps here stays until the owner is gone, forgets it, or its place is needed: the least recently used
    goes first.
    """

    def __init__(self, start: int, end: int, step: int):
        self._start, self._end, self._step = ceil_div(start, step) * step, end, step
        self._regions: list[Region] = []  # by address
        self._kept: dict[tuple[int, Hashable], Region] = {}  # the least recently used first

    def take(self, nbytes: int, spare: int = 0) -> Region:
        """A region in use, with so many spare bytes behind it that are free now. Raises NoRoom."""
        self._drop(lambda region: region.is_free)
        while (place := self._gap(nbytes + spare)) is None:
            oldest = next((region for region in self._kept.values() if not region.users), None)
            if oldest is None:
                raise NoRoom(f"no room for {nbytes} bytes")
            self._drop(lambda region, oldest=oldest: region is oldest)
        index, address = place
        region = Region(address, nbytes)
        self._regions.insert(index, region)
        return region

    def keep(self, region: Region, owner: object, key: Hashable) -> None:
        """The region holds from now on what `key` says of `owner`, which does not change."""
        region.owner, region.key = ref(owner), key
        self._kept[id(owner), key] = region

    def find(self, owner: object, key: Hashable) -> Region | None:
        """The region that holds what `key` says of `owner`, in use; None if there is none."""
        region = self._kept.pop((id(owner), key), None)
        if region is None:
            return None
        if region.owner is None or region.owner() is not owner:  # another object, gone since, had the same id
            return None
        self._kept[id(owner), key] = region
        region.users += 1
        return region

    def release(self, region: Region) -> None:
        """One user less."""
        region.users -= 1

    def forget(self, owner: object) -> None:
        """Keep nothing of `owner`."""
        for region in self._regions:
            if region.owner is not None and region.owner() is owner:
                self._kept.pop((id(owner), region.key), None)
                region.owner = None

    def clear(self) -> None:
        """Keep nothing at all."""
        self._kept.clear()
        for region in self._regions:
            region.owner = None

    @property
    def kept_bytes(self) -> int:
        """Bytes of regions whose owners are alive."""
        return sum(region.nbytes for region in self._regions if region.owner is not None and region.owner() is not None)

    def _drop(self, unwanted: Callable[[Region], bool]) -> None:
        gone = [region for region in self._regions if unwanted(region)]
        if gone:
            self._regions = [region for region in self._regions if not unwanted(region)]
            self._kept = {name: region for name, region in self._kept.items() if region not in gone}

    def _gap(self, nbytes: int) -> tuple[int, int] | None:
        """Where a region goes in the list, and its address: the first gap that is wide enough."""
        address = self._start
        for index, region in enumerate([*self._regions, None]):
            if address + nbytes <= (self._end if region is None else region.address):
                return index, address
            if region is not None:
                address = ceil_div(region.address + region.nbytes, self._step) * self._step
        return None
