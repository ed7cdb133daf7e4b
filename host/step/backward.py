"""The backward pass of the device step for one micro-batch, on what `host.step.forward` has left."""

from __future__ import annotations

import numpy as np

from host.quantise import Precision
from host.step.coefficients import exponents, fit, narrowest, norm_gradient
from host.step.engine import Measured, Noise, Passed, Sums, VectorPass
from host.step.network import Normed
from host.step.ranges import found_in
from host.step.rules import Coefficients
from host.step.tensors import Activation, Factor, Gradient, Part, Passage, Result, Shared
from host.step.weights import Weights

#: Of the keys of noise, beside that of `host.step.weights`: rounding of dy, and of gradients that are stored.
_OPERAND, _STORED = 0, 2
#: Bits of the gradient at an image's mean, as the host writes it.
_POOLED_BITS = 24


class Backward:
    """Backward passes; weight gradients go to the momentum of `weights`, those of batch norm to `grads`.

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
        self.engine, self.storage = shared.engine, shared.storage
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
        """The gradient at the last block's result: the host has (N, C), a pass spreads it over the pixels."""
        out, y = last.activations[-1], last.body[-1]
        pixels = out.codes.shape[2] * out.codes.shape[3]
        top, written = self._dz_top(y.of), (1 << (_POOLED_BITS - 1)) - 1
        end = float(np.max(np.abs(gradient))) or 1.0
        codes = np.rint(gradient * (written / end)).astype(np.int64)
        factor = fit(top / written)
        k = Coefficients(0 * factor.a, factor.c, factor.a * codes, factor.shift)
        noise = self._noise(y.of)
        passed = self.engine.run(VectorPass(k, top, mask=out.mask, noise=noise, sums=y.codes))
        return self._measured(passed, end / top / pixels, last.shortcut)

    def _block(self, passage: Passage, dz: Gradient, below: Passage | None) -> Gradient:
        """From the gradient behind a block's sum to that behind the sum of the block below."""
        at_y = dz
        for number in reversed(range(len(passage.body))):
            y = passage.body[number]
            g = self._through_norm(y, at_y, at_y.measured)
            if number:
                at_y = self._to_input(y, g, passage.body[number - 1], passage.activations[number - 1])
        if below is None:
            return dz
        skip = None
        if passage.shortcut:
            assert dz.beside is not None, "a block's gradient is measured with its shortcut, too"
            to = self._through_norm(passage.shortcut, dz, dz.beside)
            skip = self._to_input(passage.shortcut, to, below.body[-1])
        elif passage.block.adds:
            skip = dz
        return self._to_input(passage.body[0], g, below.body[-1], below.activations[-1], skip, below.shortcut)

    def _through_norm(self, y: Result, dz: Gradient, measured: Measured) -> Factor:
        """Backward of a batch norm, rounded stochastically to the operand dy; and the weight gradient, of it.

        `measured` has the sums of dz, with products with y.
        """
        bits = y.of.precision(self.precision).bw
        top = (1 << (bits - 1)) - 1
        norm = norm_gradient(y.norm, measured.stats, dz.unit, y.stats, y.unit, y.count, top)
        before = self.grads.get(y.of.name, (0.0, 0.0))
        self.grads[y.of.name] = before[0] + norm.gain, before[1] + norm.offset
        noise = Noise(self.part.key(y.of.number, _OPERAND), self.part.first)
        passed = self.engine.run(VectorPass(norm.coefficients, top, dz.codes, y.codes, noise=noise))
        g = Factor(passed.stored, norm.scale, top)
        self.saturation.add(f"{y.of.name}.dy", g.codes.elements, passed.measured)
        self.weights.add_gradient(y, g, self.part)
        return g

    def _to_input(
        self,
        y: Result,
        g: Factor,
        target: Result,
        at: Activation | None = None,
        skip: Gradient | None = None,
        beside: Result | None = None,
    ) -> Gradient:
        """The input gradient plus `skip`, where the ReLU `at` was positive, as stored for the convolution of `target`.

        It is measured with `target`, and with `beside`. Without a ReLU it is stored to be added to another.
        """
        name = f"{target.of.name}.dz" if at else f"{y.of.name}.dx"
        scale, top = g.scale * y.w.scale, self._dz_top(target.of)
        factors = y.of.terms[1], g.top, y.w.top
        drain = narrowest(factors, self.ranges.last.get(name), scale, top)
        u = self.engine.input_grad(y.of, g.codes, y.w.codes, y.x.codes.shape, drain)
        noise = self._noise(target.of if at else y.of)

        def store(largest: np.ndarray, *, stored: bool = True) -> tuple[Passed, float]:
            unit = scale * 2.0 ** float(exponents(largest, scale, top, drain.shift))
            alpha = scale * 2.0**drain.shift / unit
            # What the drain has taken on average, half a step of it, is given back.
            k = fit(alpha, skip.unit / unit if skip else 0.0, alpha / 2 if drain.shift else 0.0)
            asked = VectorPass(
                k,
                top,
                u,
                skip.codes if skip else None,
                mask=at.mask if at else None,
                noise=noise,
                sums=target.codes if at else Sums.PLAIN,
                stored=stored,
            )
            return self.engine.run(asked), unit

        def attempt(largest: np.ndarray) -> np.ndarray:
            passed, unit = store(largest, stored=False)
            return found_in(passed.measured.largest, top, unit)

        bound = scale * float(np.prod(factors, dtype=np.float64)) + (skip.unit * top if skip else 0.0)
        passed, unit = store(self.ranges.start(name, bound, attempt))
        measured = passed.measured
        self.saturation.add(name, passed.stored.elements, measured)
        self.ranges.see(name, lambda: found_in(measured.largest, top, unit))
        return self._measured(passed, unit, beside)

    def _measured(self, passed: Passed, unit: float, beside: Result | None) -> Gradient:
        """What a pass has stored, and measured with the body's result, is measured with that of the shortcut."""
        also = self.engine.measure(passed.stored, beside.codes) if beside else None
        return Gradient(passed.stored, unit, passed.measured, also)

    def _noise(self, of: Normed) -> Noise | None:
        """For storing a gradient."""
        return None if self.storage.nearest else Noise(self.part.key(of.number, _STORED), self.part.first)

    def _dz_top(self, target: Normed) -> int:
        """Largest code of a gradient that the batch norm of `target` reads."""
        return (1 << (target.precision(self.precision).bw + self.storage.dz - 1)) - 1
