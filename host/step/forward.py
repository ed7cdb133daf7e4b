"""The forward pass of the device step for one micro-batch: products of the board, rules, coefficients between."""

from __future__ import annotations

import numpy as np

from host.arrays import Array, to_numpy
from host.qtensor import QTensor
from host.quantise import Precision
from host.step import rules
from host.step.coefficients import Norm, dropped_bits, exponents, fit, moments, spread_limited, storing
from host.step.network import Block, Network, Normed
from host.step.ranges import found
from host.step.tensors import Activation, Passage, Result, Shared
from host.step.weights import Weights

#: How far the range of a sum may exceed that of the step before, where the bound of its parts is looser; but no less
#: than this part of the bound, or what was zero once would take long to return.
_GROWTH, _LEAST = 1.25, 0.5


class Forward:
    """Forward passes of a network on a board.

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
        self.board, self.storage = shared.board, shared.storage
        self.ranges, self.saturation = shared.ranges, shared.saturation
        self.training, self.share = training, share

    def run(self, image: Activation) -> tuple[np.ndarray, list[Passage]]:
        """Means over the images of the last block's channels, real values (N, C), and what backward needs."""
        blocks, passages, x = self.network.blocks, [], image
        for number, block in enumerate(blocks):
            after = blocks[number + 1] if number + 1 < len(blocks) else None
            passages.append(self._block(block, x, after))
            x = passages[-1].activations[-1]
        sums = to_numpy(rules.pooled(x.codes))
        pixels = x.codes.shape[2] * x.codes.shape[3]
        return (sums / pixels - x.raised) * x.unit, passages

    def _block(self, block: Block, x: Activation, after: Block | None) -> Passage:
        results, activations, skip = [], [], x
        for normed, behind in zip(block.body[:-1], block.body[1:], strict=True):
            results.append(self._product(normed, skip.operand()))
            skip = self._activation(results[-1], behind.precision(self.precision).fw)
            activations.append(skip)
        results.append(self._product(block.body[-1], skip.operand()))
        around = self._product(block.shortcut, x.operand()) if block.shortcut else None
        # What is added or pooled is stored with more bits than an operand has.
        bits = self.precision.fw if after is None else after.body[0].precision(self.precision).fw
        guard = self.storage.h if after is None or after.adds_input else 0
        if around:
            out = self._sum_of_two(block, results[-1], around, bits, guard)
        elif block.adds:
            out = self._sum_with_input(block, results[-1], x, bits, guard)
        else:
            out = self._activation(results[-1], bits, guard)
        return Passage(block, results, around, [*activations, out])

    def _product(self, normed: Normed, x: QTensor) -> Result:
        """A convolution, stored, and its batch norm's coefficients."""
        precision = normed.precision(self.precision)
        w = self.weights.rounded(normed.name, precision.fw)
        sums = normed.conv.kind.forward(self.board, x, w)
        scale = float(x.scale) * float(w.scale)
        magnitudes = max(abs(end) for end in x.range), (1 << (w.bits - 1)) - 1
        dropped = dropped_bits(normed.terms[0], *magnitudes)
        u = rules.drained(sums, dropped)
        top = (1 << (precision.fw + self.storage.y - 1)) - 1
        name = f"{normed.name}.y"

        def store(largest: np.ndarray) -> tuple[rules.Passed, rules.Statistics, np.ndarray]:
            exponent = spread_limited(exponents(largest, scale, top, dropped))
            passed = rules.lane(storing(exponent, dropped), u, low=-top, high=top)
            return passed, rules.statistics(passed.codes), scale * 2.0**exponent

        def attempt(largest: np.ndarray) -> np.ndarray:
            _, stats, unit = store(largest)
            return found(stats.low, stats.high, top, unit)

        bound = scale * normed.terms[0] * magnitudes[0] * magnitudes[1]
        passed, stats, unit = store(self.ranges.start(name, np.full(w.shape[0], bound), attempt))
        if self.training:
            self.saturation.add(name, passed)
            self.ranges.see(name, found(stats.low, stats.high, top, unit))
        count = passed.codes.shape[0] * passed.codes.shape[2] * passed.codes.shape[3]
        return Result(normed, x, w, passed.codes, unit, stats, self._norm(normed, stats, count, unit))

    def _norm(self, normed: Normed, stats: rules.Statistics, count: int, unit: np.ndarray) -> Norm:
        layer = normed.norm
        gain, offset = layer.params["gain"], layer.params["offset"]
        if not self.training:
            return Norm.of(layer.buffers["mean"], layer.buffers["variance"], gain, offset)
        mean, variance = moments(stats, count, unit)
        moved = layer.MOMENTUM * self.share
        for name, new in (("mean", mean), ("variance", variance * (count / max(count - 1, 1)))):
            layer.buffers[name] = (1 - moved) * layer.buffers[name] + moved * new
        return Norm.of(mean, variance, gain, offset)

    def _activation(self, y: Result, bits: int, guard: int = 0) -> Activation:
        """relu(batch norm(y)); its range is exact."""
        unit = _unit(float(np.max(y.norm.ends(y.stats, y.unit))), y, bits, guard)
        coefficients = fit(y.norm.slope * y.unit / unit, 0.0, y.norm.intercept / unit)
        return self._relu(y.of.name, coefficients, y, None, bits, guard, unit)

    def _sum_with_input(self, block: Block, y: Result, x: Activation, bits: int, guard: int) -> Activation:
        """relu(batch norm(y) + x)."""
        assert x.high is not None, "the image is not added to anything"
        unit = _unit(self._limited(block, y.norm.ends(y.stats, y.unit) + x.high), y, bits, guard)
        gamma = x.unit / unit
        beta = y.norm.intercept / unit - gamma * x.raised
        coefficients = fit(y.norm.slope * y.unit / unit, gamma, beta)
        return self._relu(block.name, coefficients, y, x.codes, bits, guard, unit)

    def _sum_of_two(self, block: Block, y: Result, around: Result, bits: int, guard: int) -> Activation:
        """relu(batch norm(y) + batch norm(around))."""
        ends = y.norm.ends(y.stats, y.unit) + around.norm.ends(around.stats, around.unit)
        unit = _unit(self._limited(block, ends), y, bits, guard)
        coefficients = fit(
            y.norm.slope * y.unit / unit,
            around.norm.slope * around.unit / unit,
            (y.norm.intercept + around.norm.intercept) / unit,
        )
        return self._relu(block.name, coefficients, y, around.codes, bits, guard, unit)

    def _limited(self, block: Block, ends: np.ndarray) -> float:
        """Range of a sum whose parts' ends add up to `ends` (C,)."""
        bound, last = float(np.max(ends)), self.ranges.last.get(f"{block.name}.h")
        return bound if last is None else min(bound, max(_GROWTH * float(last), _LEAST * bound))

    def _relu(
        self,
        name: str,
        coefficients: rules.Coefficients,
        y: Result,
        v: Array | None,
        bits: int,
        guard: int,
        unit: float,
    ) -> Activation:
        activation = Activation(y.codes, bits, guard, unit)
        raised, top = activation.raised, (1 << (bits + guard)) - 1
        passed = rules.lane(coefficients, y.codes, v, low=raised, high=top, relu=True, raised=raised)
        activation.codes, activation.mask = passed.codes, passed.mask
        activation.high = (rules.highest(passed.codes) - raised) * unit
        if self.training:
            self.saturation.add(f"{name}.h", passed)
            self.ranges.see(f"{name}.h", float(np.max(activation.high)))
        return activation


def _unit(largest: float, y: Result, bits: int, guard: int) -> float:
    """Real value of a stored step, where `largest` is to be the operand's largest code.

    Where nothing is positive, a step of y stands for the largest.
    """
    end = largest if largest > 0 else float(np.max(np.abs(y.norm.slope) * y.unit))
    return end / (((1 << bits) - 1) << guard) or 1.0
