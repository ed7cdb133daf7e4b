"""Training steps whose tensors stay in the memory of the RTL: equal bits with the golden model, in everything left."""

from __future__ import annotations

import numpy as np
import pytest
from runs import results
from steps import both_ways, gated_walked, walked

from host import open_board
from host.backends.golden import GoldenBoard
from host.step.memory_engine import MemoryEngine
from host.train import main
from sim.tests.test_rtl_vector import CONFIGS

CONFIG = CONFIGS["two managers"]


@pytest.fixture(scope="module")
def board():
    board = open_board("sim", config=CONFIG, memory_bytes=1 << 24)
    yield board
    board.close()


def golden() -> GoldenBoard:
    return GoldenBoard(CONFIG, 1 << 24)


@pytest.mark.parametrize("shape", [(20, 40, 3, 2), (20, 18, 1, 1)])
def test_one_set_of_digits_serves_both_ways(board, shape):
    assert all(map(np.array_equal, *(both_ways(MemoryEngine(each), shape, 6) for each in (board, golden()))))


@pytest.mark.parametrize("model", ["cnn-small", pytest.param("resnet8", marks=pytest.mark.slow)])
def test_steps_on_the_rtl_are_those_of_the_golden_model(board, model):
    (found, step), (expected, _) = (walked(each, model, (1, 6, 8)) for each in (board, golden()))
    assert isinstance(step.engine, MemoryEngine)
    del found["work"], expected["work"]  # of all that the board has done
    assert {name for name in expected if found[name] != expected[name]} == set()


@pytest.mark.parametrize(
    ("model", "options"),
    [("cnn-small", "3/6,6/12"), pytest.param("resnet8", "0,3/6,4/8,6/12", marks=pytest.mark.slow)],
)
def test_gated_steps_on_the_rtl_are_those_of_the_golden_model(board, model, options):
    how = {"image": (1, 6, 8), "samples": 4}
    (found, step), (expected, _) = (gated_walked(each, model, options, **how) for each in (board, golden()))
    assert isinstance(step.engine, MemoryEngine)
    del found["work"], expected["work"]  # of all that the board has done
    assert {name for name in expected if found[name] != expected[name]} == set()


def left(out) -> tuple[dict, list, dict]:
    """What a run leaves behind, without what only a clock and a bus tell."""
    arrays, meta, records = results(out)
    for record in (*records, *(window for each in records for window in each["windows"])):
        record.pop("cycles")
        record.pop("ddr_bytes", None)
    return arrays, records, meta["progress"]["saturated"]


@pytest.mark.slow
def test_an_epoch_on_the_rtl_is_that_of_the_golden_model(tmp_path):
    """The default run with the step on the device, up to the end of its first epoch."""
    for name in ("sim", "golden"):
        options = {"board": name, "preset": "vector", "step": "device", "epochs": 1, "out": tmp_path / name}
        assert main([f"--{option}={value}" for option, value in options.items()]) == 0
    assert left(tmp_path / "sim") == left(tmp_path / "golden")
