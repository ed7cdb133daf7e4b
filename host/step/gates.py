"""What teaches the gates of a network: gradients at their decisions, from passes that store nothing.

With the probabilities p of an option and the decision mask = hard - constant(p) + p, a convolution's input counts as
sum_k mask_k Q_k(x), see `host.nn.gated`. So d loss / d mask_k of a sample is the sum of dx Q_k(x) over its elements: a
pass rounds x to the width of option k and multiplies it with dx, as its sums of products. A ReLU's mask at dx changes
nothing there, as Q_k(x) is 0 wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from host.nn.gated import Gated
from host.nn.layers import Context
from host.nn.mixed import Option
from host.step.engine import Engine, Measured, VectorPass
from host.step.network import Normed
from host.step.operands import of_input, of_result
from host.step.tensors import Gradient, Passage, Result


@dataclass(frozen=True)
class _Seen:
    """Sums of products of samples and what they stand for, for the options of such numbers."""

    places: np.ndarray
    options: np.ndarray
    measured: Measured
    scale: float


class Gates:
    """Backward of the gates.

    Parameters
    ----------
    context : has the weight of their cost.
    """

    def __init__(self, engine: Engine, context: Context):
        self.engine, self.context = engine, context

    def backward(
        self,
        passage: Passage,
        dz: Sequence[Gradient],
        dx: Sequence[Gradient],
        inner: Sequence[Sequence[Gradient]],
        beside: Sequence[Gradient] | None,
    ) -> np.ndarray:
        """Teach the gate of a block; the gradient at each pixel of its input, real values (N, C).

        Parameters
        ----------
        dz : at the block's sum, measured for each sample where samples may leave the body out.
        dx : at the input of the body's first convolution.
        inner : at the norms of the body's convolutions but the last.
        beside : at the input of the shortcut's convolution.
        """
        gated, x, body = passage.block.gated, passage.x, passage.body
        assert gated is not None, "a block without a gate teaches none"
        options = gated.options
        seen = self._probed(body[0].of, dx, options, lambda g, bits: of_input(self.engine, x, g.places, bits))
        for y, behind, gradients in zip(body[:-1], body[1:], inner, strict=True):
            seen += self._probed(behind.of, gradients, options, lambda g, bits, y=y: _of_run(y, g, bits))
        if passage.shortcut and beside is not None:
            always = [option or gated.widest for option in options]
            of = passage.shortcut.of
            seen += self._probed(of, beside, always, lambda g, bits: of_input(self.engine, x, g.places, bits))
        dmask = np.zeros((sum(len(run.places) for run in passage.runs), len(options)))
        for each in seen:
            products = each.measured.stats.products.sum(axis=1) * each.scale
            dmask[np.ix_(each.places, each.options)] += products[:, None]
        if passage.block.skips:
            _add_along(dmask, gated, body[-1], dz)
        with self.engine.account.kind("gates"):
            at_means = gated.teach(dmask, self.context)
        return at_means[:, :, 0, 0] / x.pixels

    def _probed(
        self,
        of: Normed,
        gradients: Sequence[Gradient],
        options: Sequence[Option],
        rounded: Callable[[Gradient, int], tuple[VectorPass, float]],
    ) -> list[_Seen]:
        """What the convolution `of` says of each option: `rounded` is the pass that gives its input in some width."""
        widths: dict[int, list[int]] = {}
        for number, option in enumerate(options):
            if option is not None:
                widths.setdefault(of.precision(option).fw, []).append(number)
        seen = []
        for gradient in gradients:
            for bits, numbers in widths.items():
                asked, unit = rounded(gradient, bits)
                passed = self.engine.run(replace(asked, sums=gradient.codes, each_sample=True, stored=False))
                seen.append(_Seen(gradient.places, np.array(numbers), passed.measured, unit * gradient.unit))
        return seen


def _of_run(y: Result, gradient: Gradient, bits: int) -> tuple[VectorPass, float]:
    piece = y.piece(gradient.run)
    assert piece is not None, "a gradient inside a block belongs to samples that entered it"
    return of_result(y, piece, bits)


def _add_along(dmask: np.ndarray, gated: Gated, y: Result, dz: Sequence[Gradient]) -> None:
    """Add what the body's result, which an option that leaves it out multiplies by 0 and the others by 1, says."""
    runs = np.flatnonzero([option is not None for option in gated.options])
    for gradient in dz:
        if (piece := y.piece(gradient.run)) is not None:
            stats, norm = gradient.measured.stats, y.norm
            z = stats.products * (norm.slope * piece.unit) + stats.sums * norm.intercept
            dmask[np.ix_(gradient.places, runs)] += (z.sum(axis=1) * gradient.unit)[:, None]
