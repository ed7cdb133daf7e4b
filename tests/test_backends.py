"""Backends register themselves: a new one is a file."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import references
from references import random_tensor

from host import backends, open_board, ops
from host.backends import registry
from host.qtensor import QTensor
from host.training.config import TrainConfig

#: All that a new backend needs: how it computes, and its registration.
PLAIN = '''
import numpy as np

from host.backends.golden import GoldenBoard
from host.backends.registry import Backend, register


class PlainBoard(GoldenBoard):
    """Matrix products in numpy, all else as on the golden board."""

    name = "plain"

    def matmul(self, a, b):
        return a.codes.astype(np.int64) @ b.codes.astype(np.int64)


register(Backend("plain", PlainBoard, "numpy"))
'''


@pytest.fixture
def one_more(monkeypatch, tmp_path):
    """The backend of `PLAIN`, in a folder of backends."""
    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    (tmp_path / "plain_board.py").write_text(PLAIN)
    yield backends.discover()
    sys.modules.pop("host.backends.plain_board")


def test_a_new_backend_is_one_file(one_more, rng):
    assert {"plain", "plain+cycles"} <= set(backends.board_names())
    board = open_board("plain", config="tiny")
    a, b = random_tensor(rng, (5, 7), 4, True), random_tensor(rng, (7, 3), 4, True)
    assert np.array_equal(ops.matmul(board, a, b), a.codes.astype(np.int64) @ b.codes.astype(np.int64))
    assert board.counters()["descriptors"] == 0
    board = open_board("plain+cycles", config="tiny")
    x, w = random_tensor(rng, (2, 3, 5, 5), 4, False), random_tensor(rng, (4, 3, 3, 3), 4, True)
    assert np.array_equal(ops.conv2d(board, x, w), references.conv2d(x.codes, w.codes, 1, 1))
    assert board.counters()["busy"] > 0
    # Options and their checks know it as well.
    assert TrainConfig(board="plain", numerics="affine").preset == "sim"
    with pytest.raises(ValueError, match="device on boards that count cycles"):
        TrainConfig(board="plain+cycles", numerics="affine")


def test_every_listed_board_opens():
    for name in backends.board_names():
        if backends.find(name).has_devices:
            pytest.importorskip("torch")
        if not backends.find(name).has_clock:  # the RTL's board is opened by its own tests
            board = open_board(name, config="tiny")
            assert board.name == name
            assert board.modelled == backends.find(name).modelled
            assert ("busy" in board.counters()) == backends.find(name).counts_cycles
            board.close()


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="there is a board 'golden' already"):
        registry.register(backends.find("golden"))


@pytest.mark.parametrize("name", ["golden", "golden+cycles"])
def test_time_in_the_place_of_the_accelerator_is_told_apart(name):
    board = open_board(name)
    started = time.monotonic()
    ops.matmul(board, QTensor(np.ones((64, 64), np.int8), 4, True), QTensor(np.ones((64, 64), np.int8), 4, True))
    assert 0 < board.stand_in_seconds < time.monotonic() - started
    before = board.stand_in_seconds
    board.counters()
    assert board.stand_in_seconds == before
