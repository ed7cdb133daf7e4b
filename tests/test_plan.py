"""Plans without data, binding them to a board, and what stays in a board's memory."""

from __future__ import annotations

import gc
from itertools import pairwise

import numpy as np
import pytest
import references
from references import random_tensor

from host import QTensor, open_board, ops
from host.backends.golden import GoldenBoard
from host.backends.modelled import Modelled
from host.cycles.model import CycleModel
from host.nn.layers import Context
from host.nn.models import build_model
from host.operand import Operand
from host.plan import products, sums
from host.plan.bound import Bound
from host.plan.memory import Memory, NoRoom
from host.plan.plan import Spec, Target
from host.qtensor import Run
from host.quantise import Precision
from rtl.config import AcceleratorConfig

CONFIG = AcceleratorConfig.preset("tiny")
TARGET = Target(CONFIG, 1 << 20)
X, W = Spec((3, 20, 9, 9), 5, False), Spec((7, 20, 3, 3), 4, True)


def operand(rng, spec: Spec) -> Operand:
    tensor = random_tensor(rng, spec.shape, spec.bits, spec.signed)
    return Operand(tensor.codes, tensor.bits, tensor.signed)


def board_of(memory_bytes: int = 1 << 20) -> GoldenBoard:
    return open_board("golden", config=CONFIG, memory_bytes=memory_bytes)


def written(board, product) -> int:
    """Bytes that the host writes for a product."""
    before = board.counters()["host_write_bytes"]
    product()
    return board.counters()["host_write_bytes"] - before


# Plans --------------------------------------------------------------------------------------------------------------


def test_equal_work_is_planned_once(rng):
    plan = products.plan_conv2d(TARGET, X, W, 1, 1, 32)
    assert products.plan_conv2d(TARGET, X, W, 1, 1, 32) is plan
    assert products.conv2d(TARGET, operand(rng, X), operand(rng, W), 1, 1).reach in sums.REACHES
    narrow = products.plan_conv2d(TARGET, X, W, 1, 1, 16)
    assert narrow.read_bytes == plan.read_bytes // 2
    assert narrow.written_bytes == plan.written_bytes


def test_sums_decide_how_wide_results_are(rng):
    x, w = operand(rng, X), operand(rng, W)
    w.codes = np.zeros_like(w.codes)
    assert products.conv2d(TARGET, x, w, 1, 1).reach == 16
    w.codes = np.full(W.shape, -8)
    w._sums.clear()
    assert products.conv2d(TARGET, x, w, 1, 1).reach == 32


@pytest.mark.parametrize("memory_bytes", [1 << 15, 1 << 17, 1 << 24])
def test_what_lies_in_memory_together_fits_it(memory_bytes):
    target = Target(CONFIG, memory_bytes)
    x, w, g = Spec((5, 40, 16, 16), 7, False), Spec((24, 40, 3, 3), 8, True), Spec((5, 24, 16, 16), 12, True)
    half = Spec((5, 24, 8, 8), 12, True)
    for plan in (
        products.plan_conv2d(target, x, w, 1, 1, 32),
        products.plan_conv2d_input_grad(target, half, w, x.shape, 2, 1, 48),
        products.plan_conv2d_input_grad(target, g, w, x.shape, 1, 1, 48),
        products.plan_conv2d_weight_grad(target, g, x, w.shape, 1, 1, 48),
        products.plan_matmul(target, Spec((70, 900), 4, True), Spec((900, 50), 9, False), 32),
    ):
        assert plan.peak_bytes <= target.room
        for index, node in enumerate(plan.nodes):
            assert all(plan.tensors[n].first <= index <= plan.tensors[n].last for n in node.reads + node.writes)
        assert len(plan.nodes) == 1 or memory_bytes < 1 << 24


def test_a_plan_is_asked_for_its_cycles(rng):
    """The model reads the plan: a board with data takes the cycles that shapes alone have told."""
    board = Modelled(board_of())
    x, w = random_tensor(rng, X.shape, X.bits, X.signed), random_tensor(rng, W.shape, W.bits, W.signed)
    ops.conv2d(board, x, w)
    reach = products.conv2d(TARGET, *(Operand(t.codes, t.bits, t.signed) for t in (x, w)), 1, 1).reach
    cycles = CycleModel(CONFIG).plan(products.plan_conv2d(TARGET, X, W, 1, 1, reach))
    counters = board.counters()
    assert cycles.busy == counters["busy"] > 0
    assert (cycles.read_bytes, cycles.write_bytes) == (counters["read_bytes"], counters["write_bytes"])


# Binding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_bytes", [1 << 15, 1 << 20])
def test_a_bound_plan_runs_as_often_as_asked(rng, memory_bytes):
    board = board_of(memory_bytes)
    bound = Bound(products.plan_conv2d(board.target, X, W, 1, 1, 32), board)
    w = operand(rng, W)
    bound.write("w", w)
    for _ in range(3):
        x = operand(rng, X)
        bound.write("x", x)
        bound.run()
        assert np.array_equal(bound.read(), references.conv2d(x.codes, w.codes, 1, 1))


def test_tensors_start_at_bursts(rng, monkeypatch):
    board, addresses = board_of(1 << 15), []
    monkeypatch.setattr(board, "put", lambda address, data: addresses.append(address))
    x, w = random_tensor(rng, (4, 40, 16, 16), 8, False), random_tensor(rng, (24, 40, 3, 3), 8, True)
    ops.conv2d(board, x, w)
    assert len(addresses) > 4
    assert not any(address % board.target.burst_bytes for address in addresses)


def test_bad_bindings_are_named(rng):
    board = board_of()
    plan = products.plan_conv2d(TARGET, X, W, 1, 1, 16)
    bound = Bound(plan, board)
    with pytest.raises(ValueError, match="the plan has not run"):
        bound.read()
    with pytest.raises(ValueError, match="no operand 'g'; there are x, w"):
        bound.write("g", operand(rng, X))
    with pytest.raises(ValueError, match=r"'x' is \(3, 20, 9, 9\) \(signed, 5 bits\), the plan is for .* \(unsigned"):
        bound.write("x", operand(rng, X._replace(signed=True)))
    bound.write("x", operand(rng, X))
    with pytest.raises(ValueError, match="operands not written: w"):
        bound.run()
    bound.write("w", Operand(np.full(W.shape, -8), W.bits, W.signed))
    with pytest.raises(OverflowError, match=f"sums may reach {180 * 8 * 31}, the plan is for 16 signed bits"):
        bound.run()
    assert board.counters()["host_write_bytes"] == 0
    for other in (open_board("golden", config="sim", memory_bytes=1 << 20), board_of(1 << 18)):
        with pytest.raises(ValueError, match="does not fit a board"):
            Bound(plan, other)


# What stays ---------------------------------------------------------------------------------------------------------


def test_a_tensor_is_written_once_for_each_format(rng):
    board = board_of()
    x, w = random_tensor(rng, X.shape, X.bits, X.signed), random_tensor(rng, W.shape, W.bits, W.signed)
    first = written(board, lambda: ops.conv2d(board, x, w))
    assert first > 0
    assert written(board, lambda: ops.conv2d(board, x, w)) == 0
    weights = written(board, lambda: ops.conv2d(board, random_tensor(rng, X.shape, X.bits, X.signed), w))
    kernels = written(board, lambda: ops.conv2d(board, x, random_tensor(rng, W.shape, W.bits, W.signed)))
    assert weights + kernels == first
    # The other way round the kernel has another format.
    g = random_tensor(rng, (3, 7, 9, 9), 6, True)
    backward = written(board, lambda: ops.conv2d_input_grad(board, g, w, x.shape))
    assert written(board, lambda: ops.conv2d_input_grad(board, g, w, x.shape)) == 0 < backward


def test_an_evaluation_writes_weights_once(rng):
    board = board_of(1 << 22)
    model = build_model("resnet8", (3, 8, 8), 10, seed=0, edge_bits=8)
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    context = Context(board, Precision(4, 6), training=False)
    first, second, third = (written(board, lambda: model.forward(x, context)) for _ in range(3))
    assert first > second == third > 0
    board.memory.clear()
    assert written(board, lambda: model.forward(x, context)) == first


def test_mixed_batches_stay_as_well(rng):
    board = board_of()
    codes = random_tensor(rng, (4, 20, 9, 9), 3, False).codes
    w = random_tensor(rng, W.shape, W.bits, W.signed)
    x, other = (QTensor.of_runs(codes, [Run(b, 2), Run(5, 2)], False) for b in (3, 4))
    y = ops.conv2d(board, x, w)
    assert written(board, lambda: ops.conv2d(board, x, w)) == 0
    assert np.array_equal(ops.conv2d(board, other, w), y)
    assert np.array_equal(ops.conv2d(board, x, w), y)


def test_what_is_gone_or_released_makes_room(rng):
    board = board_of()
    tensors = [random_tensor(rng, spec.shape, spec.bits, spec.signed) for spec in (X, W)]
    ops.conv2d(board, *tensors)
    both = board.memory.kept_bytes
    board.release(tensors[0])
    weights = board.memory.kept_bytes
    assert both > weights > 0
    assert written(board, lambda: ops.conv2d(board, *tensors)) == both - weights
    del tensors[1]
    gc.collect()
    assert board.memory.kept_bytes == both - weights


def test_short_memory_costs_writes_and_never_results(rng):
    """Tensors of all sizes, many more than fit, used again and again at random."""
    board = board_of(1 << 17)
    images = [random_tensor(rng, (n, 12, 7, 7), 4, False) for n in (1, 2, 5, 9, 14)]
    kernels = [random_tensor(rng, (m, 12, k, k), 6, True) for m in (3, 9, 20, 40) for k in (1, 3)]
    saved = 0
    for _ in range(120):
        x, w = images[rng.integers(len(images))], kernels[rng.integers(len(kernels))]
        fresh = board_of(1 << 17)
        expected = references.conv2d(x.codes, w.codes, 1, 1)
        assert np.array_equal(ops.conv2d(board, x, w), expected)
        saved += written(fresh, lambda x=x, w=w, fresh=fresh: ops.conv2d(fresh, x, w))
    total = board.counters()["host_write_bytes"]
    print(f"{total} bytes written, {saved} without what was kept")
    assert 0 < total < 0.9 * saved


def test_after_an_error_everything_is_written_again(rng, monkeypatch):
    board = board_of()
    x, w = random_tensor(rng, X.shape, X.bits, X.signed), random_tensor(rng, W.shape, W.bits, W.signed)
    first = written(board, lambda: ops.conv2d(board, x, w))

    def stop(descriptors):
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(board, "run", stop)
        with pytest.raises(TimeoutError):
            ops.conv2d(board, x, w)
    assert written(board, lambda: ops.conv2d(board, x, w)) == first


# Memory -------------------------------------------------------------------------------------------------------------


class Owner:
    """Something that can own regions."""


def test_the_least_recently_used_region_goes_first():
    memory, owners = Memory(100, 128 + 4 * 256, 128), [Owner() for _ in range(4)]
    for owner in owners:
        region = memory.take(200)
        memory.keep(region, owner, "key")
        memory.release(region)
    memory.release(memory.find(owners[0], "key"))
    taken = memory.take(256)
    assert [memory.find(owner, "key") is not None for owner in owners] == [True, False, True, True]
    with pytest.raises(NoRoom):
        memory.take(1)
    memory.release(taken)
    assert memory.take(10).address == taken.address


def test_regions_do_not_overlap_and_are_aligned(rng):
    memory, taken = Memory(100, 5000, 64), []
    for _ in range(300):
        if taken and rng.random() < 0.5:
            memory.release(taken.pop(rng.integers(len(taken))))
        try:
            taken.append(memory.take(int(rng.integers(1, 900))))
        except NoRoom:
            continue
        spans = sorted((region.address, region.address + region.nbytes) for region in taken)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert spans[0][0] >= 100
        assert spans[-1][1] <= 5000
        assert not any(start % 64 for start, _ in spans)


def test_a_new_object_does_not_inherit_what_a_dead_one_kept():
    memory, owner = Memory(0, 1 << 10, 64), Owner()
    region = memory.take(64)
    memory.keep(region, owner, "key")
    memory.release(region)
    twin = Owner()
    memory._kept[id(twin), "key"] = memory._kept.pop((id(owner), "key"))  # as if the twin had the same id
    assert memory.find(twin, "key") is None
    memory.forget(owner)
    assert memory.kept_bytes == 0
