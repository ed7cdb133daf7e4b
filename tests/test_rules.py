"""The integers of the device step against plain Python's, and the widths that a lane has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.arrays import match, to_numpy
from host.step import rules
from host.step.rules import Coefficients, lane

SHAPE = (2, 3, 2, 5)
LIBRARIES = ["numpy", "torch"]


def signed(rng, bits, shape):
    """Numbers of all magnitudes, the extremes among them."""
    end = 1 << (bits - 1)
    values = rng.integers(-end, end, shape) >> rng.integers(0, bits, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([-end, end - 1], shape), values)


def coefficients(rng, shift):
    a, c, b = (signed(rng, bits, SHAPE[1]) for bits in (18, 25, 46))
    return Coefficients(a, c, b, shift)


def of_library(library, array):
    if array is None or library == "numpy":
        return array
    torch = pytest.importorskip("torch")
    return match(array, torch.zeros(1))


def plain(k, u, v, low, high, relu, mask, noise, raised):
    """One element after the other, in integers without a width."""
    codes, kept, clipped = np.zeros(SHAPE, np.int64), np.ones(SHAPE, bool), 0
    for place in np.ndindex(SHAPE):
        channel = place[1]
        t = int(k.a[channel]) * int(u[place]) + int(k.b[channel])
        if v is not None:
            t += int(k.c[channel]) * int(v[place])
        kept[place] = t > 0 if relu else mask is None or mask[place]
        t = t if kept[place] else 0
        if noise is None:
            q = (2 * t + 2**k.shift) // 2 ** (k.shift + 1)
        else:
            q = (t * 2**16 + int(noise[place]) * 2**k.shift) // 2 ** (16 + k.shift)
        q += raised
        codes[place] = min(max(q, low), high)
        clipped += codes[place] != q
    return codes, kept, clipped


@pytest.mark.parametrize("library", LIBRARIES)
@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shift=st.integers(0, 47),
    bits=st.integers(2, 25),
    sign=st.booleans(),
    beside=st.booleans(),
    gate=st.sampled_from(["none", "relu", "mask"]),
    noisy=st.booleans(),
)
def test_a_lane_is_what_integers_say(library, seed, shift, bits, sign, beside, gate, noisy):
    rng = np.random.default_rng(seed)
    k, u = coefficients(rng, shift), signed(rng, 25, SHAPE)
    v = signed(rng, 18, SHAPE) if beside else None
    mask = rng.random(SHAPE) < 0.7 if gate == "mask" else None
    noise = rng.integers(0, 1 << 16, SHAPE) if noisy else None
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if sign else (0, (1 << bits) - 1)
    raised = int(rng.integers(0, 9))
    codes, kept, clipped = plain(k, u, v, low, high, gate == "relu", mask, noise, raised)
    streams = {"mask": of_library(library, mask), "noise": of_library(library, noise)}
    given_v = of_library(library, v)
    passed = lane(k, of_library(library, u), given_v, low=low, high=high, relu=gate == "relu", raised=raised, **streams)
    assert np.array_equal(to_numpy(passed.codes), codes)
    assert passed.saturated == clipped
    if gate != "none":
        assert np.array_equal(to_numpy(passed.mask), kept)


@pytest.mark.parametrize("shift", [1, 3, 15, 16, 17, 30])
def test_noise_rounds_to_either_side_as_often_as_the_fraction_says(shift):
    """Over all 2**16 values of noise, the mean of the results is the number that was rounded, to the noise's step."""
    t = np.int64(-5 * 2**shift + 0.37 * 2**shift)
    k = Coefficients(np.int64(0), np.int64(0), t, shift)
    noise = np.arange(1 << 16).reshape(1, 1, 256, 256)
    codes = lane(k, np.zeros_like(noise), low=-100, high=100, noise=noise).codes
    assert set(np.unique(codes)) <= {-5, -4}
    assert abs(np.mean(codes) - float(t) / 2**shift) <= 2.0 ** -min(shift, 16)


@pytest.mark.parametrize(
    ("name", "bits"), [("coefficient a", 18), ("coefficient c", 25), ("coefficient b", 48), ("shift", None)]
)
def test_coefficients_that_do_not_fit_are_refused(name, bits):
    fits = {"a": np.int64(1), "c": np.int64(1), "b": np.int64(1), "shift": 47}
    Coefficients(**fits)
    if bits is None:
        with pytest.raises(OverflowError, match="shift by 48 bits, must be 0 to 47"):
            Coefficients(**fits | {"shift": 48})
        return
    end = 1 << (bits - 1)
    Coefficients(**fits | {name[-1]: np.array([0, -end])})
    for value in (end, -end - 1):
        with pytest.raises(OverflowError, match=f"{name} holds {value}, must fit {bits} signed bits"):
            Coefficients(**fits | {name[-1]: np.array([0, value])})


@pytest.mark.parametrize("value", [1 << 24, -(1 << 24) - 1])
def test_a_stream_that_does_not_fit_is_refused(value):
    k = Coefficients(np.int64(1), np.int64(1), np.int64(0), 0)
    wide, none = np.full((1, 1, 1, 1), value), np.zeros((1, 1, 1, 1), np.int64)
    with pytest.raises(OverflowError, match=f"stream u holds {value}, must fit 25 signed bits"):
        lane(k, wide, low=0, high=1)
    with pytest.raises(OverflowError, match=f"stream v holds {value >> 7}, must fit 18 signed bits"):
        lane(k, none, wide >> 7, low=0, high=1)
    with pytest.raises(OverflowError, match="sums of the array holds"):
        rules.drained(wide * 8, rules.Drain(2))
    assert int(rules.drained(wide * 8, rules.Drain(4))[0, 0, 0, 0]) == value >> 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_narrow_sums_are_shifted_down_then_clipped(library):
    sums = np.array(
        [[[[-(1 << 30), -(1 << 20) - 1, -(1 << 20), -33, -32, -1, 31, 32, (1 << 20) - 1, 1 << 20, 1 << 40]]]]
    )
    found = rules.drained(of_library(library, sums), rules.Drain(5, rules.NARROW_BITS))
    low, high = -(1 << 15), (1 << 15) - 1
    assert to_numpy(found)[0, 0, 0].tolist() == [low, low, low, -2, -1, -1, 0, 1, high, high, high]


def test_a_sum_that_rounding_might_carry_out_of_its_width_is_refused():
    k = Coefficients(np.int64(1), np.int64(0), np.int64(2**46 - 1), 47)
    one = np.ones((1, 1, 1, 1), np.int64)
    assert lane(k, 0 * one, low=-1, high=1).codes[0, 0, 0, 0] == 0
    with pytest.raises(OverflowError, match=f"sum holds {2**46}, must fit 47 signed bits"):
        lane(k, one, low=-1, high=1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_statistics_are_exact(rng, library):
    q, x = signed(rng, 20, (4, 3, 5, 7)), signed(rng, 18, (4, 3, 5, 7))
    for other in (None, x):
        found = rules.statistics(of_library(library, q), of_library(library, other))
        beside = q if other is None else other
        for channel in range(3):
            codes = [int(value) for value in q[:, channel].flat]
            assert found.sums[channel] == sum(codes)
            products = zip(codes, (int(value) for value in beside[:, channel].flat), strict=True)
            assert found.products[channel] == sum(a * b for a, b in products)
            assert (found.low[channel], found.high[channel]) == (min(codes), max(codes))
    each = rules.statistics(of_library(library, q), 0, each_sample=True)
    assert np.array_equal(each.sums, q.sum(axis=(2, 3)))
    assert np.array_equal(each.high, q.max(axis=(2, 3)))
    assert not each.products.any()


@pytest.mark.parametrize("library", LIBRARIES)
def test_samples_may_have_coefficients_of_their_own(rng, library):
    u = signed(rng, 20, SHAPE)
    parts = [coefficients(rng, 7) for _ in u]
    whole = Coefficients(*(np.stack([getattr(k, name) for k in parts]) for name in "acb"), 7)
    ends = {"low": -(1 << 20), "high": 1 << 20}
    expected = np.concatenate([lane(k, u[n : n + 1], **ends).codes for n, k in enumerate(parts)])
    assert np.array_equal(to_numpy(lane(whole, of_library(library, u), **ends).codes), expected)


def test_statistics_beyond_their_width_are_refused():
    q = np.full((1, 1, 8, 8), 1 << 21)
    rules.statistics(q, q - q)
    with pytest.raises(OverflowError, match="sum of products of a channel holds"):
        rules.statistics(q)


@pytest.mark.parametrize("guard", [1, 3, 4])
def test_the_upper_bits_of_what_is_stored_raised_are_rounded_to_nearest(rng, guard):
    """As a convolution reads an activation that has guard bits."""
    t, shift, bits = rng.integers(0, 1 << 20, (2, 1, 8, 8)), 14, 6
    k = Coefficients(np.int64(1), np.int64(0), np.int64(0), shift)
    raised = (1 << guard) >> 1
    fine = k.shift - guard
    stored = lane(
        Coefficients(k.a, k.c, k.b, fine), t, low=raised, high=(1 << (bits + guard)) - 1, relu=True, raised=raised
    ).codes
    exact = np.floor(t / 2**shift + 0.5 + 2.0 ** -(guard + 1))  # rounding happens at the guard bits first
    assert np.array_equal(stored >> guard, np.minimum(exact, (1 << bits) - 1))
