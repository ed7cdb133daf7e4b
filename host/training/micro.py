"""Batches in micro-batches, each with its own statistics and ranges, as in gradient accumulation."""

from __future__ import annotations

from host.arrays import Array
from host.nn.layers import Layer


def pieces(samples: int, most: int) -> list[int]:
    """Sizes of the micro-batches of a batch: as few as hold `most` samples at most, as equal as can be; 0: one."""
    count = -(-samples // most) if most else 1
    small, larger = divmod(samples, count)
    return [small + (number < larger) for number in range(count)]


class GradientSum:
    """Adds up the gradients of a model over micro-batches."""

    def __init__(self, model: Layer):
        self._model = model
        self._sums: dict[str, Array] = {}

    def add(self, share: float) -> None:
        """Add the gradients of the latest backward, the mean over a `share` of the batch."""
        for prefix, layer in self._model.walk():
            for name, gradient in layer.grads.items():
                part = gradient * share
                self._sums[prefix + name] = part + self._sums[prefix + name] if prefix + name in self._sums else part

    def store(self) -> None:
        """Leave the sums in the model as its gradients."""
        for prefix, layer in self._model.walk():
            layer.grads = {name: self._sums[prefix + name] for name in layer.grads}
