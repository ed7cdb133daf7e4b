"""The golden model's own rules: what it refuses, skips, wraps and counts. Its products are tested through `ops`."""

from dataclasses import replace

import numpy as np
import pytest
from descriptors import MEMORY, OUT, STATIONARY, STREAM, TABLE, TINY, flat, image, results, window
from references import conv2d

from host.plan.packing import flat_lanes, pack_stationary, pack_stream, pack_stream_table, window_lanes
from rtl.isa import Error, Flag, Format, Order
from sim.golden import Completion, execute
from sim.golden_check import check


@pytest.mark.parametrize("padding", range(3))
def test_zeros_between_pixels(rng, padding):
    """As the same image with the zeros in memory; the last window is all zeros but for its corner, or all."""
    x, w = rng.integers(0, 16, (2, 3, 4, 16)), rng.integers(-8, 8, (4, 16, 3, 3))
    out = 6 + padding, 8 + padding
    memory = image((STREAM, pack_stream(x, 4)), (STATIONARY, pack_stationary(window_lanes(w), 4, 4, 1, 1)))
    sizes = {"height": 3, "width": 4, "out_height": out[0], "out_width": out[1], "pad_top": padding}
    sizes |= {"pad_left": padding, "stream_stride_n": 96, "out_stride_n": out[0] * out[1] * 16}
    assert execute(TINY, memory, [window(n=2, stuffed=1, **sizes)]).error == Error.NONE
    whole = np.zeros((2, 16, 6 + padding + 2, 8 + padding + 2), np.int64)
    whole[:, :, padding : padding + 6 : 2, padding : padding + 8 : 2] = x.transpose(0, 3, 1, 2)
    expected = conv2d(whole, w, 1, 0).reshape(2, 4, -1).transpose(0, 2, 1)
    assert np.array_equal(results(memory, 2, out[0] * out[1]), expected)


def test_ring_stops_at_the_first_error(rng):
    x = rng.integers(0, 16, (3, 5, 5, 16))
    memory = image((STREAM, pack_stream(x, 4)), (STATIONARY, np.zeros(288, np.uint8)))
    done = execute(TINY, memory, [window(), window(stride=7), window(out_base=MEMORY - 8)])
    assert done == Completion(1, Error.SHAPE, 1, 0)
    assert not results(memory, 3, 25).any()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"stream_base": MEMORY - 64}, Error.AXI_READ),
        ({"stationary_base": MEMORY - 280}, Error.AXI_READ),
        ({"out_base": MEMORY - 3 * 25 * 16 + 8}, Error.AXI_WRITE),
        ({"out_base": MEMORY - 3 * 25 * 16}, Error.NONE),
        ({"out_base": 2 * 25 * 16 - 8, "out_stride_n": (1 << 32) - 25 * 16}, Error.AXI_WRITE),
        ({"out_base": 2 * 25 * 16, "out_stride_n": (1 << 32) - 25 * 16}, Error.NONE),
        ({"flags": Flag.STREAM_TABLE, "stream_table": TABLE - 1}, Error.PRECISION),
        ({"flags": Flag.STREAM_TABLE, "stream_table": MEMORY - 2}, Error.AXI_FETCH),
        ({"flags": Flag.STATIONARY_TABLE, "stationary_table": MEMORY}, Error.AXI_FETCH),
    ],
)
def test_address_beyond_the_memory_is_a_bus_error(changes, error):
    memory = image((TABLE, np.full(8, 4, np.uint8)), (MEMORY - 2, np.zeros(2, np.uint8)))
    assert execute(TINY, memory, [replace(window(), **changes)]).error == error


def test_precision_table(rng):
    table = np.array([2, 0, 5, 5, 1], np.uint8)
    x = rng.integers(0, 1 << 31, (5, 5, 5, 16)) & ((1 << table.astype(int)) - 1)[:, None, None, None]
    w = rng.integers(-8, 8, (4, 16, 3, 3))
    memory = image(
        (STREAM, pack_stream_table(x, 5, table)),
        (STATIONARY, pack_stationary(window_lanes(w), 4, 4, 1, 1)),
        (TABLE, table),
    )
    descriptor = window(n=5, bits=5, flags=Flag.STATIONARY_SIGNED | Flag.STREAM_TABLE, tile_rows=1, row_groups=1)
    assert execute(TINY, memory, [descriptor]) == Completion(1, Error.NONE, None, 0)
    expected = conv2d(x.transpose(0, 3, 1, 2), w, 1, 1).reshape(5, 4, 25).transpose(0, 2, 1)
    found = results(memory, 5, 25)
    for n, bits in enumerate(table):
        assert np.array_equal(found[n], expected[n] if bits else np.full((25, 4), 0xA5A5A5A5 - (1 << 32)))


@pytest.mark.parametrize(("bad", "error"), [(17, Error.PRECISION), (255, Error.PRECISION), (16, Error.SHAPE)])
def test_bad_precision_byte_stops_after_the_samples_before_it(bad, error):
    memory = image((TABLE, np.array([3, bad, 3], np.uint8)))
    descriptor = window(flags=Flag.STREAM_TABLE, row_groups=6, tile_samples=1)  # 16 * 6 * 2 beats, 128 fit
    assert execute(TINY, memory, [descriptor]) == Completion(0, error, 0, 0)
    assert (results(memory, 3, 25)[0] != 0xA5A5A5A5 - (1 << 32)).any()
    assert (results(memory, 3, 25, "<u4")[1:] == 0xA5A5A5A5).all()


def test_stationary_precision_byte(rng):
    x, w = rng.integers(0, 16, (3, 5, 5, 16)), rng.integers(-128, 128, (4, 16, 3, 3))
    stationary = pack_stationary(window_lanes(w), 8, 4, 1, 1)
    expected = conv2d(x.transpose(0, 3, 1, 2), w, 1, 1).reshape(3, 4, 25).transpose(0, 2, 1)
    descriptor = window(
        flags=Flag.STATIONARY_SIGNED | Flag.STATIONARY_TABLE,
        stationary_bits=0,
        stationary_stride_k=576,
        stationary_stride_m=576,
    )
    for byte, error in ((8, Error.NONE), (0, Error.NONE), (17, Error.PRECISION)):
        memory = image((STREAM, pack_stream(x, 4)), (STATIONARY, stationary), (TABLE, np.array([byte], np.uint8)))
        assert execute(TINY, memory, [descriptor]).error == error
        if byte == 8:
            assert np.array_equal(results(memory, 3, 25), expected)
        else:
            assert (results(memory, 3, 25, "<u4") == 0xA5A5A5A5).all()


@pytest.mark.parametrize(("byte", "error"), [(0, Error.NONE), (17, Error.PRECISION), (4, Error.SHAPE)])
def test_stationary_precision_byte_is_read_before_the_tile_is_measured(byte, error):
    memory = image((TABLE, np.array([byte], np.uint8)))
    descriptor = window(flags=Flag.STATIONARY_TABLE, tile_samples=100)
    assert check(TINY, descriptor) == Error.SHAPE
    assert execute(TINY, memory, [descriptor]).error == error


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("shift", [0, 3, 31])
def test_results_are_shifted_and_what_does_not_fit_is_clipped_and_counted(form, shift):
    kind, bits = f"<i{form.nbytes}", 8 * form.nbytes
    # 144 lanes of +-(2**12 - 1) * 2**15: 2**34 and more, beyond int32; 98,301 and less beside them.
    x = np.zeros((1, 1, 8, 144), np.int64)
    x[..., 0, :] = 0xFFF
    x[..., 1, :1] = 3
    w = np.full((4, 144), 0x7FFF)
    w[1] = -0x8000
    w[2:] = 1
    memory = image(
        (STREAM, pack_stream(x, 12)),
        (STATIONARY, pack_stationary(flat_lanes(w), 16, 4, 1, 1)),
    )
    strides = dict.fromkeys(("out_stride_n", "out_stride_m"), 8 * 4 * form.nbytes)
    descriptor = flat(bits=12, stationary_bits=16, out_format=form, out_shift=shift, **strides)
    exact = (x[0, 0] @ w.T) >> shift
    limit = 1 << (bits - 1)
    done = execute(TINY, memory, [descriptor])
    assert done == Completion(1, Error.NONE, None, int(((exact < -limit) | (exact >= limit)).sum()))
    assert np.array_equal(results(memory, 1, 8, kind)[0], np.clip(exact, -limit, limit - 1))


def test_accumulators_have_48_bits():
    # Every k block adds 144 * (2**16 - 1)**2, almost 2**40: 512 of them pass 2**48.
    blocks = 512
    one = pack_stream(np.full((1, 1, 1, 144), 0xFFFF), 16).reshape(-1)
    tile = pack_stationary(flat_lanes(np.full((4, 144), 0xFFFF)), 16, 4, 1, 1).reshape(-1)
    memory = image((STREAM, one), (STATIONARY, tile))
    # All k blocks are the same in memory: strides of zero.
    descriptor = flat(
        width=1,
        bits=4,
        k_blocks=blocks,
        flags=Flag(0),
        out_format=Format.INT64,
        stream_stride_c=0,
        stationary_stride_k=0,
        stationary_bits=16,
        out_stride_n=32,
    )
    descriptor = replace(descriptor, stream_bits=16)
    memory[STREAM : STREAM + 128] = np.tile(np.array([0xFF, 0xFF, 0, 0, 0, 0, 0, 0], np.uint8), 16)
    assert execute(TINY, memory, [descriptor]).error == Error.NONE
    exact = blocks * 144 * 0xFFFF**2
    wrapped = (exact + (1 << 47)) % (1 << 48) - (1 << 47)
    assert wrapped != exact
    assert (results(memory, 1, 1, "<i8") == wrapped).all()


def test_lanes_beyond_the_tail_do_not_count(rng):
    x, w = rng.integers(0, 16, (1, 1, 8, 144 + 32)), rng.integers(-8, 8, (4, 288))
    memory = image((STREAM, pack_stream(x, 4)), (STATIONARY, pack_stationary(flat_lanes(w), 4, 4, 1, 2)))
    assert execute(TINY, memory, [flat(k_blocks=2, k_tail=2)]).error == Error.NONE
    assert np.array_equal(results(memory, 1, 8)[0], x[0, 0] @ w[:, :176].T)


def test_upper_planes_of_a_wider_tensor(rng):
    """Rows further apart than their planes: as after a copy of these planes alone."""
    x, w = rng.integers(0, 1 << 7, (3, 5, 5, 16)), rng.integers(-8, 8, (4, 16, 3, 3))
    kernel = (STATIONARY, pack_stationary(window_lanes(w), 4, 4, 1, 1))
    copied, there = (image((STREAM, pack_stream(codes, bits)), kernel) for codes, bits in ((x >> 3, 4), (x, 7)))
    sample = 7 * 5 * 2 * 8
    lies = {"stream_stride_n": sample, "stream_stride_c": sample, "stream_stride_y": 7 * 2 * 8}
    for memory, changes in ((copied, {}), (there, lies)):
        assert execute(TINY, memory, [window(**changes)]).error == Error.NONE
    assert np.array_equal(results(copied, 3, 25), results(there, 3, 25))


@pytest.mark.parametrize("order", Order)
def test_a_tile_in_any_order_is_the_same_tile(rng, order):
    config = replace(TINY, rows=16, vector=True)
    x, w = rng.integers(0, 16, (1, 1, 4, 144)), rng.integers(-8, 8, (16, 144))
    digits = flat_lanes(w)[:, 0]  # (row, tap, channel)
    rows, taps, channels = np.indices(digits.shape)
    beat, nibble = {
        Order.ROWS: (9 * rows + taps, channels),
        Order.TAPS: (16 * (8 - taps) + rows, channels),
        Order.TURNED: (16 * taps + channels, rows),
        Order.WORDS: (16 * (taps % 3 * 3 + taps // 3) + channels, rows),
    }[order]
    tile = np.zeros((144, 16), np.uint8)
    tile[beat, nibble] = digits & 15
    memory = image((STREAM, pack_stream(x, 4)), (STATIONARY, tile[:, ::2] | tile[:, 1::2] << 4))
    assert execute(config, memory, [flat(width=4, stationary_order=order)]).error == Error.NONE
    assert np.array_equal(memory[OUT : OUT + 256].view("<i4").reshape(4, 16), x[0, 0] @ w.T)


def test_samples_with_their_own_stationary_operand(rng):
    x, w = rng.integers(-8, 8, (3, 1, 8, 144)), rng.integers(-8, 8, (3, 4, 144))
    tiles = np.stack([pack_stationary(flat_lanes(part), 4, 4, 1, 1) for part in w])
    memory = image((STREAM, pack_stream(x, 4)), (STATIONARY, tiles))
    flags = Flag.STATIONARY_SIGNED | Flag.STREAM_SIGNED
    assert execute(TINY, memory, [flat(samples=3, stationary_stride_n=288, flags=flags)]).error == Error.NONE
    assert np.array_equal(results(memory, 3, 8), x[:, 0] @ w.transpose(0, 2, 1))


def test_stride_applies_to_vectors(rng):
    x, w = rng.integers(0, 16, (1, 1, 8, 144)), rng.integers(-8, 8, (4, 144))
    memory = image((STREAM, pack_stream(x, 4)), (STATIONARY, pack_stationary(flat_lanes(w), 4, 4, 1, 1)))
    assert execute(TINY, memory, [flat(stride=2, out_width=4)]).error == Error.NONE
    assert np.array_equal(results(memory, 1, 4)[0], x[0, 0, ::2] @ w.T)


def test_memory_must_be_bytes():
    with pytest.raises(ValueError, match="int32"):
        execute(TINY, np.zeros(4, np.int32), [])
