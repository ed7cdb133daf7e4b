"""The engine for any board: the board computes the products, and arrays of its library everything between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from host.arrays import Array, to_numpy
from host.board import Board
from host.qtensor import QTensor
from host.step import rules
from host.step.arrange import arrange, restore
from host.step.engine import Engine, Measured, Passed, Sums, Tensor, VectorPass
from host.step.network import Normed
from host.step.noise import noise
from host.step.rules import Drain


@dataclass
class _Held:
    """Of a tensor its codes, int64, or bool of a mask; of weights the kernel that the board has seen."""

    codes: Array
    kernel: QTensor | None = None


class ArrayEngine(Engine):
    """Arrays beside `board`, by `host.step.rules`; `why` says why they are not on the board."""

    def __init__(self, board: Board, why: str = ""):
        super().__init__(board)
        self.name = f"arrays of the host, as {why}" if why else "arrays of the host"

    def write(self, codes: np.ndarray, bits: int, signed: bool) -> Tensor:
        return _tensor(self.board.place(codes.astype(np.int64)), bits, signed)

    def read(self, tensor: Tensor) -> np.ndarray:
        return to_numpy(_codes(tensor))

    def gathered(self, tensors: Sequence[Tensor], places: np.ndarray) -> Tensor:
        first = tensors[0]
        codes = [_codes(each) for each in tensors]
        xp = array_namespace(codes[0])
        whole = codes[0] if len(codes) == 1 else xp.concat(codes)
        return _tensor(xp.take(whole, xp.asarray(places, device=device(whole)), axis=0), first.bits, first.signed)

    def run(self, asked: VectorPass) -> Passed:
        with self.account.kind("passes"):
            return self._run(asked)

    def _run(self, asked: VectorPass) -> Passed:
        mask = None if asked.mask is None else _codes(asked.mask) != 0
        u = _zeros(mask) if asked.u is None else _codes(asked.u)
        passed = rules.lane(
            asked.k,
            u,
            None if asked.v is None else _codes(asked.v),
            low=-asked.top,
            high=asked.top,
            relu=asked.relu,
            mask=mask,
            noise=asked.noise and noise(asked.noise.key, asked.shape, like=u, first=asked.noise.first),
            raised=asked.raised,
        )
        stats = _statistics(passed.codes, asked.sums, asked.each_sample)
        clipped = passed.saturated
        measured = Measured(lambda: (stats, clipped))
        if not asked.stored:
            return Passed(None, None, measured)
        kept = _tensor(passed.mask, 1, False) if asked.relu else None
        return Passed(_tensor(passed.codes, asked.bits, asked.signed), kept, measured)

    def digits(self, of: Normed, asked: VectorPass) -> Tensor:
        return self.run(asked).stored

    def measure(self, tensor: Tensor, x: Tensor) -> Measured:
        with self.account.kind("passes"):
            stats = rules.statistics(_codes(tensor), _codes(x))
        return Measured(lambda: (stats, 0))

    def upper(self, tensor: Tensor, dropped: int) -> Tensor:
        return _tensor(_codes(tensor) >> dropped, tensor.bits - dropped, False) if dropped else tensor

    def forward(self, of: Normed, x: Tensor, w: Tensor, drain: Drain) -> Tensor:
        with self.account.kind("products"):
            return _sums(of.product.forward(self.board, _operand(x), _kernel(of, w)), drain)

    def input_grad(self, of: Normed, g: Tensor, w: Tensor, shape: tuple[int, int, int, int], drain: Drain) -> Tensor:
        with self.account.kind("products"):
            return _sums(of.product.input_grad(self.board, _operand(g), _kernel(of, w), shape), drain)

    def weight_grad(self, of: Normed, g: Tensor, x: Tensor, dropped: int) -> Tensor:
        with self.account.kind("products"):
            sums = of.product.weight_grad(self.board, _operand(g), _operand(x), of.kernel)
            return _sums(arrange(sums), Drain(dropped))


def _tensor(codes: Array, bits: int, signed: bool) -> Tensor:
    n, channels, height, width = codes.shape
    return Tensor((n, channels, height, width), bits, signed, _Held(codes))


def _codes(tensor: Tensor) -> Array:
    return tensor.held.codes


def _zeros(mask: Array) -> Array:
    xp = array_namespace(mask)
    return xp.zeros(mask.shape, dtype=xp.int64, device=device(mask))


def _sums(sums: Array, drain: Drain) -> Tensor:
    return _tensor(rules.drained(sums, drain), rules.U_BITS, True)


def _operand(tensor: Tensor) -> QTensor:
    return QTensor.trusted(_codes(tensor), tensor.bits, tensor.signed)


def _kernel(of: Normed, w: Tensor) -> QTensor:
    """The same as long as the weights are: a board may have kept its bytes."""
    if w.held.kernel is None:
        w.held.kernel = QTensor.trusted(restore(_codes(w), of.kernel), w.bits, w.signed)
    return w.held.kernel


def _statistics(q: Array, sums: Sums | Tensor, each_sample: bool) -> rules.Statistics | None:
    if sums is Sums.NONE:
        return None
    if isinstance(sums, Tensor):
        return rules.statistics(q, _codes(sums), each_sample=each_sample)
    return rules.statistics(q, None if sums is Sums.SQUARES else 0, each_sample=each_sample)
