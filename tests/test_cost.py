"""Costs of runs: the paper's numbers, the shapes of real networks, and what savings turn into."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boards import zc706
from host.cycles.bus import CLOCK_MHZ
from host.nn.depthwise import Depthwise
from host.nn.products import PASSES, Convolution, Matrix, Product
from host.quantise import Precision
from host.training.cc import FULL, executed_cc, gate_cc, paper_cc
from host.training.cost import Cost, conversion, run_cost, saving, segments
from host.training.workload import network

#: Two layers of 100 and 10 forward MACs.
PRODUCTS = [
    Product("conv", Convolution(), (1, 2, 5), (10, 1, 1, 1), first=True),
    Product("fc", Matrix(), (5,), (5, 2)),
]


def test_forward_macs_of_the_reference_networks():
    assert [product.macs for product in PRODUCTS] == [100, 10]
    # 83.28 M and 168.22 M MACs, with projection shortcuts.
    assert sum(product.macs for product in network("resnet38", (3, 32, 32), 10)) == pytest.approx(83.28e6, rel=1e-4)
    assert sum(product.macs for product in network("resnet74", (3, 32, 32), 10)) == pytest.approx(168.22e6, rel=1e-4)


def test_a_full_static_run_costs_what_the_paper_charges():
    products = network("resnet38", (3, 32, 32), 10)
    assert 64_000 * 128 * paper_cc(products, Precision(8, 8)) == pytest.approx(1.279e14, rel=1e-3)


def test_executed_cost_has_no_input_gradient_of_the_first_layer_and_whole_digits():
    p = Precision(3, 6)
    assert paper_cc(PRODUCTS, p) == 110 * (9 + 2 * 18) / FULL
    assert executed_cc(PRODUCTS, p) == (100 * (9 + 18) + 10 * (9 + 2 * 18)) / FULL
    # Weights fill one digit of 4 bits; the weight gradient takes the cheaper of 4 x 6 and 8 x 3.
    assert executed_cc(PRODUCTS, p, digits=True) == (100 * (12 + 24) + 10 * (12 + 24 + 24)) / FULL
    assert executed_cc([replace(product, min_bits=8) for product in PRODUCTS], p) == (100 * 2 * 64 + 10 * 3 * 64) / FULL
    assert executed_cc(PRODUCTS, Precision(8, 8)) == executed_cc(PRODUCTS, Precision(8, 8), digits=True)
    assert PASSES == ("forward", "input grad", "weight grad")


def run(accuracies=(0.5, 0.9, 0.7), cycles=1000, **changes):
    """Three epochs of 10 iterations: FW3/BW6, from iteration 15 on FW8/BW8."""
    records = [
        {"epoch": i, "iteration": 10 * (i + 1), "test_accuracy": a, "bit_macs": FULL, "cycles": cycles, "ddr_bytes": 64}
        for i, a in enumerate(accuracies)
    ]
    summary = {
        "config": {"fw": [3, 8], "bw": [6, 8]},
        "stage_switches": [{"iteration": 15, "fw": 8, "bw": 8}],
    }
    return [{**record, **changes} for record in records], summary


def test_segments():
    _, summary = run()
    assert list(segments(summary, 0, 30)) == [(15, Precision(3, 6)), (15, Precision(8, 8))]
    assert list(segments(summary, 10, 20)) == [(5, Precision(3, 6)), (5, Precision(8, 8))]
    assert list(segments(summary, 20, 30)) == [(10, Precision(8, 8))]


def test_cost_of_a_run_and_to_its_best_epoch():
    records, summary = run()
    full = run_cost(records, summary, PRODUCTS, 40)
    low, high = (paper_cc(PRODUCTS, p) for p in (Precision(3, 6), Precision(8, 8)))
    assert full.paper == pytest.approx(40 * 1.5 * (low + high))
    assert (full.epochs, full.accuracy, full.executed, full.cycles, full.ddr_bytes) == (3, 0.7, 3, 3000, 192)
    ratio = executed_cc(PRODUCTS, Precision(3, 6), digits=True) / executed_cc(PRODUCTS, Precision(3, 6))
    assert full.digits == pytest.approx(1.5 * ratio + 1.5)
    best = run_cost(records, summary, PRODUCTS, 40, best=True)
    assert (best.epochs, best.accuracy, best.cycles) == (2, 0.9, 2000)
    assert best.paper == pytest.approx(40 * (1.5 * low + 0.5 * high))


def test_of_equal_accuracies_the_first_is_the_best():
    records, summary = run(accuracies=(0.9, 0.9, 0.9))
    assert run_cost(records, summary, best=True).epochs == 1


def test_what_is_not_known_is_none():
    records, summary = run(cycles=None, ddr_bytes=None)
    cost = run_cost(records, summary)
    assert (cost.paper, cost.digits, cost.cycles, cost.joules) == (None, None, None, None)
    assert cost.executed == 3


#: conv and fc of 100 and 10 forward MACs without a gate, a block of 30 and its shortcut of 6 behind one.
GATED_PRODUCTS = [
    PRODUCTS[0],
    Product("block.body.conv", Convolution(), (2, 1, 1), (15, 2, 1, 1)),
    Product("block.shortcut.conv", Convolution(), (2, 1, 1), (3, 2, 1, 1), always=True),
    PRODUCTS[1],
]


def gated_run():
    records, summary = run()
    summary["config"] |= {"fw": [8], "bw": [8], "options": "0,3/6,8/8", "weight_bits": 4}
    window = {"samples": 40, "counts": {"block": [10, 20, 10]}}
    return [{**record, "cp": 2.5, "gates": [window]} for record in records], summary


def test_gated_runs_cost_what_they_logged():
    records, summary = gated_run()
    cost = run_cost(records, summary, GATED_PRODUCTS, 40)
    assert cost.paper == pytest.approx(3 * 40 * (3 * 36 * 0.025 + 110 * 3 * 64 / FULL))
    # One block with two channels: projection, LSTM of 16 features and 16 states, head for three options.
    gate = 3 * (2 * 16 + 32 * 64 + 16 * 3)
    assert gate_cc(GATED_PRODUCTS, 3) == gate
    assert cost.executed == 3 + 3 * 40 * gate


def test_gated_runs_fill_the_digits_of_what_was_chosen():
    records, summary = gated_run()
    cost = run_cost(records, summary, GATED_PRODUCTS, 40)
    gate = 40 * gate_cc(GATED_PRODUCTS, 3)
    others = 40 * (100 * 2 + 10 * 3) * 64
    # Weights of 4 bits are one digit, activations of 3 too; 8-bit operands are two. Skipping leaves the shortcut.
    narrow, wide = 4 * 3 + 4 * 6 + min(4 * 6, 8 * 3), 4 * 8 + 4 * 8 + 8 * 8
    block = 36 * (20 * narrow + 10 * wide) + 6 * 10 * wide
    assert cost.digits == pytest.approx(3 * ((others + block) / FULL + gate))


def test_depthwise_convolutions_keep_their_precision():
    product = Product("depthwise", Depthwise(1, 1), (4, 1, 1), (4, 1, 3, 3), fixed=Precision(8, 16))
    assert paper_cc([product], Precision(3, 6)) == 36 * (64 + 2 * 8 * 16) / FULL


def cost(cc: float, cycles: int | None) -> Cost:
    return Cost(1, 0.9, cc, cc, cc, cycles, 1 << 20)


def test_saving_conversion():
    assert saving(60, 100) == pytest.approx(0.4)
    assert saving(60, None) is None
    assert conversion(cost(50, 60), cost(100, 100)) == pytest.approx(0.8)
    assert conversion(cost(50, None), cost(100, 100)) is None
    assert conversion(cost(100, 60), cost(100, 100)) is None  # no CC saved
    assert conversion(cost(50, 60), cost(100, 100), "executed") == pytest.approx(0.8)


def test_device_time_is_given_for_the_clock_of_the_board_build():
    assert zc706.BOARD.clock_mhz == CLOCK_MHZ
    assert cost(1, 5 * 10**8).device_seconds == pytest.approx(2.5)
    assert cost(1, None).device_seconds is None


def test_energy_is_a_model_of_two_terms():
    # 1 executed 32-bit MAC is 16 of 8 x 8 bits.
    assert cost(1, 0).joules == pytest.approx((16 * 0.3 + 8 * (1 << 20) * 15) * 1e-12)
