"""Convolutions in floating point on the host: the three passes, for numerics that the board does not have.

Cross-correlations as in `host.ops`: images NCHW, kernels OIHW, all operands of one array library and floating-point
dtype. With `depthwise` the kernel is (C, 1, kh, kw), and each channel is convolved with its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from array_api_compat import array_namespace, device

from host.arrays import Array


def conv2d(x: Array, w: Array, stride: int, padding: int, *, depthwise: bool = False) -> Array:
    """x (N, C, H, W), w (M, C, kh, kw) -> (N, M, H', W')."""
    if depthwise:
        return sum(tap * w[:, 0, ky, kx][None, :, None, None] for ky, kx, tap in _taps(x, w.shape, stride, padding))
    xp = array_namespace(x, w)
    columns, size = _columns(x, w.shape, stride, padding)
    product = xp.matmul(xp.reshape(w, (w.shape[0], -1)), columns)
    return xp.reshape(product, (x.shape[0], w.shape[0], *size))


def conv2d_input_grad(
    g: Array, w: Array, input_shape: Sequence[int], stride: int, padding: int, *, depthwise: bool = False
) -> Array:
    """Gradient at x, of `input_shape`, from the gradient g (N, M, H', W') at the result."""
    xp = array_namespace(g, w)
    n, channels, height, width = input_shape
    rows, _, *kernel = w.shape
    if depthwise:
        columns = xp.reshape(w, (rows, -1))[None, :, :, None, None] * g[:, :, None, ...]
    else:
        flat = xp.reshape(g, (n, rows, -1))
        columns = xp.matmul(xp.matrix_transpose(xp.reshape(w, (rows, -1))), flat)
        columns = xp.reshape(columns, (n, channels, kernel[0] * kernel[1], *g.shape[2:]))
    padded = xp.zeros((n, channels, height + 2 * padding, width + 2 * padding), dtype=g.dtype, device=device(g))
    for number, place in enumerate(_places(kernel, g.shape[2:], stride)):
        padded[place] += columns[:, :, number, ...]
    return padded[:, :, padding : padding + height, padding : padding + width]


def conv2d_weight_grad(
    g: Array, x: Array, kernel_shape: Sequence[int], stride: int, padding: int, *, depthwise: bool = False
) -> Array:
    """Gradient at w, of `kernel_shape`, from the gradient g (N, M, H', W') at the result."""
    xp = array_namespace(g, x)
    if depthwise:
        taps = [xp.sum(g * tap, axis=(0, 2, 3)) for _, _, tap in _taps(x, kernel_shape, stride, padding)]
        return xp.reshape(xp.stack(taps, axis=1), tuple(kernel_shape))
    columns, _ = _columns(x, kernel_shape, stride, padding)
    flat = xp.reshape(g, (*g.shape[:2], -1))
    return xp.reshape(xp.tensordot(flat, columns, axes=((0, 2), (0, 2))), tuple(kernel_shape))


def _places(kernel: Sequence[int], size: Sequence[int], stride: int) -> Iterator[tuple[slice, ...]]:
    """Where in a padded image each kernel tap meets it."""
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            rows = slice(ky, ky + stride * (size[0] - 1) + 1, stride)
            yield slice(None), slice(None), rows, slice(kx, kx + stride * (size[1] - 1) + 1, stride)


def _taps(x: Array, kernel_shape: Sequence[int], stride: int, padding: int) -> Iterator[tuple[int, int, Array]]:
    """(ky, kx, the elements of the padded image that this tap meets) for each kernel tap."""
    xp = array_namespace(x)
    n, channels, height, width = x.shape
    kernel = kernel_shape[2:]
    size = [(length + 2 * padding - k) // stride + 1 for length, k in zip((height, width), kernel, strict=True)]
    padded = xp.zeros((n, channels, height + 2 * padding, width + 2 * padding), dtype=x.dtype, device=device(x))
    padded[:, :, padding : padding + height, padding : padding + width] = x
    for number, place in enumerate(_places(kernel, size, stride)):
        yield *divmod(number, kernel[1]), padded[place]


def _columns(x: Array, kernel_shape: Sequence[int], stride: int, padding: int) -> tuple[Array, tuple[int, int]]:
    """Windows of x as columns (N, C * kh * kw, H' * W'), and (H', W')."""
    xp = array_namespace(x)
    stacked = xp.stack([tap for _, _, tap in _taps(x, kernel_shape, stride, padding)], axis=2)
    n, channels, taps, height, width = stacked.shape
    return xp.reshape(stacked, (n, channels * taps, height * width)), (height, width)
