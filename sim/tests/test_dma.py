"""Burst engines and arbiters against an independent AXI4 memory: cuts, error responses, drain on halt, timing."""

from __future__ import annotations

from collections import deque

import cocotb
import pytest
from cocotb.triggers import ClockCycles, RisingEdge

from rtl.config import AcceleratorConfig
from rtl.dma import Fault
from sim.tests.bench import compiled, run
from sim.tests.dma_bench import BAD, USERS, Bench, DmaBench, command, random_reads


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("config", [(2, 1), (16, 8), (256, 2)], ids=lambda c: f"{c[0]} beats, {c[1]} outstanding")
def test_dma(config, stall, case):
    burst, outstanding = config
    program = compiled(DmaBench, AcceleratorConfig(burst_beats=burst, outstanding=outstanding))
    run(program, __name__, case, env={"STALL": stall, "BURST": burst, "OUTSTANDING": outstanding})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reads(dut):
    bench = await Bench(dut).start()
    commands, want = await random_reads(bench)
    for source, runs in zip(bench.reads, commands, strict=True):
        for wanted in runs:
            source.put(command(*wanted))
    await bench.until(lambda: all(len(got) >= len(w) for got, w in zip(bench.beats, want, strict=True)))
    await ClockCycles(dut.clk, 20)
    assert bench.beats == want
    assert dut.read_idle.value == 1
    assert bench.faults == {"read": [], "write": []}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_refused_read_closes_its_user_alone(dut):
    """As the accelerator does it: in the cycle after the fault."""
    bench = await Bench(dut).start()
    commands, want = await random_reads(bench)
    victim = bench.rng.randrange(USERS)
    bad = bench.rng.randrange(len(commands[victim]))
    rest = [(BAD, 20, 1000), *commands[victim][bad:]]
    want[victim] = want[victim][: sum(beats for _, beats, _ in commands[victim][:bad])]
    commands[victim][bad:] = rest
    for source, runs in zip(bench.reads, commands, strict=True):
        for wanted in runs:
            source.put(command(*wanted))
    while not Fault.from_bits(dut.read_fault.value.to_unsigned()).valid:
        await RisingEdge(dut.clk)
    dut.closed.value = 1 << victim
    await RisingEdge(dut.clk)
    left = bench.reads[victim].pending
    others = [source for source in bench.reads if source is not bench.reads[victim]]
    await bench.until(lambda: not any(source.pending for source in others) and dut.read_idle.value == 1)
    await ClockCycles(dut.clk, 50)
    assert bench.beats == want
    assert bench.reads[victim].pending == left, "a closed user's command has been taken"
    assert set(bench.faults["read"]) == {(victim, 1000)}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bursts_are_cut_at_multiples_of_their_length(dut):
    bench = await Bench(dut).start()
    commands = [(bench.address(beats), beats) for beats in (1, 2, 16, 17, 64, 255, 256, 257, 600)]
    for addr, beats in commands:
        bench.reads[1].put(command(addr, beats))
        bench.writes[1].put(command(addr, beats))
        for _ in range(beats):
            bench.data[1].put(bench.rng.getrandbits(64))
    total = sum(beats for _, beats in commands)
    await bench.until(lambda: len(bench.beats[1]) >= total and dut.write_quiet.value == 1 and not bench.data[1].pending)
    bench.check_bursts("ar", commands)
    bench.check_bursts("aw", commands)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def writes(dut):
    bench = await Bench(dut).start()
    sent: list[deque] = [deque() for _ in range(USERS)]
    for i in range(20 * USERS):
        user = bench.rng.randrange(USERS)
        beats = bench.rng.choice((1, 2, 3, 15, 16, 17, bench.rng.randrange(1, 80)))
        addr = bench.address(beats)
        bench.writes[user].put(command(addr, beats, i))
        for _ in range(beats):
            sent[user].append(bench.rng.getrandbits(64))
            bench.data[user].put(sent[user][-1])
    await bench.all_written()
    await bench.until(lambda: dut.write_quiet.value == 1)
    image = {run.addr + 8 * k: sent[user].popleft() for user, run in bench.written for k in range(run.beats)}
    assert not any(sent)
    for addr, word in image.items():
        assert await bench.memory.read_qword(addr) == word, hex(addr)
    assert bench.faults["write"] == []


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def quiet_means_acknowledged(dut):
    bench = await Bench(dut).start()
    b_channel = bench.slave.write_if.b_channel
    b_channel.clear_pause_generator()
    b_channel.pause = True
    bench.writes[1].put(command(0x100, 2))
    for word in (1, 2):
        bench.data[1].put(word)
    await bench.all_written()
    await ClockCycles(dut.clk, 50)
    assert dut.write_quiet.value == 0
    assert dut.write_idle.value == 0
    b_channel.pause = False
    await bench.until(lambda: dut.write_quiet.value == 1, 100)
    assert [await bench.memory.read_qword(0x100 + 8 * k) for k in range(2)] == [1, 2]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def errors_name_their_user_and_descriptor(dut):
    bench = await Bench(dut).start()
    plan = [(BAD if bad else 0x1000, 5, 100 + i) for i, bad in enumerate((0, 1, 0, 0, 1, 1, 0))]
    for addr, beats, index in plan:
        bench.reads[index % USERS].put(command(addr, beats, index))
        bench.writes[index % USERS].put(command(addr, beats, index))
        for _ in range(beats):
            bench.data[index % USERS].put(index)
    await bench.all_written()
    await bench.until(lambda: sum(map(len, bench.beats)) == 20 and dut.write_quiet.value == 1)
    await bench.until(lambda: dut.read_idle.value == 1)
    await ClockCycles(dut.clk, 2)
    assert set(bench.faults["read"]) == {(index % USERS, index) for addr, _, index in plan if addr == BAD}
    bad = [(user, run.index) for user, run in bench.written if run.addr == BAD]
    assert list(dict.fromkeys(bench.faults["write"])) == bad


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def halt_drains_the_bus(dut):
    bench = await Bench(dut).start()
    for after in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89):
        addr = 0x10_0000 + 0x1000 * after
        for k in range(4):
            bench.reads[1].put(command(addr, 100))
            bench.writes[1].put(command(addr + 800 * k, 100))
        for k in range(60):  # fewer than were promised
            bench.data[1].put(~k & 2**64 - 1)
        await ClockCycles(dut.clk, after)
        dut.halt.value = 1
        await RisingEdge(dut.clk)
        before = len(bench.bursts)
        await bench.until(lambda: dut.read_idle.value == 1 and dut.write_idle.value == 1, 20_000)
        # At most the bursts that were already offered when the halt came.
        assert len(bench.bursts) <= before + 2
        quiet = len(bench.bursts)
        received = len(bench.beats[1])
        await ClockCycles(dut.clk, 100)
        assert len(bench.bursts) == quiet
        assert len(bench.beats[1]) == received, "data that arrives after a halt is dropped"
        # Only beats that were sent before the halt are in memory; the rest of the burst had its strobes off.
        words = [await bench.memory.read_qword(addr + 8 * k) for k in range(400)]
        written = [word for word in words if word]
        assert written == [~k & 2**64 - 1 for k in range(len(written))]
        assert words[: len(written)] == written
        for source in (*bench.reads, *bench.writes, *bench.data):
            source.clear()
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.halt.value = 0
        dut.rst.value = 0
        await ClockCycles(dut.clk, 3)
