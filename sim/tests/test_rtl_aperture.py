"""The accelerator behind its apertures, in the middle of a memory that is not its own.

Descriptors that nobody wrote are refused where they would be in a memory that ends where the aperture does, and nothing
around it changes. What they compute is the affair of `test_rtl_fuzz`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from host.backends.driver import RegisterBoard
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES
from rtl.aperture import PAGE_BYTES, Aperture
from rtl.errors import Error
from rtl.hierarchy import rtlil
from rtl.top import Accelerator
from sim.tests.test_rtl_fuzz import BUS_ERRORS, MEMORY, Fuzz, Impatient, next_round
from sim.tests.test_rtl_vector import CONFIGS
from sim.verilated import build_library

BASE = 3 << 20
AROUND = 8 << 20
#: Descriptors, and those that share a memory.
COUNT, TOGETHER = 2_000, 6


class Behind(wiring.Component):
    """An accelerator whose apertures are open for `MEMORY` bytes at `BASE`; the ports are the accelerator's."""

    def __init__(self, config):
        self._config = config
        self._accelerator = Accelerator(config)
        super().__init__(self._accelerator.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inside = inside = self._accelerator
        wiring.connect(m, wiring.flipped(self.csr), inside.csr)
        m.d.comb += self.interrupt.eq(inside.interrupt)
        for number, (manager, port) in enumerate(zip(inside.axi, self.axi, strict=True)):
            m.submodules[f"aperture{number}"] = aperture = Aperture(outstanding=self._config.outstanding)
            m.d.comb += [aperture.base.eq(BASE // PAGE_BYTES), aperture.size.eq(MEMORY // PAGE_BYTES)]
            wiring.connect(m, manager, aperture.i)
            wiring.connect(m, aperture.o, wiring.flipped(port))
        return m


class Offset(Impatient):
    """The host's addresses are the accelerator's, as behind the buffer of a Zynq."""

    def __init__(self, config, library):
        super().__init__(config, library=library, memory_bytes=AROUND, stall=0.1)
        self.around = np.random.default_rng(1).integers(0, 256, AROUND).astype(np.uint8)
        self._memory[:] = self.around
        self.memory_bytes = MEMORY

    def _range(self, address: int, nbytes: int) -> np.ndarray:
        return self._memory[BASE + address :][:nbytes]

    def stays(self) -> bool:
        """Whether the memory around is as it was."""
        here, there = self._memory, self.around
        end = BASE + MEMORY
        return np.array_equal(here[:BASE], there[:BASE]) and np.array_equal(here[end:], there[end:])


@pytest.mark.slow
def test_nothing_around_the_aperture_is_reached(rng):
    config = CONFIGS["two managers"]
    text = rtlil(Behind(config), "accelerator")
    transport = Offset(config, build_library(text, managers=config.managers, label="the accelerator behind apertures"))
    board = RegisterBoard("sim", transport)
    done, seen = 0, Counter()
    while done < COUNT:
        fuzz = Fuzz(config, rng)
        drawn = [fuzz.drawn() for _ in range(TOGETHER)]
        board.write(RESERVED_BYTES, fuzz.image[RESERVED_BYTES:])
        while drawn:
            expected = next_round(config, fuzz.image, drawn)
            error, index = Error.NONE, expected.done
            try:
                board.run(expected.work)
            except AcceleratorError as stopped:
                error, index = stopped.code, stopped.index
            said = f"RTL: {error!r} at {index}, golden model: {expected.error!r} at {expected.done} of {expected.work}"
            assert index == expected.done, said
            assert error == expected.error or {error, expected.error} <= set(BUS_ERRORS), said
            fuzz.image[RESERVED_BYTES:] = board.read(RESERVED_BYTES, MEMORY - RESERVED_BYTES)
            assert transport.stays(), f"memory around the aperture is written by one of {expected.work}"
            done += expected.done + (expected.error != Error.NONE)
            seen[expected.error.name] += 1
    print(f"{done} descriptors; rounds by their end: {dict(seen)}")
    assert seen.keys() >= {"AXI_READ", "AXI_WRITE"}
    board.close()
