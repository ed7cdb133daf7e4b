"""The cycle model without the RTL: the parts of the bus, and boards that report modelled cycles."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from references import mixed_tensor, random_tensor

from host import open_board, ops
from host.backends.modelled import Modelled
from host.cycles.bus import CLOCK_MHZ, Channel, Rate, Shared
from host.cycles.model import CycleModel
from host.cycles.pipeline import Cycles
from host.errors import AcceleratorError
from rtl.config import BEAT_BYTES, LANES, AcceleratorConfig
from rtl.ddr import MEMORIES, Ddr
from rtl.isa import DESCRIPTOR_BYTES, Descriptor, Error, Flag, Opcode

CONFIG = AcceleratorConfig.preset("sim")


def moved(rate: Fraction, earliest: list[int]) -> list[int]:
    """Cycle by cycle as in sim/ddr.h: when beats move that are there from these cycles on."""
    credit, times, now = rate.denominator + rate.numerator, [], 0
    while len(times) < len(earliest):
        credit = min(credit + rate.numerator, rate.denominator + rate.numerator)
        if now >= earliest[len(times)] and credit >= rate.denominator:
            credit -= rate.denominator
            times.append(now)
        now += 1
    return times


@pytest.mark.parametrize("rate", [Fraction(1), Fraction(3, 4), Fraction(1, 2), Fraction(5, 7), Fraction(1, 3)])
def test_rate_equals_the_leaky_bucket_of_the_memory(rng, rate):
    bucket, earliest, times, now = Rate(rate), [], [], 0
    for _ in range(60):
        count = int(rng.integers(1, 30))
        begin = now + int(rng.integers(0, 12))
        earliest += [begin] * count
        first, now = bucket.beats(begin, count)
        times.append((first, now, count))
        now += 1
    wanted = iter(moved(rate, earliest))
    for first, last, count in times:
        beats = [next(wanted) for _ in range(count)]
        assert (beats[0], beats[-1]) == (first, last)


def channel(latency: int = 50, outstanding: int = 8) -> Channel:
    return Channel(replace(CONFIG, outstanding=outstanding), Ddr(), latency + 1, 0)


def test_one_short_run_takes_its_latency():
    run = channel().run(10, 0, 1)
    assert (run.taken, run.first, run.last) == (10, 63, 63)  # cutter, register, 51 cycles


def test_runs_without_enough_bursts_in_flight_wait_for_the_latency():
    bus = channel(latency=100, outstanding=2)
    lasts = [bus.run(0, 16 * i, 1).last for i in range(10)]
    assert lasts[9] - lasts[1] == 4 * 102


def test_channels_share_what_the_memory_moves():
    """Two channels that could move a beat a cycle each, of a memory that moves one: both get half of it."""
    shared = Shared(Fraction(1))
    buses = [Channel(CONFIG, Ddr(bandwidth=Fraction(1)), 3, 0, shared) for _ in range(2)]
    runs = [bus.run(0, 0, 1024) for bus in buses for _ in range(2)]
    assert runs[-1].last == pytest.approx(2 * 2048, rel=0.03)
    alone = Channel(CONFIG, Ddr(bandwidth=Fraction(1)), 3, 0, Shared(Fraction(1)))
    assert alone.run(0, 0, 1024).last == pytest.approx(1024, rel=0.02)


@pytest.mark.parametrize("bandwidth", [Fraction(1), Fraction(3, 4)])
def test_a_memory_that_turns_moves_less_where_it_is_read_and_written(bandwidth):
    """As much as `Ddr.usable`, and all of it one way."""
    ddr = Ddr(bandwidth=bandwidth, shared=Fraction(1), turnaround=16, batch=32, refresh_interval=100, refresh=10)
    assert ddr.usable == pytest.approx(0.9 / 1.25)
    for both, rate in ((True, ddr.usable), (False, min(0.9, 2 * bandwidth))):
        shared = Shared.of(CONFIG, ddr)
        buses = [Channel(CONFIG, ddr, 3, 0, shared, write=both and i > 0) for i in range(2)]
        lasts = [bus.run(0, 16 * i, 16).last for i in range(200) for bus in buses]
        assert max(lasts) == pytest.approx(2 * 3200 / rate, rel=0.03)


def test_the_default_memory_of_a_step_is_that_of_the_zc706():
    """4.26 GB/s, of which 3.4 are left where as much is read as written."""
    ddr = MEMORIES["ps-ddr"]
    assert float(ddr.shared) * BEAT_BYTES * CLOCK_MHZ == pytest.approx(4264, rel=0.001)
    assert ddr.usable * BEAT_BYTES * CLOCK_MHZ == pytest.approx(3400, rel=0.002)


@pytest.mark.parametrize("start", [0, 5])
def test_the_middle_of_a_long_run_is_as_exact_as_its_single_bursts(start):
    fast, slow = channel(), channel()
    slow._hidden = False
    for beats in (700, 2000, 3, 4096, 16):
        a, b = fast.run(0, start, beats), slow.run(0, start, beats)
        assert abs(a.last - b.last) <= 2
        assert abs(fast.free - slow.free) <= 4
    assert fast.beats == slow.beats == 6815


def test_memory_parameters_are_checked():
    with pytest.raises(ValueError, match="bandwidth is 2"):
        Ddr(bandwidth=Fraction(2))
    with pytest.raises(ValueError, match="shared is 1/2, must be at least the bandwidth of a manager, 3/4"):
        Ddr(shared=Fraction(1, 2))
    for bad in ({"read_latency": -1}, {"outstanding": 0}):
        with pytest.raises(ValueError, match="latencies must be at least 0, outstanding at least 1"):
            Ddr(**bad)
    with pytest.raises(ValueError, match="turnaround must be at least 0, batch at least 1"):
        Ddr(batch=0)
    with pytest.raises(ValueError, match="refresh is 5, must be at least 0 and below its interval"):
        Ddr(refresh=5, refresh_interval=5)


def flat(**changes) -> Descriptor:
    fields = {
        "opcode": Opcode.FLAT,
        "stream_bits": 8,
        "stationary_bits": 4,
        "width": 64,
        "out_width": 64,
        "k_blocks": 10,
        "row_groups": 3,
        "k_tail": 9,
        "stream_base": 8192,
        "stream_stride_c": 1024,
        "stationary_base": 1 << 20,
        "stationary_stride_k": 1152,
        "out_base": 2 << 20,
    }
    return Descriptor(**{**fields, **changes})


def test_a_compute_bound_product_takes_its_plane_cycles():
    d = flat(width=240, out_width=240, stream_stride_c=8 * 60 * 8, k_blocks=4, stationary_bits=16)
    cycles = CycleModel(CONFIG).program([d])
    assert cycles.exec_busy == 4 * 4 * 8 * 240
    assert cycles.read_bytes == DESCRIPTOR_BYTES + 8 * (4 * 9 * 8 * 60 + 16 * 144)
    assert cycles.write_bytes == 240 * 16 * 4
    assert cycles.exec_busy < cycles.busy


def test_a_bus_bound_product_takes_its_bytes():
    cycles = CycleModel(CONFIG).program([flat(k_blocks=40)])
    assert cycles.read_bytes / 8 / 0.75 == pytest.approx(cycles.busy, rel=0.1)
    slower = CycleModel(CONFIG, Ddr(bandwidth=Fraction(3, 8))).program([flat(k_blocks=40)])
    assert slower.busy == pytest.approx(2 * cycles.busy, rel=0.1)
    assert slower.read_bytes == cycles.read_bytes


def test_descriptors_of_a_batch_overlap_and_fences_do_not():
    model, d = CycleModel(CONFIG), flat()
    one, five = model.program([d]), model.program([d] * 5)
    fenced = model.program([replace(d, flags=Flag.FENCE)] * 5)
    assert 4 * one.exec_busy < five.busy < 4.9 * one.busy
    assert fenced.busy > five.busy + 4 * 100
    assert five.write_bytes == fenced.write_bytes == 5 * one.write_bytes


def test_programs_longer_than_the_ring_run_in_batches():
    model, d = CycleModel(CONFIG), flat(k_blocks=1)
    assert model.program([d] * 130) == model.program([d] * 64) + model.program([d] * 64) + model.program([d] * 2)


def test_precision_tables_decide():
    d = flat(flags=Flag.STREAM_TABLE, samples=12, tile_samples=2, stream_stride_n=1 << 14, out_stride_n=4096)
    model = CycleModel(CONFIG)

    def planes(*bits: int) -> Cycles:
        return model.program([d], lambda address, count: bytes(bits[i % len(bits)] for i in range(count)))

    assert planes(8).exec_busy == 2 * planes(4).exec_busy == 12 * 10 * 8 * 64
    assert planes(0, 8).exec_busy == planes(4).exec_busy
    assert planes(0).write_bytes == 0
    assert planes(8).busy > planes(4).busy > planes(0, 8).busy > planes(0).busy > 0
    with pytest.raises(ValueError, match="precision tables"):
        model.program([d])


def test_the_precision_of_the_stationary_operand_may_come_from_a_table():
    d = flat(flags=Flag.STATIONARY_TABLE, stationary_stride_k=4 * 1152)
    cycles = {bits: CycleModel(CONFIG).program([d], lambda _, n, b=bits: bytes([b] * n)) for bits in (0, 4, 12)}
    assert cycles[12].exec_busy == 3 * cycles[4].exec_busy > cycles[0].exec_busy == 0


def run_products(board) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    x, w = random_tensor(rng, (3, 20, 9, 9), 5, False), random_tensor(rng, (20, 20, 3, 3), 4, True)
    g = random_tensor(rng, (3, 20, 5, 5), 6, True)
    point = random_tensor(rng, (18, 20, 1, 1), 4, True)
    a, b = random_tensor(rng, (7, 2 * LANES), 3, True), random_tensor(rng, (2 * LANES, 30), 8, True)
    return [
        ops.conv2d(board, x, w),
        ops.conv2d(board, x, point, padding=0),
        ops.conv2d_input_grad(board, g, w, x.shape, stride=2),
        ops.conv2d_weight_grad(board, g, x, w.shape, stride=2),
        ops.matmul(board, a, b),
    ]


def test_the_golden_board_gains_cycles():
    plain, board = open_board("golden"), Modelled(open_board("golden"))
    assert board.name == "golden+cycles"
    assert board.modelled
    for wanted, found in zip(run_products(plain), run_products(board), strict=True):
        assert (wanted == found).all()
    counters = board.counters()
    assert counters.items() > plain.counters().items()
    assert counters["cycles"] == counters["busy"] > counters["exec_busy"] > 0
    once = counters["busy"]
    run_products(board)
    assert board.counters()["busy"] == 2 * once
    plain.close(), board.close()


def test_a_board_without_a_memory_reports_the_same_cycles():
    pytest.importorskip("torch")
    golden, direct = Modelled(open_board("golden")), Modelled(open_board("torch"))
    for _ in range(2):  # the second time from what the first has lowered
        for wanted, found in zip(run_products(golden), run_products(direct), strict=True):
            assert (wanted == found).all()
        ours, theirs = golden.counters(), direct.counters()
        assert {name: ours[name] for name in theirs} == theirs
    assert theirs["busy"] > 0


@pytest.mark.parametrize("widths", [(3, 4, 6), (4, 3), (6, 3, 4, 8), (0, 4, 8)])
@pytest.mark.parametrize("shape", [(16, 16, 32, 1), (32, 64, 16, 2), (64, 64, 8, 1)])
def test_runs_of_a_batch_add_up_to_nearly_its_cycles(widths, shape):
    """A board without a memory puts a mixed batch together from its runs; on a board with one it is followed whole."""
    pytest.importorskip("torch")
    seed = int(np.random.default_rng().integers(1 << 31))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    channels, rows, size, stride = shape
    table = np.sort(rng.choice(widths, 96)).astype(np.uint8)
    x = mixed_tensor(
        (table > 0)[:, None, None, None] * random_tensor(rng, (96, channels, size, size), 2, False).codes, table, False
    )
    w = random_tensor(rng, (rows, channels, 3, 3), 4, True)
    boards = [Modelled(open_board(name)) for name in ("golden", "torch")]
    for board in boards:
        ops.conv2d(board, x, w, stride, 1)
    ours, theirs = (board.counters() for board in boards)
    assert theirs["busy"] == pytest.approx(ours["busy"], rel=0.02)
    assert theirs["exec_busy"] == ours["exec_busy"]


def test_a_product_that_fails_costs_nothing(monkeypatch):
    board = Modelled(open_board("golden"))

    def stop(descriptors):
        raise AcceleratorError(Error.AXI_READ, 0)

    monkeypatch.setattr(board.board, "run", stop)
    with pytest.raises(AcceleratorError):
        run_products(board)
    assert board.counters()["busy"] == 0
