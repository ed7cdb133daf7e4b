"""Descriptors as bytes, and the tables of the programming model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtl.isa import (
    COUNTERS,
    CSR,
    CSR_ADDRESS_BITS,
    DESCRIPTOR_BYTES,
    DESCRIPTOR_FIELDS,
    Descriptor,
    DescriptorLayout,
    Opcode,
)

RECORDS = st.fixed_dictionaries({name: st.integers(0, (1 << bits) - 1) for name, bits, _ in DESCRIPTOR_FIELDS})


@given(RECORDS)
def test_pack_round_trip(fields):
    raw = Descriptor(**fields).pack()
    assert raw.shape == (DESCRIPTOR_BYTES,)
    assert raw.dtype == np.uint8
    assert Descriptor.unpack(raw) == Descriptor(**fields)


@given(RECORDS)
def test_bytes_are_what_the_hardware_sees(fields):
    raw = Descriptor(**fields).pack()
    value = int.from_bytes(raw.tobytes(), "little")
    layout = DescriptorLayout
    for name, bits, _ in DESCRIPTOR_FIELDS:
        field = layout[name]
        assert value >> field.offset & ((1 << bits) - 1) == fields[name], name
    assert value >> layout.size == 0


@pytest.mark.parametrize(("field", "value"), [("samples", 1 << 16), ("stride", -1), ("out_base", 1 << 32)])
def test_value_that_does_not_fit_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        Descriptor(opcode=Opcode.FLAT, **{field: value}).pack()


def test_registers_do_not_overlap():
    addresses = [register for register in CSR if register != CSR.COUNTERS]
    assert len(set(addresses)) == len(addresses)
    assert all(address % 4 == 0 and address < CSR.COUNTERS for address in addresses)
    assert CSR.COUNTERS + 8 * len(COUNTERS) <= 1 << CSR_ADDRESS_BITS
