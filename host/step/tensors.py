"""Stored tensors of the device step, with what the host knows of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from host.arrays import Array
from host.board import Board
from host.qtensor import QTensor
from host.step.coefficients import Norm
from host.step.network import Block, Normed
from host.step.noise import Key
from host.step.ranges import Ranges
from host.step.rules import Passed, Statistics


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


@dataclass
class Activation:
    """What a ReLU gave, or the image.

    An activation of `guard` bits more than its operand is stored with half a step of the operand added, so that its
    upper bits are the operand, rounded to nearest.

    Attributes
    ----------
    codes : int64 (N, C, H, W).
    bits, guard : of the operand, and below it.
    unit : real value of code 1.
    signed : whether it is the image, which has no mask.
    mask : where the ReLU's input was positive.
    high : largest real value of each channel, float64 (C,).
    """

    codes: Array
    bits: int
    guard: int
    unit: float
    signed: bool = False
    mask: Array | None = None
    high: np.ndarray | None = None

    @property
    def raised(self) -> int:
        """What is added to the stored codes."""
        return (1 << self.guard) >> 1

    def operand(self) -> QTensor:
        """As a convolution reads it."""
        codes, scale = self.codes >> self.guard, self.unit * (1 << self.guard)
        return QTensor.trusted(codes, self.bits, self.signed, scale)


@dataclass
class Result:
    """A convolution's result y as it is stored, its statistics, and its operands for backward."""

    of: Normed
    x: QTensor
    w: QTensor
    codes: Array
    unit: np.ndarray
    stats: Statistics
    norm: Norm

    @property
    def count(self) -> int:
        """Elements of a channel."""
        n, _, height, width = self.codes.shape
        return n * height * width


@dataclass
class Gradient:
    """A gradient dz at a batch norm's result, or one that is to be added to another: codes * unit."""

    codes: Array
    unit: float


@dataclass
class Passage:
    """A block's forward pass: the results of its body and of its shortcut, and the activation behind each result."""

    block: Block
    body: list[Result]
    shortcut: Result | None
    activations: list[Activation]


@dataclass
class Saturation:
    """Elements that were clipped, and all, of each stored tensor by name."""

    clipped: Counter[str] = field(default_factory=Counter)
    elements: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, passed: Passed) -> None:
        size = 1
        for length in passed.codes.shape:
            size *= length
        self.clipped[name] += passed.saturated
        self.elements[name] += size

    def take(self) -> dict[str, list[int]]:
        """(clipped, all) by name; counting begins anew."""
        counts = {name: [self.clipped[name], total] for name, total in self.elements.items()}
        self.clipped.clear()
        self.elements.clear()
        return counts


@dataclass(frozen=True)
class Shared:
    """What all passes of a run share.

    Attributes
    ----------
    board : computes the products.
    storage : formats of stored tensors.
    ranges, saturation : of stored tensors.
    """

    board: Board
    storage: Storage
    ranges: Ranges = field(default_factory=Ranges)
    saturation: Saturation = field(default_factory=Saturation)
