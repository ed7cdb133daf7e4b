"""Stored tensors of the device step, with what the host knows of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from host.quantise import Precision
from host.step.coefficients import Norm, combined
from host.step.engine import Engine, Measured, Tensor
from host.step.network import Block, Normed
from host.step.noise import Key
from host.step.ranges import Ranges
from host.step.rules import Statistics

#: Widest operands of which stored tensors fit the lanes' streams.
MOST_FW, MOST_BW = 13, 16


def fits(precision: Precision) -> bool:
    """Whether the device step takes operands of a precision."""
    return max(precision.fw, precision.weight_bits) <= MOST_FW and precision.bw <= MOST_BW


@dataclass(frozen=True)
class Storage:
    """How tensors are stored: by how many bits wider than the operands of their precision FW-f / BW-g.

    Attributes
    ----------
    y : of a convolution's result, beyond f.
    h : of an activation that is added to another or pooled, beyond f; unsigned.
    dz : of the gradient before batch norm's backward, beyond g.
    nearest : whether dz is rounded to nearest; else stochastically.

    Raises
    ------
    ValueError
        If a number of bits is not 0 to 4, 1 to 4 and 0 to 2: with more, the widest operands would not fit the lanes.
    """

    y: int = 3
    h: int = 4
    dz: int = 1
    nearest: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.y <= 4 and 1 <= self.h <= 4 and 0 <= self.dz <= 2):
            text = ",".join(map(str, self.guard_bits))
            raise ValueError(f"--guard-bits is {text}, must be 0 to 4 for y, 1 to 4 for h and 0 to 2 for dz")

    @property
    def guard_bits(self) -> tuple[int, int, int]:
        return self.y, self.h, self.dz


@dataclass(frozen=True)
class Part:
    """A micro-batch.

    Attributes
    ----------
    number, parts : which of how many it is.
    first, size, samples : its first sample, its samples and those of the whole batch.
    key : of noise, of this step and the stream of it that numbers name.
    """

    number: int
    parts: int
    first: int
    size: int
    samples: int
    key: Callable[..., Key]

    @property
    def share(self) -> float:
        """Its part of the batch."""
        return self.size / self.samples

    @property
    def is_last(self) -> bool:
        return self.number == self.parts - 1


@dataclass(frozen=True)
class Factor:
    """An operand of products.

    Attributes
    ----------
    codes : as the array reads them.
    scale : real value of code 1.
    top : largest magnitude of a code.
    """

    codes: Tensor
    scale: float
    top: int


@dataclass(frozen=True, eq=False)
class Run:
    """Samples of a micro-batch that go through a block at one precision.

    Attributes
    ----------
    places : their numbers, rising, int64.
    precision : of their operands.
    enters : whether they go through the block's body, and not past it.
    before : samples of the runs before, for noise.
    """

    places: np.ndarray
    precision: Precision
    enters: bool = True
    before: int = 0


@dataclass(frozen=True, eq=False)
class Spread:
    """A tensor of a micro-batch, or of some of its samples, in parts of one kind.

    Attributes
    ----------
    places : numbers of the samples of each part.
    """

    places: list[np.ndarray]
    tensors: list[Tensor]

    @property
    def bits(self) -> int:
        return self.tensors[0].bits

    def of(self, engine: Engine, places: np.ndarray) -> Tensor:
        """The samples of such numbers."""
        for own, tensor in zip(self.places, self.tensors, strict=True):
            if np.array_equal(own, places):
                return tensor
        order = np.concatenate(self.places)
        numbers = np.zeros(int(np.max(order)) + 1, np.int64)
        numbers[order] = np.arange(len(order))
        return engine.gathered(self.tensors, numbers[places])


@dataclass
class Activation:
    """What the ReLU behind a block gave, or the image: the same format for all samples, whatever they chose.

    An activation of `guard` bits more than its operand is stored with half a step of the operand added, so that its
    upper bits are the operand, rounded to nearest.

    Attributes
    ----------
    codes : (N, C, H, W); the image's are signed.
    guard : bits below the operand.
    unit : real value of code 1.
    masks : where the ReLU's input was positive; the image has none.
    measured : of each part sums and ends of the codes; the image has none.
    """

    codes: Spread
    guard: int
    unit: float
    masks: Spread | None = None
    measured: list[Measured] = field(default_factory=list)

    @property
    def raised(self) -> int:
        """What is added to the stored codes."""
        return raised(self.guard)

    @property
    def pixels(self) -> int:
        """Of a sample's channel."""
        _, _, height, width = self.codes.tensors[0].shape
        return height * width

    @property
    def high(self) -> np.ndarray:
        """Largest real value of each channel, float64 (C,)."""
        return np.max([highest(each, self.raised, self.unit) for each in self.measured], axis=0)

    def means(self) -> np.ndarray:
        """Real values (N, C) of an activation that was measured for each sample."""
        sums = np.concatenate([each.stats.sums for each in self.measured])
        if len(self.measured) > 1:
            sums = sums[np.argsort(np.concatenate(self.codes.places))]
        return (sums / self.pixels - self.raised) * self.unit


def raised(guard: int) -> int:
    """Half a step of the operand above so many bits."""
    return (1 << guard) >> 1


def highest(measured: Measured, raised: int, unit: float) -> np.ndarray:
    """See `Activation.high`."""
    high = measured.stats.high
    return (np.max(high.reshape(-1, high.shape[-1]), axis=0) - raised) * unit


@dataclass
class Piece:
    """A run's part of a convolution's result.

    Attributes
    ----------
    x : what was multiplied.
    codes : results as they are stored.
    unit : real values of code 1, float64 (C,).
    measured : sums of the codes and of their squares.
    mask : where the ReLU behind it was positive; None behind the last convolution of a block.
    """

    run: Run
    x: Factor
    codes: Tensor
    unit: np.ndarray
    measured: Measured
    mask: Tensor | None = None

    @property
    def stats(self) -> Statistics:
        return self.measured.stats


@dataclass
class Result:
    """A convolution's result y, with its operands for backward, and once its statistics are there the norm.

    No piece: no sample of the micro-batch went through the block.
    """

    of: Normed
    w: Factor
    pieces: list[Piece]
    norm: Norm = field(init=False)

    @property
    def unit(self) -> np.ndarray:
        """That `stats` have, of code 1."""
        return self.pieces[0].unit

    @cached_property
    def stats(self) -> Statistics:
        """Of all pieces."""
        units = [piece.unit for piece in self.pieces]
        return combined([piece.stats for piece in self.pieces], units, [unit * unit for unit in units])

    @property
    def count(self) -> int:
        """Elements of a channel."""
        samples = sum(len(piece.run.places) for piece in self.pieces)
        _, _, height, width = self.pieces[0].codes.shape
        return samples * height * width

    @property
    def reach(self) -> float:
        """Largest real value behind the norm."""
        return float(np.max(self.norm.ends(self.stats, self.unit)))

    def piece(self, run: Run) -> Piece | None:
        """That of a run, if its samples went this way."""
        return next((piece for piece in self.pieces if piece.run is run), None)


@dataclass
class Gradient:
    """Samples' part of a gradient dz at a batch norm's result, or of one that is to be added: codes * unit.

    Attributes
    ----------
    run : of the block at whose batch norm it is.
    places : numbers of the samples.
    measured : its sums, with products with the result of the body's convolution where it is a block's and they have it.
    beside : products with that of the shortcut's, where there is one.
    """

    run: Run
    places: np.ndarray
    codes: Tensor
    unit: float
    measured: Measured
    beside: Measured | None = None


@dataclass
class Passage:
    """A block's forward pass: its input, the results of its body and its shortcut, and what is behind its sum."""

    block: Block
    runs: list[Run]
    x: Activation
    body: list[Result]
    shortcut: Result | None
    out: Activation


@dataclass
class Saturation:
    """Elements that were clipped, and all, of each stored tensor by name."""

    _added: list[tuple[str, int, Measured]] = field(default_factory=list)

    def add(self, name: str, elements: int, measured: Measured) -> None:
        """A pass has stored so many; what it has found is asked for later, so that no device is waited for."""
        self._added.append((name, elements, measured))

    def take(self) -> dict[str, list[int]]:
        """(clipped, all) by name; counting begins anew."""
        counts: dict[str, list[int]] = {}
        for name, elements, measured in self._added:
            clipped, total = counts.get(name, (0, 0))
            counts[name] = [clipped + measured.clipped, total + elements]
        self._added.clear()
        return counts


@dataclass(frozen=True)
class Shared:
    """What all passes of a run share.

    Attributes
    ----------
    engine : computes passes and products.
    storage : formats of stored tensors.
    ranges, saturation : of stored tensors.
    """

    engine: Engine
    storage: Storage
    ranges: Ranges = field(default_factory=Ranges)
    saturation: Saturation = field(default_factory=Saturation)
