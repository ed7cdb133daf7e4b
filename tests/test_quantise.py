"""The quantisers: exact codes, ranges, unbiased rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.quantise import Precision, quantise, rescale

SEED = 20


def test_hand_computed_codes():
    signed = quantise(np.float32([-0.7, -0.1, 0.0, 0.25, 0.35, 0.7]), 4, signed=True)
    assert signed.scale == pytest.approx(0.1)
    # 0.25 / 0.1 and 0.35 / 0.1 lie a hair beside the halves; exact halves are tested below.
    assert list(signed.codes[:3]) == [-7, -1, 0]
    assert signed.codes[-1] == 7
    unsigned = quantise(np.float32([0, 0.5, 1.5, 2.5, 7.0]), 3, signed=False)
    assert unsigned.scale == 1
    assert list(unsigned.codes) == [0, 0, 2, 2, 7]


@settings(deadline=None)
@given(
    bits=st.integers(2, 16),
    signed=st.booleans(),
    stochastic=st.booleans(),
    magnitude=st.floats(-30, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_codes_stay_in_range_and_near_the_values(bits, signed, stochastic, magnitude, seed):
    rng = np.random.default_rng(seed)
    x = (10**magnitude * rng.standard_normal(200)).astype(np.float32)
    x = x if signed else np.abs(x)
    q = quantise(x, bits, signed=signed, rng=rng if stochastic else None)
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    assert q.bits == bits
    assert q.signed == signed
    assert np.max(np.abs(q.codes)) == top
    assert signed or np.min(q.codes) >= 0
    error = np.abs(q.codes * q.scale - x.astype(np.float64)) / q.scale
    # Single precision leaves a few units in the last place of the largest code.
    assert np.max(error) <= (1.0 if stochastic else 0.5) + 4 * top * 2.0**-24


@pytest.mark.parametrize("bits", [3, 6, 8, 12])
def test_stochastic_rounding_is_unbiased(bits):
    draws = 20_000
    fractions = np.linspace(-1, 1, 41, dtype=np.float32)
    q = quantise(np.tile(fractions, draws), bits, signed=True, rng=np.random.default_rng(SEED))
    codes = q.codes.reshape(draws, -1).astype(np.float64)
    steps = fractions.astype(np.float64) / q.scale
    # A code is one of two neighbours, so the variance of its mean is at most 1/4 / draws; 5 sigma over 41 values.
    bound = 5 * np.sqrt(0.25 / draws) + 1e-3
    worst = np.max(np.abs(codes.mean(axis=0) - steps))
    print(f"seed {SEED}, {bits} bits: largest bias {worst:.5f} of {bound:.5f} codes")
    assert worst < bound
    assert np.max(codes.max(axis=0) - codes.min(axis=0)) <= 1


def test_same_seed_gives_the_same_codes():
    x = np.linspace(-1, 1, 100, dtype=np.float32)
    first, second = (quantise(x, 6, signed=True, rng=np.random.default_rng(SEED)).codes for _ in range(2))
    other = quantise(x, 6, signed=True, rng=np.random.default_rng(SEED + 1)).codes
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-44])
def test_a_tensor_of_nothing_is_zero_at_scale_one(signed, value):
    q = quantise(np.full((2, 3), value, np.float32), 8, signed=signed, rng=np.random.default_rng(SEED))
    assert not q.codes.any()
    assert q.scale == 1


def test_zero_stays_zero_under_stochastic_rounding():
    x = np.zeros(1000, np.float32)
    x[0] = 1
    assert not quantise(x, 8, signed=True, rng=np.random.default_rng(SEED)).codes[1:].any()


def test_bad_tensors_are_refused():
    with pytest.raises(ValueError, match=r"negative value -1\.0"):
        quantise(np.float32([1, -1]), 8, signed=False)
    with pytest.raises(ValueError, match="no signed symmetric grid of 1 bits"):
        quantise(np.float32([1]), 1, signed=True)
    for bad in (np.nan, np.inf):
        with pytest.raises(FloatingPointError, match="cannot quantise"):
            quantise(np.float32([1, bad]), 8, signed=True)


def test_rescale_rounds_once():
    exact = np.array([2**40 + 1, -(2**40) - 1])
    result = rescale(exact, 2.0**-40, like=np.zeros(1, np.float32))
    assert result.dtype == np.float32
    assert np.array_equal(result, np.float32([1, -1]))


@pytest.mark.parametrize(("fw", "bw"), [(1, 6), (3, 17), (3.0, 6), (True, 6)])
def test_precision_refuses_bad_widths(fw, bw):
    with pytest.raises(ValueError, match="must be an integer from 2 to 16"):
        Precision(fw, bw)


def test_precision_at_least():
    assert Precision(3, 12).at_least(8) == Precision(8, 12)
    assert str(Precision(3, 6)) == "FW3/BW6"
