"""Descriptors as bytes, and the tables of the programming model."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from rtl.block import Block, Field, size
from rtl.check import DescriptorCheck
from rtl.config import AcceleratorConfig
from rtl.isa import (
    BLOCKS,
    COUNTERS,
    CSR,
    CSR_ADDRESS_BITS,
    DESCRIPTOR_BYTES,
    Descriptor,
    DescriptorLayout,
    Error,
    Opcode,
    descriptor_class,
    descriptor_layout,
)
from rtl.manual import descriptor
from rtl.vector_block import PARTS
from sim.golden_check import check_fields

CONFIG = AcceleratorConfig.preset("tiny")
RECORDS = st.fixed_dictionaries(
    {place.name: st.integers(0, (1 << place.field.bits) - 1) for place in Descriptor.places}
)


@settings(deadline=None)  # machines are noisy
@given(RECORDS)
def test_pack_round_trip(fields):
    raw = Descriptor(**fields).pack()
    assert raw.shape == (DESCRIPTOR_BYTES,)
    assert raw.dtype == np.uint8
    assert Descriptor.unpack(raw) == Descriptor(**fields)


@settings(deadline=None)  # machines are noisy
@given(RECORDS)
def test_bytes_are_what_the_hardware_sees(fields):
    value = int.from_bytes(Descriptor(**fields).pack().tobytes(), "little")
    assert DescriptorLayout.size == 8 * DESCRIPTOR_BYTES
    for name, _, block, field in Descriptor.places:
        outer = DescriptorLayout[block.name]
        inner = outer.shape[field.name]
        assert value >> outer.offset + inner.offset & ((1 << inner.width) - 1) == fields[name], name


def test_fields_lie_at_multiples_of_their_size():
    assert all(offset % field.nbytes == 0 for _, offset, _, field in Descriptor.places if field.name != "reserved")


@pytest.mark.parametrize(("field", "value"), [("samples", 1 << 16), ("stride", -1), ("out_base", 1 << 32)])
def test_value_that_does_not_fit_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        Descriptor(opcode=Opcode.FLAT, **{field: value}).pack()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((Field("low", 8, ""), Field("high", 32, "")), "high of block odd lies at byte 1"),
        ((Field("wide", 24, ""),), "wide of block odd has 24 bits"),
        ((Field("a", 32, ""), Field("b", 32, ""), Field("c", 8, "")), "take 9 bytes, it has 8"),
    ],
)
def test_a_block_that_is_laid_out_badly_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Block("odd", "", "", 8, fields)


def test_a_new_block_is_one_declaration():
    """Its bytes, the manual and the checks of RTL and golden model follow it, where room was kept."""
    trial = Block("parts", "parts_", "a trial", 8, (*PARTS.fields, size("shift", 8, "of sums")))
    blocks = (*BLOCKS[:-1], trial)
    trial_class = descriptor_class(blocks)
    sound = trial_class(
        opcode=Opcode.FLAT, stream_bits=1, stationary_bits=1, row_groups=3, parts_stride=0x1238, parts_shift=1
    )

    raw = sound.pack()
    assert raw.size == DESCRIPTOR_BYTES
    assert raw[248:254].tolist() == [0x38, 0x12, 0, 0, 0, 1]
    assert trial_class.unpack(raw) == sound
    assert "| 253 | 8 | `parts_shift` | of sums | 1 or more |" in descriptor(blocks)

    dut = DescriptorCheck(CONFIG, blocks)
    wanted = (
        (sound, Error.NONE),
        (replace(sound, parts_stride=4), Error.ALIGNMENT),
        (replace(sound, parts_shift=0), Error.SHAPE),
        (replace(sound, parts_reserved=1 << 15), Error.RESERVED),
    )

    async def drive(ctx):
        for d, error in wanted:
            bits = int.from_bytes(d.pack().tobytes(), "little")
            ctx.set(dut.descriptor, descriptor_layout(blocks).from_bits(bits))
            await ctx.tick().repeat(DescriptorCheck.LATENCY)
            assert ctx.get(dut.error) == error == check_fields(CONFIG, d)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.run()


def test_registers_do_not_overlap():
    addresses = [register for register in CSR if register != CSR.COUNTERS]
    assert len(set(addresses)) == len(addresses)
    assert all(address % 4 == 0 and address < CSR.COUNTERS for address in addresses)
    assert CSR.COUNTERS + 8 * len(COUNTERS) <= 1 << CSR_ADDRESS_BITS
