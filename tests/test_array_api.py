"""Arrays of other libraries: operands and results, quantisers, layers and the optimiser, with torch and strictly."""

from __future__ import annotations

import numpy as np
import pytest
import references
from references import random_tensor

from host import QTensor, open_board, ops
from host.arrays import match, to_numpy
from host.data.datasets import Dataset, Split
from host.nn.float_layers import AvgPool2d, BatchNorm2d, GlobalAvgPool2d, MaxPool2d, ReLU, softmax_cross_entropy
from host.nn.layers import Context, Conv2d, Linear, Residual, Sequential
from host.nn.optim import SGD
from host.quantise import Precision, quantise, rescale
from host.train import main
from host.training.config import TrainConfig
from host.training.summary import summarise
from host.training.trainer import Trainer


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs the extra 'torch'")


@pytest.fixture(params=["golden", "torch"])
def board(request):
    if request.param == "torch":
        request.getfixturevalue("torch")
    return open_board(request.param)


def network(rng) -> Sequential:
    """One of every layer."""
    return Sequential(
        conv1=Conv2d(3, 8, rng=rng, first=True),
        norm1=BatchNorm2d(8),
        relu1=ReLU(),
        block=Residual(Sequential(conv=Conv2d(8, 8, rng=rng), norm=BatchNorm2d(8))),
        relu2=ReLU(),
        average=AvgPool2d(2),
        largest=MaxPool2d(2),
        conv2=Conv2d(8, 16, kernel=1, stride=2, rng=rng),
        relu3=ReLU(),
        pool=GlobalAvgPool2d(),
        fc=Linear(16, 5, rng=rng),
    )


def test_operations_take_torch_tensors_on_every_board(board, torch, rng):
    x, w = random_tensor(rng, (2, 5, 7, 6), 6, False), random_tensor(rng, (4, 5, 3, 3), 5, True)
    g, a = random_tensor(rng, (2, 4, 7, 6), 7, True), random_tensor(rng, (5, 7), 8, True)
    tx, tw, tg, ta = (QTensor(torch.tensor(t.codes), t.bits, t.signed) for t in (x, w, g, a))
    mixed = references.mixed_tensor(x.codes, [6, 0], False)
    tm = QTensor.of_runs(torch.tensor(mixed.codes), mixed.runs, False)
    pairs = (
        (ops.conv2d(board, tx, tw), ops.conv2d(board, x, w)),
        (ops.conv2d(board, tm, tw), ops.conv2d(board, mixed, w)),
        (ops.conv2d_input_grad(board, tg, tw, x.shape), ops.conv2d_input_grad(board, g, w, x.shape)),
        (ops.conv2d_weight_grad(board, tg, tx, w.shape), ops.conv2d_weight_grad(board, g, x, w.shape)),
        (ops.matmul(board, ta, ta.transpose()), ops.matmul(board, a, a.transpose())),
    )
    for from_torch, from_numpy in pairs:
        assert from_torch.dtype == torch.int64
        assert from_numpy.dtype == np.int64
        assert np.array_equal(from_torch.numpy(), from_numpy)
    assert np.array_equal(pairs[2][1], references.conv2d_input_grad(g.codes, w.codes, x.shape, 1, 1))


def test_products_without_terms_keep_the_library(board, torch):
    empty = QTensor(torch.zeros((0, 2, 4, 4), dtype=torch.int32), 4, True)
    kernel = QTensor(np.zeros((3, 2, 3, 3), np.int32), 4, True)
    y = ops.conv2d(board, empty, kernel)
    assert (tuple(y.shape), y.dtype) == ((0, 3, 4, 4), torch.int64)


def test_bad_codes_of_torch_are_named(torch):
    with pytest.raises(ValueError, match="holds the code 16, must lie in 0 to 15"):
        QTensor(torch.tensor([3, 16]), 4, False)
    with pytest.raises(ValueError, match="integer type"):
        QTensor(torch.tensor([3.0]), 4, False)


def test_quantisers_agree(torch, rng):
    x = rng.standard_normal((7, 9)).astype(np.float32)
    for bits in (2, 5, 8, 16):
        for noise in (None, 4):
            ours, theirs = (
                quantise(v, bits, signed=True, rng=None if noise is None else np.random.default_rng(noise))
                for v in (x, torch.from_numpy(x))
            )
            assert ours.scale == theirs.scale
            assert np.array_equal(ours.codes, theirs.codes.numpy())
    for sums in (np.array([3, 1 << 40]), torch.tensor([3, 1 << 40])):
        real = rescale(sums, 0.1, like=torch.zeros(1))
        assert real.dtype == torch.float32
        np.testing.assert_array_equal(real.numpy(), (np.array([3, 1 << 40]) * 0.1).astype(np.float32))


def test_training_steps_agree(torch):
    """Five steps with torch arrays are those with numpy arrays, up to the rounding of the floating-point layers."""
    states = []
    for name in ("golden", "torch"):
        rng = np.random.default_rng(5)
        board, model = open_board(name), network(np.random.default_rng(6))
        model.load_state({key: board.place(array) for key, array in model.state().items()})
        optimiser = SGD(model)
        context = Context(board, Precision(8, 8), rng=rng)
        images = board.place(np.random.default_rng(7).standard_normal((6, 3, 16, 16)).astype(np.float32))
        labels = board.place(np.arange(6) % 5)
        losses = []
        for _ in range(5):
            loss, gradient = softmax_cross_entropy(model.forward(images, context), labels)
            model.backward(gradient, context)
            optimiser.step(0.1)
            losses.append(loss)
        states.append((losses, model.state(), board.counters()))
    (losses, state, counts), (torch_losses, torch_state, torch_counts) = states
    assert all(isinstance(array, torch.Tensor) and array.dtype == torch.float32 for array in torch_state.values())
    np.testing.assert_allclose(torch_losses, losses, rtol=1e-3)
    for name, array in state.items():
        np.testing.assert_allclose(to_numpy(torch_state[name]), array, atol=5e-3, err_msg=name)
    assert all(torch_counts[name] == counts[name] for name in ("macs", "bit_macs"))


def test_conversions(torch):
    board = open_board("torch")
    frozen = np.arange(6, dtype=np.uint16).reshape(2, 3)[:, ::-1]
    frozen.setflags(write=False)
    tensor = board.place(frozen)
    assert np.array_equal(tensor.numpy(), frozen)
    assert np.array_equal(match(frozen.astype(np.int64), like=tensor).numpy(), frozen)
    assert match(tensor, like=frozen).__class__ is np.ndarray
    assert match(tensor, like=tensor) is tensor
    parameter = torch.nn.Parameter(torch.ones(2))
    assert np.array_equal(open_board("golden").place(parameter), [1, 1])


def test_layers_keep_to_the_standard():
    """No layer leans on what numpy alone has: the strict namespace holds nothing else."""
    xp = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    board, model = open_board("golden"), network(np.random.default_rng(6))
    model.load_state({key: xp.asarray(array) for key, array in model.state().items()})
    images = xp.asarray(np.random.default_rng(7).standard_normal((4, 3, 16, 16)).astype(np.float32))
    context = Context(board, Precision(6, 6), rng=np.random.default_rng(8))
    logits = model.forward(images, context)
    _, gradient = softmax_cross_entropy(logits, xp.asarray(np.arange(4)))
    model.backward(gradient, context)
    SGD(model).step(0.1)
    assert all(type(array) is type(images) for array in model.state().values())


def trainer(board_name: str, out) -> Trainer:
    """Twelve iterations on random images, at a precision that changes."""
    numbers = np.random.default_rng(1)
    codes, labels = numbers.integers(0, 256, (64, 3, 8, 8), np.uint8), numbers.integers(0, 4, 64)
    data = Dataset("random", Split(codes[:48], labels[:48]), Split(codes[48:], labels[48:]))
    config = TrainConfig.of(board=board_name, step="host", batch=16, epochs=4, fw=(4, 8), bw=(6, 8), guard=0.5)
    out.mkdir(exist_ok=True)
    return Trainer(config, open_board(board_name), data, out, checkpoint_seconds=0)


def losses_of(run: Trainer, stop_after: int = 12) -> list[float]:
    losses = []
    run.run(stop=lambda: run.progress.iteration >= stop_after, on_step=lambda loss, _: losses.append(loss))
    return losses


def test_runs_agree_between_libraries(torch, tmp_path):
    runs = [trainer(name, tmp_path / name) for name in ("golden", "torch")]
    ours, theirs = (losses_of(run) for run in runs)
    first, second = (summarise(run.config, run.board, run.dataset, run.progress) for run in runs)
    assert len(ours) == 12
    assert theirs[0] == pytest.approx(ours[0], rel=1e-5)
    # A code that falls on the other side of a half is a step apart: later losses agree as those of two runs do.
    np.testing.assert_allclose(theirs, ours, rtol=0.03)
    assert all(first[name] == second[name] for name in ("macs", "bit_macs", "cc", "cc_static"))


def test_the_command_opens_the_board_on_its_device(torch, tmp_path, capsys):
    assert main(["--board", "torch", "--device", "abacus", "--out", str(tmp_path)]) == 2
    assert "board 'torch' cannot use the device 'abacus'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--device is 'cuda', must be cpu for every board but torch"):
        TrainConfig.of(board="golden", device="cuda")


def test_a_run_on_torch_continues_bit_for_bit(torch, tmp_path):
    whole, part = trainer("torch", tmp_path / "whole"), trainer("torch", tmp_path / "part")
    losses = losses_of(whole)
    before = losses_of(part, stop_after=5)
    resumed = trainer("torch", tmp_path / "part")
    resumed.resume()
    assert before + losses_of(resumed) == losses
    for name, array in whole.learner.model.state().items():
        assert isinstance(array, torch.Tensor)
        assert torch.equal(array, resumed.learner.model.state()[name]), name
