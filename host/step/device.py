"""The training step on the device: what `host.training.learner` runs instead of layers, with everything it keeps.

The host computes coefficients, the head with softmax and loss, and the update of what is not a convolution's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from host.arrays import Array, to_numpy
from host.board import Board
from host.nn.float_layers import softmax_cross_entropy
from host.nn.layers import Context, Layer
from host.nn.optim import SGD
from host.quantise import Precision, quantise
from host.step.account import Work
from host.step.backward import Backward, NormGrads
from host.step.choice import engine_for
from host.step.forward import Forward
from host.step.gates import Gates
from host.step.network import Network
from host.step.noise import Key, noise_key
from host.step.tensors import MOST_BW, MOST_FW, Activation, Part, Shared, Spread, Storage, fits
from host.step.weights import Weights
from host.training.micro import pieces


class DeviceStep:
    """Training steps of a model on a board.

    Parameters
    ----------
    model : a network that `Network` knows; its arrays, of numpy, follow the training when `publish` says so.
    image : shape (C, H, W) of the images.
    micro_batch : most samples that share statistics and ranges; 0 for a whole batch.
    storage : formats of stored tensors.
    seed : of the noise.

    Raises
    ------
    ValueError
        If the device step does not know the model, or does not take what its samples may choose.
    """

    def __init__(
        self,
        model: Layer,
        board: Board,
        *,
        image: tuple[int, int, int],
        micro_batch: int,
        storage: Storage,
        seed: int,
        momentum: float,
        weight_decay: float,
    ):
        self.model, self.network = model, Network.of(model)
        for gated in filter(None, (block.gated for block in self.network.blocks)):
            for option in filter(None, gated.options):
                _check(option)
        self.engine = engine_for(board, self.network, image)
        self.shared = Shared(self.engine, storage)
        self.micro_batch, self.seed, self.steps = micro_batch, seed, 0
        self.weights = Weights(self.network, self.shared, momentum)
        self.optimiser = DeviceSGD(self, momentum=momentum, weight_decay=weight_decay)

    def restart(self) -> None:
        """Begin with the weights that the model has got."""
        self.weights = Weights(self.network, self.shared, self.weights.momentum)

    def gradients(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        precision: Precision,
        cost_weight: Callable[[], float] = lambda: 0.0,
    ) -> tuple[float, np.ndarray]:
        """Forward and backward of a batch: its mean loss, and the logits, float64 (N, classes).

        Where samples choose, `cost_weight` is asked after forward for the weight of what they cost, for each percent.
        """
        _check(precision)
        with self.engine.account.step():
            return self._gradients(images, labels, precision, cost_weight)

    def _gradients(
        self, images: np.ndarray, labels: np.ndarray, precision: Precision, cost_weight: Callable[[], float]
    ) -> tuple[float, np.ndarray]:
        samples = len(labels)
        sizes = pieces(samples, self.micro_batch)
        if self.network.gate and len(sizes) > 1:
            raise ValueError("a network with gates takes a batch as a whole, without --micro-batch")
        grads: NormGrads = {}
        head, first, loss, logits = _Head(self.network), 0, 0.0, []
        for number, size in enumerate(sizes):
            part = Part(number, len(sizes), first, size, samples, self.key)
            chosen = slice(first, first + size)
            forward = self._forward(precision, training=True, share=part.share)
            features, passages = forward.run(self._image(images[chosen], precision))
            gates = Gates(self.engine, Context(self.engine.board, precision, cost_weight=cost_weight()))
            backward = Backward(self.shared, self.weights, precision, gates, grads)
            with self.engine.account.kind("head"):
                logits.append(head.logits(features))
                own, gradient = softmax_cross_entropy(logits[-1], labels[chosen])
                below = head.backward(features, gradient * part.share)
            backward.run(below, passages, part)
            loss += own * part.share
            first += size
        for normed in self.network.convolutions:
            zeros = np.zeros(normed.kernel[0])  # nobody went through it
            found = grads.get(normed.name, (zeros, zeros))
            normed.norm.grads = dict(zip(("gain", "offset"), found, strict=True))
        self.network.head.grads = head.grads
        self.shared.ranges.commit()
        return loss, np.concatenate(logits)

    def key(self, *stream: int) -> Key:
        """The key of noise of this step and a stream of it."""
        return noise_key(self.seed, self.steps, *stream)

    def logits(self, images: np.ndarray, precision: Precision) -> np.ndarray:
        """Of an evaluation, with the running statistics: float64 (N, classes)."""
        features, _ = self._forward(precision, training=False, share=0.0).run(self._image(images, precision))
        return _Head(self.network).logits(features)

    def _forward(self, precision: Precision, *, training: bool, share: float) -> Forward:
        return Forward(self.network, self.shared, self.weights, precision, training=training, share=share)

    def _image(self, images: np.ndarray, precision: Precision) -> Activation:
        """The images as the first convolution reads them, rounded by the host."""
        first = next(self.network.convolutions)
        with self.engine.account.kind("image"):
            rounded = quantise(images, first.precision(precision).fw, signed=True)
            codes = self.engine.write(to_numpy(rounded.codes), rounded.bits, True)
        return Activation(Spread([np.arange(len(images))], [codes]), 0, float(rounded.scale))

    def publish(self) -> None:
        """Bring the model's arrays up to date with what has been trained."""
        self.weights.publish()

    def host_work(self) -> dict[str, Work]:
        """What the host has done of training since this was asked, by kind."""
        return self.engine.account.take()

    def state(self) -> dict[str, np.ndarray]:
        """What continues a run beside the model's arrays and the velocities: float64 by name."""
        ranges = {f"range/{name}": value for name, value in self.shared.ranges.last.items()}
        return {"steps": np.array(float(self.steps)), **ranges, **self.weights.state()}

    def load_state(self, state: Mapping[str, np.ndarray], velocity: Mapping[str, np.ndarray]) -> None:
        """Continue from what `state` and the optimiser gave; the model has its arrays already. Raises KeyError."""
        self.steps = int(state["steps"])
        self.shared.ranges.load({n.removeprefix("range/"): v for n, v in state.items() if n.startswith("range/")})
        self.optimiser.load_state(velocity)
        own = {normed.name: velocity[f"{normed.name}.weight"] for normed in self.network.convolutions}
        self.weights.load(state, own)


class DeviceSGD(SGD):
    """Momentum SGD whose convolution weights move on the device, see `host.step.weights`, and all others here."""

    def __init__(self, step: DeviceStep, *, momentum: float, weight_decay: float):
        super().__init__(step.model, momentum=momentum, weight_decay=weight_decay)
        self._step = step
        self.elsewhere = frozenset(f"{normed.name}.weight" for normed in step.network.convolutions)

    def step(self, lr: float, controller_lr: float | None = None) -> None:
        with self._step.engine.account.step():
            super().step(lr, controller_lr)
            self._step.weights.step(lr, self.weight_decay, self._step.key)
        self._step.steps += 1

    def state(self) -> dict[str, Array]:
        return super().state() | self._step.weights.velocity()


class _Head:
    """The linear layer at the end, in double precision; it adds up its gradients."""

    def __init__(self, network: Network):
        self._layer = network.head
        self.weight, self.bias = (to_numpy(self._layer.params[name]).astype(np.float64) for name in ("weight", "bias"))
        self.grads = {"weight": np.zeros_like(self.weight), "bias": np.zeros_like(self.bias)}

    def logits(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight + self.bias

    def backward(self, features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        self.grads["weight"] += features.T @ gradient
        self.grads["bias"] += gradient.sum(axis=0)
        return gradient @ self.weight.T


def _check(precision: Precision) -> None:
    if not fits(precision):
        raise ValueError(f"--step device takes up to FW{MOST_FW}/BW{MOST_BW}, not {precision}")
