"""Weights as a tensor of passes, and back."""

import numpy as np
import pytest

from host.step.arrange import arrange, arranged_shape, filling, restore


@pytest.mark.parametrize("kernel", [(5, 16, 3, 3), (4, 3, 3, 3), (20, 33, 1, 1)])
def test_weights_come_back_and_lie_where_the_noise_counts_them(rng, kernel):
    weight = rng.integers(-9, 10, kernel)
    tensor = arrange(weight)
    assert tensor.shape == arranged_shape(kernel)
    for (row, channel, ky, kx), value in np.ndenumerate(weight):
        assert tensor[channel // 16, row, kernel[3] * ky + kx, channel % 16] == value
    assert np.array_equal(restore(tensor, kernel), weight)
    filled = filling(kernel)
    if kernel[1] % 16:
        assert filled is not None
        assert filled.sum() == weight.size
        assert not tensor[filled == 0].any()
    else:
        assert filled is None
