"""The backward pass of the device step for one micro-batch, on what `host.step.forward` has left."""

from __future__ import annotations

import numpy as np

from host.arrays import Array
from host.qtensor import QTensor
from host.quantise import Precision
from host.step import rules
from host.step.coefficients import dropped_bits, exponents, fit, norm_gradient
from host.step.network import Normed
from host.step.noise import noise
from host.step.ranges import found_in
from host.step.tensors import Activation, Gradient, Part, Passage, Result, Shared
from host.step.weights import Weights

#: Of the keys of noise, beside that of `host.step.weights`: rounding of dy, and of gradients that are stored.
_OPERAND, _STORED = 0, 2
#: Bits of the gradient at an image's mean, as the host writes it.
_POOLED_BITS = 24


class Backward:
    """Backward passes on a board; weight gradients go to the momentum of `weights`, those of batch norm to `grads`.

    Attributes
    ----------
    grads : float64 (C,) by the batch norm's convolution: gradients of gain and offset, summed over the micro-batches.
    """

    def __init__(
        self,
        shared: Shared,
        weights: Weights,
        precision: Precision,
    ):
        self.board, self.storage = shared.board, shared.storage
        self.ranges, self.saturation = shared.ranges, shared.saturation
        self.weights, self.precision = weights, precision
        self.grads: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def run(self, gradient: np.ndarray, passages: list[Passage], part: Part) -> None:
        """From the gradient at the means that forward gave, real values (N, C), to that of every weight."""
        self.part = part
        dz = self._pooled(gradient, passages[-1])
        for number in reversed(range(len(passages))):
            dz = self._block(passages[number], dz, passages[number - 1] if number else None)

    def _pooled(self, gradient: np.ndarray, last: Passage) -> Gradient:
        """The gradient at the last block's result: the host writes (N, C), the device spreads it over the pixels."""
        out, of = last.activations[-1], last.body[-1].of
        pixels = out.codes.shape[2] * out.codes.shape[3]
        top, written = self._dz_top(of), (1 << (_POOLED_BITS - 1)) - 1
        end = float(np.max(np.abs(gradient))) or 1.0
        codes = self.board.place(np.rint(gradient * (written / end)).astype(np.int64))
        passed = rules.lane(
            fit(top / written), codes[:, :, None, None], low=-top, high=top, mask=out.mask, noise=self._noise(of, out)
        )
        return Gradient(passed.codes, end / top / pixels)

    def _block(self, passage: Passage, dz: Gradient, below: Passage | None) -> Gradient:
        """From the gradient behind a block's sum to that behind the sum of the block below."""
        at_y = dz
        for number in reversed(range(len(passage.body))):
            y = passage.body[number]
            g = self._through_norm(y, at_y)
            if number:
                before = passage.body[number - 1]
                at_y = self._to_input(y, g, before.of, passage.activations[number - 1])
        if below is None:
            return dz
        skip = None
        if passage.shortcut:
            around = passage.shortcut
            to = self._through_norm(around, dz)
            skip = self._to_input(around, to, below.body[-1].of)
        elif passage.block.adds:
            skip = dz
        return self._to_input(passage.body[0], g, below.body[-1].of, below.activations[-1], skip)

    def _through_norm(self, y: Result, dz: Gradient) -> QTensor:
        """Backward of a batch norm, rounded stochastically to the operand dy; and the weight gradient, of it."""
        bits = y.of.precision(self.precision).bw
        top = (1 << (bits - 1)) - 1
        stats = rules.statistics(dz.codes, y.codes)
        norm = norm_gradient(y.norm, stats, dz.unit, y.stats, y.unit, y.count, top)
        before = self.grads.get(y.of.name, (0.0, 0.0))
        self.grads[y.of.name] = before[0] + norm.gain, before[1] + norm.offset
        key = self.part.key(y.of.number, _OPERAND)
        noisy = noise(key, tuple(y.codes.shape), like=y.codes, first=self.part.first)
        passed = rules.lane(norm.coefficients, dz.codes, y.codes, low=-top, high=top, noise=noisy)
        self.saturation.add(f"{y.of.name}.dy", passed)
        g = QTensor.trusted(passed.codes, bits, True, norm.scale)
        sums = y.of.conv.kind.weight_grad(self.board, g, y.x, y.w.shape)
        self.weights.add_gradient(y.of.name, sums, norm.scale * float(y.x.scale), (y.count, top, _end(y.x)), self.part)
        return g

    def _to_input(
        self, y: Result, g: QTensor, target: Normed, at: Activation | None = None, skip: Gradient | None = None
    ) -> Gradient:
        """The input gradient plus `skip`, where the ReLU `at` was positive, as stored for the convolution `target`.

        Without a ReLU it is stored to be added to another.
        """
        name = f"{target.name}.dz" if at else f"{y.of.name}.dx"
        sums = y.of.conv.kind.input_grad(self.board, g, y.w, y.x.shape)
        scale, top = float(g.scale) * float(y.w.scale), self._dz_top(target)
        magnitudes = y.of.terms[1], (1 << (g.bits - 1)) - 1, (1 << (y.w.bits - 1)) - 1
        dropped = dropped_bits(*magnitudes)
        u, noisy = rules.drained(sums, dropped), self._noise(target if at else y.of, y.x)

        def store(largest: np.ndarray) -> tuple[rules.Passed, float]:
            unit = scale * 2.0 ** float(exponents(largest, scale, top, dropped))
            alpha = scale * 2.0**dropped / unit
            k = fit(alpha, skip.unit / unit if skip else 0.0, alpha / 2 if dropped else 0.0)
            v, mask = skip.codes if skip else None, at.mask if at else None
            return rules.lane(k, u, v, low=-top, high=top, mask=mask, noise=noisy), unit

        def attempt(largest: np.ndarray) -> np.ndarray:
            passed, unit = store(largest)
            return found_in(passed.codes, top, unit)

        bound = scale * float(np.prod(magnitudes, dtype=np.float64)) + (skip.unit * top if skip else 0.0)
        passed, unit = store(self.ranges.start(name, bound, attempt))
        self.saturation.add(name, passed)
        self.ranges.see(name, found_in(passed.codes, top, unit))
        return Gradient(passed.codes, unit)

    def _noise(self, of: Normed, like: Activation | QTensor) -> Array | None:
        """For storing a gradient of the shape of `like`."""
        if self.storage.nearest:
            return None
        key = self.part.key(of.number, _STORED)
        return noise(key, tuple(like.codes.shape), like=like.codes, first=self.part.first)

    def _dz_top(self, target: Normed) -> int:
        """Largest code of a gradient that the batch norm of `target` reads."""
        return (1 << (target.precision(self.precision).bw + self.storage.dz - 1)) - 1


def _end(x: QTensor) -> int:
    """Largest magnitude of a code."""
    return max(abs(end) for end in x.range)
