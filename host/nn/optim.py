"""Stochastic gradient descent and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

from host.nn.layers import Layer
from host.quantise import Array


class SGD:
    """Momentum SGD with L2 weight decay on all parameters, as in FracTrain's code (no Nesterov).

    v <- momentum * v + (gradient + weight_decay * p);  p <- p - lr * v. Everything floating point on the host.
    """

    #: Full names of parameters that something else moves.
    elsewhere: frozenset[str] = frozenset()

    def __init__(self, model: Layer, *, momentum: float = 0.9, weight_decay: float = 1e-4):
        self.model, self.momentum, self.weight_decay = model, momentum, weight_decay
        self.velocity: dict[str, Array] = {
            prefix + name: 0 * array for prefix, layer in model.walk() for name, array in layer.params.items()
        }

    def step(self, lr: float, controller_lr: float | None = None) -> None:
        """Update every parameter from the gradient of the latest backward, controllers at their own learning rate."""
        for prefix, layer in self.model.walk():
            rate = controller_lr if layer.controls and controller_lr is not None else lr
            for name, array in layer.params.items():
                if prefix + name in self.elsewhere:
                    continue
                gradient = layer.grads[name] + self.weight_decay * array
                velocity = self.momentum * self.velocity[prefix + name] + gradient
                self.velocity[prefix + name] = velocity
                layer.params[name] = array - rate * velocity

    def state(self) -> dict[str, Array]:
        """The velocities by the full names of their parameters; references, not copies."""
        return dict(self.velocity)

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace all velocities; names or shapes of another model raise ValueError."""
        if state.keys() != self.velocity.keys():
            raise ValueError("optimiser state of another model")
        for name, array in state.items():
            if tuple(array.shape) != tuple(self.velocity[name].shape):
                raise ValueError(f"optimiser state of another model: {name} is {tuple(array.shape)}")
        self.velocity = dict(state)


def cosine_lr(peak: float, iteration: int, total: int, warmup: int) -> float:
    """Learning rate of an iteration: a linear rise over `warmup` iterations, then half a cosine towards 0.

    arXiv 1608.03983, equation 5, without restarts.
    """
    if iteration < warmup:
        return peak * (iteration + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(total - warmup, 1)))


def step_lr(peak: float, iteration: int, total: int, warmup: int) -> float:
    """Learning rate of an iteration: a linear rise over `warmup` iterations, a tenth from total / 2, again from 3/4.

    FracTrain's code for CIFAR: 0.1, 0.01 and 0.001 from iterations 32,000 and 48,000 of 64,000.
    """
    if iteration < warmup:
        return peak * (iteration + 1) / (warmup + 1)
    return peak * 0.1 ** ((iteration >= total / 2) + (iteration >= total * 3 / 4))


#: Learning rates by name: (peak, iteration, iterations of the run, iterations of its warm-up) -> rate.
LR_SCHEDULES = {"cosine": cosine_lr, "step": step_lr}
