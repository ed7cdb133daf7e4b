"""`on_board`: PyTorch models on a board, in their own training loops."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest

from host import open_board
from host.quantise import Precision
from host.schedules import PFQSchedule

torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

from torch import nn  # noqa: E402

from host.torch import on_board  # noqa: E402

WIDE = Precision(16, 16)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(4)


@pytest.fixture(params=["golden", "torch"])
def board(request):
    return open_board(request.param)


def gradients(module, x):
    """Output, and the gradients at the input and at all parameters, for one and the same gradient at the output."""
    x = x.clone().requires_grad_()
    y = module(x)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch's own convolution says so
@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, 3, stride=2, bias=False),
        nn.Conv2d(3, 5, (3, 2), padding=(1, 2)),
        nn.Conv2d(3, 5, 4, padding="same"),
        nn.Conv2d(3, 5, 5, padding="valid"),
        nn.Conv2d(3, 5, 3, padding=(2, 1), padding_mode="reflect"),
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(3, 5, 3, padding="same", padding_mode="replicate"),
    ],
    ids=lambda module: module.extra_repr(),
)
def test_convolutions_at_16_bits_are_those_of_torch(module, board):
    x = torch.randn(2, 3, 9, 8)
    expected = gradients(module, x)
    ours = copy.deepcopy(module)
    on_board(ours, board, WIDE)
    for theirs, mine in zip(expected, gradients(ours, x), strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-3 * float(theirs.detach().abs().max()), rtol=0)
    single = ours(x[0])
    torch.testing.assert_close(single, module(x[0]), atol=1e-2, rtol=0)
    assert board.macs > 0


@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_at_16_bits_are_those_of_torch(shape, bias, board):
    module, x = nn.Linear(7, 5, bias=bias), torch.randn(shape)
    expected = gradients(module, x)
    on_board(module, board, WIDE)
    for theirs, mine in zip(expected, gradients(module, x), strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-3 * float(theirs.detach().abs().max()), rtol=0)


def test_boards_agree_to_the_bit():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4))
    x, results, work = torch.randn(3, 3, 8, 8), [], []
    for name in ("golden", "torch"):
        board = open_board(name)
        run = on_board(model, board, Precision(5, 7), seed=8)
        results.append(gradients(model, x))
        run.release()
        work.append((board.macs, board.bit_macs))
    # What a board gives is exact; only real numbers made of it are rounded, twice at most.
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    assert work[0] == work[1]


def test_products_that_nobody_needs_are_not_computed():
    board = open_board("torch")
    model = nn.Conv2d(2, 3, 3)
    on_board(model, board, Precision(4, 8))
    x = torch.rand(1, 2, 5, 5)
    model(x).sum().backward()
    macs = 3 * 9 * 2 * 9
    assert board.counters() == {"macs": 2 * macs, "bit_macs": macs * (4 * 4 + 8 * 4)}
    model.weight.requires_grad_(False)
    model(x).sum().backward()
    assert board.macs == 3 * macs


def test_training_with_a_schedule_saves_and_continues():
    def training():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
        stages = [Precision(3, 6), Precision(8, 8)]
        schedule = PFQSchedule(stages, epsilon=0.05, alpha=0.3, indicator_every=1, total=10, guard=0.4)
        run = on_board(model, open_board("torch"), schedule, min_bits={"4": 6})
        return model, run, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    x, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 3

    def train(model, run, optimiser, steps):
        switches, losses = [], []
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(x), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            switches.append(run.step(loss))
            losses.append(loss.item())
        return losses, [switch.precision for switch in switches if switch]

    losses, switches = train(*training(), 10)
    assert losses[-1] < losses[0]
    assert switches == [Precision(8, 8)]
    first = training()
    start, _ = train(*first, 3)
    second = training()
    for saved, fresh in zip(first, second, strict=True):
        fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert start + train(*second, 7)[0] == losses


def test_the_model_stays_what_it_is(board):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    types, x = [type(module) for module in model.modules()], torch.rand(1, 2, 4, 4)
    state, plain = dict(model.state_dict()), model(x)
    run = on_board(model, board, Precision(2, 2), keep_float=["3"])
    assert [type(module) for module in model.modules()] == types
    assert all(torch.equal(model.state_dict()[name], array) for name, array in state.items())
    assert not torch.equal(model(x), plain)
    with pytest.raises(ValueError, match=r"'0', .* runs on a board already"):
        on_board(model, board, WIDE)
    run.release()
    assert torch.equal(model(x), plain)


def test_what_is_refused_leaves_the_model_alone(board):
    """Also where a module before the refused one would have run."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.rand(3, 4)
    plain = model[0](x)
    on_board(model[1], board, Precision(2, 2))
    with pytest.raises(ValueError, match=r"'1', .* runs on a board already"):
        on_board(model, board, Precision(2, 2))
    assert torch.equal(model[0](x), plain)


def test_a_copy_has_its_own_weights(board):
    model, x = nn.Linear(4, 2, bias=False), torch.rand(3, 4)
    on_board(model, board, WIDE)
    again = copy.deepcopy(model)
    with torch.no_grad():
        again.weight.zero_()
    assert not again(x).any()
    assert model(x).any()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "it has 2 groups"),
        (nn.Conv2d(4, 4, 3, dilation=2), r"its dilation is \(2, 2\)"),
        (nn.Conv2d(4, 4, 3, stride=(1, 2)), r"its strides \(1, 2\) differ"),
    ],
)
def test_modules_that_cannot_run_are_named(module, reason):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(module))
    with pytest.raises(ValueError, match=rf"'1.0', Conv2d.*{reason}; keep_float"):
        on_board(model, open_board("torch"), WIDE)
    assert type(model[0]) is nn.Linear
    on_board(model, open_board("torch"), WIDE, keep_float=["1.0"])
    for names in ({"keep_float": ["2"]}, {"min_bits": {"2": 4}}):
        with pytest.raises(ValueError, match="no module '2'"):
            on_board(model, open_board("torch"), WIDE, **names)


def test_reduced_precision_around_the_board_changes_nothing():
    board, module, x = open_board("torch"), nn.Linear(6, 3), torch.rand(2, 6)
    on_board(module, board, Precision(8, 8))
    plain = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(x), plain)
    assert module(x.bfloat16()).dtype == torch.float32


def test_gradient_that_is_not_finite_raises():
    module = nn.Linear(3, 2)
    on_board(module, open_board("torch"), WIDE)
    with pytest.raises(FloatingPointError):
        (module(torch.rand(1, 3)) * float("inf")).sum().backward()


def test_example_of_the_manual(capsys):
    text = (Path(__file__).parent.parent / "docs" / "torch.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, "docs/torch.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"FW8/BW8 from iteration \d+", printed)
    assert float(re.search(r"loss ([\d.]+)", printed)[1]) < np.log(2) / 2
