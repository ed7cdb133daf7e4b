"""Geometry of convolutions: what kernels, strides and paddings make of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import index

import numpy as np


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def out_size(image: Sequence[int], kernel: Sequence[int], stride: int, padding: int) -> tuple[int, int]:
    """Height and width of a convolution's result; zero where the kernel does not fit the padded image.

    Parameters
    ----------
    image, kernel : height and width.
    stride, padding : of both axes; zeros are added on all four sides.
    """
    height, width = (max(0, (size + 2 * padding - k) // stride + 1) for size, k in zip(image, kernel, strict=True))
    return height, width


def taps(kernel: Sequence[int], size: Sequence[int], stride: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of a padded image that each kernel tap meets, for a result of `size`."""
    for ky, kx in np.ndindex(*kernel):
        yield slice(ky, ky + stride * (size[0] - 1) + 1, stride), slice(kx, kx + stride * (size[1] - 1) + 1, stride)


def check_geometry(kernel: Sequence[int], stride: int, padding: int) -> None:
    """Raise ValueError if a convolution cannot have this kernel, stride or padding; TypeError if one is no integer."""
    for name, value in (("stride", stride), ("padding", padding)):
        if isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}, must be an integer")
        try:
            index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}, must be an integer") from None
    if stride < 1 or padding < 0 or 0 in kernel:
        raise ValueError(f"stride {stride}, padding {padding}, kernel {tuple(kernel)}: must be at least 1, 0 and 1")
