"""Stored tensors of the device step, with what the host knows of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from host.qtensor import code_range
from host.step.coefficients import Norm
from host.step.engine import Engine, Measured, Tensor
from host.step.network import Block, Normed
from host.step.noise import Key
from host.step.ranges import Ranges
from host.step.rules import Statistics

#: Widest operands of which stored tensors fit the lanes' streams.
MOST_FW, MOST_BW = 13, 16


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


@dataclass
class Activation:
    """What a ReLU gave, or the image.

    An activation of `guard` bits more than its operand is stored with half a step of the operand added, so that its
    upper bits are the operand, rounded to nearest.

    Attributes
    ----------
    codes : (N, C, H, W); the image's are signed.
    guard : bits below the operand.
    unit : real value of code 1.
    mask : where the ReLU's input was positive; the image has none.
    measured : sums and ends of the codes; the image has none.
    """

    codes: Tensor
    guard: int
    unit: float
    mask: Tensor | None = None
    measured: Measured | None = None

    @property
    def raised(self) -> int:
        """What is added to the stored codes."""
        return raised(self.guard)

    @property
    def found(self) -> Measured:
        """What the pass that stored it has found."""
        assert self.measured is not None, "nobody has measured the image"
        return self.measured

    @property
    def high(self) -> np.ndarray:
        """Largest real value of each channel, float64 (C,)."""
        return highest(self.found, self.raised, self.unit)

    def operand(self, engine: Engine) -> Factor:
        """As a convolution reads it."""
        codes = engine.upper(self.codes, self.guard)
        top = max(abs(end) for end in code_range(codes.bits, codes.signed))
        return Factor(codes, self.unit * (1 << self.guard), top)


def raised(guard: int) -> int:
    """Half a step of the operand above so many bits."""
    return (1 << guard) >> 1


def highest(measured: Measured, raised: int, unit: float) -> np.ndarray:
    """See `Activation.high`."""
    high = measured.stats.high
    return (np.max(high.reshape(-1, high.shape[-1]), axis=0) - raised) * unit


@dataclass
class Result:
    """A convolution's result y as it is stored, its operands for backward, and once its statistics are there the norm.

    Attributes
    ----------
    unit : real values of code 1, float64 (C,).
    measured : sums of the codes and of their squares.
    """

    of: Normed
    x: Factor
    w: Factor
    codes: Tensor
    unit: np.ndarray
    measured: Measured
    norm: Norm = field(init=False)

    @property
    def stats(self) -> Statistics:
        return self.measured.stats

    @property
    def count(self) -> int:
        """Elements of a channel."""
        n, _, height, width = self.codes.shape
        return n * height * width


@dataclass
class Gradient:
    """A gradient dz at a batch norm's result, or one that is to be added to another: codes * unit.

    Attributes
    ----------
    measured : its sums, with products with the result of the body's convolution where it is a block's.
    beside : products with that of the shortcut's, where there is one.
    """

    codes: Tensor
    unit: float
    measured: Measured
    beside: Measured | None = None


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
