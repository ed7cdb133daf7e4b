"""The whole training step by the cycle model: `python -m host.bench --step`.

`host.step` walks over a board that only records (`host.backends.recording`), twice: a first step runs passes again
until it knows its ranges, the second does what every later one does. What it submits goes to `host.cycles`; to that
come the host's waits and the head, at stated costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from host.backends.recording import RecordingBoard, Run
from host.cycles.bus import CLOCK_MHZ
from host.cycles.model import CycleModel
from host.cycles.pipeline import Bounds, Cycles
from host.nn.models import build_model
from host.quantise import Precision
from host.step.device import DeviceStep
from host.step.memory_engine import MemoryEngine
from host.step.tensors import Storage
from host.step.weights import MASTER_BITS, MOMENTUM_BITS
from rtl.config import WORD_CHANNELS, AcceleratorConfig
from rtl.ddr import Ddr
from rtl.isa import Descriptor, Flag, Opcode, Pass, Sink

#: Images of the first step, whose ranges those of any number have.
_FIRST = 4
#: Columns of `Step.table`.
COLUMNS = {
    "work": "{kind}",
    "tensors": "{shape}",
    "times": "{count}",
    "cycles": "{busy:,}",
    "of the step": "{share:.1%}",
    "DDR KiB": "{ddr_kib:,.0f}",
    "bound by": "{bound}",
}


@dataclass(frozen=True)
class Host:
    """What the host's part is taken to cost.

    Attributes
    ----------
    barrier_us : microseconds whenever it waits for the accelerator, until that goes on.
    head_us : microseconds an image for the linear layer, softmax and loss.
    """

    barrier_us: float = 20.0
    head_us: float = 10.0


@dataclass(frozen=True)
class Recorded:
    """A training step.

    Attributes
    ----------
    runs : what the accelerator is given at a time.
    host : bytes by kind of the host's work.
    """

    images: int
    runs: list[Run]
    host: dict[str, dict[str, int]]


def record(
    config: AcceleratorConfig,
    net: str,
    image: tuple[int, int, int],
    batch: int,
    precision: Precision,
    *,
    micro_batch: int = 0,
    memory_bytes: int = 1 << 30,
) -> Recorded:
    """What a training step of a network submits once ranges are known. Raises ValueError if no unit computes it."""
    board = RecordingBoard(config, memory_bytes)
    step = DeviceStep(
        build_model(net, image, 10, seed=0, edge_bits=2),
        board,
        image=image,
        micro_batch=micro_batch,
        storage=Storage(),
        seed=0,
        momentum=0.9,
        weight_decay=1e-4,
    )
    if not isinstance(step.engine, MemoryEngine):
        raise ValueError(f"the device does not compute steps of {net}, but {step.engine.name}")
    rng = np.random.default_rng(0)
    for images in (min(batch, _FIRST), batch):
        step.host_work()
        board.runs.clear()
        pixels = rng.standard_normal((images, *image)).astype(np.float32)
        step.gradients(pixels, rng.integers(0, 10, images), precision)
        step.optimiser.step(0.0)  # gradients of no data grow from layer to layer
    work = {
        kind: {"write_bytes": work["write_bytes"], "read_bytes": work["read_bytes"]}
        for kind, work in step.host_work().items()
        if work["write_bytes"] or work["read_bytes"]
    }
    return Recorded(batch, list(board.runs), work)


@dataclass
class Row:
    """Work of one kind on tensors of one shape: how often, and what it took.

    Attributes
    ----------
    bound : cycles by the part of the machine that took them, `waits` where none was busy all the time.
    """

    kind: str
    shape: str
    count: int = 0
    cycles: Cycles = field(default_factory=Cycles)
    bound: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What a step takes.

    Attributes
    ----------
    rows : the longest first.
    bound_by : all cycles, by the part of the machine that was busy all the time; `waits` for what none was busy, and
        the host's `barriers` and `head`.
    roof : cycles that the array or the memory alone would take.
    """

    recorded: Recorded
    rows: list[Row]
    bound_by: dict[str, float]
    ddr_bytes: int
    roof: float

    @property
    def cycles(self) -> float:
        return sum(self.bound_by.values())

    def report(self, host: Host, memory: str) -> dict:
        """As JSON has it. Shares of `bound_by` add up to 1. The host's bytes, of the whole step, are in no figure."""
        images = self.recorded.images
        return {
            "images_per_second": images * CLOCK_MHZ * 1e6 / self.cycles,
            "cycles_per_image": self.cycles / images,
            "ddr_bytes_per_image": self.ddr_bytes / images,
            "roof_fraction": self.roof / self.cycles,
            "bound_by": {name: cycles / self.cycles for name, cycles in self.bound_by.items()},
            "host": {
                "barriers": len(self.recorded.runs),
                "barrier_us": host.barrier_us,
                "head_us_per_image": host.head_us,
                "bytes": self.recorded.host,
            },
            "clock_mhz": CLOCK_MHZ,
            "memory": memory,
        }

    def table(self) -> list[dict]:
        """Rows of `COLUMNS`."""
        return [
            {
                **vars(row),
                "busy": row.cycles.busy,
                "share": row.cycles.busy / self.cycles,
                "ddr_kib": (row.cycles.read_bytes + row.cycles.write_bytes) / 1024,
                "bound": max(row.bound, key=lambda part: row.bound[part]),
            }
            for row in self.rows
        ]

    def lines(self, host: Host) -> Iterator[str]:
        """What is to be said below the table."""
        said = self.report(host, "")
        parts = sorted(said["bound_by"].items(), key=lambda part: -part[1])
        yield "bound by " + ", ".join(f"{name} {share:.1%}" for name, share in parts if share >= 0.0005)
        yield f"{said['host']['barriers']} barriers of {host.barrier_us:g} us, head {host.head_us:g} us an image"
        for name, work in self.recorded.host.items():
            moved = f"{work['write_bytes']:,} bytes written, {work['read_bytes']:,} read"
            yield f"host, beside that and in no figure: {name}, {moved}"
        yield (
            f"{said['images_per_second']:,.1f} images/s at {CLOCK_MHZ} MHz, {said['cycles_per_image']:,.0f} cycles and "
            f"{said['ddr_bytes_per_image'] / 1e6:.2f} MB an image, {said['roof_fraction']:.0%} of the roof"
        )


def modelled(config: AcceleratorConfig, ddr: Ddr, recorded: Recorded, host: Host) -> Step:
    """The cycles of a step."""
    model, rows = CycleModel(config, ddr), {}
    bound_by = dict.fromkeys((*Bounds._fields, "waits"), 0.0)
    total, array, memory = Cycles(), 0.0, 0.0
    for run in recorded.runs:
        work = iter([(kind(d, of_host=given), shape(d)) for d, given in zip(*run, strict=True)])
        for segment in model.segments(run.descriptors):
            own = dict.fromkeys(next(work) for _ in segment.descriptors)  # what is equal is named once
            name = " + ".join(dict.fromkeys(what for what, _ in own)), ", ".join(of for _, of in own)
            row = rows.setdefault(name, Row(*name))
            row.count += 1
            row.cycles += segment.cycles
            bound, busy = max(zip(segment.bounds, Bounds._fields, strict=True))
            bound = min(bound, segment.cycles.busy)
            for part, cycles in ((busy, bound), ("waits", segment.cycles.busy - bound)):
                row.bound[part] = row.bound.get(part, 0.0) + cycles
                bound_by[part] += cycles
            total += segment.cycles
            array, memory = array + segment.bounds.array, memory + segment.bounds.ddr
    bound_by["barriers"] = len(recorded.runs) * host.barrier_us * CLOCK_MHZ
    bound_by["head"] = recorded.images * host.head_us * CLOCK_MHZ
    found = sorted(rows.values(), key=lambda row: -row.cycles.busy)
    return Step(recorded, found, bound_by, total.read_bytes + total.write_bytes, max(array, memory))


def kind(d: Descriptor, *, of_host: bool) -> str:
    """What a descriptor of a step does; `of_host`: the host has written its streaming operand."""
    if d.opcode != Opcode.VECTOR:
        if d.opcode != Opcode.WINDOW:
            return "weight gradient"
        return "input gradient" if d.flags & Flag.STREAM_SIGNED and not of_host else "forward"
    controls = Pass(d.vector_controls)
    if d.vector_sink == Sink.DIGITS:
        return "digits"
    if not d.q_planes:
        return "sums of dz beside"
    if d.vector_source:
        if d.q_planes == MOMENTUM_BITS and d.v_planes == MOMENTUM_BITS:
            return "momentum"
        return "store y" if controls & Pass.SQUARES else "store dz"
    if controls & Pass.RELU:
        return "ReLU of a sum" if d.v_planes else "ReLU"
    if not d.u_planes:
        return "gradient of pooling"
    if d.u_planes == MASTER_BITS:
        return "update"
    return "dy" if d.v_planes else "upper planes"


def shape(d: Descriptor) -> str:
    """Of a pass's tensors, or of a product's results, with channels in whole blocks."""
    if d.opcode == Opcode.VECTOR:
        return f"{d.samples}x{d.k_blocks * WORD_CHANNELS}x{d.height}x{d.width}"
    rows = d.row_blocks * WORD_CHANNELS << d.log2_row_parts
    return f"{d.samples}x{rows}x{d.out_height}x{d.out_width}"
