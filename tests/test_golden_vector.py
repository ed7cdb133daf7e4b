"""A vector pass of the golden model against the rules of the training step, and what it refuses.

The tensors are packed here element by element, as `rtl.isa` says it in words.
"""

from dataclasses import replace

import numpy as np
import pytest

from host.plan.packing import pack_stream
from host.step import rules
from host.step.noise import noise, noise_key
from rtl.config import AcceleratorConfig
from rtl.isa import Descriptor, Error, Flag, Opcode, Pass, Sink, Source
from rtl.lane import A_BITS, C_BITS
from rtl.vector_block import COEFFICIENTS_BYTES, SUMS_BYTES
from sim.golden import Completion, execute
from sim.golden_check import check

CONFIG = AcceleratorConfig(vector=True)
SIZE = 1 << 20
#: Where things lie.
U, V, X, MASK, COEFFICIENTS, Q, POSITIVE, SUMS = (i << 16 for i in range(1, 9))


def drawn(rng, bits, shape, signed=True):
    low = -(1 << (bits - 1)) if signed else 0
    return rng.integers(low, low + (1 << bits), shape)


def row_bytes(width):
    return -(-width // 4) * 8


def planes(codes, bits, pitch=None):
    """A tensor (N, C, H, W) of planes with so many planes from row to row: its bytes, and the strides n, c and y."""
    n, channels, height, width = codes.shape
    row, blocks = row_bytes(width), channels // 16
    stride_y = (pitch or bits) * row
    stride_c = height * stride_y
    raw = np.zeros((n, blocks, height, pitch or bits, row // 8, 4, 2), np.uint8)
    for (i, c, y, x), code in np.ndenumerate(codes):
        for plane in range(bits):
            bit = int(code) >> (bits - 1 - plane) & 1
            raw[i, c // 16, y, plane, x // 4, x % 4, c % 16 // 8] |= bit << c % 8
    return raw.reshape(-1), (blocks * stride_c, stride_c, stride_y)


def strides(name, found):
    return dict(zip((f"{name}_stride_{axis}" for axis in "ncy"), found, strict=True))


class Trial:
    """A random pass: a memory, its descriptor, and what the rules say."""

    def __init__(self, seed, *, source=Source.PLANES, digits=False, each=False, width=None):
        self.rng = rng = np.random.default_rng(seed)
        self.memory = rng.integers(0, 256, SIZE).astype(np.uint8)
        n, blocks, height = (int(rng.integers(1, 4)) for _ in range(3))
        self.shape = n, 16 * blocks, height, width or int(rng.integers(1, 17))
        self.each = each
        self.controls = Pass.SUMS | Pass.EACH_SAMPLE * each
        for control in (Pass.RELU, Pass.MASKED, Pass.STOCHASTIC, Pass.SQUARES):
            self.controls |= control * bool(rng.integers(2))
        self.key = noise_key(seed)
        self.fields = {
            "opcode": Opcode.VECTOR,
            "samples": n,
            "k_blocks": blocks,
            "height": height,
            "width": self.shape[3],
            "vector_controls": self.controls,
            "vector_shift": int(rng.integers(0, 40)),
            "vector_top": (1 << (15 if digits else int(rng.integers(2, 18)))) - 1,
            "vector_raised": int(rng.integers(0, 9)),
            "vector_key_low": self.key[0] | self.key[1] << 16,
            "vector_key_high": self.key[2] | self.key[3] << 16,
            "vector_number": 7 * self.words(1),
            "vector_number_stride_n": self.words(1),
            "vector_number_stride_c": self.words(1) // blocks,
            "vector_coefficients": COEFFICIENTS,
            "vector_sums": SUMS,
            "vector_sink": Sink.DIGITS if digits else Sink.PLANES,
        }
        self.u = self.results(source) if source else self.tensor("u", U, 25)
        self.v = self.tensor("v", V, 18)
        self.x = self.tensor("x", X, 18)
        self.mask = self.tensor("mask", MASK, 1, signed=False) != 0
        self.coefficients(n if each else 1)
        bits = self.fields["vector_top"].bit_length() + 1
        height, width = self.shape[2:]
        row = row_bytes(width)
        self.fields |= {"q_base": Q, "q_planes": bits, "positive_base": POSITIVE, "positive_planes": 1}
        self.fields |= strides("positive", (blocks * height * row, height * row, row))
        if digits:
            height_bytes = -(-bits // 4) * 1152
            self.fields |= strides("q", (blocks * height_bytes, height_bytes, 8 * width))
        else:
            self.fields |= strides("q", (blocks * height * bits * row, height * bits * row, bits * row))
        self.descriptor = Descriptor(**self.fields)

    def words(self, samples):
        return samples * self.shape[1] // 16 * self.shape[2] * self.shape[3]

    def put(self, address, raw):
        self.memory[address : address + raw.size] = raw

    def tensor(self, name, base, most, signed=True, bits=0):
        """A stream whose upper planes alone may be read."""
        bits = bits or int(self.rng.integers(1, most + 1))
        stored = bits + int(self.rng.integers(0, 3)) * (most > 1)
        codes = drawn(self.rng, bits, self.shape, signed)
        raw, found = planes(codes, bits, stored)
        self.put(base, raw)
        self.fields |= {f"{name}_base": base, f"{name}_planes": bits, f"{name}_signed": signed} | strides(name, found)
        return codes

    def results(self, source):
        """Results of a product: (n, row block, y, x, row)."""
        n, channels, height, width = self.shape
        nbytes = 1 << source
        dropped = int(self.rng.integers(0, 8))
        sums = drawn(self.rng, min(8 * nbytes, 25 + dropped), self.shape)
        ordered = sums.reshape(n, channels // 16, 16, height, width).transpose(0, 1, 3, 4, 2)
        self.put(U, np.ascontiguousarray(ordered).astype(f"<i{nbytes}").view(np.uint8).reshape(-1))
        row = width * 16 * nbytes
        self.fields |= {"vector_source": source, "vector_dropped": dropped, "u_base": U}
        self.fields |= strides("u", (channels // 16 * height * row, height * row, row))
        return sums >> dropped

    def coefficients(self, samples):
        bits = A_BITS, C_BITS, 40
        self.a, self.c, self.b = (drawn(self.rng, width, (samples, self.shape[1])) for width in bits)
        raw = np.zeros((samples, self.shape[1], 2), "<i8")
        raw[..., 0] = self.a & 0xFFFFFFFF | self.c << 32
        raw[..., 1] = self.b
        self.put(COEFFICIENTS, raw.view(np.uint8).reshape(-1))
        self.fields |= {"vector_coefficients_stride": COEFFICIENTS_BYTES * self.shape[1]}

    def expected(self):
        """What the rules say: results, masks, statistics of each group of samples, and the number clipped."""
        f, controls = self.fields, self.controls
        groups = [slice(i, i + 1) for i in range(self.shape[0])] if self.each else [slice(None)]
        noisy = noise(self.key, self.shape, like=self.u, first=7) if controls & Pass.STOCHASTIC else None
        found = []
        for number, group in enumerate(groups):
            k = rules.Coefficients(self.a[number], self.c[number], self.b[number], f["vector_shift"])
            passed = rules.lane(
                k,
                self.u[group],
                self.v[group],
                low=-f["vector_top"],
                high=f["vector_top"],
                relu=bool(controls & Pass.RELU),
                mask=self.mask[group] if controls & Pass.MASKED and not controls & Pass.RELU else None,
                noise=None if noisy is None else noisy[group],
                raised=f["vector_raised"],
            )
            factor = None if controls & Pass.SQUARES else self.x[group]
            found.append((passed, rules.statistics(passed.codes, factor)))
        return found


def check_pass(trial):
    before = trial.memory.copy()
    done = execute(CONFIG, trial.memory, [trial.descriptor])
    assert done == Completion(1, Error.NONE, None, 0)
    found, d = trial.expected(), trial.descriptor
    codes = np.concatenate([passed.codes for passed, _ in found])
    masks = [np.ones(trial.u.shape, bool)] if found[0][0].mask is None else [passed.mask for passed, _ in found]
    if d.vector_sink == Sink.PLANES:
        raw, _ = planes(codes, d.q_planes)
        before[Q : Q + raw.size] = raw
    else:
        put_digits(before, d, codes)
    raw, _ = planes(np.concatenate(masks), 1)
    before[POSITIVE : POSITIVE + raw.size] = raw
    at = SUMS
    for block in range(d.k_blocks):
        for _, stats in found:
            for c in range(16 * block, 16 * block + 16):
                values = [int(part[c]) for part in stats]
                record = np.array([*values[:2], values[2] & 0xFFFFFFFF | values[3] << 32], "<i8").view(np.uint8)
                before[at : at + SUMS_BYTES] = record
                at += SUMS_BYTES
    before[at : at + 8] = np.array([sum(passed.saturated for passed, _ in found)], "<u8").view(np.uint8)
    assert np.array_equal(trial.memory, before)


def put_digits(memory, d, codes):
    digits, spread = -(-d.q_planes // 4), 2 if d.vector_controls & Pass.SPREAD else 1
    for (n, c, y, x), code in np.ndenumerate(codes):
        for digit in range(digits):
            value = int(code) >> 4 * (digits - 1 - digit) & 15
            row = d.q_base + n * d.q_stride_n + c // 16 * d.q_stride_c + y * d.q_stride_y
            at = row + digit * (128 * d.vector_stride_d or 1152) + 8 * x * spread + c % 16 // 2
            memory[at] = memory[at] & (0xF0, 0x0F)[c % 2] | value << 4 * (c % 2)
            if spread == 2:
                memory[at + 8] = 0


@pytest.mark.parametrize("seed", range(12))
def test_planes(seed):
    check_pass(Trial(seed, each=seed % 3 == 0))


@pytest.mark.parametrize("source", [Source.INT16, Source.INT32, Source.INT64])
@pytest.mark.parametrize("seed", [20, 21])
def test_results_of_a_product(source, seed):
    check_pass(Trial(seed, source=source))


@pytest.mark.parametrize("seed", [30, 31, 32])
def test_digits(seed):
    check_pass(Trial(seed, digits=True, width=16))


@pytest.mark.parametrize(("name", "most"), [("u", 25), ("v", 18), ("x", 18)])
def test_a_stream_of_all_planes_is_signed_in_any_case(name, most):
    trial = Trial(56)  # without squares, so that x counts
    setattr(trial, name, trial.tensor(name, {"u": U, "v": V, "x": X}[name], most, bits=most))
    trial.descriptor = replace(Descriptor(**trial.fields), **{f"{name}_signed": 0})
    check_pass(trial)


def test_digits_with_zeros_between_in_planes_of_their_own():
    trial = Trial(33, digits=True, width=9)
    height_bytes = trial.shape[2] * 16 * 9
    found = strides("q", (height_bytes, trial.shape[0] * height_bytes, 16 * 9))
    changes = {"vector_stride_d": 100, "vector_controls": trial.controls | Pass.SPREAD}
    trial.descriptor = replace(trial.descriptor, **changes, **found)
    check_pass(trial)


def test_the_largest_sums_are_clipped_to_their_own_side():
    trial = Trial(60)
    most, top = (1 << 47) - 1, trial.fields["vector_top"]
    raw = np.zeros((trial.shape[1], 2), "<i8")  # a and c are 0
    raw[0::2, 1], raw[1::2, 1] = most, -most - 1
    trial.put(COEFFICIENTS, raw.view(np.uint8).reshape(-1))
    changes = {"vector_controls": Pass.SUMS, "vector_shift": 0, "vector_raised": 1 << 22}
    assert execute(CONFIG, trial.memory, [replace(trial.descriptor, **changes)]) == Completion(1, Error.NONE, None, 0)
    records = trial.memory[SUMS:][: SUMS_BYTES * trial.shape[1]].reshape(-1, SUMS_BYTES)
    extremes = np.ascontiguousarray(records[:, 16:]).view("<i4")  # of every channel, the lowest and the highest
    assert (extremes[0::2] == top).all()
    assert (extremes[1::2] == -top).all()


def test_planes_are_those_of_a_streaming_operand():
    codes = drawn(np.random.default_rng(40), 7, (2, 16, 3, 6))
    raw, _ = planes(codes, 7)
    assert np.array_equal(raw, pack_stream(codes.transpose(0, 2, 3, 1), 7).reshape(-1))


SOUND = Trial(60).descriptor


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"flags": Flag.STREAM_SIGNED}, Error.FLAGS),
        ({"flags": Flag.STREAM_TABLE}, Error.FLAGS),
        ({"vector_controls": 128}, Error.FLAGS),
        ({"vector_source": 4}, Error.FLAGS),
        ({"vector_sink": 2}, Error.FLAGS),
        ({"vector_source": Source.INT32}, Error.SHAPE),
        ({"vector_controls": Pass.MASKED, "mask_planes": 0}, Error.SHAPE),
        ({"width": 65}, Error.SHAPE),
        ({"q_planes": 17, "vector_sink": Sink.DIGITS}, Error.SHAPE),
        ({"q_planes": 25}, Error.SHAPE),
        ({"u_planes": 26}, Error.SHAPE),
        ({"parts_more": 1}, Error.SHAPE),  # of planes there is one part
        ({"v_planes": 19}, Error.SHAPE),
        ({"vector_shift": 48}, Error.SHAPE),
        ({"vector_top": 0}, Error.SHAPE),
        ({"u_base": 4}, Error.ALIGNMENT),
        ({"q_stride_y": 4}, Error.ALIGNMENT),
        ({"product_reserved": 1}, Error.RESERVED),
    ],
)
def test_bad_fields(changes, error):
    assert check(CONFIG, SOUND) == Error.NONE
    assert check(CONFIG, replace(SOUND, **changes)) == error


def test_a_build_without_the_unit_does_not_know_it():
    assert check(AcceleratorConfig(), SOUND) == Error.OPCODE
    with pytest.raises(ValueError, match="vector is True, must be true only with 16 rows"):
        AcceleratorConfig(rows=8, vector=True)


@pytest.mark.parametrize("field", ["u_base", "v_base", "x_base", "mask_base", "vector_coefficients"])
def test_reads_beyond_the_memory(field):
    trial = Trial(61)
    d = replace(trial.descriptor, **{field: SIZE})
    assert execute(CONFIG, trial.memory, [d]) == Completion(0, Error.AXI_READ, 0, 0)


@pytest.mark.parametrize("field", ["q_base", "positive_base", "vector_sums"])
def test_writes_beyond_the_memory(field):
    trial = Trial(61)
    d = replace(trial.descriptor, **{field: SIZE})
    assert execute(CONFIG, trial.memory, [d]) == Completion(0, Error.AXI_WRITE, 0, 0)
