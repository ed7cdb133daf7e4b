"""The whole accelerator between cocotbext-axi's memory and manager, against the golden model on the same image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from rtl.isa import CSR, DESCRIPTOR_BYTES, ID, Descriptor, Error, Flag, Irq, Status
from sim.golden import execute
from sim.golden_check import check
from sim.tests.bench import compiled, run
from sim.tests.top_bench import (
    CONFIG,
    RESULT_BYTES,
    RESULTS,
    RING_ENTRIES,
    STREAM_END,
    TABLES_END,
    WEIGHTS_END,
    Bench,
    TopBench,
    bench,
    random_descriptor,
)


@pytest.mark.parametrize(("managers", "rows", "pause"), [(1, 4, 0.0), (1, 16, 0.4), (2, 4, 0.4), (2, 16, 0.0)])
def test_top(managers, rows, pause, case):
    config = replace(CONFIG, managers=managers, rows=rows, vector=rows == 16)
    run(compiled(TopBench, config), __name__, case, env={"MANAGERS": managers, "ROWS": rows, "PAUSE": pause})


@cocotb.test()
async def random_programs(dut):
    """Several descriptors in the ring at once, its end passed many times, tables rewritten in between."""
    b = await bench(dut)
    assert await b.read(CSR.ID) == ID
    for _ in range(12):
        b.new_precisions()
        await b.run(b.descriptors(int(b.rng.integers(1, RING_ENTRIES))))


@cocotb.test()
async def precision_changes_without_a_new_program(dut):
    """The same descriptor bytes run again under another table."""
    b = await bench(dut)
    while True:
        d = random_descriptor(b.rng)
        d.flags |= Flag.STREAM_TABLE
        d.samples = 5
        if check(CONFIG, replace(d, flags=Flag(0), stream_bits=6)) == Error.NONE:
            break
    for _ in range(4):
        b.new_precisions()
        await b.run([d])


@cocotb.test()
async def bad_descriptors_stop_and_recover(dut):
    """A bad descriptor stops the ring; earlier work is complete, later work right."""
    b = await bench(dut)
    for changes, error in (({"opcode": 77}, Error.OPCODE), ({"samples": 0}, Error.SHAPE)):
        (good,) = b.descriptors(1, tables=Flag(0))
        bad = replace(good, **changes, out_base=RESULTS + RESULT_BYTES)
        await b.submit([good, bad, good])
        execute(CONFIG, b.image, [good])
        assert await b.finish() == Irq.ERROR
        assert await b.read(CSR.ERROR_CODE) == error
        assert await b.read(CSR.ERROR_INDEX) == 1
        assert await b.read(CSR.COMPLETED) == 1
        assert await b.read(CSR.STATUS) & Status.ERROR
        assert np.array_equal(b.content(), b.image)
        await b.reset()
        await b.run(b.descriptors(1))
        await b.reset()


@dataclass(frozen=True)
class Refusal:
    """An access that the memory refuses: what it is for, where, and the error that names it."""

    what: str
    error: Error
    address: Callable[[int, Descriptor], int]  # of the descriptor's slot in the ring and of the descriptor


def last_result(d: Descriptor) -> int:
    """Address of the last beat that the descriptor writes."""
    return d.out_base + d.samples * d.out_stride_n - 8


def second_cluster_result(d: Descriptor) -> int:
    """Address of the first beat that the second cluster writes, or of the first at all if it has no work."""
    return d.out_base + (
        d.out_stride_m if d.log2_row_parts else d.out_stride_n if d.sample_parts > 1 < d.samples else 0
    )


REFUSALS = (
    Refusal("descriptor", Error.AXI_FETCH, lambda slot, d: slot * DESCRIPTOR_BYTES + 64),
    Refusal("first precision bytes", Error.AXI_FETCH, lambda slot, d: d.stream_table & ~7),
    Refusal("last precision bytes", Error.AXI_FETCH, lambda slot, d: (d.stream_table + d.samples - 1) & ~7),
    Refusal("streaming operand", Error.AXI_READ, lambda slot, d: d.stream_base),
    Refusal("stationary operand", Error.AXI_READ, lambda slot, d: d.stationary_base + 64),
    Refusal("first result", Error.AXI_WRITE, lambda slot, d: d.out_base),
    Refusal("first result of the second cluster", Error.AXI_WRITE, lambda slot, d: second_cluster_result(d)),
    Refusal("last result", Error.AXI_WRITE, lambda slot, d: last_result(d)),
)


def work_with_a_victim(b: Bench) -> tuple[list[Descriptor], int]:
    """Descriptors, and the number of the one whose operands and table nobody else touches."""
    count = int(b.rng.integers(2, RING_ENTRIES // 2 + 1))
    slot = int(b.rng.integers(count))
    work = b.descriptors(count, tables=Flag(0))
    while not (victim := random_descriptor(b.rng, Flag.STREAM_TABLE)).flags & Flag.STREAM_TABLE:
        pass
    work[slot] = victim = replace(
        victim,
        stream_base=STREAM_END,
        stationary_base=WEIGHTS_END,
        stream_table=TABLES_END + int(b.rng.integers(8)),
        out_base=work[slot].out_base,
    )
    # A refused byte reads as 0, a sample to skip: the end of the descriptor may follow the error at once.
    b.store(victim.stream_table, np.ones(victim.samples, np.uint8))
    for d in work[slot:]:
        d.flags |= Flag.INTERRUPT  # none of them may say that it is done
    return work, slot


async def check_refusal(b: Bench, refusal: Refusal) -> None:
    """Runs work of which one access is refused, and checks what the accelerator claims against what it has done."""
    work, slot = work_with_a_victim(b)
    victim = work[slot]
    place = refusal.address(slot, victim)
    b.memory.refused = range(place, place + 8)
    await b.submit(work)
    pending = await b.finish()
    await ClockCycles(b.dut.clk, 300)
    pending |= await b.read(CSR.IRQ)
    assert pending == Irq.ERROR, "work that failed or follows it says that it is done"
    assert await b.read(CSR.ERROR_CODE) == refusal.error
    assert await b.read(CSR.ERROR_INDEX) == slot
    assert await b.read(CSR.STATUS) & Status.ERROR

    completed = await b.read(CSR.COMPLETED)
    assert completed == slot, "work that failed counts as completed, or work before it is missing"
    before = b.image.copy()
    execute(CONFIG, b.image, work[:completed])
    for i, d in enumerate(work):
        region = slice(d.out_base, d.out_base + RESULT_BYTES)
        if i < completed:
            assert np.array_equal(b.content(region), b.image[region]), f"{i} of {completed} is wrong"
        elif i > slot:
            assert np.array_equal(b.content(region), before[region]), f"{i} has written behind the failed {slot}"
    b.memory.refused = range(0)


@cocotb.test()
async def failed_work_is_not_complete(dut):
    """After a refused access nothing completes any more: neither its descriptor nor a later one. Later work is right.

    What is said to be complete is, and the error CSRs name cause and descriptor.
    """
    b = await bench(dut)
    for refusal in REFUSALS * 4:
        try:
            await check_refusal(b, refusal)
        except AssertionError as error:
            raise AssertionError(f"{refusal.what} refused: {error}") from error
        await b.reset()
        await b.run(b.descriptors(1))
        await b.reset()


async def catch(b: Bench, reads: bool, writes: bool) -> None:
    """Returns in a cycle with reads, or writes, alone on their way; takes other work if this has none."""
    for _ in range(50):
        await b.submit(b.descriptors(3, tables=Flag(0)))
        for _ in range(5000):
            owed = b.owed()
            if (owed["reads"] > 2, owed["data"] > 2) == (reads, writes):
                return
            await RisingEdge(b.dut.clk)
        await b.reset()
    raise AssertionError(f"no work had a cycle with reads {reads} and writes {writes} on their way")


@cocotb.test()
async def reset_in_the_middle(dut):
    """A soft reset at any moment leaves a clean bus and an accelerator that works.

    Some resets come at random, some when only reads or only writes are on their way.
    """
    b = await bench(dut)
    for moment in (*("any", "reads", "writes") * 3, "any"):
        if moment == "any":
            await b.submit(b.descriptors(3, tables=Flag(0)))
            await ClockCycles(dut.clk, int(b.rng.integers(1, 3000)))
        else:
            await catch(b, reads=moment == "reads", writes=moment == "writes")
        await b.reset()
        await b.run(b.descriptors(1))
        await b.reset()
