"""FracTrain's computational cost (CC) of a network's products for one sample; `host.training.cost` has that of runs.

In 32-bit MACs: multiply-accumulates * (bits_a / 32) * (bits_b / 32), as in FracTrain (arXiv 2012.13113), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from host.geometry import ceil_div
from host.nn.gate import FEATURES, HIDDEN
from host.nn.mixed import option_cp, parse_options
from host.nn.products import Product, gated_products
from host.quantise import Precision
from rtl.config import DIGIT_BITS

#: bits * bits of a 32-bit MAC.
FULL = 32 * 32


def paper_cc(products: Iterable[Product], precision: Precision) -> float:
    """CC of one sample as the paper counts it, in 32-bit MACs."""
    return sum(product.macs * _thrice(product.fixed or precision) for product in products) / FULL


def executed_cc(products: Iterable[Product], precision: Precision, *, digits: bool = False) -> float:
    """CC of one sample as executed, in 32-bit MACs.

    Parameters
    ----------
    digits : fill the stationary operand up to whole digits. It is the weight, or of two the one that costs less.
    """
    return sum(product_cc(product, product.precision(precision), digits) for product in products)


def product_cc(product: Product, precision: Precision, digits: bool) -> float:
    """CC of one product at the widths that it really has, for one sample, in 32-bit MACs; see `executed_cc`."""
    return product.macs * _passes(product, precision, digits) / FULL


def _thrice(precision: Precision) -> int:
    """Products of bits of the forward pass and of both gradients."""
    a, g, w = precision.fw, precision.bw, precision.weight_bits
    return a * w + g * w + a * g


def _passes(product: Product, precision: Precision, digits: bool) -> int:
    """The same of the passes that there are; with `digits` as the array works."""
    a, g, w = precision.fw, precision.bw, precision.weight_bits
    filled = {bits: ceil_div(bits, DIGIT_BITS) * DIGIT_BITS if digits else bits for bits in (a, g, w)}
    costs = {
        "forward": filled[w] * a,
        "input grad": filled[w] * g,
        "weight grad": min(filled[a] * g, filled[g] * a),
    }
    return sum(costs[which] for which in product.passes)


def gate_cc(products: Iterable[Product], options: int) -> float:
    """32-bit MACs of the gates for one sample, forward and both gradients; `host.nn.gate` computes them on the host."""
    step = (FEATURES + HIDDEN) * 4 * HIDDEN + HIDDEN * options
    channels = [inside[0].x[0] for inside in gated_products(products).values()]
    return 3.0 * sum(count * FEATURES + step for count in channels)


def chosen_products(
    products: Sequence[Product], config: Mapping[str, Any], windows: Iterable[Mapping[str, Any]], rest: Precision
) -> Iterator[tuple[int, Product, Precision]]:
    """(samples, product, precision) of all that ran in windows of `host.training.trace`; `rest` has what has no gate.

    The precision is what each product really has, with the run's edge bits if `products` were traced with them.
    """
    options = parse_options(config["options"], config["weight_bits"])
    widest = max(filter(None, options), key=option_cp)
    block_of = {product: name for name, inside in gated_products(products).items() for product in inside}
    for window in windows:
        for product in products:
            if product not in block_of:
                yield window["samples"], product, product.precision(rest)
                continue
            for option, samples in zip(options, window["counts"][block_of[product]], strict=True):
                if samples and (option or product.always):
                    yield samples, product, product.precision(option or widest)
