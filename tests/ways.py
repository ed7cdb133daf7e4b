"""Both ways of a convolution of the device step on one set of weights, for the tests of boards with a vector unit."""

from __future__ import annotations

import numpy as np

from host.nn.float_layers import BatchNorm2d
from host.nn.layers import Conv2d
from host.step.arrange import arrange
from host.step.engine import Engine, VectorPass
from host.step.network import Normed
from host.step.rules import Coefficients

#: Inputs, outputs, kernel and stride: less than a word of channels, and words that are not full; each kind of kernel.
SHAPES = [(3, 20, 3, 1), (20, 40, 3, 2), (20, 18, 1, 1), (16, 33, 1, 2)]


def both_ways(engine: Engine, shape: tuple[int, int, int, int], bits: int) -> list[np.ndarray]:
    """Sums of the convolution of such a shape and of its input gradient, from weights of 24 bits rounded to `bits`."""
    rng = np.random.default_rng(7)
    inputs, outputs, kernel, stride = shape
    conv = Conv2d(inputs, outputs, kernel, stride, rng=rng)
    of = Normed("conv", 0, conv, BatchNorm2d(outputs))
    top = (1 << (bits - 1)) - 1
    master = engine.write(arrange(rng.integers(-(1 << 23) + 1, 1 << 23, of.kernel)), 24, True)
    k = Coefficients(np.array(1), np.array(0), np.array(0), 24 - bits)
    digits = engine.digits(of, VectorPass(k, top, master))
    images = (3, inputs, 6, 5)
    x = engine.write(rng.integers(0, 32, images), 5, False)
    height, width = of.product.out(images[1:], of.kernel)[1:]
    g = engine.write(rng.integers(-31, 32, (3, outputs, height, width)), 6, True)
    forward, back = engine.forward(of, x, digits, 0), engine.input_grad(of, g, digits, images, 0)
    # Sums are stream u of passes alone.
    wide = Coefficients(np.array(1), np.array(0), np.array(0), 0)
    return [engine.read(engine.run(VectorPass(wide, (1 << 22) - 1, sums)).stored) for sums in (forward, back)]
