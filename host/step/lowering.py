"""Products of the device step as descriptors: convolutions in window mode, over tensors where passes have left them.

A convolution with a kernel of one tap is one with a kernel of nine that is zero but in the middle. The input gradient
at stride 2 is a convolution of the gradient, whose windows see zeros between its rows and columns. Both ways read the
same digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from host.operand import Operand
from host.plan.formats import Digits
from host.plan.plan import Draft, Plan, Source, Spec, Target
from host.plan.window import plan_whole
from host.step.network import Normed
from host.step.places import blocks
from rtl.config import ACC_BITS
from rtl.isa import Order

#: Plans that are kept, as of `host.plan.products`.
_KEPT = 4096


def is_known(of: Normed) -> bool:
    """Whether there are descriptors for a convolution."""
    return (of.kernel[2:], of.product.padding) in (((3, 3), 1), ((1, 1), 0)) and of.product.stride in (1, 2)


def digits(w: Spec, order: Order) -> Digits:
    """Weights (M, C, kh, kw) as a product reads them."""
    rows, channels = w.shape[:2]
    return Digits(w.bits, w.signed, blocks(rows), blocks(channels), order)


@lru_cache(_KEPT)
def forward(target: Target, x: Spec, w: Spec, stride: int, size: tuple[int, int], sum_bits: int) -> Plan:
    """Plan of one node for (N, M, *size) of x (N, C, H, W) and w (M, C, kh, kw), in results of `sum_bits`."""
    rows, channels, *taps = w.shape
    return _plan(target, x, w, Order.TURNED, (rows, channels * prod(taps)), stride, size, sum_bits)


@lru_cache(_KEPT)
def input_grad(target: Target, g: Spec, w: Spec, stride: int, size: tuple[int, int], sum_bits: int) -> Plan:
    """Plan of one node for (N, C, *size) of g (N, M, H', W') and w (M, C, kh, kw), likewise."""
    rows, channels, *taps = w.shape
    return _plan(target, g, w, Order.TAPS, (channels, rows * prod(taps)), 1, size, sum_bits, stuffed=stride == 2)


def _plan(
    target: Target,
    stream: Spec,
    w: Spec,
    order: Order,
    product: tuple[int, int],
    stride: int,
    size: Sequence[int],
    sum_bits: int,
    *,
    stuffed: bool = False,
) -> Plan:
    """`product`: rows, and terms of a sum, which the widths alone bound, as nobody has seen the codes."""
    rows, terms = product
    image = Source("stream", stream.shape, stream.bits, stream.signed)
    bound = terms * image.largest * Source("digits", w.shape, w.bits, w.signed).largest
    if bound >> ACC_BITS - 1:
        raise ValueError(f"sums of a convolution may reach {bound}, beyond the accumulators of {ACC_BITS} bits")

    def largest(stream: Operand, digits: Operand) -> int:
        return bound

    draft = Draft(target, {"stream": stream, "digits": w}, sum_bits, largest)
    height, width = size
    plan_whole(draft, image, digits(w, order), rows, stride, (1, 1), (height, width), stuffed=stuffed)
    return draft.plan()
