"""When each control of a plane-cycle is used: the latencies of the units, added up once.

The array and EXEC place their registers by these sums, the cycle model counts with them. An element or accumulator of
another latency moves them all, or is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cells import Accumulator
from .config import AcceleratorConfig
from .pe import processing_element
from .result import ResultBank
from .stream_buffer import StreamBuffer

#: From EXEC's step to a cluster's own register of it.
LOCAL = 1
#: From a plane to its copies for each group of rows.
COPY = 1


@dataclass(frozen=True)
class ArrayTiming:
    """Cycles of one plane-cycle, counted from the one in which a cluster's register shows its bank addresses.

    Attributes
    ----------
    column, row, shift : multiplexers of the stream buffer; the padding goes with `row`.
    context : tables are read.
    bias : what the entries of signed digits have too much is taken off.
    weight : accumulators take the sum and its weight.
    read : stored sums are read.
    select : accumulators take what they add to.
    store : accumulators show the new sum, which is stored.
    """

    column: int
    row: int
    shift: int
    context: int
    bias: int
    weight: int
    read: int
    select: int
    store: int

    @property
    def stream_free(self) -> int:
        """From a step to the last read of the stream buffer: its slot may be filled again."""
        return LOCAL + 1

    @property
    def context_free(self) -> int:
        """From a step to the last read of the tables: their context may be written again."""
        return LOCAL + self.context + 1

    @property
    def result_full(self) -> int:
        """From a step to its stored sum: until then a result slot is not complete."""
        return LOCAL + self.store + 2

    @property
    def reuse(self) -> int:
        """Cycles from a position's last plane until its stored sum may be read again."""
        return self.store - self.read + 1


def array_timing(config: AcceleratorConfig) -> ArrayTiming:
    """The sums for the elements that `config` names.

    Raises ValueError if they cannot work together: a bias that comes after the sum, or stored sums that would have to
    be read before the plane is.
    """
    element = processing_element(config)
    if not 0 <= element.BIAS_DELAY < element.LATENCY:
        raise ValueError(
            f"{element.__name__} has BIAS_DELAY {element.BIAS_DELAY}, must be at least 0 and below its LATENCY, "
            f"{element.LATENCY}"
        )
    context = StreamBuffer.LATENCY + COPY
    weight = context + element.LATENCY
    select = weight + Accumulator.BASE_DELAY
    read = select - ResultBank.READ_LATENCY
    if read < 0:
        raise ValueError(f"{element.__name__} has LATENCY {element.LATENCY}: stored sums cannot be read in time")
    return ArrayTiming(
        column=StreamBuffer.COLUMN_DELAY,
        row=StreamBuffer.ROW_DELAY,
        shift=StreamBuffer.SHIFT_DELAY,
        context=context,
        bias=context + element.BIAS_DELAY,
        weight=weight,
        read=read,
        select=select,
        store=weight + Accumulator.LATENCY,
    )
