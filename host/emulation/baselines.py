"""The methods that FracTrain is compared with, as numerics of a model, and the names of all numerics.

The bits are those of the schedule, so that every method can be run at every precision. First and last layer follow each
paper. All are emulated in floating point on the host, see `host.emulation.emulated`. Which of their constants were
found in published code, and where this differs from it, stands in docs/algorithms.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from array_api_compat import array_namespace

from host.arrays import Array
from host.emulation import fixed_point
from host.emulation.affine import AffineNumerics, quantise_affine, tensor_range
from host.emulation.emulated import FLOAT_BITS, Numerics, Rounded
from host.emulation.range_norm import RangeBatchNorm2d
from host.nn.float_layers import BatchNorm2d
from host.nn.layers import Layer
from host.quantise import uniform


class SBMNumerics(AffineNumerics):
    """SBM, "Scalable methods for 8-bit training" (arXiv 1805.11046, section 4).

    The affine quantiser with one range per tensor for weights too. The range of an activation is the mean, over the
    samples of the batch, of each sample's own. The gradient is bifurcated: the input gradient takes the quantised copy,
    the weight gradient one of `wide_bits` bits. All layers are quantised.

    Not covered: the quantised operands inside the batch norm, and the 8-bit biases. The running range has a momentum of
    0.9; the paper's code has 0.1, with which evaluation takes little but the last batch's range. A gradient has one
    range, that of the batch; the code takes the mean of the samples' own there too.

    Parameters
    ----------
    wide_bits : width of the copy for the weight gradient, 16 in the paper, by an account of it; 32 leaves it as it is,
        as the code does.
    range_norm : whether batch norm is replaced by range batch norm (section 3).
    """

    def __init__(self, wide_bits: int = 16, range_norm: bool = False):
        super().__init__(momentum=0.9)
        self.wide_bits, self.range_norm = wide_bits, range_norm

    def weight(self, w: Array, bits: int) -> Rounded:
        return Rounded(quantise_affine(w, bits, *tensor_range(w)).values, bits)

    def batch_range(self, x: Array) -> tuple[Array, Array]:
        xp = array_namespace(x)
        flat = xp.reshape(x, (x.shape[0], -1))
        return xp.mean(xp.min(flat, axis=1)), xp.mean(xp.max(flat, axis=1))

    def gradient(self, dy: Array, bits: int, rng: np.random.Generator) -> tuple[Rounded, Rounded]:
        ends = tensor_range(dy)
        narrow = Rounded(quantise_affine(dy, bits, *ends, rng=rng).values, bits)
        if self.wide_bits == FLOAT_BITS:
            return narrow, Rounded(dy)
        return narrow, Rounded(quantise_affine(dy, self.wide_bits, *ends, rng=rng).values, self.wide_bits)

    def norm(self, layer: BatchNorm2d) -> Layer:
        return RangeBatchNorm2d(layer) if self.range_norm else layer


class DoReFaNumerics(Numerics):
    """DoReFa-Net (arXiv 1606.06160). With q(r) = round((2**k - 1) * r) / (2**k - 1) for r in [0, 1]:

    Weights (section 2.3): 2 * q(tanh(w) / (2 * max|tanh w|) + 1/2) - 1; the gradient passes through tanh, the maximum
    counts as a constant. Activations (2.4): q(clip(x, 0, 1)), without a gradient outside. Gradients (2.5), per sample:
    2 * m * (q(dy / (2 * m) + 1/2 + noise) - 1/2) with m = max|dy| and uniform noise of one step. The first and the last
    layer are not quantised (2.7). In the authors' code the gradient passes through the maximum, too.
    """

    def weight(self, w: Array, bits: int) -> Rounded:
        xp = array_namespace(w)
        squashed = xp.tanh(w)
        largest = xp.max(xp.abs(squashed))
        # A tensor of zeros stays one: its only code is the middle, whatever it is divided by.
        largest = xp.where(largest > 0, largest, xp.ones_like(largest))
        values = 2 * _steps(squashed / (2 * largest) + 0.5, bits) - 1
        return Rounded(values, bits, slope=(1 - squashed * squashed) / largest)

    def activation(self, x: Array, bits: int, buffers: dict[str, Array], training: bool) -> Rounded:
        xp = array_namespace(x)
        inside = xp.astype((x >= 0) & (x <= 1), x.dtype)
        return Rounded(_steps(xp.clip(x, 0, 1), bits), bits, slope=inside)

    def gradient(self, dy: Array, bits: int, rng: np.random.Generator) -> tuple[Rounded, Rounded]:
        xp = array_namespace(dy)
        largest = xp.max(xp.abs(dy), axis=tuple(range(1, dy.ndim)), keepdims=True)
        if not bool(xp.all(xp.isfinite(largest))):
            raise FloatingPointError("cannot quantise a gradient that is not finite")
        twice = xp.where(largest > 0, 2 * largest, xp.ones_like(largest))
        noise = (uniform(rng, dy) - 0.5) / (2**bits - 1)
        rounded = Rounded(twice * (_steps(xp.clip(dy / twice + 0.5 + noise, 0, 1), bits) - 0.5), bits)
        return rounded, rounded

    def at_edge(self) -> Numerics:
        return Numerics()


class WAGEUBNNumerics(Numerics):
    """WAGEUBN (arXiv 1909.02384): scales are powers of two; `host.emulation.fixed_point` has its functions Q, SQ, CQ.

    Weights clip(Q(w)), errors SQ(dy), weight gradients CQ(dw), with `FixedPointSGD` for momentum, update and the stored
    weights. Activations SQ(x), one bit wider as they have no sign to code: batch norm stays in floating point here, and
    does not bound them. The first and the last layer are not quantised but for their weight gradient and its update;
    the authors' code leaves those in floating point too.

    Not covered: the integer batch norm, its parameters and its errors, and the error format with a flag bit.
    """

    optimiser = fixed_point.FixedPointSGD

    def __init__(self, edge: bool = False):
        self.edge = edge

    def weight(self, w: Array, bits: int) -> Rounded:
        if self.edge:
            return Rounded(w)
        end = 1 - fixed_point.step(bits)
        return Rounded(array_namespace(w).clip(fixed_point.direct(w, bits), -end, end), bits)

    def activation(self, x: Array, bits: int, buffers: dict[str, Array], training: bool) -> Rounded:
        return Rounded(x) if self.edge else Rounded(fixed_point.shift(x, bits + 1), bits)

    def gradient(self, dy: Array, bits: int, rng: np.random.Generator) -> tuple[Rounded, Rounded]:
        rounded = Rounded(dy) if self.edge else Rounded(fixed_point.shift(dy, bits), bits)
        return rounded, rounded

    def weight_gradient(self, dw: Array, rng: np.random.Generator) -> Array:
        return fixed_point.constant(dw, rng)

    def at_edge(self) -> Numerics:
        return WAGEUBNNumerics(edge=True)


def _steps(r: Array, bits: int) -> Array:
    """The nearest of the 2**bits equally spaced numbers from 0 to 1."""
    top = 2**bits - 1
    return array_namespace(r).round(r * top) / top


#: Numerics by their name on the command line. None is the board's own: symmetric, exact integers, `host.quantise`.
NUMERICS: dict[str, Callable[[], Numerics] | None] = {
    "device": None,
    "affine": AffineNumerics,
    "sbm": SBMNumerics,
    "sbm-range-norm": lambda: SBMNumerics(range_norm=True),
    "dorefa": DoReFaNumerics,
    "wageubn": WAGEUBNNumerics,
    "host-fp32": Numerics,
}
