"""The four products of training as plans of one product each.

`plan_*` needs shapes, widths and the reach of the sums (`host.plan.sums`), and plans equal work once. The functions
with the plain names take the reach from operands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from math import prod

import numpy as np

from host.geometry import out_size
from host.operand import Operand
from host.plan import sums
from host.plan.arrange import add_columns, call, turned, windows
from host.plan.flat import plan_dot, plan_flat
from host.plan.plan import Draft, Plan, Source, Spec, Target
from host.plan.tiling import MAX_PADDING
from host.plan.window import plan_window

Shape = tuple[int, ...]
Bound = Callable[[Operand, Operand], int]

#: Plans that are kept; a run at one precision needs a few dozen.
_KEPT = 4096


def conv2d(target: Target, x: Operand, w: Operand, stride: int, padding: int) -> Plan:
    """Plan of (N, M, H', W') of x (N, C, H, W) and w (M, C, kh, kw) that holds the sums of these operands."""
    bound = _conv2d_bound(Spec.of(x), Spec.of(w), stride, padding)
    return plan_conv2d(target, Spec.of(x), Spec.of(w), stride, padding, sums.reach(bound(x, w)))


def conv2d_input_grad(target: Target, g: Operand, w: Operand, input_shape: Shape, stride: int, padding: int) -> Plan:
    """Plan of `input_shape` of g (N, M, H', W') and w (M, C, kh, kw) that holds the sums of these operands."""
    reach = sums.reach(_input_grad_bound(w.shape, stride, padding)(g, w))
    return plan_conv2d_input_grad(target, Spec.of(g), Spec.of(w), input_shape, stride, padding, reach)


def conv2d_weight_grad(target: Target, g: Operand, x: Operand, kernel_shape: Shape, stride: int, padding: int) -> Plan:
    """Plan of `kernel_shape` of g (N, M, H', W') and x (N, C, H, W) that holds the sums of these operands."""
    reach = sums.reach(sums.weight_grad(g, x, kernel_shape[2:], stride, padding))
    return plan_conv2d_weight_grad(target, Spec.of(g), Spec.of(x), kernel_shape, stride, padding, reach)


def matmul(target: Target, a: Operand, b: Operand) -> Plan:
    """Plan of (M, N) of a (M, K) and b (K, N) that holds the sums of these operands."""
    return plan_matmul(target, Spec.of(a), Spec.of(b), sums.reach(sums.matmul(a, b)))


@lru_cache(_KEPT)
def plan_conv2d(target: Target, x: Spec, w: Spec, stride: int, padding: int, reach: int) -> Plan:
    """As `conv2d`, for sums of so many signed bits: one of `host.plan.sums.REACHES`."""
    (n, channels, *image), (rows, _, *kernel) = x.shape, w.shape
    size = out_size(image, kernel, stride, padding)
    draft = Draft(target, {"x": x, "w": w}, reach, _conv2d_bound(x, w, stride, padding))
    if _is_window(w.shape, stride):
        plan_window(draft, _source("x", x), _source("w", w), stride, (padding, padding), size, mixed=x.mixed)
        return draft.plan()
    terms = channels * prod(kernel)
    matrix = _source("w", w).then((rows, terms), call(np.reshape, (rows, terms)))
    view = call(windows, tuple(kernel), stride, padding, size)
    if x.mixed:
        shape = (n, prod(size), terms)
        plan_flat(draft, matrix, _source("x", x).then(shape, view + call(np.reshape, shape)), mixed=True)
        draft.then(call(np.reshape, (n, rows, *size)))
    else:
        shape = (n * prod(size), terms)
        plan_dot(draft, matrix, _source("x", x).then(shape, view + call(np.reshape, shape)))
        draft.then(call(np.reshape, (rows, n, *size)), call(np.swapaxes, 0, 1))
    return draft.plan()


@lru_cache(_KEPT)
def plan_conv2d_input_grad(
    target: Target, g: Spec, w: Spec, input_shape: Shape, stride: int, padding: int, reach: int
) -> Plan:
    """As `conv2d_input_grad`, for sums of so many signed bits: one of `host.plan.sums.REACHES`."""
    rows, channels, *kernel = w.shape
    n, _, height, width = input_shape
    draft = Draft(target, {"g": g, "w": w}, reach, _input_grad_bound(w.shape, stride, padding))
    gradient, weight = _source("g", g), _source("w", w)
    if _is_window_grad(w.shape, stride, padding):
        kernels = weight.then((channels, rows, 3, 3), call(turned))
        pads = (2 - padding, 2 - padding)
        plan_window(draft, gradient, kernels, 1, pads, (height, width), stuffed=stride == 2)
        return draft.plan()

    # Any other geometry: one matrix product, whose columns the host adds up where they overlap.
    size = g.shape[2:]
    taken, positions = channels * prod(kernel), n * prod(size)
    matrix = weight.then((taken, rows), call(np.transpose, (1, 2, 3, 0)) + call(np.reshape, (taken, rows)))
    channels_last = call(np.transpose, (0, 2, 3, 1)) + call(np.reshape, (positions, rows))
    plan_dot(draft, matrix, gradient.then((positions, rows), channels_last))
    draft.then(
        call(np.reshape, (channels, prod(kernel), n, *size)),
        call(add_columns, input_shape, tuple(kernel), stride, padding),
    )
    return draft.plan()


@lru_cache(_KEPT)
def plan_conv2d_weight_grad(
    target: Target, g: Spec, x: Spec, kernel_shape: Shape, stride: int, padding: int, reach: int
) -> Plan:
    """As `conv2d_weight_grad`, for sums of so many signed bits: one of `host.plan.sums.REACHES`."""
    n, rows, *size = g.shape
    terms, taken = n * prod(size), prod(kernel_shape[1:])
    bound = partial(sums.weight_grad, kernel=kernel_shape[2:], stride=stride, padding=padding)
    draft = Draft(target, {"g": g, "x": x}, reach, bound)
    gradient = _source("g", g).then((rows, terms), call(np.swapaxes, 0, 1) + call(np.reshape, (rows, terms)))
    view = call(windows, kernel_shape[2:], stride, padding, tuple(size))
    images = _source("x", x).then((taken, terms), view + call(np.reshape, (terms, taken)) + call(np.transpose))
    plan_dot(draft, gradient, images)
    draft.then(call(np.reshape, kernel_shape))
    return draft.plan()


@lru_cache(_KEPT)
def plan_matmul(target: Target, a: Spec, b: Spec, reach: int) -> Plan:
    """As `matmul`, for sums of so many signed bits: one of `host.plan.sums.REACHES`."""
    draft = Draft(target, {"a": a, "b": b}, reach, sums.matmul)
    plan_dot(draft, _source("a", a), _source("b", b).then(b.shape[::-1], call(np.transpose)))
    return draft.plan()


def _source(name: str, spec: Spec) -> Source:
    return Source(name, spec.shape, spec.bits, spec.signed)


def _is_window(kernel: Shape, stride: int) -> bool:
    return kernel[2:] == (3, 3) and stride in (1, 2)


def _is_window_grad(kernel: Shape, stride: int, padding: int) -> bool:
    return _is_window(kernel, stride) and padding <= MAX_PADDING


def _conv2d_bound(x: Spec, w: Spec, stride: int, padding: int) -> Bound:
    if _is_window(w.shape, stride) or x.mixed:
        return sums.conv2d_window
    return partial(sums.conv2d_flat, stride=stride, padding=padding)


def _input_grad_bound(kernel: Shape, stride: int, padding: int) -> Bound:
    if _is_window_grad(kernel, stride, padding):
        return partial(sums.input_grad_window, stride=stride)
    return sums.input_grad_flat
