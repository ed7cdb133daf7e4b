"""The forward pass of the device step for one micro-batch: products and passes of an engine, coefficients between."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from host.quantise import Precision
from host.step.coefficients import Norm, exponents, fit, moments, narrowest, spread_limited, storing
from host.step.engine import Passed, Sums, Tensor, VectorPass
from host.step.network import Block, Network, Normed
from host.step.ranges import found
from host.step.rules import Coefficients, Statistics
from host.step.tensors import Activation, Factor, Passage, Result, Shared, highest, raised
from host.step.weights import Weights

#: How far the range of a sum may exceed that of the step before, where the bound of its parts is looser; but no less
#: than this part of the bound, or what was zero once would take long to return.
_GROWTH, _LEAST = 1.25, 0.5


class _Form(NamedTuple):
    """How an activation is stored: bits of the operand, bits below it; whether its sums over each image are wanted."""

    bits: int
    guard: int = 0
    is_pooled: bool = False


class Forward:
    """Forward passes of a network.

    Parameters
    ----------
    training : statistics of the micro-batch itself, which move the running ones by `share` of their momentum; else the
        running ones, and nothing is remembered.
    """

    def __init__(
        self,
        network: Network,
        shared: Shared,
        weights: Weights,
        precision: Precision,
        *,
        training: bool,
        share: float = 1.0,
    ):
        self.network, self.weights, self.precision = network, weights, precision
        self.engine, self.storage = shared.engine, shared.storage
        self.ranges, self.saturation = shared.ranges, shared.saturation
        self.training, self.share = training, share

    def run(self, image: Activation) -> tuple[np.ndarray, list[Passage]]:
        """Means over the images of the last block's channels, real values (N, C), and what backward needs."""
        blocks, passages, x = self.network.blocks, [], image
        for number, block in enumerate(blocks):
            after = blocks[number + 1] if number + 1 < len(blocks) else None
            passages.append(self._block(block, x, after))
            x = passages[-1].activations[-1]
        pixels = x.codes.shape[2] * x.codes.shape[3]
        return (x.found.stats.sums / pixels - x.raised) * x.unit, passages

    def _block(self, block: Block, x: Activation, after: Block | None) -> Passage:
        results, activations = [], []
        first = operand = x.operand(self.engine)
        for normed, behind in zip(block.body[:-1], block.body[1:], strict=True):
            results.append(self._product(normed, operand))
            self._normalise(results[-1])
            activations.append(self._activation(results[-1], _Form(behind.precision(self.precision).fw)))
            operand = activations[-1].operand(self.engine)
        results.append(self._product(block.body[-1], operand))
        around = self._product(block.shortcut, first) if block.shortcut else None
        self._normalise(results[-1])
        # What is added or pooled is stored with more bits than an operand has.
        bits = self.precision.fw if after is None else after.body[0].precision(self.precision).fw
        form = _Form(bits, self.storage.h if after is None or after.adds_input else 0, is_pooled=after is None)
        if around:
            self._normalise(around)
            out = self._sum_of_two(block, results[-1], around, form)
        elif block.adds:
            out = self._sum_with_input(block, results[-1], x, form)
        else:
            out = self._activation(results[-1], form)
        return Passage(block, results, around, [*activations, out])

    def _product(self, normed: Normed, x: Factor) -> Result:
        """A convolution, stored."""
        fw = normed.precision(self.precision).fw
        w = self.weights.rounded(normed, fw)
        scale, name = x.scale * w.scale, f"{normed.name}.y"
        top = (1 << (fw + self.storage.y - 1)) - 1
        factors = normed.terms[0], x.top, w.top
        drain = narrowest(factors, self.ranges.last.get(name), scale, top)
        sums = self.engine.forward(normed, x.codes, w.codes, drain)

        def store(largest: np.ndarray, *, stored: bool = True) -> tuple[Passed, np.ndarray]:
            exponent = spread_limited(exponents(largest, scale, top, drain.least))
            asked = VectorPass(storing(exponent, drain), top, sums, sums=Sums.SQUARES, stored=stored)
            return self.engine.run(asked), scale * 2.0**exponent

        def attempt(largest: np.ndarray) -> np.ndarray:
            passed, unit = store(largest, stored=False)
            return found(passed.measured.stats.low, passed.measured.stats.high, top, unit)

        bound = scale * float(np.prod(factors, dtype=np.float64))
        passed, unit = store(self.ranges.start(name, np.full(normed.kernel[0], bound), attempt))
        codes, measured = passed.stored, passed.measured
        if self.training:
            self.saturation.add(name, codes.elements, measured)
            self.ranges.see(name, lambda: found(measured.stats.low, measured.stats.high, top, unit))
        return Result(normed, x, w, codes, unit, measured)

    def _normalise(self, y: Result) -> None:
        """Wait for the statistics of a result: its batch norm's coefficients."""
        y.norm = self._norm(y.of, y.stats, y.count, y.unit)

    def _norm(self, normed: Normed, stats: Statistics, count: int, unit: np.ndarray) -> Norm:
        layer = normed.norm
        gain, offset = layer.params["gain"], layer.params["offset"]
        if not self.training:
            return Norm.of(layer.buffers["mean"], layer.buffers["variance"], gain, offset)
        mean, variance = moments(stats, count, unit)
        moved = layer.MOMENTUM * self.share
        for name, new in (("mean", mean), ("variance", variance * (count / max(count - 1, 1)))):
            layer.buffers[name] = (1 - moved) * layer.buffers[name] + moved * new
        return Norm.of(mean, variance, gain, offset)

    def _activation(self, y: Result, form: _Form) -> Activation:
        """relu(batch norm(y)); its range is exact."""
        unit = _unit(float(np.max(y.norm.ends(y.stats, y.unit))), y, form)
        coefficients = fit(y.norm.slope * y.unit / unit, 0.0, y.norm.intercept / unit)
        return self._relu(y.of.name, coefficients, y, None, form, unit)

    def _sum_with_input(self, block: Block, y: Result, x: Activation, form: _Form) -> Activation:
        """relu(batch norm(y) + x)."""
        unit = _unit(self._limited(block, y.norm.ends(y.stats, y.unit) + x.high), y, form)
        gamma = x.unit / unit
        beta = y.norm.intercept / unit - gamma * x.raised
        coefficients = fit(y.norm.slope * y.unit / unit, gamma, beta)
        return self._relu(block.name, coefficients, y, x.codes, form, unit)

    def _sum_of_two(self, block: Block, y: Result, around: Result, form: _Form) -> Activation:
        """relu(batch norm(y) + batch norm(around))."""
        ends = y.norm.ends(y.stats, y.unit) + around.norm.ends(around.stats, around.unit)
        unit = _unit(self._limited(block, ends), y, form)
        coefficients = fit(
            y.norm.slope * y.unit / unit,
            around.norm.slope * around.unit / unit,
            (y.norm.intercept + around.norm.intercept) / unit,
        )
        return self._relu(block.name, coefficients, y, around.codes, form, unit)

    def _limited(self, block: Block, ends: np.ndarray) -> float:
        """Range of a sum whose parts' ends add up to `ends` (C,)."""
        bound, last = float(np.max(ends)), self.ranges.last.get(f"{block.name}.h")
        return bound if last is None else min(bound, max(_GROWTH * float(last), _LEAST * bound))

    def _relu(
        self, name: str, coefficients: Coefficients, y: Result, v: Tensor | None, form: _Form, unit: float
    ) -> Activation:
        above, top = raised(form.guard), (1 << (form.bits + form.guard)) - 1
        asked = VectorPass(
            coefficients,
            top,
            y.codes,
            v,
            signed=False,
            relu=True,
            raised=above,
            sums=Sums.PLAIN,
            each_sample=form.is_pooled,
        )
        passed = self.engine.run(asked)
        codes, measured = passed.stored, passed.measured
        if self.training:
            self.saturation.add(f"{name}.h", codes.elements, measured)
            self.ranges.see(f"{name}.h", lambda: float(np.max(highest(measured, above, unit))))
        return Activation(codes, form.guard, unit, passed.mask, measured)


def _unit(largest: float, y: Result, form: _Form) -> float:
    """Real value of a stored step, where `largest` is to be the operand's largest code.

    Where nothing is positive, a step of y stands for the largest.
    """
    end = largest if largest > 0 else float(np.max(np.abs(y.norm.slope) * y.unit))
    return end / (((1 << form.bits) - 1) << form.guard) or 1.0
