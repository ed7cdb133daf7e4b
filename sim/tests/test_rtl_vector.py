"""Vector passes through the whole accelerator, beside products: RTL and golden model on the same memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from host.backends.driver import RegisterBoard
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Opcode, Pass
from sim.golden import execute
from sim.tests.vector_passes import Space, drawn_pass
from sim.verilated import VerilatedTransport

CONFIGS = {
    "one manager": AcceleratorConfig(vector=True),
    "two managers": AcceleratorConfig(clusters=2, managers=2, vector=True, chip_kib=64),
}
MEMORY = 1 << 23


@pytest.fixture(scope="module", params=[pytest.param("one manager", marks=pytest.mark.slow), "two managers"])
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def board(config):
    board = RegisterBoard("sim", VerilatedTransport(config, memory_bytes=MEMORY))
    yield board
    board.close()


@pytest.fixture
def space(rng):
    made = Space(rng, MEMORY)
    made.take(RESERVED_BYTES)
    return made


def product(space: Space, rng: np.random.Generator) -> Descriptor:
    """A convolution on whatever lies in memory."""
    n, height, width, bits = 3, 5, int(rng.integers(1, 12)), int(rng.integers(1, 9))
    image = height * bits * -(-width // 4) * 8
    results = height * width * 64
    return Descriptor(
        opcode=Opcode.WINDOW,
        flags=Flag.STATIONARY_SIGNED | Flag.FENCE * int(rng.integers(2)),
        samples=n,
        **dict.fromkeys(("height", "out_height"), height),
        **dict.fromkeys(("width", "out_width"), width),
        tile_rows=3,
        row_groups=2,
        pad_top=1,
        pad_left=1,
        stream_base=space.take(n * image),
        stream_stride_n=image,
        stream_bits=bits,
        stationary_base=space.take(1152),
        stationary_bits=4,
        out_base=space.take(n * results),
        out_stride_n=results,
        out_stride_m=results,
    )


def agree(config, board, memory: np.ndarray, work: list[Descriptor], end: int = MEMORY) -> Error:
    """Runs `work` on both; the memory up to `end`, error and index must be equal. Returns the error."""
    board.write(RESERVED_BYTES, memory[RESERVED_BYTES:])
    golden = execute(config, memory, work)
    error, index = Error.NONE, None
    try:
        board.run(work)
    except AcceleratorError as stopped:
        error, index = stopped.code, stopped.index
    assert (error, index) == (golden.error, golden.index)
    wrong = np.flatnonzero(board.read(RESERVED_BYTES, end - RESERVED_BYTES) != memory[RESERVED_BYTES:end])
    assert not wrong.size, f"differs from {RESERVED_BYTES + wrong[0]:#x} on"
    return error


@pytest.mark.parametrize("turn", range(4))
def test_random_passes_and_products(config, board, rng, space, turn):
    """Side by side where no fence keeps them apart."""
    work = []
    for _ in range(24):
        work.append(drawn_pass(rng, space) if rng.random() < 0.6 else product(space, rng))
        work[-1].flags |= Flag.FENCE * bool(rng.random() < 0.2)
    assert not agree(config, board, space.image, work)


def test_a_pass_reads_what_a_product_wrote(config, board, rng, space):
    """And another one what that pass wrote."""
    first = product(space, rng)
    sums = {"u_base": first.out_base, "u_stride_n": first.out_stride_n, "u_stride_y": first.width * 64}
    fixed = {"vector_source": 2, "u_planes": 0, "samples": first.samples, "k_blocks": 1, "vector_sink": 0}
    fixed |= {"height": first.height, "width": first.width, "flags": int(Flag.FENCE), "q_planes": 9}
    second = replace(drawn_pass(rng, space, **fixed), **sums)
    third = replace(
        drawn_pass(rng, space, **fixed | {"vector_source": 0}),
        u_planes=9,
        u_signed=1,
        **{f"u_{name}": getattr(second, f"q_{name}") for name in ("base", "stride_n", "stride_c", "stride_y")},
    )
    for d in (second, third):
        d.vector_controls &= ~int(Pass.MASKED)
    assert not agree(config, board, space.image, [first, second, third])


REFUSED = ["u_base", "v_base", "x_base", "mask_base", "vector_coefficients", "q_base", "positive_base", "vector_sums"]


@pytest.mark.parametrize("field", REFUSED)
def test_a_refused_access_of_a_pass(config, board, rng, space, field):
    """All work before it completes, though some of it runs beside; later work on the same accelerator is right."""
    fixed = {f"{name}_planes": planes for name, planes in (("u", 5), ("v", 5), ("x", 5), ("mask", 1))}
    fixed |= {"q_planes": 7, "positive_planes": 1, "vector_source": 0, "vector_controls": int(Pass.SUMS)}
    work = [product(space, rng) for _ in range(3)]
    victim = drawn_pass(rng, space, **fixed)
    end = min(getattr(victim, name) for name in ("q_base", "positive_base", "vector_sums"))
    for name in ("q", "positive"):  # strides may lead backwards
        end = min(end, _first(victim, name))
    work += [drawn_pass(rng, space), replace(victim, **{field: 1 << 31}), product(space, rng)]
    before = space.image.copy()
    assert agree(config, board, space.image, work, min(end, _first(victim, "u"))) in (Error.AXI_READ, Error.AXI_WRITE)
    assert not agree(config, board, before, [*work[:4], victim, work[-1]])


def _first(d: Descriptor, name: str) -> int:
    """The lowest address of a tensor."""
    ways = (("n", d.samples), ("c", d.k_blocks), ("y", d.height))
    steps = [(getattr(d, f"{name}_stride_{axis}") + (1 << 31)) % (1 << 32) - (1 << 31) for axis, _ in ways]
    return getattr(d, f"{name}_base") + sum(
        min(0, step * (size - 1)) for step, (_, size) in zip(steps, ways, strict=True)
    )


BAD = {
    "an unknown source": (Error.FLAGS, {"vector_source": 4}),
    "an unknown control": (Error.FLAGS, {"vector_controls": 128}),
    "a flag of products": (Error.FLAGS, {"flags": Flag.STREAM_TABLE}),
    "too wide": (Error.SHAPE, {"width": 65}),
    "no rows": (Error.SHAPE, {"height": 0}),
    "too many planes": (Error.SHAPE, {"v_planes": 19}),
    "a mask that is not there": (Error.SHAPE, {"vector_controls": int(Pass.MASKED), "mask_planes": 0}),
    "a crooked address": (Error.ALIGNMENT, {"q_base": 4}),
    "a reserved byte": (Error.RESERVED, {"product_reserved": 1}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_passes(config, board, rng, space, name):
    error, changes = BAD[name]
    good = drawn_pass(rng, space, vector_sink=0, vector_source=0)
    work = [product(space, rng), good, replace(good, **changes), product(space, rng)]
    assert agree(config, board, space.image, work, end=work[-1].out_base) == error


def test_a_build_without_the_unit_refuses_passes(rng, space):
    config = AcceleratorConfig.preset("tiny")
    board = RegisterBoard("sim", VerilatedTransport(config, memory_bytes=MEMORY))
    try:
        assert agree(config, board, space.image, [drawn_pass(rng, space)]) == Error.OPCODE
    finally:
        board.close()


def test_counters(config, board, rng, space):
    work = [drawn_pass(rng, space) for _ in range(3)]
    before = board.counters()
    agree(config, board, space.image, work)
    after = board.counters()
    words = sum(d.samples * d.k_blocks * d.height * d.width for d in work)
    assert after["vector_busy"] - before["vector_busy"] == words
