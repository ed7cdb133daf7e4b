"""What computes a training step between the decisions of the host: passes over tensors, and products.

The walk over a network (`host.step.forward`, `backward`, `weights`) says what is to be computed, of tensors that it
knows by their handles alone. Where these lie and what computes is an engine's: arrays beside any board
(`host.step.array_engine`), or the memory of a board that has a vector unit (`host.step.memory_engine`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np

from host.board import Board
from host.step.account import Account
from host.step.network import Normed
from host.step.noise import Key
from host.step.rules import Coefficients, Drain, Statistics


@dataclass(frozen=True, eq=False)
class Tensor:
    """A handle of integers (N, C, H, W), which never change; who has none left of a tensor has given it up.

    Attributes
    ----------
    shape : see above.
    bits, signed : of an element.
    held : what the engine has of it.
    """

    shape: tuple[int, int, int, int]
    bits: int
    signed: bool
    held: Any

    @property
    def elements(self) -> int:
        """How many there are."""
        return prod(self.shape)


class Noise(NamedTuple):
    """Noise of a pass: its key, and the number of the tensor's first sample in the stream."""

    key: Key
    first: int = 0


class Sums(Enum):
    """What is wanted of the results of a pass, beside how many were clipped."""

    NONE = 0  #: nothing
    PLAIN = 1  #: sums and ends, see `host.step.rules.Statistics`; no products
    SQUARES = 2  #: products of the results with themselves, too


@dataclass(frozen=True)
class VectorPass:
    """The operation of `host.step.rules.lane` on all elements of tensors of equal shapes.

    Attributes
    ----------
    k : coefficients; those of (N, C) are of each sample.
    top : results are clipped to -top..top.
    u, v : streams. Without u there is a mask, and u is 0.
    signed : whether results may be negative.
    relu, mask, noise, raised : see `host.step.rules.lane`; a mask is of one bit.
    sums : what is wanted of the results; products with the elements of a tensor, if it is one.
    each_sample : of each sample instead of all.
    stored : whether the results, and a ReLU's mask, are of use.
    kept : whether they are of use to later steps.
    """

    k: Coefficients
    top: int
    u: Tensor | None = None
    v: Tensor | None = None
    signed: bool = True
    relu: bool = False
    mask: Tensor | None = None
    noise: Noise | None = None
    raised: int = 0
    sums: Sums | Tensor = Sums.NONE
    each_sample: bool = False
    stored: bool = True
    kept: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the results."""
        like = self.u or self.mask
        assert like is not None, "a pass without u has a mask"
        return like.shape

    @property
    def bits(self) -> int:
        """That hold a result."""
        return self.top.bit_length() + self.signed


class Measured:
    """What a pass has found of its results; it may wait for them when asked."""

    def __init__(self, read: Callable[[], tuple[Statistics | None, int]]):
        self._read = read

    @cached_property
    def _found(self) -> tuple[Statistics | None, int]:
        return self._read()

    @property
    def stats(self) -> Statistics:
        """The sums that were asked for, int64 (C,), or (N, C) of each sample."""
        stats = self._found[0]
        assert stats is not None, "no sums were asked for"
        return stats

    @property
    def clipped(self) -> int:
        """Results that a bound has changed."""
        return self._found[1]

    @property
    def largest(self) -> int:
        """Largest magnitude of a result."""
        return max(int(np.max(self.stats.high)), -int(np.min(self.stats.low)))


class Passed(NamedTuple):
    """The handles that a pass leaves, None of what was not asked for, and what it has found."""

    codes: Tensor | None
    mask: Tensor | None
    measured: Measured

    @property
    def stored(self) -> Tensor:
        """The handle of the results of a pass that stores them."""
        assert self.codes is not None, "the pass stores nothing"
        return self.codes


class Engine(ABC):
    """Computes passes and products beside or on a board.

    Products are of tensors of codes, and of weights that `digits` gave. Their results are sums as stream u has them;
    those of weight gradients lose their lowest `dropped` bits only there.

    Attributes
    ----------
    board : computes the products.
    account : what the host does of a step.
    """

    #: What it is, in a few words.
    name: str

    def __init__(self, board: Board):
        self.board, self.account = board, Account(board)

    @abstractmethod
    def write(self, codes: np.ndarray, bits: int, signed: bool) -> Tensor:
        """A tensor of the host's numbers."""

    @abstractmethod
    def read(self, tensor: Tensor) -> np.ndarray:
        """The numbers of a tensor, int64."""

    @abstractmethod
    def gathered(self, tensors: Sequence[Tensor], places: np.ndarray) -> Tensor:
        """The samples of tensors of one kind, one after the other, in the order of their numbers `places`, int64 (N,).

        Nothing is moved: passes find them where they lie, and nothing else reads such a tensor.
        """

    @abstractmethod
    def run(self, asked: VectorPass) -> Passed:
        """A pass."""

    @abstractmethod
    def digits(self, of: Normed, asked: VectorPass) -> Tensor:
        """The results of a pass over weights as `host.step.arrange` has them, as an operand of products alone."""

    @abstractmethod
    def measure(self, tensor: Tensor, x: Tensor) -> Measured:
        """Sums of a tensor that is there, with products with those of x."""

    @abstractmethod
    def upper(self, tensor: Tensor, dropped: int) -> Tensor:
        """An operand of products: a tensor without a sign, but for its lowest bits."""

    @abstractmethod
    def forward(self, of: Normed, x: Tensor, w: Tensor, drain: Drain) -> Tensor:
        """Sums of a convolution of x."""

    @abstractmethod
    def input_grad(self, of: Normed, g: Tensor, w: Tensor, shape: tuple[int, int, int, int], drain: Drain) -> Tensor:
        """Sums of its input gradient, of the input's shape."""

    @abstractmethod
    def weight_grad(self, of: Normed, g: Tensor, x: Tensor, dropped: int) -> Tensor:
        """Sums of its weight gradient, as weights are arranged."""
