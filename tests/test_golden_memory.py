"""The memory map of the golden model against plain addresses, byte by byte."""

import itertools

import numpy as np
import pytest

from rtl.config import CHIP_BASE
from rtl.isa import Error
from sim.golden_memory import Memory, Stop

SPACE = 1 << 32
DDR, CHIP = 4096, 1024


def addresses(starts, shape, strides):
    """Of every byte, in the order of the axes."""
    ways = itertools.product(starts.tolist(), *(range(size) for size in shape))
    return [(start + sum(i * s for i, s in zip(index, strides, strict=True))) % SPACE for start, *index in ways]


@pytest.mark.parametrize("seed", range(200))
def test_regions_of_either_memory_and_of_both(seed):
    rng = np.random.default_rng(seed)
    ddr, chip = (rng.integers(0, 256, size, dtype=np.uint8) for size in (DDR, CHIP))
    plain = {**dict(enumerate(ddr.tolist())), **{CHIP_BASE + i: int(value) for i, value in enumerate(chip)}}
    bases = (0, DDR // 2, DDR - 64, CHIP_BASE, CHIP_BASE + CHIP - 64)
    far = CHIP_BASE + int(rng.integers(64))
    starts = np.array([bases[i] for i in rng.integers(len(bases), size=rng.integers(1, 3))])
    shape = *(int(size) for size in rng.integers(1, 3, 2)), int(rng.integers(1, 9))
    # Steps within a memory, back, and from the one to the other.
    strides = *(int(rng.choice([8, 64, SPACE - 16, far, SPACE - far])) for _ in range(2)), 1
    memory = Memory(ddr, chip)
    wanted = addresses(starts, shape, strides)
    values = rng.integers(0, 256, (len(starts), *shape), dtype=np.uint8)
    if all(address in plain for address in wanted):
        assert memory.read(starts, shape, strides, Error.AXI_READ).reshape(-1).tolist() == [plain[a] for a in wanted]
        if len(set(wanted)) == len(wanted):  # who writes twice does not say what is left
            memory.write(starts, values, strides, Error.AXI_WRITE)
            plain |= dict(zip(wanted, values.reshape(-1).tolist(), strict=True))
            assert list(plain.values()) == [*ddr.tolist(), *chip.tolist()]
    else:
        for error in (Error.AXI_READ, Error.AXI_FETCH):
            with pytest.raises(Stop) as caught:
                memory.read(starts, shape, strides, error)
            assert caught.value.error == error
        with pytest.raises(Stop):
            memory.write(starts, values, strides, Error.AXI_WRITE)
        assert list(plain.values()) == [*ddr.tolist(), *chip.tolist()]


def test_without_a_chip_its_addresses_are_in_no_memory():
    memory = Memory(np.zeros(64, np.uint8))
    assert memory.byte(63) == 0
    for address in (64, CHIP_BASE, SPACE - 1):
        with pytest.raises(Stop):
            memory.byte(address)
