"""Master weights and momentum in fixed point, and the update of a step.

A master weight has 24 bits, its momentum 16, both signed, times a power of two for the tensor. A micro-batch adds its
weight gradient to the momentum, so that no other sum is kept:

    m <- mu m + g_1,   m <- m + g_2, ...      w <- (1 - decay) w - rate m

All are rounded stochastically, so that nothing small is lost for good, neither gradients nor decay.

Weight decay acts on the weights and not, as in `host.nn.optim.SGD`, through the momentum, where what 24 bits show
would vanish in 16. `decay` is what comes to the same when both have settled: rate * weight_decay / (1 - mu). Its
factor is rounded to the bits of a coefficient; what that leaves out is added in the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from array_api_compat import array_namespace

from host.arrays import Array, to_numpy
from host.geometry import ceil_div
from host.qtensor import QTensor
from host.step import rules
from host.step.coefficients import dropped_bits, exponents, fit
from host.step.network import Network
from host.step.noise import Key, noise
from host.step.ranges import found_in
from host.step.tensors import Part, Shared
from rtl.config import WORD_CHANNELS

MASTER_BITS, MOMENTUM_BITS = 24, 16
_MASTER_TOP, _MOMENTUM_TOP = (1 << (MASTER_BITS - 1)) - 1, (1 << (MOMENTUM_BITS - 1)) - 1
#: Of the keys of noise: rounding of momentum and of weights, beside that of gradients in `host.step.backward`.
_MOMENTUM, _MASTER = 1, 3
#: Powers of two by which a tensor's unit falls at most from one step to the next.
_MOST_FALL = 6


@dataclass
class Fixed:
    """Integers times a power of two; float32 holds the product exactly."""

    codes: Array
    unit: float

    def real(self) -> np.ndarray:
        return (to_numpy(self.codes) * self.unit).astype(np.float32)


class Weights:
    """Weights of a network's convolutions; the model's arrays follow them."""

    def __init__(self, network: Network, shared: Shared, momentum: float):
        self.network, self.momentum = network, momentum
        self.board, self.ranges, self.saturation = shared.board, shared.ranges, shared.saturation
        self.masters: dict[str, Fixed] = {}
        self.velocity: dict[str, Fixed] = {}
        self._pending: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._rounded: dict[str, tuple[Array, QTensor]] = {}
        for normed in network.convolutions:
            weight = to_numpy(normed.conv.params["weight"])
            self.masters[normed.name] = self._fixed(weight, _unit(float(np.max(np.abs(weight))), _MASTER_TOP))
            self.velocity[normed.name] = self._fixed(0 * weight, 0.0)
            self._pending[normed.name] = 0.0
            self._numbers[normed.name] = normed.number
        self._publish()

    def rounded(self, name: str, bits: int) -> QTensor:
        """A convolution's weights as it multiplies them: codes of `bits` bits, to nearest; the range is exact."""
        master = self.masters[name]
        kept = self._rounded.get(name)
        if kept is None or kept[0] is not master.codes or kept[1].bits != bits:
            top, end = (1 << (bits - 1)) - 1, max(rules.largest(master.codes), 1)
            codes = rules.lane(fit(top / end), master.codes, low=-top, high=top).codes
            kept = master.codes, QTensor.trusted(codes, bits, True, master.unit * end / top)
            self._rounded[name] = kept
        return kept[1]

    def add_gradient(self, name: str, sums: Array, scale: float, magnitudes: tuple[int, int, int], part: Part) -> None:
        """Add a micro-batch's weight gradient, `scale` times the exact sums of the array, to the momentum.

        `magnitudes` are the number of products in a sum and the largest magnitudes of their factors.
        """
        old, stored = self.velocity[name], f"{name}.m"
        dropped = dropped_bits(*magnitudes)
        u = rules.drained(sums, dropped)
        keeps = 1.0 if part.number else self.momentum
        noisy = _noise(part.key(self._numbers[name], _MOMENTUM, part.number), like=sums)

        def store(unit: float) -> rules.Passed:
            alpha = min(scale * 2.0**dropped / unit, 2.0**MOMENTUM_BITS)  # more clips whatever is not zero
            k = fit(alpha, keeps * old.unit / unit, alpha / 2 if dropped else 0.0)
            return rules.lane(k, u, old.codes, low=-_MOMENTUM_TOP, high=_MOMENTUM_TOP, noise=noisy)

        def unit_for(largest: np.ndarray) -> float:
            return _unit(float(largest), _MOMENTUM_TOP, old.unit)

        def attempt(largest: np.ndarray) -> np.ndarray:
            unit = unit_for(largest)
            return found_in(store(unit).codes, _MOMENTUM_TOP, unit)

        unit = old.unit
        if part.number == 0:
            bound = scale * float(np.prod(magnitudes, dtype=np.float64))
            unit = unit_for(self.ranges.start(stored, bound * part.parts, attempt))
        passed = store(unit)
        self.velocity[name] = Fixed(passed.codes, unit)
        self.saturation.add(stored, passed)
        if part.is_last:
            self.ranges.see(stored, found_in(passed.codes, _MOMENTUM_TOP, unit))

    def step(self, rate: float, weight_decay: float, key: Callable[..., Key]) -> None:
        """Move all weights along their momentum; `key` gives those of this step's noise."""
        decay = rate * weight_decay / (1 - self.momentum)
        for name, old in self.masters.items():
            velocity = self.velocity[name]
            unit = _unit(float(found_in(old.codes, _MASTER_TOP, old.unit)), _MASTER_TOP, old.unit)
            pending, ratio = self._pending[name] + decay, old.unit / unit
            k = fit((1 - pending) * ratio, -rate * velocity.unit / unit)
            noisy = _noise(key(self._numbers[name], _MASTER), like=old.codes)
            passed = rules.lane(k, old.codes, velocity.codes, low=-_MASTER_TOP, high=_MASTER_TOP, noise=noisy)
            self.saturation.add(f"{name}.w", passed)
            self.masters[name] = Fixed(passed.codes, unit)
            self._pending[name] = pending - (1 - float(np.ldexp(float(k.a), -k.shift)) / ratio)
        self._publish()

    def _publish(self) -> None:
        """The model's arrays are the master weights."""
        for normed in self.network.convolutions:
            normed.conv.params["weight"] = self.masters[normed.name].real()

    def state(self) -> dict[str, np.ndarray]:
        """What the weights and velocities themselves do not tell, float64 () by name."""
        return {
            f"{kind}/{name}": np.array(value)
            for name in self.masters
            for kind, value in (
                ("unit", self.masters[name].unit),
                ("velocity", self.velocity[name].unit),
                ("pending", self._pending[name]),
            )
        }

    def load(self, state: Mapping[str, np.ndarray], velocity: Mapping[str, np.ndarray]) -> None:
        """Continue with the model's weights, velocities (float32 by convolution) and what `state` gave."""
        for normed in self.network.convolutions:
            name = normed.name
            weight = normed.conv.params["weight"]
            self.masters[name] = self._fixed(weight, float(state[f"unit/{name}"]))
            self.velocity[name] = self._fixed(velocity[name], float(state[f"velocity/{name}"]))
            self._pending[name] = float(state[f"pending/{name}"])
        self._publish()

    def _fixed(self, values: Array, unit: float) -> Fixed:
        codes = np.rint(to_numpy(values).astype(np.float64) / (unit or 1.0)).astype(np.int64)
        return Fixed(self.board.place(codes), unit)


def _noise(key: Key, like: Array) -> Array:
    """Noise of weights (M, C, kh, kw), which lie as a tensor (channel block, M, tap, channel)."""
    xp = array_namespace(like)
    rows, channels, *kernel = like.shape
    blocks = ceil_div(channels, WORD_CHANNELS)
    whole = noise(key, (blocks, rows, prod(kernel), WORD_CHANNELS), like=like)
    ordered = xp.reshape(xp.permute_dims(whole, (1, 0, 3, 2)), (rows, blocks * WORD_CHANNELS, *kernel))
    return ordered[:, :channels]


def _unit(largest: float, top: int, old: float = 0.0) -> float:
    """The power of two by which to store what was `largest`; it falls slowly, so that old codes can be taken over."""
    return max(2.0 ** float(exponents(largest, 1.0, top, -_MOST_FALL * 16)), old * 2.0**-_MOST_FALL)
