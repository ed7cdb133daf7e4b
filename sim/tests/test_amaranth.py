"""The whole accelerator in Amaranth's own simulator: slow, with every signal in reach, and without a compiler."""

from __future__ import annotations

import numpy as np
from amaranth.sim import Simulator

from rtl.config import BEAT_BYTES, AcceleratorConfig
from rtl.isa import CSR, DESCRIPTOR_BYTES, ID, VERSION, Control, Descriptor, Flag, Irq, Opcode, config_words
from rtl.top import Accelerator
from sim.golden import execute

CONFIG = AcceleratorConfig.preset("tiny")
PATIENCE = 4000  # cycles


async def csr_write(ctx, bus, address, value):
    ctx.set(bus.aw.payload.addr, address)
    ctx.set(bus.w.payload.data, int(value))
    ctx.set(bus.w.payload.strb, 15)
    ctx.set(bus.aw.valid, 1)
    ctx.set(bus.w.valid, 1)
    ctx.set(bus.b.ready, 1)
    taken = {"aw": False, "w": False}
    while not all(taken.values()):
        ready = {name: ctx.get(getattr(bus, name).ready) for name in taken}
        await ctx.tick()
        for name, now in ready.items():
            if now:
                taken[name] = True
                ctx.set(getattr(bus, name).valid, 0)
    while not ctx.get(bus.b.valid):
        await ctx.tick()
    await ctx.tick()


async def csr_read(ctx, bus, address) -> int:
    ctx.set(bus.ar.payload.addr, address)
    ctx.set(bus.ar.valid, 1)
    ctx.set(bus.r.ready, 1)
    while not ctx.get(bus.ar.ready):
        await ctx.tick()
    await ctx.tick()
    ctx.set(bus.ar.valid, 0)
    while not ctx.get(bus.r.valid):
        await ctx.tick()
    value = ctx.get(bus.r.payload.data)
    await ctx.tick()
    return value


def memory_read(bus, memory):
    """A process that answers read bursts from `memory`, a beat a cycle."""

    async def process(ctx):
        ctx.set(bus.ar.ready, 1)
        bursts = []
        while True:
            if bursts:
                address, left = bursts[0]
                beat = memory[address : address + BEAT_BYTES].view("<u8")[0]
                ctx.set(bus.r.payload, {"data": int(beat), "resp": 0, "last": left == 0})
            ctx.set(bus.r.valid, bool(bursts))
            asked = ctx.get(bus.ar.valid), ctx.get(bus.ar.payload.addr), ctx.get(bus.ar.payload.len)
            moved = bursts and ctx.get(bus.r.ready)
            await ctx.tick()
            if moved:
                address, left = bursts.pop(0)
                if left:
                    bursts.insert(0, (address + BEAT_BYTES, left - 1))
            if asked[0]:
                bursts.append(asked[1:])

    return process


def memory_write(bus, memory):
    """A process that takes write bursts into `memory`, one after the other."""

    async def process(ctx):
        while True:
            ctx.set(bus.aw.ready, 1)
            while not ctx.get(bus.aw.valid):
                await ctx.tick()
            address = ctx.get(bus.aw.payload.addr)
            await ctx.tick()
            ctx.set(bus.aw.ready, 0)
            ctx.set(bus.w.ready, 1)
            last = False
            while not last:
                valid, payload = ctx.get(bus.w.valid), ctx.get(bus.w.payload)
                await ctx.tick()
                if valid:
                    last = payload["last"]
                    if payload["strb"]:
                        memory[address : address + BEAT_BYTES].view("<u8")[0] = payload["data"]
                    address += BEAT_BYTES
            ctx.set(bus.w.ready, 0)
            ctx.set(bus.b.valid, 1)
            while not ctx.get(bus.b.ready):
                await ctx.tick()
            await ctx.tick()
            ctx.set(bus.b.valid, 0)

    return process


def program(rng) -> tuple[Descriptor, np.ndarray]:
    """A product of 3-bit codes with one 4-bit digit, and memory with its operands."""
    memory = np.zeros(1 << 14, np.uint8)
    memory[0x1000:0x3000] = rng.integers(0, 256, 0x2000, dtype=np.uint8)
    descriptor = Descriptor(
        opcode=Opcode.FLAT,
        flags=Flag.INTERRUPT | Flag.STATIONARY_SIGNED,
        stream_bits=3,
        stationary_bits=4,
        samples=2,
        width=5,
        out_width=5,
        k_tail=9,
        row_groups=3,
        sample_parts=2,
        stream_base=0x1000,
        stream_stride_n=0x400,
        stream_stride_c=3 * 2 * BEAT_BYTES,
        stationary_base=0x2000,
        out_base=0x3000,
        out_stride_n=0x100,
    )
    memory[:DESCRIPTOR_BYTES] = descriptor.pack()
    return descriptor, memory


def test_a_product():
    rng = np.random.default_rng(5)
    descriptor, memory = program(rng)
    expected = memory.copy()
    assert execute(CONFIG, expected, [descriptor]).completed == 1
    assert (expected != memory).any()
    accelerator = Accelerator(CONFIG)
    seen = {}

    async def host(ctx):
        bus = accelerator.csr
        for name in (CSR.ID, CSR.VERSION, CSR.CONFIG0, CSR.CONFIG1, CSR.CONFIG2):
            seen[name] = await csr_read(ctx, bus, name)
        await csr_write(ctx, bus, CSR.RING_BASE, 0)
        await csr_write(ctx, bus, CSR.RING_MASK, 0)
        await csr_write(ctx, bus, CSR.IRQ_ENABLE, Irq.DONE | Irq.ERROR)
        await csr_write(ctx, bus, CSR.CONTROL, Control.ENABLE)
        await csr_write(ctx, bus, CSR.TAIL, 1)
        for _ in range(PATIENCE):
            if ctx.get(accelerator.interrupt):
                break
            await ctx.tick()
        seen["error"] = await csr_read(ctx, bus, CSR.ERROR_CODE)
        seen["completed"] = await csr_read(ctx, bus, CSR.COMPLETED)

    simulator = Simulator(accelerator)
    simulator.add_clock(1e-8)
    simulator.add_testbench(host)
    simulator.add_testbench(memory_read(accelerator.axi[0], memory), background=True)
    simulator.add_testbench(memory_write(accelerator.axi[0], memory), background=True)
    simulator.run()
    assert (seen[CSR.ID], seen[CSR.VERSION]) == (ID, VERSION)
    assert (seen[CSR.CONFIG0], seen[CSR.CONFIG1], seen[CSR.CONFIG2]) == config_words(CONFIG)
    assert (seen["error"], seen["completed"]) == (0, 1)
    np.testing.assert_array_equal(memory, expected)
