"""Batches whose samples differ in precision: how they are written down, and what they may choose from and its cost."""

from __future__ import annotations

from dataclasses import dataclass

from host.quantise import Precision, Widths

#: What a sample may choose for a block: a precision, or None to skip the block.
Option = Precision | None


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

    @property
    def activations(self) -> Widths:
        """Width of the activations of each run, as `host.quantise.quantise` takes it."""
        return tuple((precision.fw, count) for precision, count in self.runs)

    @property
    def gradients(self) -> Widths:
        """Width of the gradients of each run, as `host.quantise.quantise` takes it."""
        return tuple((precision.bw, count) for precision, count in self.runs)


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
