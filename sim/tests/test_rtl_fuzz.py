"""Thousands of descriptors that nobody wrote: sound ones, ones with a few fields changed, and bytes at random.

None hangs the accelerator. RTL and golden model agree on what fails, where, and on every byte of the memory: all work
before a failed descriptor is complete, and nothing behind it has written but what may run beside it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import pytest

from host.backends.driver import RegisterBoard
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES
from rtl.isa import DESCRIPTOR_BYTES, Descriptor, Error, Flag, Opcode
from sim.golden import execute
from sim.golden_check import check_fields
from sim.tests.footprint import footprint
from sim.tests.products import drawn_product
from sim.tests.test_rtl_vector import CONFIGS
from sim.tests.vector_passes import Space, drawn_pass
from sim.verilated import VerilatedTransport

#: Descriptors for each configuration, and those that share a memory.
COUNT, TOGETHER = 10_000, 12
MEMORY = 1 << 21
#: Operands of products lie below, and nobody sound writes there.
OPERANDS = 1 << 17
#: Most elements of the work of a descriptor that is not refused: with more the test would take hours.
MOST_WORK = 1 << 13
#: Of several accesses of one descriptor that are refused, the first to be answered counts.
BUS_ERRORS = (Error.AXI_FETCH, Error.AXI_READ, Error.AXI_WRITE)
#: Operands of products, and the axes of their strides.
OPERANDS_OF = {"stream": "nc", "stationary": "km"}
FIELDS = {name: field for name, _, _, field in Descriptor.places}
MEANT = [name for name, field in FIELDS.items() if field.name != "reserved"]


class Fuzz:
    """Random work on a memory of its own.

    Attributes
    ----------
    image : the memory.
    """

    def __init__(self, config, rng: np.random.Generator):
        self._config, self._rng = config, rng
        self._space = Space(rng, MEMORY)
        self._space.take(OPERANDS)
        self.image = self._space.image
        self._tables = RESERVED_BYTES
        self.image[self._tables : self._tables + 256] = np.repeat(rng.integers(0, 7, 64), 4)

    def sound(self) -> Descriptor:
        """A product or a pass, whose results nobody else touches."""
        rng = self._rng
        if rng.random() < 0.5:
            return drawn_pass(rng, self._space)
        d = drawn_product(rng, self._config, sides=5)
        results = d.samples * d.out_stride_n
        return replace(
            d,
            **{f"{name}_base": 8 * int(rng.integers(RESERVED_BYTES // 8 + 64, OPERANDS // 16)) for name in OPERANDS_OF},
            **{
                f"{name}_stride_{axis}": 8 * int(rng.integers(128))
                for name in OPERANDS_OF
                for axis in OPERANDS_OF[name]
            },
            **{f"{name}_table": self._tables + int(rng.integers(240)) for name in OPERANDS_OF},
            out_base=self._space.take(results),
        )

    def mutated(self, d: Descriptor) -> Descriptor:
        """A few of its fields are others. It waits for all before it, whose memory it may touch."""
        rng = self._rng
        names = rng.choice(
            MEANT if rng.random() < 0.97 else list(FIELDS), int(rng.integers(1, 4)), replace=False
        ).tolist()
        changed = replace(d, **{name: self._other(name, getattr(d, name)) for name in names})
        return replace(changed, flags=changed.flags | Flag.FENCE)

    def _other(self, name: str, value: int) -> int:
        """A value close to one that means something, or any."""
        rng, field = self._rng, FIELDS[name]
        mask = (1 << field.bits) - 1
        most = mask if field.most is None else field.most
        near = [value + 1, value - 1, value + 8, value - 8, 2 * value, value ^ 1 << int(rng.integers(field.bits))]
        ends = [0, 1, most, most + 1, mask, (value + MEMORY) & mask, MEMORY - 8]
        anything = int(rng.integers(0, mask, endpoint=True, dtype=np.uint64))
        other = [*near, *ends, anything][rng.integers(len(near) + len(ends) + 1)] & mask
        return other if rng.random() < 0.05 else other - other % field.multiple

    def noise(self) -> Descriptor:
        """Any bytes, with an opcode that there is."""
        raw = self._rng.integers(0, 256, DESCRIPTOR_BYTES, dtype=np.uint8)
        return replace(Descriptor.unpack(raw), opcode=int(self._rng.choice(list(Opcode))), flags=int(Flag.FENCE))

    def drawn(self) -> tuple[str, Descriptor]:
        """A descriptor that a simulator can wait for, and its kind."""
        kind = str(self._rng.choice(["sound", "mutated", "noise"], p=[0.3, 0.67, 0.03]))
        sound = self.sound()
        while True:
            d = {"sound": lambda: sound, "mutated": lambda: self.mutated(sound), "noise": self.noise}[kind]()
            if kind == "sound" or check_fields(self._config, d) or _work(d) <= MOST_WORK:
                return kind, d


def _work(d: Descriptor) -> int:
    """Words and results that a descriptor is about, about."""
    images = d.samples * d.height * d.width * d.k_blocks
    if d.opcode == Opcode.VECTOR:
        return images
    return max(images, d.samples * d.out_height * d.out_width * d.k_blocks * d.row_blocks << d.log2_row_parts)


class Impatient(VerilatedTransport):
    """Takes an accelerator for stuck long before anybody else would."""

    def wait(self) -> int:
        return super().wait(20_000_000)


class Round(NamedTuple):
    """Descriptors that run together, of which the last or none fails, but for some behind that.

    Attributes
    ----------
    done : how many complete.
    error : of the one behind them.
    may_write : bytes that this one may have written, or what runs beside it.
    """

    work: list[Descriptor]
    done: int
    error: Error
    may_write: np.ndarray


def next_round(config, image: np.ndarray, drawn: list[tuple[str, Descriptor]]) -> Round:
    """Takes descriptors from the front of `drawn` and runs them on the golden model, up to one that fails."""
    work: list[Descriptor] = []
    fence, nothing = False, np.zeros(image.size, bool)
    while drawn:
        kind, d = drawn.pop(0)
        if fence:  # what may have touched any memory is waited for
            d = replace(d, flags=d.flags | Flag.FENCE)
        touched = None
        if kind != "sound" and not check_fields(config, d):
            touched = footprint(config, image, d)
            ring = touched.reads[:RESERVED_BYTES].any() or touched.writes[:RESERVED_BYTES].any()
            if ring or not touched.means_one_thing:
                continue
        work.append(d)
        fence = kind != "sound"
        error = execute(config, image, [d]).error
        if error:
            behind = [other for kind, other in drawn[:3] if kind == "sound"]
            may_write = nothing if touched is None else touched.writes > 0
            if error in (Error.AXI_READ, Error.AXI_WRITE):
                beside = takewhile(lambda other: not other.flags & Flag.FENCE, behind)
                for other in beside:
                    if (other.opcode == Opcode.VECTOR) != (d.opcode == Opcode.VECTOR):
                        may_write |= footprint(config, image, other).writes > 0
            return Round([*work, *behind], len(work) - 1, error, may_write)
    return Round(work, len(work), Error.NONE, nothing)


def agree(board: RegisterBoard, image: np.ndarray, expected: Round) -> None:
    """Runs a round and compares; afterwards `image` has what the one that failed has left."""
    error, index = Error.NONE, expected.done
    try:
        if expected.work:
            board.run(expected.work)
    except AcceleratorError as stopped:
        error, index = stopped.code, stopped.index
    said = f"RTL: {error!r} at {index}, golden model: {expected.error!r} at {expected.done} of {expected.work}"
    assert index == expected.done, said
    assert error == expected.error or {error, expected.error} <= set(BUS_ERRORS), said
    found = board.read(RESERVED_BYTES, MEMORY - RESERVED_BYTES)
    wrong = np.flatnonzero((found != image[RESERVED_BYTES:]) & ~expected.may_write[RESERVED_BYTES:])
    assert not wrong.size, f"differs from {RESERVED_BYTES + wrong[0]:#x} on: {said}"
    image[RESERVED_BYTES:] = found


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_random_and_mutated_descriptors(rng, name):
    config = CONFIGS[name]
    board = RegisterBoard("sim", Impatient(config, memory_bytes=MEMORY))
    done, seen = 0, Counter()
    while done < COUNT:
        fuzz = Fuzz(config, rng)
        drawn = [fuzz.drawn() for _ in range(TOGETHER)]
        board.write(RESERVED_BYTES, fuzz.image[RESERVED_BYTES:])
        while drawn:
            expected = next_round(config, fuzz.image, drawn)
            agree(board, fuzz.image, expected)
            done += expected.done + (expected.error != Error.NONE)
            seen[expected.error.name] += 1
    print(f"{name}: {done} descriptors; rounds by their end: {dict(seen)}")
    assert seen.keys() >= {error.name for error in Error}
    board.close()
