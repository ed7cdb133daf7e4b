"""The gradient of a network with gates against the formula that it stands for, written in PyTorch.

The formula runs all options and mixes them, sum_k mask_k * Q_k(x), where the network runs one. Both are computed in
double precision and round gradients to the nearest code, so they agree to the last places.
"""

from __future__ import annotations

import numpy as np
import pytest
from choices import gradients, images, make_choosy
from references import double

from host import open_board
from host.nn.float_layers import BatchNorm2d, ReLU
from host.nn.gate import Gate
from host.nn.gated import Gated, GatedNetwork
from host.nn.layers import Context, Conv2d, Residual, Sequential
from host.nn.mixed import option_cp, parse_options
from host.quantise import Precision

torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

SHARES = (0.3, 0.7)


class Nearest:
    """Noise with which stochastic rounding goes to the nearest code, whatever the order of the samples."""

    def random(self, shape, dtype):
        return np.full(shape, 0.5, dtype)


def two_blocks(rng, options) -> GatedNetwork:
    """A block of 4 channels with the identity for a shortcut, and one that projects to 6 of half the size."""

    def body(channels, stride):
        return Sequential(
            conv1=Conv2d(4, channels, stride=stride, rng=rng),
            bn1=BatchNorm2d(channels),
            relu=ReLU(),
            conv2=Conv2d(channels, channels, rng=rng),
            bn2=BatchNorm2d(channels),
        )

    gate = Gate(len(options), rng=rng)
    shortcut = Sequential(conv=Conv2d(4, 6, kernel=1, stride=2, rng=rng), bn=BatchNorm2d(6))
    block1 = Gated(Residual(body(4, 1)), gate, options, 4, rng=rng)
    block2 = Gated(Residual(body(6, 2), shortcut), gate, options, 4, rng=rng)
    block1.share, block2.share = SHARES
    return GatedNetwork(gate, {"block1": block1, "relu1": ReLU(), "block2": block2, "relu2": ReLU()})


class RoundedGradient(torch.autograd.Function):
    """The identity, whose gradient is rounded with one range for each option: x (N, ...), choice (N,), bits of each."""

    @staticmethod
    def forward(ctx, x, choice, bits):
        ctx.choice, ctx.bits = choice, bits
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        rounded = torch.zeros_like(dy)
        for k, bits in enumerate(ctx.bits):
            if (ctx.choice == k).any():
                part = dy[ctx.choice == k]
                step = part.abs().max() / (2 ** (bits - 1) - 1)
                rounded[ctx.choice == k] = torch.floor(part / step + 0.5) * step
        return rounded, None, None


def on_grid(x, top):
    """`x` rounded to multiples of its largest magnitude over `top`; the gradient is that of the identity."""
    step = x.detach().abs().max() / top
    return x + (torch.round(x.detach() / step) * step - x.detach())


class Formula:
    """`two_blocks`, its parameters as leaves of PyTorch by full name."""

    def __init__(self, network, options):
        self.options = options
        self.params = {name: torch.tensor(array) for name, array in network.state().items()}
        self.params = {
            prefix + name: self.params[prefix + name].requires_grad_()
            for prefix, layer in network.walk()
            for name in layer.params
        }
        self.widest = max((option for option in options if option), key=option_cp)

    def __call__(self, x):
        """The output, and the masks of both blocks."""
        self.state = (torch.zeros((x.shape[0], 16), dtype=x.dtype),) * 2
        x, first = self.block("block1", x, 1)
        x, second = self.block("block2", torch.relu(x), 2)
        return torch.relu(x), (first, second)

    def block(self, name, x, stride):
        p, inner = self.params, f"{name}.block"
        mask = self.mask(x.mean(dim=(2, 3)) @ p[f"{name}.projection.weight"] + p[f"{name}.projection.bias"])
        runs = torch.tensor([float(option is not None) for option in self.options], dtype=x.dtype)
        active = torch.nonzero(mask.detach() @ runs > 0.5)[:, 0]
        body = self.convolution(f"{inner}.body.conv1", x[active], mask[active], stride)
        body = torch.relu(self.norm(f"{inner}.body.bn1", body))
        body = self.norm(f"{inner}.body.bn2", self.convolution(f"{inner}.body.conv2", body, mask[active], 1))
        if f"{inner}.shortcut.conv.weight" in p:
            x = self.convolution(f"{inner}.shortcut.conv", x, mask, stride, instead_of_skip=self.widest)
            x = self.norm(f"{inner}.shortcut.bn", x)
        return x.index_add(0, active, body * (mask[active] @ runs)[:, None, None, None]), mask

    def mask(self, features):
        """One step of the gate: the hard decision with the gradient of the soft one, (N, options)."""
        p, (h, c) = self.params, self.state
        sums = features @ p["gate.input"] + h @ p["gate.recurrent"] + p["gate.bias"]
        i, f, g, o = sums.split(16, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        self.state = o.sigmoid() * c.tanh(), c
        soft = torch.softmax(self.state[0] @ p["gate.head"] + p["gate.head_bias"], dim=1)
        hard = torch.nn.functional.one_hot(soft.argmax(dim=1), len(self.options)).to(soft.dtype)
        return hard - soft.detach() + soft

    def convolution(self, name, x, mask, stride, instead_of_skip=None):
        options = [option or instead_of_skip for option in self.options]
        mixture = sum(
            mask[:, k, None, None, None] * on_grid(x, 2**option.fw - 1) for k, option in enumerate(options) if option
        )
        weight = self.params[f"{name}.weight"]
        kernel = on_grid(weight, 2 ** (self.widest.weight_bits - 1) - 1)
        y = torch.conv2d(mixture, kernel, stride=stride, padding=weight.shape[2] // 2)
        return RoundedGradient.apply(y, mask.argmax(dim=1), [option.bw if option else 0 for option in options])

    def norm(self, name, x):
        gain, offset = self.params[f"{name}.gain"], self.params[f"{name}.offset"]
        return torch.batch_norm(x, gain, offset, None, None, True, 0.1, BatchNorm2d.EPSILON, False)


@pytest.mark.parametrize("text", ["4/8,0,3/6,6/12", "2/8,6/5,3/8"])
@pytest.mark.parametrize("cost_weight", [0.0, 3.0])
def test_gradients_are_those_of_the_formula(text, cost_weight, rng):
    options = parse_options(text, 5)
    context = Context(open_board("golden"), Precision(8, 8), rng=Nearest(), cost_weight=cost_weight)
    x = images(rng, (16, 4, 6, 6), signed=False).astype(np.float64)
    network = double(two_blocks(rng, options))
    make_choosy(network, x, context, rng)
    y = network.forward(x, context)
    weights = rng.standard_normal(y.shape)
    dx = network.backward(weights, context)

    formula, theirs = Formula(network, options), torch.tensor(x, requires_grad=True)
    expected, masks = formula(theirs)
    costs = torch.tensor([option_cp(option) for option in options], dtype=torch.float64)
    cp = sum(share * (mask @ costs).mean() for share, mask in zip(SHARES, masks, strict=True))
    ((expected * torch.from_numpy(weights)).sum() + cost_weight * cp).backward()
    assert network.cp() == pytest.approx(cp.item())
    np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-10)
    ours = gradients(network)
    assert ours.keys() == formula.params.keys()
    for name, array, exact in [("x", dx, theirs.grad), *((n, ours[n], formula.params[n].grad) for n in ours)]:
        exact = exact.numpy()
        np.testing.assert_allclose(array, exact, atol=1e-8 * np.max(np.abs(exact)), rtol=0, err_msg=name)
