"""The forward pass of the device step for one micro-batch: products and passes of an engine, coefficients between.

Samples of a block go through it in runs of equal precision: all in one, unless they have chosen for themselves.
Products, operands and results are each run's own; batch norm sees the whole, and so do sums behind a block.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from host.nn.layers import Context
from host.quantise import Precision
from host.step.coefficients import Norm, exponents, fit, moments, narrowest, spread_limited, storing
from host.step.engine import Passed, Sums, Tensor, VectorPass
from host.step.network import Block, Network, Normed
from host.step.operands import of_result, stored_operand, unit_of
from host.step.ranges import found
from host.step.rules import Coefficients, Drain
from host.step.tensors import (
    Activation,
    Factor,
    Passage,
    Piece,
    Result,
    Run,
    Shared,
    Spread,
    highest,
    raised,
)
from host.step.weights import Weights

#: How far the range of a sum may exceed that of the step before, where the bound of its parts is looser; but no less
#: than this part of the bound, or what was zero once would take long to return.
_GROWTH, _LEAST = 1.25, 0.5


class _Form(NamedTuple):
    """How an activation is stored: bits of the operand, bits below it; whether its sums over each image are wanted."""

    bits: int
    guard: int = 0
    is_pooled: bool = False

    @property
    def top(self) -> int:
        return (1 << (self.bits + self.guard)) - 1


class _Sums(NamedTuple):
    """Sums of a run's product: codes * scale * 2**drain.shift, to be stored in codes up to top."""

    run: Run
    x: Factor
    codes: Tensor
    scale: float
    drain: Drain
    top: int


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
        self._context = Context(self.engine.board, precision, training=training)

    def run(self, image: Activation) -> tuple[np.ndarray, list[Passage]]:
        """Means over the images of the last block's channels, real values (N, C), and what backward needs."""
        blocks, passages, x = self.network.blocks, [], image
        if self.network.gate:
            self.network.gate.reset(self._context)
        for number, block in enumerate(blocks):
            after = blocks[number + 1] if number + 1 < len(blocks) else None
            passages.append(self._block(block, x, after))
            x = passages[-1].out
        return x.means(), passages

    def _block(self, block: Block, x: Activation, after: Block | None) -> Passage:
        runs = self._runs(block, x)
        bits = [block.body[0].precision(run.precision).fw for run in runs]
        widest = block.widest(self.precision)
        operands = [(run, stored_operand(self.engine, x, run.places, fw)) for run, fw in zip(runs, bits, strict=True)]
        first, results = operands, []
        operands = [(run, operand) for run, operand in first if run.enters]
        for normed, behind in zip(block.body[:-1], block.body[1:], strict=True):
            results.append(self._product(normed, operands, widest))
            self._normalise(results[-1])
            operands = [(piece.run, self._operand(results[-1], piece, behind)) for piece in results[-1].pieces]
        results.append(self._product(block.body[-1], operands, widest))
        around = self._product(block.shortcut, first, widest) if block.shortcut else None
        self._normalise(results[-1])
        # What is added, pooled or rounded once more is stored with more bits than an operand has.
        form = _Form(self.precision.fw, self.storage.h, is_pooled=True)
        if after is not None:
            guarded = after.adds_input or after.gated is not None
            fw = after.body[0].precision(after.widest(self.precision)).fw
            form = _Form(fw, self.storage.h if guarded else 0, is_pooled=after.gated is not None)
        if around:
            self._normalise(around)
        out = self._sum(block, runs, results[-1], around, x, form)
        return Passage(block, runs, x, results, around, out)

    def _runs(self, block: Block, x: Activation) -> list[Run]:
        """What goes through a block together; its gate decides."""
        samples = sum(map(len, x.codes.places))
        if block.gated is None:
            return [Run(np.arange(samples), self.precision)]
        means = x.means()
        gated = block.gated
        with self.engine.account.kind("gates"):
            gated.choose(means[:, :, None, None], self._context)
        runs, before = [], 0
        for number in gated.order:
            option, places = gated.options[number], np.flatnonzero(gated.choice == number)
            if len(places):
                assert gated.widest is not None, "one option does not skip"
                runs.append(Run(places, option or gated.widest, option is not None, before))
                before += len(places)
        return runs

    def _product(self, normed: Normed, operands: list[tuple[Run, Factor]], widest: Precision) -> Result:
        """A convolution, stored; all runs share the weights."""
        w = self.weights.rounded(normed, normed.precision(widest).weight_bits)
        result = Result(normed, w, [])
        if not operands:
            return result
        name, jobs = f"{normed.name}.y", []
        for run, x in operands:
            top = (1 << (normed.precision(run.precision).fw + self.storage.y - 1)) - 1
            factors, scale = (normed.terms[0], x.top, w.top), x.scale * w.scale
            drain = narrowest(factors, self.ranges.last.get(name), scale, top)
            sums = self.engine.forward(normed, x.codes, w.codes, drain)
            jobs.append(_Sums(run, x, sums, scale, drain, top))

        def store(job: _Sums, largest: np.ndarray, *, stored: bool = True) -> tuple[Passed, np.ndarray]:
            exponent = spread_limited(exponents(largest, job.scale, job.top, job.drain.least))
            asked = VectorPass(storing(exponent, job.drain), job.top, job.codes, sums=Sums.SQUARES, stored=stored)
            return self.engine.run(asked), job.scale * 2.0**exponent

        def attempt(largest: np.ndarray) -> np.ndarray:
            passes = [(job, *store(job, largest, stored=False)) for job in jobs]
            return np.max([_ends(job, passed, unit) for job, passed, unit in passes], axis=0)

        bound = max(job.scale * normed.terms[0] * job.x.top * w.top for job in jobs)
        largest = self.ranges.start(name, np.full(normed.kernel[0], bound), attempt)
        for job in jobs:
            passed, unit = store(job, largest)
            result.pieces.append(Piece(job.run, job.x, passed.stored, unit, passed.measured))
            if self.training:
                self.saturation.add(name, passed.stored.elements, passed.measured)
                self.ranges.see(name, lambda job=job, passed=passed, unit=unit: _ends(job, passed, unit))
        return result

    def _normalise(self, y: Result) -> None:
        """Wait for the statistics of a result: its batch norm's coefficients."""
        if y.pieces:
            y.norm = self._norm(y)

    def _norm(self, y: Result) -> Norm:
        layer, count = y.of.norm, y.count
        gain, offset = layer.params["gain"], layer.params["offset"]
        if not self.training:
            return Norm.of(layer.buffers["mean"], layer.buffers["variance"], gain, offset)
        mean, variance = moments(y.stats, count, y.unit)
        moved = layer.MOMENTUM * self.share
        for name, new in (("mean", mean), ("variance", variance * (count / max(count - 1, 1)))):
            layer.buffers[name] = (1 - moved) * layer.buffers[name] + moved * new
        return Norm.of(mean, variance, gain, offset)

    def _operand(self, y: Result, piece: Piece, behind: Normed) -> Factor:
        """relu(batch norm(y)) as the next convolution reads it; its range is exact."""
        asked, unit = of_result(y, piece, behind.precision(piece.run.precision).fw)
        passed = self.engine.run(replace(asked, sums=Sums.PLAIN))
        self._seen(y.of.name, passed, unit)
        piece.mask = passed.mask
        return Factor(passed.stored, unit, asked.top)

    def _sum(
        self, block: Block, runs: list[Run], y: Result, around: Result | None, x: Activation, form: _Form
    ) -> Activation:
        """relu of what a block adds up."""
        unit = self._sum_unit(block, y, around, x, form)
        codes, masks, measured = Spread([], []), Spread([], []), []
        for run in runs:
            asked = self._sum_pass(block, run, y, around, x, unit, form)
            passed = self.engine.run(asked)
            assert passed.mask is not None, "a ReLU gives a mask"
            self._seen(block.name, passed, unit, form.guard)
            for spread, tensor in ((codes, passed.stored), (masks, passed.mask)):
                spread.places.append(run.places)
                spread.tensors.append(tensor)
            measured.append(passed.measured)
        return Activation(codes, form.guard, unit, masks, measured)

    def _sum_unit(self, block: Block, y: Result, around: Result | None, x: Activation, form: _Form) -> float:
        """Real value of a step of the sum, by the ends (C,) of its parts."""
        beside = None
        if around:
            beside = around.norm.ends(around.stats, around.unit)
        elif block.adds_input:
            beside = x.high
        if not y.pieces:
            assert beside is not None, "samples that leave the body out have something beside it"
            end = float(np.max(beside))
            return unit_of(end, around, form.bits, form.guard) if around else _step(end, x.unit, form)
        ends = y.norm.ends(y.stats, y.unit)
        if beside is None:
            return unit_of(float(np.max(ends)), y, form.bits, form.guard)
        ends = (np.maximum(ends, 0) if block.skips else ends) + beside
        return unit_of(self._limited(block, ends), y, form.bits, form.guard)

    def _limited(self, block: Block, ends: np.ndarray) -> float:
        """Range of a sum whose parts' ends add up to `ends` (C,)."""
        bound, last = float(np.max(ends)), self.ranges.last.get(f"{block.name}.h")
        return bound if last is None else min(bound, max(_GROWTH * float(last), _LEAST * bound))

    def _sum_pass(
        self, block: Block, run: Run, y: Result, around: Result | None, x: Activation, unit: float, form: _Form
    ) -> VectorPass:
        """Of a run: its part of the body's result, if it has one, and of what is added."""
        piece, beside = y.piece(run), around and around.piece(run)
        if beside is not None and around is not None:
            gamma, intercept = around.norm.slope * beside.unit / unit, around.norm.intercept
            if piece:
                k = fit(y.norm.slope * piece.unit / unit, gamma, (y.norm.intercept + intercept) / unit)
                return self._relu(k, piece.codes, beside.codes, form)
            return self._relu(fit(gamma, 0.0, intercept / unit), beside.codes, None, form)
        gamma = x.unit / unit
        if piece is None:
            k = fit(gamma, 0.0, -gamma * x.raised)
            return self._relu(k, x.codes.of(self.engine, run.places), None, form)
        alpha, beta = y.norm.slope * piece.unit / unit, y.norm.intercept / unit
        if not block.adds_input:
            return self._relu(fit(alpha, 0.0, beta), piece.codes, None, form)
        k = fit(alpha, gamma, beta - gamma * x.raised)
        return self._relu(k, piece.codes, x.codes.of(self.engine, run.places), form)

    def _relu(self, k: Coefficients, u: Tensor, v: Tensor | None, form: _Form) -> VectorPass:
        return VectorPass(
            k,
            form.top,
            u,
            v,
            signed=False,
            relu=True,
            raised=raised(form.guard),
            sums=Sums.PLAIN,
            each_sample=form.is_pooled,
        )

    def _seen(self, name: str, passed: Passed, unit: float, guard: int = 0) -> None:
        """Count and remember what a ReLU's pass has stored."""
        if self.training:
            measured, above = passed.measured, raised(guard)
            self.saturation.add(f"{name}.h", passed.stored.elements, measured)
            self.ranges.see(f"{name}.h", lambda: float(np.max(highest(measured, above, unit))))


def _ends(job: _Sums, passed: Passed, unit: np.ndarray) -> np.ndarray:
    """Largest magnitudes (C,) of a run's results."""
    stats = passed.measured.stats
    return found(stats.low, stats.high, job.top, unit)


def _step(end: float, least: float, form: _Form) -> float:
    """Real value of a step where `end` is to be the operand's largest code, or `least` if nothing is positive."""
    return end / (((1 << form.bits) - 1) << form.guard) if end > 0 else least
