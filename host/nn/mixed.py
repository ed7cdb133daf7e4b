"""Batches whose samples differ in precision: how they are written down, cost, are rounded and go to a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from host.qtensor import QTensor
from host.quantise import Array, Precision, quantise

#: What a sample may choose for a block: a precision, or None to skip the block.
Option = Precision | None
#: Samples of a batch that share a precision.
Group = tuple[Precision, slice]


@dataclass(frozen=True)
class MixedPrecision:
    """The precision of each sample of a batch, as runs of samples of equal precision.

    Attributes
    ----------
    runs : precision and number of samples of each run, in the order of the batch; no run is empty. All have one width
        of weights, as a convolution multiplies the whole batch with the same codes.
    """

    runs: tuple[tuple[Precision, int], ...]

    @property
    def weight_bits(self) -> int:
        """Width of the weights in all three products."""
        return self.runs[0][0].weight_bits

    def at_least(self, bits: int) -> MixedPrecision:
        """The same precisions with no operand narrower than `bits`."""
        return MixedPrecision(tuple((precision.at_least(bits), count) for precision, count in self.runs))

    def groups(self, samples: int) -> tuple[Group, ...]:
        """The runs as slices of a batch. Raises ValueError if they are not those of `samples` samples."""
        ends = np.cumsum([count for _, count in self.runs]).tolist()
        if ends[-1] != samples:
            raise ValueError(f"precisions of {ends[-1]} samples for a batch of {samples}")
        return tuple(
            (precision, slice(end - count, end)) for (precision, count), end in zip(self.runs, ends, strict=True)
        )


def parse_options(text: str, weight_bits: int) -> tuple[Option, ...]:
    """Read options such as `0,3/6,4/8`: activation and gradient bits of each, or 0 to skip the block.

    Raises
    ------
    ValueError
        If the text is no list of different options, or a width is not 2 to 16; the message quotes the option.
    """
    options: list[Option] = []
    for part in text.split(","):
        try:
            if part.strip() == "0":
                option = None
            else:
                fw, bw = (int(bits) for bits in part.split("/"))
                option = Precision(fw, bw, weight_bits)
        except ValueError as error:
            detail = f" ({error})" if "must be an integer" in str(error) else ""
            raise ValueError(
                f"--options {text}: {part!r} is neither 0 nor activation/gradient bits such as 4/8{detail}"
            ) from None
        if option in options:
            raise ValueError(f"--options {text}: {part!r} is there twice")
        options.append(option)
    if all(option is None for option in options):
        raise ValueError(f"--options {text}: at least one must not skip the block")
    return tuple(options)


def option_cp(option: Option) -> float:
    """Cost of an option in percent of that at 32 bits, all three products: FracTrain's cp of one block. 0 for a skip.

    100 * (a * w + g * w + a * g) / (3 * 32 * 32) for activations, gradients and weights of a, g and w bits.
    """
    if option is None:
        return 0.0
    a, g, w = option.fw, option.bw, option.weight_bits
    return 100 * (a * w + g * w + a * g) / (3 * 32 * 32)


def quantise_groups(x: Array, groups: Sequence[Group], *, signed: bool) -> list[QTensor]:
    """Round each group of the batch `x` to its activation bits, with the range of the whole batch.

    The step alone differs between samples, as in FracTrain's code for ImageNet; see `host.quantise.quantise`.
    """
    if len(groups) == 1:
        return [quantise(x, groups[0][0].fw, signed=signed)]
    xp = array_namespace(x)
    largest = float(xp.max(xp.abs(x)))
    return [quantise(x[part, ...], precision.fw, signed=signed, largest=largest) for precision, part in groups]


def join(parts: Sequence[QTensor]) -> tuple[QTensor, np.ndarray | None]:
    """Successive groups as one tensor as wide as the widest, with its precision table.

    The table, uint8 (N,), holds the width of each sample; it is None where all have the same. The scale of the result
    means nothing: each group has its own.
    """
    if len(parts) == 1:
        return parts[0], None
    codes = array_namespace(parts[0].codes).concat([part.codes for part in parts])
    table = np.concatenate([np.full(part.shape[0], part.bits, np.uint8) for part in parts])
    whole = QTensor.trusted(codes, bits=max(part.bits for part in parts), signed=parts[0].signed)
    return whole, None if np.all(table == whole.bits) else table
