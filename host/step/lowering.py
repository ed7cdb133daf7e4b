"""Products of the device step as descriptors: convolutions in window mode, over tensors where passes have left them.

A convolution with a kernel of one tap is one with a kernel of nine that is zero but in the middle. The input gradient
at stride 2 is a convolution of the gradient, whose windows see zeros between its rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from host.operand import Operand
from host.plan import sums
from host.plan.arrange import call, middle_tap, turned
from host.plan.plan import Draft, Plan, Source, Spec, Target
from host.plan.window import plan_whole
from host.step.network import Normed
from rtl.config import ACC_BITS

#: Plans that are kept, as of `host.plan.products`.
_KEPT = 4096


def is_known(of: Normed) -> bool:
    """Whether there are descriptors for a convolution."""
    return (of.kernel[2:], of.product.padding) in (((3, 3), 1), ((1, 1), 0)) and of.product.stride in (1, 2)


@lru_cache(_KEPT)
def forward(target: Target, x: Spec, w: Spec, stride: int, size: tuple[int, int]) -> Plan:
    """Plan of one node for (N, M, *size) of x (N, C, H, W) and w (M, C, kh, kw)."""
    return _plan(target, x, _nine_taps(w), stride, size)


@lru_cache(_KEPT)
def input_grad(target: Target, g: Spec, w: Spec, stride: int, size: tuple[int, int]) -> Plan:
    """Plan of one node for (N, C, *size) of g (N, M, H', W') and w (M, C, kh, kw)."""
    rows, channels = w.shape[:2]
    kernel = _nine_taps(w)
    return _plan(target, g, kernel.then((channels, rows, 3, 3), call(turned)), 1, size, stuffed=stride == 2)


def _plan(
    target: Target, stream: Spec, kernel: Source, stride: int, size: Sequence[int], *, stuffed: bool = False
) -> Plan:
    """The sums are bounded by the widths alone, as nobody has seen the codes."""
    image = Source("stream", stream.shape, stream.bits, stream.signed)
    bound = int(np.prod(kernel.shape[1:], dtype=object)) * image.largest * kernel.largest
    if bound >> ACC_BITS - 1:
        raise ValueError(f"sums of a convolution may reach {bound}, beyond the accumulators of {ACC_BITS} bits")
    specs = {"stream": stream, "kernel": Spec(kernel.shape, kernel.bits, kernel.signed)}

    def largest(stream: Operand, kernel: Operand) -> int:
        return bound

    draft = Draft(target, specs, sums.reach(bound), largest)
    height, width = size
    plan_whole(draft, image, kernel, stride, (1, 1), (height, width), stuffed=stuffed)
    return draft.plan()


def _nine_taps(w: Spec) -> Source:
    kernel = Source("kernel", w.shape, w.bits, w.signed)
    if w.shape[2:] == (3, 3):
        return kernel
    matrix = kernel.then(w.shape[:2], call(np.reshape, w.shape[:2]))
    return matrix.then((*w.shape[:2], 3, 3), call(middle_tap))
