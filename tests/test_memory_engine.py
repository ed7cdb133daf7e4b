"""The device step in a board's memory: equal bits with the arrays of the host, pass by pass and over training runs."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from steps import SHAPES, both_ways, gated_walked, walked

from host import open_board
from host.backends.golden import GoldenBoard
from host.data.datasets import load_dataset
from host.data.subset import Subset
from host.nn.models import build_model
from host.ring import RESERVED_BYTES
from host.step.arrange import filling
from host.step.array_engine import ArrayEngine
from host.step.choice import engine_for
from host.step.engine import Noise, Sums, VectorPass
from host.step.memory_engine import MemoryEngine
from host.step.network import Network
from host.step.noise import noise_key
from host.step.rules import Coefficients
from host.training.checkpoint import load_checkpoint
from host.training.config import TrainConfig
from host.training.summary import summarise
from host.training.trainer import Trainer
from rtl.config import AcceleratorConfig
from rtl.isa import Flag

#: PyTorch is the faster one where it is installed.
BOARD = "torch" if find_spec("torch") else "golden"


def vector_board(memory_bytes=1 << 26, **changes):
    return GoldenBoard(AcceleratorConfig.preset("sim", vector=True, **changes), memory_bytes)


# Passes -------------------------------------------------------------------------------------------------------------


def given(rng, engine, shape, bits, signed=True):
    low = -(1 << (bits - 1)) if signed else 0
    codes = rng.integers(low, low + (1 << bits), shape)
    return engine.write(codes, bits, signed)


def random_pass(seed, engine):
    """A pass of random kind over random tensors, the same for every engine."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(rng.integers(1, most)) for most in (4, 40, 6, 20))
    n, channels = shape[:2]
    top = (1 << int(rng.integers(2, 12))) - 1
    b = rng.integers(-(1 << 30), 1 << 30, (n, channels) if rng.integers(2) else channels)
    a, c = (rng.integers(-end, end, channels) for end in (1 << 17, 1 << 20))
    k = Coefficients(a, c, b, int(rng.integers(30)))
    signed = bool(rng.integers(2))
    u = given(rng, engine, shape, int(rng.integers(2, 25)), signed) if rng.integers(4) else None
    mask = given(rng, engine, shape, 1, False) if u is None or rng.integers(2) else None
    x, relu = given(rng, engine, shape, 12), mask is None and bool(rng.integers(2))
    return VectorPass(
        k,
        top,
        u,
        given(rng, engine, shape, 16) if rng.integers(2) else None,
        signed=not relu,
        relu=relu,
        mask=mask,
        noise=Noise(noise_key(seed), 3) if rng.integers(2) else None,
        raised=int(rng.integers(0, 4)),
        sums=(Sums.PLAIN, Sums.SQUARES, x)[rng.integers(3)],
        each_sample=bool(rng.integers(2)),
    )


@pytest.mark.parametrize("seed", range(16))
def test_a_pass_in_memory_is_a_pass_of_arrays(seed):
    """With and without room for its results on the chip."""
    found = []
    board = vector_board(1 << 22, chip_kib=16 * (seed % 2))
    for engine in (MemoryEngine(board), ArrayEngine(open_board("golden"))):
        passed = engine.run(random_pass(seed, engine))
        masks = [] if passed.mask is None else [engine.read(passed.mask) != 0]
        measured = engine.measure(passed.stored, passed.stored).stats
        if not passed.stored.signed:
            masks.append(engine.read(engine.upper(passed.stored, 1)))
        parts = [engine.read(passed.stored), *masks, *passed.measured.stats, *measured]
        found.append(([part.tolist() for part in parts], passed.measured.clipped))
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(8))
def test_a_pass_over_samples_that_lie_apart_is_one_over_them_side_by_side(seed):
    """Some of the streams are gathered, from one tensor or two, and from a gathered one."""
    rng = np.random.default_rng(seed)
    n = 5
    places = [rng.permutation(2 * n)[:n] for _ in range(2)]
    codes = {name: rng.integers(0, 16, (2 * n, 18, 3, 4)) for name in ("u", "v", "x")}
    mask = rng.integers(0, 2, (n, 18, 3, 4))
    b = rng.integers(-400, 400, (n, 18) if seed % 2 else 18)
    k = Coefficients(np.array(9), np.array(-5), b, 3)
    found = []
    for engine in (MemoryEngine(vector_board(1 << 20)), ArrayEngine(open_board("golden"))):
        u = engine.gathered([engine.write(codes["u"], 4, False)], places[0])
        halves = [engine.write(half, 4, False) for half in np.split(codes["v"], 2)]
        v = engine.gathered([engine.gathered(halves, places[1])], np.arange(n)[::-1])
        x = engine.write(codes["x"][:n], 4, False)
        how = {"mask": engine.write(mask, 1, False), "noise": Noise(noise_key(seed), 3), "each_sample": seed % 4 > 1}
        for gathered in (True, False):
            streams = (
                (u, v)
                if gathered
                else (
                    engine.write(codes["u"][places[0]], 4, False),
                    engine.write(codes["v"][places[1]][::-1], 4, False),
                )
            )
            passed = engine.run(VectorPass(k, 15, *streams, sums=x, **how))
            parts = [engine.read(passed.stored), *passed.measured.stats]
            found.append(([part.tolist() for part in parts], passed.measured.clipped))
    assert found[0][1] > 0
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [3, 8, 12])
def test_one_set_of_digits_serves_both_ways_whatever_lay_there(shape, bits):
    """Rows and channels that fill a block count for nothing, nor do taps that a kernel does not have."""
    board = vector_board(1 << 20, clusters=4)
    board.write(RESERVED_BYTES, np.full(board.memory_bytes - RESERVED_BYTES, 0x5B, np.uint8))
    before = board.host_write_bytes
    found = both_ways(MemoryEngine(board), shape, bits)
    assert all(map(np.array_equal, found, both_ways(ArrayEngine(open_board(BOARD)), shape, bits)))
    assert found[0].any()
    # Nothing but weights, images, coefficients and a mask has come from the host.
    inputs, outputs, kernel, _ = shape
    blocks = -(-inputs // 16), -(-outputs // 16)
    weights, images = blocks[0] * blocks[1] * kernel**2 * 16 * 24 * 2, 3 * 6 * 64 * (5 * blocks[0] + 6 * blocks[1])
    assert board.host_write_bytes - before <= weights + images + 512 * sum(blocks) + 288


# Steps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "image", "changes"),
    [("cnn-small", (3, 9, 7), {"clusters": 3, "result_depth": 32}), ("resnet8", (1, 8, 8), {"chip_kib": 64})],
)
def test_steps_in_memory_are_those_of_arrays(model, image, changes):
    """Odd sizes and row blocks in several descriptors; and blocks of all kinds, some of their tensors on the chip."""
    board = vector_board(**changes)
    (found, step), (expected, _) = walked(board, model, image), walked(open_board(BOARD), model, image)
    assert isinstance(step.engine, MemoryEngine)
    assert {name for name in expected if found[name] != expected[name]} == set()
    first = next(step.network.convolutions)
    padded = filling(first.kernel) == 0
    assert not step.engine.read(step.weights.momenta[first.name].codes)[padded].any()
    # Nothing but weights, momenta, their sums, digits and masks is left in use.
    used = sum(region.users > 0 for region in board.memory._regions)
    kernels = [normed.kernel[2:] for normed in step.network.convolutions]
    assert used == 5 * len(kernels) + 1 + ((1, 1) in kernels)
    assert not any(region.users for region in board.chip._regions)


@pytest.mark.parametrize(
    ("model", "options"),
    [("resnet8", "0,3/6,4/8,6/12"), ("cnn-small", "3/6,4/6,6/12")],
)
def test_steps_of_gated_networks_in_memory_are_those_of_arrays(model, options):
    board = vector_board(chip_kib=64)
    (found, step), (expected, _) = (
        gated_walked(board, model, options),
        gated_walked(open_board("golden"), model, options),
    )
    assert isinstance(step.engine, MemoryEngine)
    assert {name for name in expected if found[name] != expected[name]} == set()
    assert not any(region.users for region in board.chip._regions)


def test_a_run_in_memory_is_one_of_arrays_and_says_what_the_host_did(tmp_path):
    settings = {"board": "golden", "subset": "fraction=0.05/test=0.1", "epochs": 2, "batch": 36, "micro_batch": 18}
    config = TrainConfig.of(**settings, step="device", guard=0.5, indicator_every=1)
    data = Subset.parse(config.subset).of(load_dataset(config.data))
    left = []
    for name, board in (("memory", vector_board()), ("arrays", open_board(BOARD))):
        (tmp_path / name).mkdir()
        asked = iter(range(100))
        first = Trainer(config, board, data, tmp_path / name)
        assert not first.run(stop=lambda asked=asked: next(asked) >= 1)
        trainer = Trainer(config, board, data, tmp_path / name)
        trainer.resume()
        assert trainer.run()
        arrays, meta = load_checkpoint(tmp_path / name / "checkpoint.npz")
        for record in meta["progress"]["records"]:
            del record["seconds"]
        progress = {key: meta["progress"][key] for key in ("records", "train", "evaluation", "saturated")}
        for counters in (progress["train"], progress["evaluation"]):
            counters.pop("ddr_bytes", None)
        left.append(({key: array.tobytes() for key, array in arrays.items() if key != "meta"}, progress))
        if name == "memory":
            summary = json.loads(json.dumps(summarise(config, board, data, trainer.progress, step_by="it")))
    assert left[0] == left[1]
    assert summary["step_by"] == "it"
    work = summary["host_work"]
    kinds = {"coefficients", "image", "descriptors", "head"}
    assert work.keys() == kinds
    assert all(kind["seconds"] > 0 for kind in work.values())
    assert work["head"]["write_bytes"] == work["head"]["read_bytes"] == work["descriptors"]["read_bytes"] == 0
    assert {name for name, kind in work.items() if kind["read_bytes"]} == {"coefficients"}  # sums


# Memory and descriptors ---------------------------------------------------------------------------------------------


class Watched(GoldenBoard):
    """Remembers what it was given to run at a time."""

    def __init__(self):
        super().__init__(AcceleratorConfig.preset("sim", vector=True), 1 << 22)
        self.runs = []

    def run(self, descriptors):
        self.runs.append([bool(each.flags & Flag.FENCE) for each in descriptors])
        super().run(descriptors)


def test_descriptors_wait_for_one_another_and_keep_what_they_need(rng):
    board = Watched()
    engine = MemoryEngine(board)
    same = Coefficients(np.array(1), np.array(0), np.array(0), 0)
    codes = rng.integers(-100, 101, (2, 16, 3, 5))
    tensor = engine.write(codes, 8, True)
    for _ in range(3):  # handles go before their tensors have been written
        tensor = engine.run(VectorPass(same, 127, tensor)).stored
    other = engine.run(VectorPass(same, 127, engine.write(codes + 1, 8, True)))
    assert board.runs == []
    filled = [engine.write(np.full_like(codes, -1), 8, True) for _ in range(4)]
    assert np.array_equal(engine.read(tensor), codes)
    assert board.runs == [[False, True, True, False]]
    assert other.measured.clipped == 0
    assert np.array_equal(engine.read(other.stored), codes + 1)
    assert len(board.runs) == 1
    assert all(np.all(engine.read(each) == -1) for each in filled)


def test_a_memory_that_is_too_small_is_named(rng):
    engine = MemoryEngine(vector_board(1 << 16))
    with pytest.raises(ValueError, match=r"do not fit the board's memory of 65536 bytes.*smaller --micro-batch"):
        engine.write(rng.integers(0, 2, (64, 16, 64, 64)), 8, True)


@pytest.mark.parametrize(
    ("board", "image", "name"),
    [
        (vector_board(), (3, 8, 64), "the board's vector unit"),
        (vector_board(), (3, 8, 65), "arrays of the host, as rows of 65 pixels exceed the vector unit's 64"),
        (open_board("golden"), (3, 8, 8), "arrays of the host, as board golden has no vector unit"),
    ],
)
def test_which_engine_it_is(board, image, name):
    network = Network.of(build_model("cnn-small", image, 10, seed=0, edge_bits=2))
    assert engine_for(board, network, image).name == name
