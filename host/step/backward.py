"""The backward pass of the device step for one micro-batch, on what `host.step.forward` has left.

Gradients inside a block are those of its runs, each in the format of the run's precision. Behind a block's sum all have
one format, as the block below may have other runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from host.quantise import Precision
from host.step.coefficients import combined, exponents, fit, narrowest, norm_gradient
from host.step.engine import Measured, Noise, Passed, Sums, Tensor, VectorPass
from host.step.gates import Gates
from host.step.network import Normed
from host.step.ranges import found_in
from host.step.rules import Coefficients
from host.step.tensors import Factor, Gradient, Part, Passage, Result, Run, Shared, Spread
from host.step.weights import Weights

#: Of the keys of noise, beside that of `host.step.weights`: rounding of dy, and of gradients that are stored,
#: those apart that a gate's block adds itself.
_OPERAND, _STORED, _ADDED = 0, 2, 4
#: Bits of the gradient at an image's mean, as the host writes it.
_POOLED_BITS = 24


#: Gradients of gain and offset, float64 (C,), by the batch norm's convolution.
NormGrads = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Source:
    """What a gradient that is to be stored comes from: u * scale * 2**shift, and what is added.

    Attributes
    ----------
    run, places : what it will belong to.
    bound : largest real value of all.
    top : of the codes that are stored.
    skip, skip_unit : what is added, and its unit.
    above : what is added to all pixels of a channel, real values (N, C).
    mask : of the ReLU.
    target : what the results are measured with.
    beside : likewise once more.
    first : samples of this tensor before, for noise.
    """

    run: Run
    places: np.ndarray
    u: Tensor
    scale: float
    shift: int
    bound: float
    top: int
    skip: Tensor | None = None
    skip_unit: float = 0.0
    above: np.ndarray | None = None
    mask: Tensor | None = None
    target: Tensor | None = None
    beside: Tensor | None = None
    first: int = 0


class _Product(NamedTuple):
    """Input gradients as they leave the array: u * scale * 2**shift.

    Attributes
    ----------
    places : their samples.
    bound : largest real value.
    """

    places: np.ndarray
    u: Tensor
    scale: float
    shift: int
    bound: float


class Backward:
    """Backward of a micro-batch; weight gradients go to the momentum of `weights`.

    Parameters
    ----------
    gates : teaches the gates, in a network that has them.
    grads : the gradients of gain and offset are added here.
    """

    def __init__(self, shared: Shared, weights: Weights, precision: Precision, gates: Gates, grads: NormGrads):
        self.engine, self.storage = shared.engine, shared.storage
        self.ranges, self.saturation = shared.ranges, shared.saturation
        self.weights, self.precision, self.gates, self.grads = weights, precision, gates, grads

    def run(self, gradient: np.ndarray, passages: list[Passage], part: Part) -> None:
        """From the gradient at the means that forward gave, real values (N, C), to that of every weight."""
        self.part = part
        dz = self._pooled(gradient, passages[-1])
        for number in reversed(range(len(passages))):
            dz = self._block(passages[number], dz, passages[number - 1] if number else None)

    def _pooled(self, gradient: np.ndarray, last: Passage) -> list[Gradient]:
        """The gradient at the last block's result: the host has (N, C), a pass spreads it over the pixels."""
        out, y = last.out, last.body[-1]
        top, written = self._sum_top(last), (1 << (_POOLED_BITS - 1)) - 1
        end = float(np.max(np.abs(gradient))) or 1.0
        codes = np.rint(gradient * (written / end)).astype(np.int64)
        factor, stored = fit(top / written), []
        assert out.masks is not None, "the last block has a ReLU"
        for run in last.runs:
            k = Coefficients(0 * factor.a, factor.c, factor.a * codes[run.places], factor.shift)
            target, beside = self._measured_with(last, run, run.places)
            asked = VectorPass(
                k,
                top,
                mask=out.masks.of(self.engine, run.places),
                noise=self._noise(y.of, run.before),
                sums=target or Sums.PLAIN,
                each_sample=last.block.skips,
            )
            passed, unit = self.engine.run(asked), end / top / out.pixels
            stored.append(self._gradient(run, run.places, passed, unit, beside))
        return stored

    def _block(self, passage: Passage, dz: list[Gradient], below: Passage | None) -> list[Gradient]:
        """From the gradient behind a block's sum to that behind the sum of the block below."""
        body, at_y, inner = passage.body, [g for g in dz if g.run.enters], []
        gradients: list[Factor] = []
        for number in reversed(range(len(body))):
            gradients = self._through_norm(body[number], at_y, [g.measured for g in at_y])
            if number:
                at_y = self._to_result(body[number], gradients, body[number - 1])
                inner.append(at_y)
        if below is None:
            return []
        beside = None
        if passage.shortcut:
            to = self._through_norm(passage.shortcut, dz, [g.beside for g in dz if g.beside])
            beside = self._to_be_added(passage.shortcut, to, below)
        if passage.block.gated is None:
            sources = self._products(body[0], gradients, _at(below.body[-1]), [self._sum_top(below)])
            return self._to_sum(passage, dz, beside, sources, None, below)
        entering = self._to_be_added(body[0], gradients, below, _ADDED)
        above = self.gates.backward(passage, dz, entering, inner[::-1], beside)
        sources = [_Product(g.places, g.codes, g.unit, 0, g.unit * self._sum_top(below)) for g in entering]
        return self._to_sum(passage, dz, beside, sources, above, below)

    def _through_norm(self, y: Result, dz: list[Gradient], measured: Sequence[Measured]) -> list[Factor]:
        """Backward of a batch norm, rounded stochastically to the operand dy; and the weight gradient, of it.

        `measured` has the sums of each part of dz, with products with y.
        """
        if not y.pieces:
            self.weights.add_gradient(y, [], self.part)
            return []
        owners = [y.piece(g.run) for g in dz]
        units = [piece.unit for piece in owners if piece]
        all_of = [each.stats for each in measured]
        seen = combined(all_of, [g.unit for g in dz], [g.unit * unit for g, unit in zip(dz, units, strict=True)])
        norm = norm_gradient(y.norm, seen, dz[0].unit, units[0], y.count)
        before = self.grads.get(y.of.name, (0.0, 0.0))
        self.grads[y.of.name] = before[0] + norm.gain, before[1] + norm.offset
        spread = Spread([g.places for g in dz], [g.codes for g in dz])
        gradients = []
        for piece in y.pieces:
            run = piece.run
            top = (1 << (y.of.precision(run.precision).bw - 1)) - 1
            own = [stats for g, stats in zip(dz, all_of, strict=True) if g.run is run]
            unit = next(g.unit for g in dz if g.run is run)
            stats = combined(own, [1.0] * len(own), [1.0] * len(own))
            k, scale = norm.rounded(stats, unit, piece.stats, piece.unit, top)
            noise = Noise(self.part.key(y.of.number, _OPERAND), self.part.first + run.before)
            codes = spread.of(self.engine, run.places)
            passed = self.engine.run(VectorPass(k, top, codes, piece.codes, noise=noise))
            self.saturation.add(f"{y.of.name}.dy", passed.stored.elements, passed.measured)
            gradients.append(Factor(passed.stored, scale, top))
        self.weights.add_gradient(y, gradients, self.part)
        return gradients

    # Input gradients ------------------------------------------------------------------------------------------------

    def _products(self, y: Result, gradients: list[Factor], name: str, tops: list[int]) -> list[_Product]:
        """Input gradients of the pieces, to be stored under a name in codes up to `tops`."""
        found = []
        for piece, g, top in zip(y.pieces, gradients, tops, strict=True):
            factors, scale = (y.of.terms[1], g.top, y.w.top), g.scale * y.w.scale
            drain = narrowest(factors, self.ranges.last.get(name), scale, top)
            u = self.engine.input_grad(y.of, g.codes, y.w.codes, piece.x.codes.shape, drain)
            bound = scale * float(np.prod(factors, dtype=np.float64))
            found.append(_Product(piece.run.places, u, scale, drain.shift, bound))
        return found

    def _to_result(self, y: Result, gradients: list[Factor], target: Result) -> list[Gradient]:
        """The input gradient inside a block, where the ReLU was positive, measured with the result before it."""
        name, tops = _at(target), [self._dz_top(target.of, piece.run.precision) for piece in target.pieces]
        sources = [
            _Source(piece.run, *source, top, mask=piece.mask, target=piece.codes, first=piece.run.before)
            for piece, source, top in zip(target.pieces, self._products(y, gradients, name, tops), tops, strict=True)
        ]
        return self._stored(name, target.of, sources)

    def _to_be_added(self, y: Result, gradients: list[Factor], below: Passage, stream: int = _STORED) -> list[Gradient]:
        """The input gradient as a tensor of its own, in the format of the sum behind the block below."""
        name, top = f"{y.of.name}.dx", self._sum_top(below)
        sources = [
            _Source(piece.run, *source, top, first=piece.run.before)
            for piece, source in zip(y.pieces, self._products(y, gradients, name, [top] * len(y.pieces)), strict=True)
        ]
        return self._stored(name, y.of, sources, one_unit=True, stream=stream)

    def _to_sum(
        self,
        passage: Passage,
        dz: list[Gradient],
        beside: list[Gradient] | None,
        body: list[_Product],
        above: np.ndarray | None,
        below: Passage,
    ) -> list[Gradient]:
        """The gradient at the sum of the block below, from those of this block's body and of what is beside it.

        `above` is that of the gate, (N, C).
        """
        target, top = below.body[-1], self._sum_top(below)
        added = beside if beside is not None else dz if passage.block.adds else []
        skip = Spread([g.places for g in added], [g.codes for g in added])
        through = Spread([product.places for product in body], [product.u for product in body])
        entering = np.concatenate([run.places for run in passage.runs if run.enters] or [np.zeros(0, np.int64)])
        skip_top = (1 << (skip.bits - 1)) - 1 if added else 0
        assert below.out.masks is not None, "a block has a ReLU"
        sources, first = [], 0
        for run in below.runs:
            inside = np.isin(run.places, entering)
            for places, enters in ((run.places[inside], True), (run.places[~inside], False)):
                if not len(places):
                    continue
                beta = None if above is None else above[places]
                how = {
                    "above": beta,
                    "mask": below.out.masks.of(self.engine, places),
                    "first": run.before + first,
                }
                how["target"], how["beside"] = self._measured_with(below, run, places)
                largest = 0.0 if beta is None else float(np.max(np.abs(beta)))
                if added:
                    largest += added[0].unit * skip_top
                if enters:
                    scale, shift, bound = body[0].scale, body[0].shift, body[0].bound
                    if added:
                        how |= {"skip": skip.of(self.engine, places), "skip_unit": added[0].unit}
                    u, bound = through.of(self.engine, places), bound + largest
                else:
                    u, scale, shift, bound = skip.of(self.engine, places), added[0].unit, 0, largest
                sources.append(_Source(run, places, u, scale, shift, bound, top, **how))
                first += len(places)
            first = 0
        return self._stored(_at(target), target.of, sources, one_unit=True, apart=below.block.skips)

    def _stored(
        self,
        name: str,
        of: Normed,
        sources: list[_Source],
        *,
        one_unit: bool = False,
        apart: bool = False,
        stream: int = _STORED,
    ) -> list[Gradient]:
        """Gradients as they are stored, all of `one_unit` or each with its own; measured for each sample if `apart`."""
        if not sources:
            return []
        coarsest = max(sources, key=lambda source: source.scale * 2.0**source.shift)

        def unit_of(source: _Source, largest: np.ndarray) -> float:
            like = coarsest if one_unit else source
            return like.scale * 2.0 ** float(exponents(largest, like.scale, like.top, like.shift))

        def store(source: _Source, largest: np.ndarray, *, stored: bool = True) -> tuple[Passed, float]:
            unit = unit_of(source, largest)
            alpha = source.scale * 2.0**source.shift / unit
            # What the drain has taken on average, half a step of it, is given back.
            beta = alpha / 2 if source.shift else 0.0
            if source.above is not None:
                beta = beta + source.above / unit
            k = fit(alpha, source.skip_unit / unit if source.skip else 0.0, beta)
            asked = VectorPass(
                k,
                source.top,
                source.u,
                source.skip,
                mask=source.mask,
                noise=self._noise(of, source.first, stream),
                sums=source.target or Sums.PLAIN,
                each_sample=apart,
                stored=stored,
            )
            return self.engine.run(asked), unit

        def attempt(largest: np.ndarray) -> np.ndarray:
            found = [(source, *store(source, largest, stored=False)) for source in sources]
            return np.max([found_in(p.measured.largest, s.top, unit) for s, p, unit in found])

        largest = self.ranges.start(name, max(source.bound for source in sources), attempt)
        gradients = []
        for source in sources:
            passed, unit = store(source, largest)
            measured = passed.measured
            self.saturation.add(name, passed.stored.elements, measured)
            self.ranges.see(name, lambda m=measured, s=source, unit=unit: found_in(m.largest, s.top, unit))
            gradients.append(self._gradient(source.run, source.places, passed, unit, source.beside))
        return gradients

    def _gradient(self, run: Run, places: np.ndarray, passed: Passed, unit: float, beside: Tensor | None) -> Gradient:
        """What a pass has stored, and measured with the body's result, is measured with that of the shortcut."""
        also = self.engine.measure(passed.stored, beside) if beside else None
        return Gradient(run, places, passed.stored, unit, passed.measured, also)

    def _measured_with(self, passage: Passage, run: Run, places: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
        """The results of body and shortcut that a gradient at a block's sum is measured with."""
        body = self._of(passage.body[-1], places) if run.enters else None
        return body, self._of(passage.shortcut, places) if passage.shortcut else None

    def _of(self, y: Result, places: np.ndarray) -> Tensor:
        """Samples of a result."""
        return Spread([p.run.places for p in y.pieces], [p.codes for p in y.pieces]).of(self.engine, places)

    def _noise(self, of: Normed, before: int, stream: int = _STORED) -> Noise | None:
        """For storing a gradient, behind so many samples of it."""
        return None if self.storage.nearest else Noise(self.part.key(of.number, stream), self.part.first + before)

    def _sum_top(self, passage: Passage) -> int:
        """Largest code of the gradient at a block's sum, which the batch norms of all its runs read."""
        of = passage.body[-1].of
        return max(self._dz_top(of, run.precision) for run in passage.runs)

    def _dz_top(self, of: Normed, precision: Precision) -> int:
        """Largest code of a gradient that the batch norm of a convolution reads at such a precision."""
        return (1 << (of.precision(precision).bw + self.storage.dz - 1)) - 1


def _at(target: Result) -> str:
    """The name of the gradient at a result's place, behind its batch norm."""
    return f"{target.of.name}.dz"
