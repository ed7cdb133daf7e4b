"""Where a descriptor reads and writes, as `host.remote.extent` says it, against what the golden model touches."""

from __future__ import annotations

import numpy as np
import pytest

from host import bench_step
from host.quantise import Precision
from host.remote.extent import Extent, extents, largest_array, outside
from host.remote.work import MOST_ELEMENTS
from host.ring import RESERVED_BYTES
from rtl.config import CHIP_BASE, LANES, WORD_CHANNELS
from rtl.isa import Descriptor, Error, Flag, Opcode
from sim import golden
from sim.golden_check import check_fields
from sim.golden_memory import Memory
from sim.tests.test_rtl_fuzz import Fuzz
from sim.tests.test_rtl_vector import CONFIGS

COUNT = 400
_SPACE = 1 << 32
_TABLES = Flag.STREAM_TABLE | Flag.STATIONARY_TABLE


def touched(config, memory: np.ndarray, d: Descriptor) -> list[Extent]:
    """Ranges that the golden model reads or writes, each of one access."""
    found: list[Extent] = []

    def note(error, starts, shape, strides):
        steps = [stride - _SPACE if stride >= _SPACE // 2 else stride for stride in strides]
        ways = [(size - 1) * step for size, step in zip(shape, steps, strict=True)]
        before, behind = sum(min(way, 0) for way in ways), sum(max(way, 0) for way in ways)
        found.extend(Extent(error, int(start) + before, int(start) + behind + 1) for start in starts)

    really_read = Memory.read

    def read(of, starts, shape, strides, error):
        note(error, starts, shape, strides)
        if error == Error.AXI_FETCH:
            return really_read(of, starts, shape, strides, error)
        return np.zeros((len(starts), *shape), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memory, "read", read)
        patch.setattr(Memory, "write", lambda of, starts, values, strides, error: note(
            error, starts, values.shape[1:], strides
        ))  # fmt: skip
        golden.execute(config, memory, [d])
    return found


def offsets(access: Extent, extent: Extent) -> tuple[int, int]:
    """Where an access begins and ends in an extent; addresses are modulo 2**32."""
    start = (access.start - extent.start) % _SPACE
    return start, start + access.stop - access.start


@pytest.mark.parametrize("name", CONFIGS)
def test_extents_hold_all_that_is_touched_and_no_more(rng, name):
    config, seen = CONFIGS[name], dict.fromkeys(Opcode, 0)
    fuzz = Fuzz(config, rng)
    for number in range(COUNT):
        if number % 20 == 0:
            fuzz = Fuzz(config, rng)
        _, d = fuzz.drawn()
        if check_fields(config, d):
            continue
        seen[Opcode(d.opcode)] += 1
        said = list(extents(config, d))
        reached: dict[Extent, list[tuple[int, int]]] = {extent: [] for extent in said}
        for access in touched(config, fuzz.image, d):
            if access.error == Error.AXI_READ and d.flags & _TABLES and d.opcode != Opcode.VECTOR:
                continue  # how much is read is said by the table
            places = {extent: offsets(access, extent) for extent in said if extent.error == access.error}
            inside = [extent for extent, (_, stop) in places.items() if stop <= extent.stop - extent.start]
            assert inside, f"{access} is in none of {said}: {d}"
            for extent in inside:
                reached[extent].append(places[extent])
        if d.flags & _TABLES or d.opcode == Opcode.WGRAD or not any(reached.values()):
            continue  # of a gradient whose last images have fewer k blocks less is read
        for extent, places in reached.items():
            ends = min(start for start, _ in places), max(stop for _, stop in places)
            assert ends == (0, extent.stop - extent.start), f"{extent} is too large, {ends} is touched: {d}"
    assert min(seen.values()) > COUNT // 50


def sound(**changes) -> Descriptor:
    fields = {"stream_base": 0x8000, "stationary_base": 0x9000, "out_base": 0xA000, "row_groups": 3}
    return Descriptor(**{"opcode": Opcode.FLAT, **fields, **changes})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, Error.NONE),
        ({"out_base": 0x3FF8}, Error.AXI_WRITE),  # the ring
        ({"out_base": 0xFFF8}, Error.AXI_WRITE),
        ({"out_base": 0xFFC0, "out_format": 1}, Error.NONE),
        ({"samples": 3, "out_stride_n": 0x10000}, Error.AXI_WRITE),
        ({"samples": 3, "out_stride_n": (1 << 32) - 0x2000}, Error.NONE),  # a step back
        ({"samples": 5, "out_stride_n": (1 << 32) - 0x2000}, Error.AXI_WRITE),
        ({"stream_base": 0xFFFF_FFF8}, Error.AXI_READ),
        ({"stationary_base": 0x10000}, Error.AXI_READ),
        ({"flags": Flag.STREAM_TABLE, "stream_table": 0xFFFF}, Error.NONE),
        ({"flags": Flag.STREAM_TABLE, "stream_table": 0xFFFF, "samples": 2}, Error.AXI_FETCH),
        ({"flags": Flag.STATIONARY_TABLE, "stationary_table": 3}, Error.AXI_FETCH),
        ({"stream_base": CHIP_BASE}, Error.NONE),
        ({"stream_base": CHIP_BASE - 8, "samples": 2, "stream_stride_n": 8}, Error.AXI_READ),
        ({"out_base": CHIP_BASE + (64 << 10) - 8}, Error.AXI_WRITE),
    ],
)
def test_what_lies_outside(changes, error):
    config, d = CONFIGS["two managers"], sound(**changes)
    assert not check_fields(config, d)
    assert outside(config, 0x4000, 0x10000, d) == error


def test_no_descriptor_of_a_training_step_is_refused():
    config = CONFIGS["one manager"]
    recorded = bench_step.record(config, "resnet8", (3, 32, 32), 128, Precision(8, 8))
    for run in recorded.runs:
        for d in run.descriptors:
            assert not check_fields(config, d)
            assert not outside(config, RESERVED_BYTES, 1 << 30, d)
            assert largest_array(config, d) <= MOST_ELEMENTS


def test_a_descriptor_may_ask_for_more_than_any_machine_has():
    config = CONFIGS["one manager"]
    assert largest_array(config, sound()) == LANES * WORD_CHANNELS
    assert largest_array(config, sound(opcode=Opcode.VECTOR, samples=65535, height=65535, k_blocks=65535)) > 1 << 50
    assert largest_array(config, sound(samples=65535, stationary_stride_n=8)) == 65535 * LANES * WORD_CHANNELS
    assert largest_array(config, sound(out_width=60000, width=60000)) == 60000 * LANES
