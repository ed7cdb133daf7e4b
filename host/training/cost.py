"""What a training run costs: FracTrain's computational cost (CC), the cost as executed, and what savings turn into.

CC is in 32-bit MACs: multiply-accumulates * (bits_a / 32) * (bits_b / 32), as in FracTrain (arXiv 2012.13113), section
4.1. Three figures say different things of one run:

* *paper*: forward MACs of every layer at the stage's widths, charged three times (f*f for the forward pass, f*g for
  each of the two backward passes), as in the released code (`cr` of train_pfq.py) and its tables; of blocks with a gate
  their cp. The input gradient of the first layer, which nobody computes, is charged; gates and evaluation are not.
* *executed*: what the run charged to its board, first convolution and shortcuts at the widths they really had and no
  input gradient of the first layer, and the gates at 32 bits, which the host computes. Zero points are 0, so there are
  no corrections. Evaluation is counted apart.
* *digits*: as executed, with the stationary operand filled up to whole 4-bit digits, which is the work of the array.

Everything is computed from metrics.jsonl and summary.json of a run, and the shapes of its network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from host.cycles.bus import seconds
from host.nn.mixed import parse_options
from host.nn.products import Product, gated_products
from host.quantise import Precision
from host.training.cc import FULL, chosen_products, executed_cc, gate_cc, paper_cc, product_cc

#: Energy of a beat of DRAM in pJ a bit: Bit Fusion's simulator, bitfusion/src/simulator/stats.py.
DRAM_PJ_PER_BIT = 15.0
#: Energy of an 8 x 8-bit multiplication and a 32-bit addition in pJ, 45 nm: M. Horowitz, ISSCC 2014, figure 1.1.9.
MULTIPLY_PJ, ADD_PJ = 0.2, 0.1


def segments(summary: Mapping[str, Any], first: int, last: int) -> Iterator[tuple[int, Precision]]:
    """(iterations, precision) of the stages in the iterations from `first` up to, but not including, `last`."""
    config = summary["config"]
    starts = [(0, Precision(config["fw"][0], config["bw"][0]))]
    starts += [(s["iteration"], Precision(s["fw"], s["bw"])) for s in summary["stage_switches"]]
    ends = [start for start, _ in starts[1:]] + [last]
    for (start, precision), end in zip(starts, ends, strict=True):
        if (count := min(end, last) - max(start, first)) > 0:
            yield count, precision


@dataclass(frozen=True)
class Cost:
    """Cost of the first epochs of a run; None where the run's files do not tell.

    Attributes
    ----------
    epochs : how many.
    accuracy : on the test split after the last of them.
    paper, executed, digits : CC in 32-bit MACs, see above.
    cycles : of the accelerator's clock, training only.
    ddr_bytes : read and written in training.
    """

    epochs: int
    accuracy: float
    paper: float | None
    executed: float
    digits: float | None
    cycles: int | None
    ddr_bytes: int | None

    @property
    def device_seconds(self) -> float | None:
        """Time of the cycles at a stated clock, see `host.cycles.bus.CLOCK_MHZ`."""
        return None if self.cycles is None else seconds(self.cycles)

    @property
    def joules(self) -> float | None:
        """Energy by a model, not measured: bit-serial MACs and DRAM at the constants above; nothing else counts."""
        if self.ddr_bytes is None:
            return None
        macs = self.executed * FULL / 64  # in MACs of 8 x 8 bits
        return (macs * (MULTIPLY_PJ + ADD_PJ) + self.ddr_bytes * 8 * DRAM_PJ_PER_BIT) * 1e-12


def run_cost(
    records: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    products: Sequence[Product] | None = None,
    samples: int = 0,
    *,
    best: bool = False,
) -> Cost:
    """Cost of a run, or with `best` up to the end of the epoch of its (first) best test accuracy.

    Parameters
    ----------
    records : lines of metrics.jsonl.
    summary : content of summary.json.
    products, samples : products of the network and samples of an epoch. Without them the figures that need them are
        None, and the gates of a run that has some are not in what was executed.
    """
    if best:
        accuracies = [record["test_accuracy"] for record in records]
        records = records[: accuracies.index(max(accuracies)) + 1]
    paper = digits = None
    executed = sum(record["bit_macs"] for record in records) / FULL
    if products is not None:
        paper, digits, gates = _counted(records, summary, products, samples)
        executed += gates
        digits += gates

    def total(name: str) -> int | None:
        values = [record[name] for record in records]
        return None if None in values else sum(values)

    return Cost(
        epochs=len(records),
        accuracy=records[-1]["test_accuracy"],
        paper=paper,
        executed=executed,
        digits=digits,
        cycles=total("cycles"),
        ddr_bytes=total("ddr_bytes"),
    )


def _counted(
    records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], products: Sequence[Product], samples: int
) -> tuple[float, float, float]:
    """CC of a run as the paper counts it, in whole digits without the gates, and of the gates."""
    config = summary["config"]
    paper = digits = gates = 0.0
    begin = 0
    for record in records:
        end = record["iteration"]
        if "cp" in record:
            rest = Precision(config["fw"][0], config["bw"][0])
            inside = [product for block in gated_products(products).values() for product in block]
            chosen = [product for product in inside if not product.fixed]
            gated = sum(product.macs for product in chosen)
            others = [product for product in products if product not in chosen]
            # cp is the cost in % of that at 32 bits, of which there are three passes.
            paper += samples * (gated * 3 * record["cp"] / 100 + paper_cc(others, rest))
            parts = chosen_products(products, config, record["gates"], rest)
            digits += sum(count * product_cc(product, precision, True) for count, product, precision in parts)
            gates += samples * gate_cc(products, len(parse_options(config["options"], config["weight_bits"])))
        else:
            for count, precision in segments(summary, begin, end):
                paper += samples * count / (end - begin) * paper_cc(products, precision)
                ratio = executed_cc(products, precision, digits=True) / executed_cc(products, precision)
                digits += record["bit_macs"] / FULL * ratio * count / (end - begin)
        begin = end
    return paper, digits, gates


def saving(value: float | None, reference: float | None) -> float | None:
    """1 - value / reference; None if either is unknown or there is nothing to save."""
    return None if value is None or not reference else 1 - value / reference


def conversion(cost: Cost, reference: Cost, cc: str = "paper") -> float | None:
    """Saving conversion: latency saving / CC saving against `reference`; None if unknown or if no CC was saved.

    `cc` names the CC: paper, executed or digits.
    """
    latency, computation = (saving(getattr(cost, n), getattr(reference, n)) for n in ("cycles", cc))
    return None if latency is None or computation is None or computation <= 0 else latency / computation
