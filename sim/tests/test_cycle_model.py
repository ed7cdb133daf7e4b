"""The cycle model against the RTL: every product of a network, its counter `busy` and its bytes on the bus.

`pytest -m slow sim/tests/test_cycle_model.py -s` prints the whole comparison as a table.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from references import mixed_tensor, random_tensor

from host import open_board, ops
from host.backends.modelled import Modelled
from host.bench import difference, print_table
from host.board import Board
from host.cycles import units as units
from host.cycles.model import CycleModel
from host.nn.products import Product
from host.quantise import Precision
from host.training.workload import network, task
from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.ddr import Ddr
from rtl.isa import Descriptor, Opcode

#: Accepted error of the model, in % of the cycles.
ACCEPTED = 1.0
#: The same where channels wait for each other because the memory carries no more.
EXHAUSTED = 12.0
IMAGE = (3, 32, 32)
COLUMNS = {
    "layer": "{layer}",
    "pass": "{pass}",
    "bits": "{bits}",
    "RTL": "{rtl:,}",
    "model": "{model:,}",
    "error": "{error:+.2f}%",
}


@pytest.fixture(scope="module")
def board():
    with_rtl = open_board("sim")
    yield Modelled(with_rtl)
    with_rtl.close()


def compare(board: Board, run) -> tuple[int, int]:
    """(cycles of the RTL, cycles of the model); the bytes of both are equal."""
    rtl, ours = board.board.counters(), board.counters()
    run(board)
    rtl, ours = difference(board.board.counters(), rtl), difference(board.counters(), ours)
    assert rtl["planes_skipped"] == 0
    for name in ("read_bytes", "write_bytes", "exec_busy", "table_busy"):
        assert ours[name] == rtl[name], name
    return rtl["busy"], ours["busy"]


def compare_products(board: Board, products: list[Product], batch: int, precision: Precision) -> list[dict]:
    """A row for each pass of each layer; layers of one shape are measured once."""
    rows, seen = [], set()
    for product in products:
        shape = (product.kind, product.x, product.w, product.first)
        if shape in seen:
            continue
        seen.add(shape)
        for which in product.passes:
            run = task(product, which, batch, precision, np.random.default_rng(0))
            rtl, model = compare(board, run)
            bits = f"{precision} x{batch}"
            error = 100 * (model / rtl - 1)
            rows.append(
                {"layer": product.name, "pass": which, "bits": bits, "rtl": rtl, "model": model, "error": error}
            )
    return rows


def check(rows: list[dict], accepted: float = ACCEPTED, together: float = 0.2) -> None:
    """Each row within `accepted` %, their sum within `together` %."""
    print_table(COLUMNS, rows)
    assert max(abs(row["error"]) for row in rows) <= accepted
    assert sum(row["model"] for row in rows) == pytest.approx(sum(row["rtl"] for row in rows), rel=together / 100)


@pytest.mark.parametrize(("fw", "bw"), [(8, 8), (3, 6)])
def test_every_product_of_resnet8(board, fw, bw):
    check(compare_products(board, network("resnet8", IMAGE, 10), 2, Precision(fw, bw)))


@pytest.mark.parametrize(("shared", "accepted", "together"), [(3, ACCEPTED, 0.2), (Fraction(17, 8), EXHAUSTED, 2)])
def test_two_clusters_with_a_manager_each(shared, accepted, together):
    """With a memory that carries what the ports do, and with one that forward passes exhaust on so few clusters."""
    ddr = Ddr(shared=Fraction(shared))
    with_rtl = open_board("sim", config=AcceleratorConfig.preset("sim", clusters=2, managers=2), ddr=ddr)
    rows = compare_products(Modelled(with_rtl, ddr), network("resnet8", IMAGE, 10), 4, Precision(4, 6))
    check(rows, accepted, together)
    with_rtl.close()


def test_single_planes_leave_store_no_time(board):
    rng = np.random.default_rng(4)
    x, w = random_tensor(rng, (6, 24, 16, 16), 1, False), random_tensor(rng, (24, 24, 3, 3), 12, True)
    rtl, model = compare(board, lambda board: ops.conv2d(board, x, w))
    assert model == pytest.approx(rtl, rel=2 * ACCEPTED / 100)


def test_samples_of_different_widths(board):
    rng = np.random.default_rng(1)
    w = random_tensor(rng, (32, 24, 3, 3), 4, True)
    for bits in ([6, 6, 3, 0, 0, 2, 6, 4, 4, 1], [0] * 9 + [1], [5] * 10):
        codes = np.stack([random_tensor(rng, (24, 16, 16), max(b, 1), False).codes * (b > 0) for b in bits])
        x = mixed_tensor(codes, bits, False)
        rtl, model = compare(board, lambda board, x=x: ops.conv2d(board, x, w))
        assert model == pytest.approx(rtl, rel=ACCEPTED / 100)


@pytest.mark.parametrize(
    "ddr",
    [
        Ddr(read_latency=140, write_latency=90),
        Ddr(bandwidth=Fraction(1)),
        Ddr(bandwidth=Fraction(3, 8), read_latency=20),
        Ddr(outstanding=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("config", ["sim", "tiny", "tiny with two managers"])
def test_other_memories_and_accelerators(config, ddr):
    name, _, two = config.partition(" with ")
    accelerator = AcceleratorConfig.preset(name, managers=2 if two else 1)
    compare_small_products(accelerator, ddr, 2 * ACCEPTED)


def test_a_memory_that_its_ports_exhaust():
    """Who waits for whom is only modelled on average, and an estimate."""
    accelerator = AcceleratorConfig.preset("tiny", managers=2)
    compare_small_products(accelerator, Ddr(bandwidth=Fraction(1), shared=Fraction(5, 4)), EXHAUSTED)


def compare_small_products(accelerator: AcceleratorConfig, ddr: Ddr, accepted: float) -> None:
    """A product of each kind, within `accepted` % of the RTL."""
    board = Modelled(open_board("sim", config=accelerator, ddr=ddr), ddr)
    rng = np.random.default_rng(2)
    x, w = random_tensor(rng, (5, 40, 10, 10), 3, False), random_tensor(rng, (40, 40, 3, 3), 5, True)
    g, half = random_tensor(rng, (5, 40, 10, 10), 4, True), random_tensor(rng, (5, 40, 5, 5), 4, True)
    a, b = random_tensor(rng, (30, 700), 4, True), random_tensor(rng, (700, 90), 4, True)
    for run in (
        lambda board: ops.conv2d(board, x, w),
        lambda board: ops.conv2d_weight_grad(board, g, x, w.shape),
        lambda board: ops.conv2d_input_grad(board, half, w, x.shape, stride=2),
        lambda board: ops.matmul(board, a, b),
    ):
        rtl, model = compare(board, run)
        print(f"{model:,} of {rtl:,}: {100 * (model / rtl - 1):+.2f}%")
        assert model == pytest.approx(rtl, rel=accepted / 100)
    board.close()


@pytest.mark.parametrize("managers", [1, 2])
def test_orders_of_the_stationary_operand(managers):
    """A change from turned to other beats waits, and what is turned is there later."""
    config = AcceleratorConfig.preset("sim", managers=managers, vector=True)
    board = open_board("sim", config=config)
    d = Descriptor(
        opcode=Opcode.WINDOW,
        **dict.fromkeys(("height", "width", "out_height", "out_width"), 8),
        samples=2,
        k_blocks=3,
        row_blocks=2,
        tile_rows=8,
        row_groups=4,
        pad_top=1,
        pad_left=1,
        stream_bits=2,
        stationary_bits=8,
        stream_base=0x10000,
        stationary_base=0x40000,
        stationary_stride_k=2 * config.weight_tile_beats * BEAT_BYTES,
        out_base=0x80000,
        out_stride_n=0x4000,
        out_stride_m=0x1000,
    )
    board.write(0x10000, np.full(0x10000, 0xFF, np.uint8))  # no plane is skipped
    for orders in ("0", "2", "01020", "2222", "1211"):
        program = [replace(d, stationary_order=int(order)) for order in orders]
        if len(orders) > 1:  # and rows that are read one by one
            program[0] = replace(program[0], stream_stride_y=0x60)
        before = board.counters()["busy"]
        board.run(program)
        rtl, model = board.counters()["busy"] - before, CycleModel(config).program(program).busy
        print(f"{orders}: {model:,} of {rtl:,}: {100 * (model / rtl - 1):+.2f}%")
        assert model == pytest.approx(rtl, abs=2 * len(program))  # turning takes more
    board.close()


@pytest.mark.slow
def test_the_whole_comparison(board):
    nets = {name: network(name, IMAGE, 10) for name in ("resnet8", "resnet38")}
    rows = []
    for name, batch, fw, bw in (
        ("resnet8", 4, 8, 8),
        ("resnet8", 3, 3, 6),
        ("resnet8", 4, 4, 6),
        ("resnet8", 4, 2, 2),
        ("resnet8", 2, 12, 16),
        ("resnet38", 16, 8, 8),
        ("resnet38", 16, 3, 6),
        ("resnet38", 32, 4, 6),
    ):
        rows += compare_products(board, nets[name], batch, Precision(fw, bw))
    check(rows)
