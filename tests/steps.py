"""What the tests of boards with a vector unit run: a convolution both ways on one set of digits, and training steps."""

from __future__ import annotations

import numpy as np
from choices import dictate

from host.arrays import to_numpy
from host.board import Board
from host.nn.float_layers import BatchNorm2d
from host.nn.gated import add_gates
from host.nn.layers import Conv2d
from host.nn.mixed import parse_options
from host.nn.models import build_model
from host.quantise import Precision
from host.step.arrange import arrange
from host.step.device import DeviceStep
from host.step.engine import Engine, VectorPass
from host.step.network import Normed
from host.step.rules import NARROW_BITS, Coefficients, Drain
from host.step.tensors import Storage

#: Inputs, outputs, kernel and stride: less than a word of channels, and words that are not full; each kind of kernel.
SHAPES = [(3, 20, 3, 1), (20, 40, 3, 2), (20, 18, 1, 1), (16, 33, 1, 2)]


def both_ways(engine: Engine, shape: tuple[int, int, int, int], bits: int) -> list[np.ndarray]:
    """Sums of the convolution of such a shape and of its input gradient, from weights of 24 bits rounded to `bits`.

    Each as 32 bits and as 16, shifted.
    """
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
    drains = Drain(), Drain(3, NARROW_BITS)
    found = [engine.forward(of, x, digits, drain) for drain in drains]
    found += [engine.input_grad(of, g, digits, images, drain) for drain in drains]
    # Sums are stream u of passes alone.
    wide = Coefficients(np.array(1), np.array(0), np.array(0), 0)
    return [engine.read(engine.run(VectorPass(wide, (1 << 22) - 1, sums)).stored) for sums in found]


def walked(board: Board, model: str, image: tuple[int, int, int]) -> tuple[dict, DeviceStep]:
    """All that steps at four precisions leave, with micro-batches, an evaluation after each, and a new start."""
    rng, how = np.random.default_rng(1), {"momentum": 0.9, "weight_decay": 1e-4, "storage": Storage(), "seed": 0}
    step = DeviceStep(build_model(model, image, 10, seed=0, edge_bits=2), board, image=image, micro_batch=4, **how)
    said = {}
    for number, precision in enumerate((Precision(3, 6), Precision(4, 6), Precision(8, 8), Precision(12, 14))):
        images, labels = rng.standard_normal((7, *image)).astype(np.float32), rng.integers(0, 10, 7)
        loss, logits = step.gradients(images, labels, precision)
        step.optimiser.step(0.1)
        said[number] = loss, logits.tobytes(), step.logits(images, precision).tobytes()
        if number == 1:
            step.publish()
            saved = step.model.state(), step.optimiser.state(), step.state()
            step.restart()
            step.load_state(saved[2], saved[1])
    step.publish()
    arrays = {**step.model.state(), **step.optimiser.state(), **step.state()}
    said |= {name: to_numpy(array).tobytes() for name, array in arrays.items()}
    return said | {"clipped": step.shared.saturation.take(), "work": (board.macs, board.bit_macs)}, step


def gated_walked(
    board: Board, model: str, options: str, *, image: tuple[int, int, int] = (3, 6, 8), samples: int = 6
) -> tuple[dict, DeviceStep]:
    """All that two steps leave of a network whose samples take its options in turn, with an evaluation behind them."""
    rng, scheduled = np.random.default_rng(1), Precision(8, 8)
    network = add_gates(build_model(model, image, 10, seed=0, edge_bits=2), image, parse_options(options, 4), rng=rng)
    images, labels = rng.standard_normal((samples, *image)).astype(np.float32), rng.integers(0, 10, samples)
    dictate(network)
    how = {"momentum": 0.9, "weight_decay": 1e-4, "storage": Storage(), "seed": 0, "micro_batch": 0}
    step = DeviceStep(network, board, image=image, **how)
    said = {}
    for number in range(2):
        loss, logits = step.gradients(images, labels, scheduled, lambda: 0.1)
        said[number] = loss, logits.tobytes(), network.counts()
        step.optimiser.step(0.02)
    said["evaluated"] = step.logits(images, scheduled).tobytes(), network.counts()
    step.publish()
    arrays = {**network.state(), **step.optimiser.state(), **step.state()}
    said |= {name: to_numpy(array).tobytes() for name, array in arrays.items()}
    return said | {"clipped": step.shared.saturation.take(), "work": (board.macs, board.bit_macs)}, step
