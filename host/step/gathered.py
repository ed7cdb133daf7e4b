"""Tensors in a board's memory whose samples lie apart: passes over them are cut into passes over neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from host.plan.memory import Region
from host.step.engine import Tensor, VectorPass
from host.step.rules import Coefficients

#: Streams of a pass.
_STREAMS = ("u", "v", "mask", "sums")


class Segment(NamedTuple):
    """Samples that lie one after the other in a tensor with a place."""

    tensor: Tensor
    first: int
    samples: int


class Gathered(NamedTuple):
    """What holds a tensor whose samples lie apart: where they do, in order."""

    segments: tuple[Segment, ...]


def gather(tensors: Sequence[Tensor], places: np.ndarray) -> Tensor:
    """See `host.step.engine.Engine.gathered`."""
    found: list[Segment] = []
    parts = [segment for tensor in tensors for segment in _segments(tensor)]
    ends = np.cumsum([segment.samples for segment in parts])
    for place in places.tolist():
        number = int(np.searchsorted(ends, place, side="right"))
        tensor, first, samples = parts[number]
        first += place - int(ends[number]) + samples
        last = found[-1] if found else None
        if last and last.tensor is tensor and last.first + last.samples == first:
            found[-1] = last._replace(samples=last.samples + 1)
        else:
            found.append(Segment(tensor, first, 1))
    like = tensors[0]
    return Tensor((len(places), *like.shape[1:]), like.bits, like.signed, Gathered(tuple(found)))


def regions(tensor: Tensor) -> list[Region]:
    """Where its samples lie."""
    return [segment.tensor.held.region for segment in _segments(tensor)]


def part(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Samples of a tensor that lie one after the other; what they lie in has to be held by somebody else."""
    for whole, first, samples in _segments(tensor):
        if start < samples:
            held = whole.held._replace(first=whole.held.first + first + start)
            return replace(whole, shape=(stop - start, *whole.shape[1:]), held=held)
        start, stop = start - samples, stop - samples
    raise IndexError(f"samples {start} to {stop} behind the last")


def neighbours(asked: VectorPass) -> Iterator[tuple[int, int, VectorPass]]:
    """The pass as passes over samples that lie one after the other in all its streams: first, end, pass."""
    streams = {name: each for name in _STREAMS if isinstance(each := getattr(asked, name), Tensor)}
    ends = {asked.shape[0]}
    for tensor in streams.values():
        ends |= set(np.cumsum([segment.samples for segment in _segments(tensor)]).tolist())
    start = 0
    for stop in sorted(ends):
        own = {name: part(tensor, start, stop) for name, tensor in streams.items()}
        noise = asked.noise and asked.noise._replace(first=asked.noise.first + start)
        yield start, stop, replace(asked, k=_of_samples(asked.k, start, stop), noise=noise, **own)
        start = stop


def _of_samples(k: Coefficients, start: int, stop: int) -> Coefficients:
    a, c, b = (each[start:stop] if np.ndim(each) == 2 else each for each in (k.a, k.c, k.b))
    return Coefficients(a, c, b, k.shift)


def _segments(tensor: Tensor) -> tuple[Segment, ...]:
    if isinstance(tensor.held, Gathered):
        return tensor.held.segments
    return (Segment(tensor, 0, tensor.shape[0]),)
