"""Plain numpy references: convolutions in int64, numerical derivatives; and random tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from host import QTensor
from host.qtensor import Run, code_range


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """Convolution in int64, one kernel tap after the other."""
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = out_size(x.shape, w.shape, stride, padding)
    y = np.zeros((len(x), len(w), height, width), np.int64)
    if y.size:
        for ky, kx in np.ndindex(*w.shape[2:]):
            y += np.einsum("nchw,mc->nmhw", _tap(padded, ky, kx, stride, y.shape), w[:, :, ky, kx].astype(np.int64))
    return y


def conv2d_input_grad(g: np.ndarray, w: np.ndarray, input_shape, stride: int, padding: int) -> np.ndarray:
    """Adjoint of `conv2d` in its first argument."""
    n, channels, height, width = input_shape
    padded = np.zeros((n, channels, height + 2 * padding, width + 2 * padding), np.int64)
    if g.size:
        for ky, kx in np.ndindex(*w.shape[2:]):
            _tap(padded, ky, kx, stride, g.shape)[:] += np.einsum(
                "nmhw,mc->nchw", g.astype(np.int64), w[:, :, ky, kx].astype(np.int64)
            )
    return padded[:, :, padding : padding + height, padding : padding + width]


def conv2d_weight_grad(g: np.ndarray, x: np.ndarray, kernel_shape, stride: int, padding: int) -> np.ndarray:
    """Adjoint of `conv2d` in its second argument."""
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    dw = np.zeros(kernel_shape, np.int64)
    if g.size:
        for ky, kx in np.ndindex(*kernel_shape[2:]):
            dw[:, :, ky, kx] = np.einsum("nmhw,nchw->mc", g.astype(np.int64), _tap(padded, ky, kx, stride, g.shape))
    return dw


def out_size(image_shape, kernel_shape, stride: int, padding: int) -> tuple[int, int]:
    sizes = zip(image_shape[2:], kernel_shape[2:], strict=True)
    height, width = (max(0, (size + 2 * padding - k) // stride + 1) for size, k in sizes)
    return height, width


def _tap(padded: np.ndarray, ky: int, kx: int, stride: int, shape) -> np.ndarray:
    """The elements that kernel tap (ky, kx) meets, as a view."""
    height, width = shape[2:]
    return padded[:, :, ky : ky + stride * (height - 1) + 1 : stride, kx : kx + stride * (width - 1) + 1 : stride]


def random_tensor(rng: np.random.Generator, shape, bits: int, signed: bool) -> QTensor:
    """Codes from the whole range; sometimes only the two extremes, which drive sums to their limits."""
    low, high = code_range(bits, signed)
    if rng.random() < 0.2:
        return QTensor(rng.choice(np.array([low, high], np.int32), shape), bits, signed)
    return QTensor(rng.integers(low, high + 1, shape, dtype=np.int32), bits, signed)


def mixed_tensor(codes: np.ndarray, table: Sequence[int], signed: bool) -> QTensor:
    """Images whose widths are those of `table`, 0 for one that is to be skipped."""
    runs = [Run(int(bits), len(list(run))) for bits, run in groupby(table)]
    return QTensor.of_runs(codes, runs or [Run(1, 0)], signed)


def double(layer):
    """The layer with all its arrays in double precision, for numerical derivatives."""
    layer.load_state({name: array.astype(np.float64) for name, array in layer.state().items()})
    return layer


def numerical_gradient(function, x, step=1e-6):
    """d function() / dx by central differences; `function` reads x where it lies."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        keep = x[index]
        x[index] = keep + step
        high = function()
        x[index] = keep - step
        low = function()
        x[index] = keep
        gradient[index] = (high - low) / (2 * step)
    return gradient
