"""Coefficients of the device step: exact where they promise it, and batch norm against floating point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import double

from host import open_board
from host.nn.float_layers import BatchNorm2d
from host.nn.layers import Context
from host.quantise import Precision
from host.step import rules
from host.step.coefficients import (
    HEADROOM,
    Norm,
    dropped_bits,
    exponents,
    fit,
    moments,
    narrowest,
    norm_gradient,
    spread_limited,
    storing,
)
from host.step.noise import noise, noise_key

CONTEXT = Context(open_board("golden"), Precision(8, 8))
factors = st.floats(1e-9, 1e5).flatmap(lambda x: st.sampled_from([x, -x, 0.0]))


@settings(deadline=None)
@given(alpha=factors, gamma=factors, beta=st.floats(-1e6, 1e6))
def test_coefficients_are_the_nearest_that_fit(alpha, gamma, beta):
    k = fit(np.array([alpha, alpha / 3]), gamma, beta)
    for value, factor in ((k.a[0], alpha), (k.a[1], alpha / 3), (k.c, gamma), (k.b, beta)):
        assert abs(int(value) - factor * 2**k.shift) <= 0.5
    used = [abs(int(value)) / end for value, end in ((k.a[0], 2**17), (k.c, 2**24), (k.b, 2**45))]
    assert k.shift == 40 or max(used) >= 0.5 - 1e-4  # one more bit would not fit


@pytest.mark.parametrize("factor", [(2.0**17,), (1.0, 2.0**24), (1.0, 1.0, np.inf), (np.nan,)])
def test_coefficients_out_of_reach_are_called_divergence(factor):
    with pytest.raises(FloatingPointError, match="coefficient"):
        fit(*factor)


@given(largest=st.floats(1e-6, 1e6), unit=st.floats(1e-6, 1e3), bits=st.integers(3, 20))
def test_exponents_are_the_smallest_with_headroom(largest, unit, bits):
    top = (1 << (bits - 1)) - 1
    e = int(exponents(largest, unit, top, least=-100))
    assert largest * 2**HEADROOM <= top * unit * 2.0**e * (1 + 1e-12)
    assert largest * 2**HEADROOM > top * unit * 2.0 ** (e - 1) * (1 - 1e-12)
    assert int(exponents(largest, unit, top, least=3)) == max(e, 3)


@given(terms=st.integers(1, 1 << 20), a=st.integers(1, 1 << 16), b=st.integers(1, 1 << 16))
def test_no_sum_exceeds_stream_u(terms, a, b):
    dropped = dropped_bits(terms, a, b)
    extremes = np.array([[[[terms * a * b, -terms * a * b]]]])
    rules.drained(extremes, rules.Drain(dropped))
    if dropped:
        with pytest.raises(OverflowError):
            rules.drained(extremes, rules.Drain(dropped - 1))


@pytest.mark.parametrize("drain", [rules.Drain(), rules.Drain(5)])
def test_a_sum_is_stored_as_the_nearest_multiple_of_its_channels_power_of_two(rng, drain):
    sums = rng.integers(-(1 << 27), 1 << 27, (4, 6, 5, 5)) >> (5 - drain.shift)
    exponent = spread_limited(np.array([0, 3, 9, 12, 13, 14]) + drain.least)
    k = storing(exponent, drain)
    top = (1 << 11) - 1
    stored = rules.lane(k, rules.drained(sums, drain), low=-top, high=top).codes
    for channel, e in enumerate(exponent):
        nearest = (2 * sums[:, channel] + (1 << e)) >> e + 1
        assert np.array_equal(stored[:, channel], np.clip(nearest, -top, top))
    assert spread_limited(np.array([-40, 3])).tolist() == [-13, 3]


FACTORS = (144, 255, 127)


@pytest.mark.parametrize("bits", [6, 11, 12])
@pytest.mark.parametrize("largest", [1e2, 3e4, 2.0**20, 4e6])
def test_narrow_sums_store_what_wide_ones_do_but_for_channels_that_are_far_smaller(rng, largest, bits):
    """Also where a range has been exceeded: then both clip the same numbers."""
    unit, top = 0.37, (1 << (bits - 1)) - 1
    ends = largest * 2.0 ** -np.arange(16 - bits)  # a sixteenth of the largest at 11 bits
    sums = np.rint(rng.uniform(-25, 25, (8, len(ends), 6, 6)) * ends[:, None, None]).astype(np.int64)
    sums = np.clip(sums, 1 - (1 << 24), (1 << 24) - 1)
    found = []
    for drain in (rules.Drain(), narrowest(FACTORS, ends * unit, unit, top)):
        exponent = spread_limited(exponents(ends * unit, unit, top, drain.least))
        stored = rules.lane(storing(exponent, drain), rules.drained(sums, drain), low=-top, high=top)
        found.append((exponent.tolist(), stored.codes.tolist(), stored.saturated))
    assert drain.bits == rules.NARROW_BITS
    assert found[0] == found[1]
    assert found[0][2] > 0


def test_sums_are_as_narrow_as_what_is_known_of_them_allows():
    ends, top = np.array([1.0, 2.0**20, 5.0]), (1 << 10) - 1
    assert narrowest(FACTORS, None, 1.0, top) == rules.Drain(0, 32)
    assert narrowest((576, 1 << 12, 1 << 12), None, 1.0, top) == rules.Drain(10, 32)
    assert narrowest((144, 15, 7), None, 1.0, top) == rules.Drain(0, 16)  # whatever the codes are
    assert narrowest(FACTORS, ends, 1.0, top) == rules.Drain(7, 16)  # 2**21, with headroom, by 2**15 - 1 less a step
    assert narrowest(FACTORS, ends / 2**9, 1.0, top) == rules.Drain(0, 16)
    assert narrowest(FACTORS, ends * 2**9, 1.0, top) == rules.Drain(8, 16)  # no sum has more than 24 bits
    assert narrowest(FACTORS, ends, 1.0, (1 << 11) - 1).bits == 16
    assert narrowest(FACTORS, ends, 1.0, (1 << 12) - 1) == rules.Drain(0, 32)


@pytest.fixture
def stored(rng):
    """A stored y with channels of quite different size and mean, its unit, and a batch norm of its real values."""
    y = np.rint(rng.standard_normal((8, 5, 6, 6)) * 90 + rng.uniform(-60, 60, (1, 5, 1, 1))).astype(np.int64)
    unit = np.exp(rng.uniform(-8, 2, 5))
    layer = double(BatchNorm2d(5))
    layer.params = {"gain": rng.uniform(-1.5, 1.5, 5), "offset": rng.standard_normal(5)}
    real = y * unit[None, :, None, None]
    return y, unit, layer, layer.forward(real, CONTEXT)


def normed(y, unit, layer):
    stats, count = rules.statistics(y), y[:, 0].size
    return stats, count, Norm.of(*moments(stats, count, unit), layer.params["gain"], layer.params["offset"])


@pytest.mark.parametrize("bits", [3, 8])
def test_batch_norm_forward_is_that_of_floating_point_within_half_a_step(stored, bits):
    y, unit, layer, z = stored
    stats, _, norm = normed(y, unit, layer)
    ends = norm.ends(stats, unit)
    np.testing.assert_allclose(ends, z.max(axis=(0, 2, 3)), rtol=1e-9, atol=1e-9)  # exact but for rounding
    top = (1 << bits) - 1
    step = ends.max() / top
    k = fit(norm.slope * unit / step, 0.0, norm.intercept / step)
    passed = rules.lane(k, y, low=0, high=top, relu=True)
    assert passed.saturated == 0
    assert passed.codes.max() == top
    assert np.max(np.abs(passed.codes * step - np.maximum(z, 0))) <= step * (0.5 + 2.0**-6)
    sure = np.abs(z) > step * 2.0**-6
    assert np.array_equal(passed.mask[sure], z[sure] > 0)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_batch_norm_backward_is_that_of_floating_point_within_a_step(rng, stored, bits):
    y, unit, layer, _ = stored
    stats, count, norm = normed(y, unit, layer)
    dz = np.where(rng.random(y.shape) < 0.5, rng.integers(-127, 128, y.shape), 0)
    dz_unit = 3e-4
    expected = layer.backward(dz * dz_unit, CONTEXT)
    top = (1 << (bits - 1)) - 1
    seen = rules.statistics(dz, y)
    found = norm_gradient(norm, seen, dz_unit, unit, count)
    k, scale = found.rounded(seen, dz_unit, stats, unit, top)
    np.testing.assert_allclose(found.gain, layer.grads["gain"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.offset, layer.grads["offset"], rtol=1e-9, atol=1e-12)
    noisy = noise(noise_key(1), y.shape, like=y)
    passed = rules.lane(k, dz, y, low=-top, high=top, noise=noisy)
    error = passed.codes - expected / scale
    assert np.max(np.abs(error)) <= 1 + 2.0**-6
    assert abs(np.mean(error)) < 5 / np.sqrt(12 * error.size)  # no bias
    true = np.max(np.abs(expected))
    assert true <= scale * top * (1 + 1e-9)
    assert scale * top <= 1.5 * true


@pytest.mark.parametrize("value", [0, 5])
def test_of_a_gradient_that_is_the_same_everywhere_nothing_is_left(stored, value):
    """The coefficients fit all the same, and the codes are zero but for rounding errors of the last step."""
    y, unit, layer, _ = stored
    stats, count, norm = normed(y, unit, layer)
    dz = np.zeros_like(y)
    dz[:, 2] = value
    seen = rules.statistics(dz, y)
    k, scale = norm_gradient(norm, seen, 1e-4, unit, count).rounded(seen, 1e-4, stats, unit, 127)
    assert scale == pytest.approx(1e-4 * np.max(np.abs(norm.slope)) * 2.0**-12)
    noisy = noise(noise_key(1), y.shape, like=y)
    codes = rules.lane(k, dz, y, low=-127, high=127, noise=noisy).codes
    assert np.max(np.abs(codes)) <= (value > 0)
