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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from host.arrays import Array, to_numpy
from host.step import rules
from host.step.arrange import arrange, filling, restore
from host.step.coefficients import dropped_bits, exponents, fit
from host.step.engine import Measured, Noise, Passed, Sums, Tensor, VectorPass
from host.step.network import Network, Normed
from host.step.noise import Key
from host.step.ranges import found_in
from host.step.tensors import Factor, Part, Result, Shared

MASTER_BITS, MOMENTUM_BITS = 24, 16
_MASTER_TOP, _MOMENTUM_TOP = (1 << (MASTER_BITS - 1)) - 1, (1 << (MOMENTUM_BITS - 1)) - 1
#: Of the keys of noise: rounding of momentum and of weights, beside that of gradients in `host.step.backward`.
_MOMENTUM, _MASTER = 1, 3
#: Powers of two by which a tensor's unit falls at most from one step to the next.
_MOST_FALL = 6


@dataclass(frozen=True)
class Fixed:
    """Integers times a power of two, as `host.step.arrange` has them; float32 holds the product exactly.

    Attributes
    ----------
    measured : their ends.
    """

    codes: Tensor
    unit: float
    measured: Measured


class Weights:
    """Weights of a network's convolutions; the model's arrays follow them when `publish` says so."""

    def __init__(self, network: Network, shared: Shared, momentum: float):
        self.network, self.momentum = network, momentum
        self.engine, self.ranges, self.saturation = shared.engine, shared.ranges, shared.saturation
        self.masters: dict[str, Fixed] = {}
        self.momenta: dict[str, Fixed] = {}
        self._pending: dict[str, float] = {}
        self._filling: dict[str, Tensor] = {}
        self._rounded: dict[str, tuple[Fixed, int, Factor]] = {}
        for normed in network.convolutions:
            weight = to_numpy(normed.conv.params["weight"])
            unit = _unit(float(np.max(np.abs(weight))), _MASTER_TOP)
            self.masters[normed.name] = self._fixed(weight, unit, MASTER_BITS)
            self.momenta[normed.name] = self._fixed(0 * weight, 0.0, MOMENTUM_BITS)
            self._pending[normed.name] = 0.0
            if (filled := filling(normed.kernel)) is not None:
                self._filling[normed.name] = self.engine.write(filled, 1, False)
        self.publish()

    def rounded(self, of: Normed, bits: int) -> Factor:
        """A convolution's weights as it multiplies them: codes of `bits` bits, to nearest; the range is exact."""
        master, kept = self.masters[of.name], self._rounded.get(of.name)
        if kept is None or kept[0] is not master or kept[1] != bits:
            top, end = (1 << (bits - 1)) - 1, max(master.measured.largest, 1)
            digits = self.engine.digits(of, VectorPass(fit(top / end), top, master.codes))
            kept = master, bits, Factor(digits, master.unit * end / top, top)
            self._rounded[of.name] = kept
        return kept[2]

    def add_gradient(self, y: Result, gradients: Sequence[Factor], part: Part) -> None:
        """Add a micro-batch's weight gradient, from those at the pieces of the result y, to the momentum."""
        for number, g in enumerate(gradients):
            self._add(y, number, g, part)
        if not gradients and part.number == 0:
            self._keep(y.of, part)

    def _keep(self, of: Normed, part: Part) -> None:
        """The momentum of a step without a gradient."""
        old = self.momenta[of.name]
        if old.unit > 0:
            noise = Noise(part.key(of.number, _MOMENTUM, part.number))
            asked = VectorPass(fit(self.momentum), _MOMENTUM_TOP, old.codes, noise=noise, sums=Sums.PLAIN, kept=True)
            passed = self.engine.run(asked)
            self.momenta[of.name] = Fixed(passed.stored, old.unit, passed.measured)

    def _add(self, y: Result, run: int, g: Factor, part: Part) -> None:
        """Add the gradient of one piece, which has scales of its own."""
        name, piece = y.of.name, y.pieces[run]
        old, stored, scale = self.momenta[name], f"{name}.m", g.scale * piece.x.scale
        n, _, height, width = g.codes.shape
        magnitudes = n * height * width, g.top, piece.x.top
        dropped = dropped_bits(*magnitudes)
        u = self.engine.weight_grad(y.of, g.codes, piece.x.codes, dropped)
        begins = part.number == 0 and run == 0
        keeps = self.momentum if begins else 1.0
        streams = (part.number, run) if run else (part.number,)
        noise = Noise(part.key(y.of.number, _MOMENTUM, *streams))

        def store(unit: float, *, stored: bool = True) -> Passed:
            alpha = min(scale * 2.0**dropped / unit, 2.0**MOMENTUM_BITS)  # more clips whatever is not zero
            k = fit(alpha, keeps * old.unit / unit, alpha / 2 if dropped else 0.0)
            mask = self._filling.get(name)  # b would fill what is no weight
            how = {"mask": mask, "noise": noise, "sums": Sums.PLAIN, "stored": stored, "kept": True}
            return self.engine.run(VectorPass(k, _MOMENTUM_TOP, u, old.codes, **how))

        def unit_for(largest: np.ndarray) -> float:
            return _unit(float(largest), _MOMENTUM_TOP, old.unit)

        def attempt(largest: np.ndarray) -> np.ndarray:
            unit = unit_for(largest)
            return found_in(store(unit, stored=False).measured.largest, _MOMENTUM_TOP, unit)

        unit = old.unit
        if begins:
            bound = scale * float(np.prod(magnitudes, dtype=np.float64))
            unit = unit_for(self.ranges.start(stored, bound * part.parts * len(y.pieces), attempt))
        passed = store(unit)
        measured = passed.measured
        self.momenta[name] = Fixed(passed.stored, unit, measured)
        self.saturation.add(stored, prod(y.of.kernel), measured)
        if part.is_last and run == len(y.pieces) - 1:
            self.ranges.see(stored, lambda: found_in(measured.largest, _MOMENTUM_TOP, unit))

    def step(self, rate: float, weight_decay: float, key: Callable[..., Key]) -> None:
        """Move all weights along their momentum; `key` gives those of this step's noise."""
        decay = rate * weight_decay / (1 - self.momentum)
        for normed in self.network.convolutions:
            name = normed.name
            old, momentum = self.masters[name], self.momenta[name]
            unit = _unit(float(found_in(old.measured.largest, _MASTER_TOP, old.unit)), _MASTER_TOP, old.unit)
            pending, ratio = self._pending[name] + decay, old.unit / unit
            k = fit((1 - pending) * ratio, -rate * momentum.unit / unit)
            noise = Noise(key(normed.number, _MASTER))
            passed = self.engine.run(
                VectorPass(k, _MASTER_TOP, old.codes, momentum.codes, noise=noise, sums=Sums.PLAIN, kept=True)
            )
            self.saturation.add(f"{name}.w", prod(normed.kernel), passed.measured)
            self.masters[name] = Fixed(passed.stored, unit, passed.measured)
            self._pending[name] = pending - (1 - float(np.ldexp(float(k.a), -k.shift)) / ratio)

    def publish(self) -> None:
        """Make the model's arrays the master weights."""
        for normed in self.network.convolutions:
            normed.conv.params["weight"] = self._real(self.masters[normed.name], normed)

    def velocity(self) -> dict[str, np.ndarray]:
        """The momenta in real values, float32 (M, C, kh, kw), by the full names of their weights."""
        return {f"{n.name}.weight": self._real(self.momenta[n.name], n) for n in self.network.convolutions}

    def _real(self, fixed: Fixed, of: Normed) -> np.ndarray:
        return (restore(self.engine.read(fixed.codes), of.kernel) * fixed.unit).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """What the weights and velocities themselves do not tell, float64 () by name."""
        return {
            f"{kind}/{name}": np.array(value)
            for name in self.masters
            for kind, value in (
                ("unit", self.masters[name].unit),
                ("velocity", self.momenta[name].unit),
                ("pending", self._pending[name]),
            )
        }

    def load(self, state: Mapping[str, np.ndarray], velocity: Mapping[str, np.ndarray]) -> None:
        """Continue with the model's weights, velocities (float32 by convolution) and what `state` gave."""
        for normed in self.network.convolutions:
            name = normed.name
            weight = normed.conv.params["weight"]
            self.masters[name] = self._fixed(weight, float(state[f"unit/{name}"]), MASTER_BITS)
            self.momenta[name] = self._fixed(velocity[name], float(state[f"velocity/{name}"]), MOMENTUM_BITS)
            self._pending[name] = float(state[f"pending/{name}"])

    def _fixed(self, values: Array, unit: float, bits: int) -> Fixed:
        codes = arrange(np.rint(to_numpy(values).astype(np.float64) / (unit or 1.0)).astype(np.int64))
        return Fixed(self.engine.write(codes, bits, True), unit, Measured(lambda: (rules.statistics(codes, 0), 0)))


def _unit(largest: float, top: int, old: float = 0.0) -> float:
    """The power of two by which to store what was `largest`; it falls slowly, so that old codes can be taken over."""
    return max(2.0 ** float(exponents(largest, 1.0, top, -_MOST_FALL * 16)), old * 2.0**-_MOST_FALL)
