"""Samples of mixed precision on the RTL: what golden gives, by precision tables, in fewer cycles for cheaper ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from choices import gated_block, gradients, images

from host import open_board
from host.nn.layers import Context, Conv2d
from host.nn.mixed import MixedPrecision, parse_options
from host.nn.mobilenet import SignedConv2d
from host.quantise import Precision
from rtl.isa import Flag

#: Widths of activations and gradients of the samples, one after the other; the weights have 4 bits.
WIDTHS = ((3, 6), (3, 6), (4, 6), (4, 8), (4, 8), (7, 12), (16, 16))


@pytest.fixture(scope="module", params=["tiny", "sim"])
def rtl(request):
    board = open_board("sim", config=request.param)
    yield board
    board.close()


@pytest.fixture
def golden(rtl):
    return open_board("golden", config=rtl.config)


@pytest.fixture
def streamed(rtl, monkeypatch):
    """The precision tables that descriptors name from now on, as the memory holds them when they start."""
    tables, run = [], rtl.run

    def watched(descriptors):
        for d in descriptors:
            tables.append(rtl.read(d.stream_table, d.samples).tolist() if d.flags & Flag.STREAM_TABLE else None)
        run(descriptors)

    monkeypatch.setattr(rtl, "run", watched)
    return tables


def mixed(widths, weight_bits: int = 4) -> MixedPrecision:
    """Successive samples of equal widths are one run."""
    runs = dict.fromkeys(widths)
    return MixedPrecision(tuple((Precision(*pair, weight_bits), widths.count(pair)) for pair in runs))


def busy(board, run) -> int:
    """Cycles that `run` has the board work."""
    before = board.counters()["busy"]
    run()
    return board.counters()["busy"] - before


def both_ways(layer, x, dy, context) -> dict[str, np.ndarray]:
    """Output, input gradient and the parameters' gradients."""
    y = layer.forward(x, context)
    return {"y": y, "dx": layer.backward(dy, context)} | gradients(layer)


@pytest.mark.parametrize("kind", [Conv2d, SignedConv2d], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_mixed_convolution(kernel, stride, kind, rtl, golden, rng):
    layer = kind(20, 18, kernel, stride, rng=rng)
    x = images(rng, (len(WIDTHS), 20, 7, 6), signed=kind.signed)
    dy = images(rng, (len(WIDTHS), 18, *((7, 6) if stride == 1 else (4, 3))))
    start = rtl.macs, rtl.bit_macs
    results = [
        both_ways(layer, x, dy, Context(board, mixed(WIDTHS), rng=np.random.default_rng(9))) for board in (rtl, golden)
    ]
    for name, array in results[1].items():
        assert np.array_equal(results[0][name], array), name
    assert (rtl.macs - start[0], rtl.bit_macs - start[1]) == (golden.macs, golden.bit_macs)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 6), (3, 2, 6), (1, 2, 6), (3, 1, 20)])
def test_decisions_are_streamed(kernel, stride, size, rtl, golden, streamed, rng):
    """Every descriptor of the forward pass names a table, and its bytes are the samples' widths."""
    layer = Conv2d(16, 16 if size == 6 else 80, kernel, stride, rng=rng)
    x = images(rng, (len(WIDTHS), 16, size, size), signed=False)
    y = layer.forward(x, Context(rtl, mixed(WIDTHS), training=False))
    assert np.array_equal(y, layer.forward(x, Context(golden, mixed(WIDTHS), training=False)))
    # More than one entry where the positions of an image, or the patches that it is cut into, count as samples.
    print("entries of the descriptors:", [len(table) for table in streamed])
    widths = [fw for fw, _ in WIDTHS]
    assert all(table == np.repeat(widths, len(table) // len(widths)).tolist() for table in streamed)
    streamed.clear()
    layer.forward(x, Context(rtl, mixed(((5, 8),) * 7), training=False))
    assert set(streamed) == {None}


def test_cheaper_samples_take_fewer_cycles(rtl, rng):
    layer = Conv2d(32, 32, rng=rng)
    x = images(rng, (8, 32, 8, 8), signed=False)

    def cycles(narrow: int) -> int:
        context = Context(rtl, mixed(((3, 6),) * narrow + ((8, 12),) * (8 - narrow)), training=False)
        return busy(rtl, lambda: layer.forward(x, context))

    taken = [cycles(narrow) for narrow in range(0, 9, 2)]  # by one the memory's moods would show
    print("cycles by pairs of narrow samples:", taken)
    assert all(fewer < more for more, fewer in pairwise(taken))
    # Samples fill whole tiles, so a pair alone may save little; two pairs may not.
    assert all(fewer < 0.9 * more for more, fewer in zip(taken, taken[2:], strict=False))


@pytest.mark.parametrize("projects", [False, True])
def test_gated_block(projects, rtl, golden, streamed, rng):
    options = parse_options("3/6,0,6/12,4/8", 4)
    choice = [2, 0, 1, 3, 0, 2, 1]
    gated = gated_block(choice, options, rng, projects=projects)
    state = gated.state()
    x = images(rng, (7, 16, 8, 8), signed=False)
    dy = images(rng, (7, 32, 4, 4) if projects else x.shape)
    results = []
    for board in (rtl, golden):
        gated.load_state(state)
        context = Context(board, Precision(8, 8), rng=np.random.default_rng(9), cost_weight=0.5)
        results.append(both_ways(gated, x, dy, context) | {"mask": gated.gate.gradient} | gated.block.state())
    for name, array in results[1].items():
        assert np.array_equal(results[0][name], array), name
    tables = [table for table in streamed if table]
    assert [3, 3, 4, 6, 6] in tables  # of the body, which those that skip do not enter
    assert not projects or any(table[-2:] == [6, 6] and len(table) % 7 == 0 for table in tables)  # of the shortcut


def test_skipped_samples_take_no_cycles(rtl, rng):
    options = parse_options("4/8,0", 4)
    x = images(rng, (6, 16, 8, 8), signed=False)
    taken = []
    for skips in range(7):
        gated = gated_block([1] * skips + [0] * (6 - skips), options, rng)
        context = Context(rtl, Precision(8, 8), training=False)
        taken.append(busy(rtl, lambda gated=gated, context=context: gated.forward(x, context)))
    print("cycles by skips:", taken)
    assert all(fewer < more for more, fewer in pairwise(taken))
    assert taken[-1] == 0
