"""Several boards as one: whichever they are and however many, results are those of a single board, bit for bit."""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np
import pytest
from references import conv2d, conv2d_input_grad, conv2d_weight_grad, random_tensor
from remotes import golden, serving
from runs import options, results

from host import QTensor, open_board, ops
from host.backends import board_names, find
from host.backends.sharded import ShardedBoard
from host.errors import AcceleratorError
from host.plan import sums
from host.qtensor import Run
from host.train import main as train


@pytest.fixture
def served():
    """Names of so many served boards."""
    with ExitStack() as stack:
        yield lambda count: [stack.enter_context(serving(golden("sim"))) for _ in range(count)]


def check_products(board, rng: np.random.Generator, samples: int) -> None:
    x, w = random_tensor(rng, (samples, 5, 6, 6), 4, False), random_tensor(rng, (7, 5, 3, 3), 4, True)
    g = random_tensor(rng, (samples, 7, 3, 3), 6, True)
    a, b = random_tensor(rng, (samples, 40), 8, True), random_tensor(rng, (40, 9), 5, False)
    for _ in range(2):  # the second time from what the boards have kept
        assert np.array_equal(ops.conv2d(board, x, w, 2), conv2d(x.codes, w.codes, 2, 1))
        found = ops.conv2d_input_grad(board, g, w, x.shape, 2)
        assert np.array_equal(found, conv2d_input_grad(g.codes, w.codes, x.shape, 2, 1))
        found = ops.conv2d_weight_grad(board, g, x, w.shape, 2)
        assert found.dtype == np.int64
        assert np.array_equal(found, conv2d_weight_grad(g.codes, x.codes, w.shape, 2, 1))
        assert np.array_equal(ops.matmul(board, a, b), a.codes.astype(np.int64) @ b.codes)
    board.release(x)


@pytest.mark.parametrize("samples", [1, 2, 3, 8])
def test_products_are_exact(rng, served, samples):
    """On boards of different kinds, also where some have nothing to do."""
    with closing(open_board("sharded:" + ",".join(["golden", *served(1), "golden+cycles"]))) as board:
        check_products(board, rng, samples)
        local = open_board("golden")
        x = random_tensor(rng, (samples, 5, 6, 6), 4, False)
        for each in (board, local):
            before = each.macs
            ops.conv2d(each, x, random_tensor(rng, (7, 5, 3, 3), 4, True))
            assert each.macs - before == samples * 36 * 35 * 9


def test_products_on_pytorch(rng):
    pytest.importorskip("torch")
    with closing(open_board("sharded:torch,golden")) as board:
        check_products(board, rng, 5)


@pytest.mark.parametrize("bits", [(0, 4, 0), (4, 0, 0), (0, 0, 3), (2, 7, 1)])
def test_samples_that_are_skipped(rng, bits):
    x, w = random_tensor(rng, (6, 5, 6, 6), 1, False), random_tensor(rng, (7, 5, 3, 3), 4, True)
    runs = QTensor.of_runs(x.codes, [Run(each, 2) for each in bits], False)
    with closing(open_board("sharded:golden,golden,golden")) as board, closing(golden()) as local:
        assert np.array_equal(ops.conv2d(board, runs, w), ops.conv2d(local, runs, w))


@pytest.mark.parametrize("count", [2, 4])
def test_training_on_remote_boards_is_that_of_one_board(trainer, served, count):
    changes = {"preset": "sim", "epochs": 1}
    with closing(open_board("sharded:" + ",".join(served(count)))) as board:
        runs = [trainer("one", **changes), trainer("sharded", board, **changes)]
        assert all(run.run() for run in runs)
        assert board.counters()["descriptors"] > 0
        assert all(each.counters()["descriptors"] > 0 for each in board.boards)
    wanted, found = (results(run.out)[0] for run in runs)
    assert found == wanted


def test_the_command_trains_on_them(data, tmp_path, served):
    for board in ("golden", "sharded:" + ",".join(served(2))):
        assert train(options(data, tmp_path / board[:4], board=board, epochs=1)) == 0
    assert results(tmp_path / "shar")[0] == results(tmp_path / "gold")[0]


def test_sums_that_no_int64_holds_are_refused(monkeypatch):
    """Each part would fit; so many images would take too long, so the bound is what says so here."""
    monkeypatch.setattr(sums, "weight_grad", lambda *_: 1 << 63)
    tensor = QTensor(np.ones((2, 1, 1, 1), np.int8), 2, True)
    with closing(open_board("sharded:golden,golden")) as board:
        with pytest.raises(OverflowError, match="beyond int64"):
            ops.conv2d_weight_grad(board, tensor, tensor, (1, 1, 1, 1), padding=0)


def test_an_error_of_one_board_is_that_of_all(rng):
    boards = [golden(), golden()]
    with closing(ShardedBoard("sharded:two", boards)) as board:
        run = boards[1].run

        def stop(descriptors):
            raise AcceleratorError(1, 0)

        boards[1].run = stop
        x, w = random_tensor(rng, (4, 5, 6, 6), 4, False), random_tensor(rng, (7, 5, 3, 3), 4, True)
        with pytest.raises(AcceleratorError, match="OPCODE"):
            ops.conv2d(board, x, w)
        boards[1].run = run
        assert np.array_equal(ops.conv2d(board, x, w), conv2d(x.codes, w.codes, 1, 1))


def test_a_server_that_is_gone_is_named(rng, served):
    with ExitStack() as stack:
        name = stack.enter_context(serving(golden("sim")))
        board = open_board(f"sharded:golden,{name}")
    x, w = random_tensor(rng, (4, 5, 6, 6), 4, False), random_tensor(rng, (7, 5, 3, 3), 4, True)
    with pytest.raises(ConnectionError, match=f"board '{name}' is out of reach"):
        ops.conv2d(board, x, w)
    board.close()


def test_names():
    assert "sharded:A,B,..." in board_names()
    assert find("sharded:golden,sim").name == "sharded:golden,sim"
    for wrong in ("sharded:", "sharded:golden", "sharded:golden,"):
        with pytest.raises(ValueError, match="names no boards, must be sharded:A,B"):
            open_board(wrong)
    with pytest.raises(ValueError, match="unknown board 'nothing'"):
        open_board("sharded:golden,nothing")
