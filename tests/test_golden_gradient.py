"""Weight gradients of the golden model: plain sums over positions, from tensors as a training step leaves them."""

from dataclasses import replace

import numpy as np
import pytest
from gradients import Trial

from host.plan.memory import Region
from host.step.gradient import Operand, WeightGradient
from host.step.places import Place
from rtl.config import AcceleratorConfig
from rtl.isa import Error, Order
from sim.golden import execute
from sim.golden_check import check

CONFIG = AcceleratorConfig.preset("vector")
MEMORY = 1 << 20


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("width", [None, 2, 4, 8, 16, 32])
def test_sums_over_all_positions(seed, width):
    rng = np.random.default_rng(seed)
    clusters = 1 << int(rng.integers(3))
    config = replace(CONFIG, clusters=clusters, result_depth=int(rng.choice([32, 512])))
    trial = Trial.drawn(rng, config, **({"width": width} if width else {}))
    memory = trial.memory(MEMORY)
    assert execute(config, memory, trial.work).error == Error.NONE
    assert np.array_equal(trial.found(memory), trial.expected)


def test_images_too_wide_for_the_buffers(rng):
    with pytest.raises(ValueError, match="no tile of a weight gradient"):
        Trial.drawn(rng, AcceleratorConfig.preset("tiny", rows=16, vector=True), width=64, side=3, bits=(4, 16))


def test_more_images_than_a_descriptor_counts():
    n = 1 << 16
    place = Place(Region(0, 0), 8, 8, 8)
    operand = Operand((n, 16, 1, 16), 4, True, place)
    with pytest.raises(ValueError, match="65536 images"):
        WeightGradient(CONFIG, operand, operand, (16, 16, 1, 1), 1)


#: What is wrong with a gradient of images of 16 columns.
BAD = {
    "several taps, but not nine": {"out_height": 3},
    "nine taps without a pad": {"pad_top": 0},
    "more than 16 channels": {"out_width": 17},
    "a stride": {"stride": 2},
    "zeros between pixels": {"stuffed": 1},
    "a tail": {"k_tail": 2},
    "no images": {"images": 0},
    "no rows": {"stream_block_rows": 0},
    "ten words": {"stream_block_rows": 10, "row_groups": 4},
    "no room for the rows around": {"row_groups": 3},
    "images that are too wide": {"width": 65, "stream_block_rows": 1},
    "another order": {"stationary_order": Order.TURNED},
    "too many positions": {"row_blocks": 2},
}


def sound():
    return Trial.drawn(np.random.default_rng(7), CONFIG, width=16, height=8, side=3, bits=(4, 4), stride=1).work[-1]


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    assert check(CONFIG, sound()) == Error.NONE
    assert check(CONFIG, replace(sound(), **BAD[name])) == Error.SHAPE
