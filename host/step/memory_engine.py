"""The engine for a board with a vector unit: tensors lie in its memory, passes and convolutions are descriptors.

Coefficients go to the board and sums come back, nothing else of a step.

What neither the host nor a later step needs lies in the memory on the chip, if there is room at that time. Results of
products come first, as they are the widest and gone after the next pass: stored tensors leave room for the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from weakref import WeakKeyDictionary, finalize

import numpy as np

from host.backends.memory import MemoryBoard
from host.geometry import ceil_div
from host.plan.formats import Sums
from host.plan.memory import NoRoom, Region
from host.plan.packing import pack_stream, row_bytes, unpack_stream
from host.plan.plan import Plan, Spec
from host.step import lowering
from host.step.arrange import arranged_shape
from host.step.engine import Engine, Measured, Passed, Tensor, VectorPass
from host.step.gathered import gather, neighbours, part, regions
from host.step.gradient import Operand, WeightGradient
from host.step.network import Normed
from host.step.passes import descriptor, is_of_samples, pack_coefficients, sums_bytes, unpack_sums
from host.step.places import Place, digit_place, plane_strides, result_strides
from host.step.rules import U_BITS, Coefficients, Drain, Statistics, joined
from host.step.submission import Submission
from rtl.config import BEAT_BYTES, BEAT_WORDS, CHIP_BASE, TAPS, WORD_CHANNELS
from rtl.isa import Order, Source
from rtl.vector_block import COEFFICIENTS_BYTES

Shape = tuple[int, int, int, int]

#: Bytes of which a pass copies a multiple: a row of one beat for each of 16 planes.
_COPIED = 16 * BEAT_BYTES
#: Coefficients that leave a stream as it is.
_SAME = Coefficients(np.array(1), np.array(0), np.array(0), 0)


class MemoryEngine(Engine):
    """Tensors in the memory of `board`."""

    name = "the board's vector unit"

    def __init__(self, board: MemoryBoard):
        super().__init__(board)
        self._board = board
        self._work = Submission(board)
        self._read: WeakKeyDictionary[Tensor, np.ndarray] = WeakKeyDictionary()
        self._largest = 0  # bytes of results of a product that the chip could hold

    def write(self, codes: np.ndarray, bits: int, signed: bool) -> Tensor:
        n, channels, height, width = codes.shape
        return self._written(pack_stream(codes.transpose(0, 2, 3, 1), bits), (n, channels, height, width), bits, signed)

    def read(self, tensor: Tensor) -> np.ndarray:
        n, channels, height, width = tensor.shape
        stored = tensor.held.stride_y // row_bytes(width)
        raw = self._raw(tensor)[: n * tensor.held.stride_n]
        codes = unpack_stream(raw, (n, height, width, channels), stored, tensor.signed)
        return codes.transpose(0, 3, 1, 2) >> (stored - tensor.bits)

    def gathered(self, tensors: Sequence[Tensor], places: np.ndarray) -> Tensor:
        return gather(tensors, places)

    def run(self, asked: VectorPass) -> Passed:
        take = self._take if asked.kept else self._take_stored
        codes = self._planes(asked.shape, asked.bits, asked.signed, take) if asked.stored else None
        mask = self._planes(asked.shape, 1, False, take) if asked.stored and asked.relu else None
        return Passed(codes, mask, self._run(asked, codes, mask))

    def digits(self, of: Normed, asked: VectorPass) -> Tensor:
        form = lowering.digits(Spec(of.kernel, asked.bits, asked.signed), Order.TURNED)
        held = digit_place(self._take(form.nbytes), form)
        if asked.shape[2] != TAPS:
            asked = self._in_the_middle(asked)
        codes = self._owned(Tensor(asked.shape, asked.bits, asked.signed, held))
        self._run(asked, codes, None)
        return codes

    def _in_the_middle(self, asked: VectorPass) -> VectorPass:
        """A pass over weights of one tap as one of nine, all of which read that tap; a mask keeps the middle one."""
        u = asked.u
        assert u is not None, "weights are stream u"
        n, channels, _, columns = u.shape
        shape = n, channels, TAPS, columns
        mask = self._middle_tap
        return replace(
            asked,
            u=replace(u, shape=shape, held=u.held._replace(stride_y=0)),
            mask=replace(mask, shape=shape, held=mask.held._replace(stride_n=0, stride_c=0)),
        )

    @cached_property
    def _middle_tap(self) -> Tensor:
        """A mask of all channels and columns of a word, a row for each tap."""
        mask = np.zeros((1, WORD_CHANNELS, TAPS, WORD_CHANNELS), np.int64)
        mask[:, :, TAPS // 2] = 1
        return self.write(mask, 1, False)

    def _run(self, asked: VectorPass, codes: Tensor | None, mask: Tensor | None) -> Measured:
        """A pass whose results and mask have places."""
        raw = pack_coefficients(asked)
        coefficients = self._take(raw.nbytes)
        self._board.put(coefficients.address, raw)
        with self.account.kind("descriptors"):
            parts = list(neighbours(asked))
            ends = np.cumsum([self._aligned(sums_bytes(each)) for _, _, each in parts]).tolist()
            sums = self._take(ends[-1])
            given = (asked.u, asked.v, asked.mask, asked.sums)
            reads = [region for tensor in given if isinstance(tensor, Tensor) for region in regions(tensor)]
            writes = [tensor.held.region for tensor in (codes, mask) if tensor]
            sample = raw.nbytes // asked.shape[0] if is_of_samples(asked) else 0
            work = [
                descriptor(
                    each,
                    coefficients.address + start * sample,
                    sums.address + place,
                    codes and part(codes, start, stop),
                    mask and part(mask, start, stop),
                )
                for (start, stop, each), place in zip(parts, [0, *ends], strict=False)
            ]
            self._work.add(work, [coefficients, *reads], [sums, *writes])
            self._board.memory.release(coefficients)
            # Not of `asked` itself: what was read is not to stay until somebody wants the sums.
            sizes = [sums_bytes(each) for _, _, each in parts]
            measured = Measured(partial(self._found, sums, sizes, asked.shape[1], asked.each_sample))
            finalize(measured, self._board.memory.release, sums)
        return measured

    def _aligned(self, nbytes: int) -> int:
        burst = self._board.target.burst_bytes
        return ceil_div(nbytes, burst) * burst

    def _found(self, sums: Region, sizes: list[int], channels: int, each_sample: bool) -> tuple[Statistics, int]:
        self._work.run()
        raw, start, found = self._board.get(sums.address, sums.nbytes), 0, []
        for size in sizes:
            found.append(unpack_sums(raw[start : start + size], channels, each_sample))
            start += self._aligned(size)
        return joined([stats for stats, _ in found], each_sample), sum(clipped for _, clipped in found)

    def measure(self, tensor: Tensor, x: Tensor) -> Measured:
        return self.run(VectorPass(_SAME, (1 << tensor.bits) - 1, tensor, sums=x, stored=False)).measured

    def upper(self, tensor: Tensor, dropped: int) -> Tensor:
        """The upper planes where they lie."""
        if not dropped:
            return tensor
        tensor.held.region.users += 1
        return self._owned(Tensor(tensor.shape, tensor.bits - dropped, False, tensor.held))

    def forward(self, of: Normed, x: Tensor, w: Tensor, drain: Drain) -> Tensor:
        self._charge(of, x, w)
        _, height, width = of.product.out(x.shape[1:], of.kernel)
        kernel, stride = Spec(of.kernel, w.bits, w.signed), of.product.stride
        plan = lowering.forward(self._board.target, _spec(x), kernel, stride, (height, width), drain.bits)
        return self._product(plan, x, w, (x.shape[0], of.kernel[0], height, width), drain)

    def input_grad(self, of: Normed, g: Tensor, w: Tensor, shape: Shape, drain: Drain) -> Tensor:
        self._charge(of, g, w, shape)
        kernel, stride = Spec(of.kernel, w.bits, w.signed), of.product.stride
        plan = lowering.input_grad(self._board.target, _spec(g), kernel, stride, (shape[2], shape[3]), drain.bits)
        return self._product(plan, g, w, shape, drain)

    def weight_grad(self, of: Normed, g: Tensor, x: Tensor, dropped: int) -> Tensor:
        """The gradient becomes digits first."""
        self._charge(of, g, x, x.shape)
        gradient, activation = (Operand(each.shape, each.bits, each.signed, each.held) for each in (g, x))
        work = WeightGradient(self._board.config, gradient, activation, of.kernel, of.product.stride)
        unchanged = pack_coefficients(VectorPass(_SAME, 1, g))
        raw = np.concatenate([unchanged, np.zeros(WORD_CHANNELS * COEFFICIENTS_BYTES, np.uint8)])
        coefficients = self._take(raw.nbytes)
        self._board.put(coefficients.address, raw)
        with self.account.kind("descriptors"):
            digits, sums = self._take_stored(work.digits_bytes), self._take_results(work.results_bytes)
            if work.has_gaps:
                zeros = work.zeros(digits.address, coefficients.address + unchanged.nbytes)
                self._work.add([zeros], [coefficients], [digits])
            passes = work.passes(digits.address, coefficients.address)
            self._work.add(passes, [coefficients, g.held.region], [digits])
            products = work.products(digits.address, sums.address)
            self._work.add(products, [digits, x.held.region], [sums])
            for region in (coefficients, digits):
                self._board.memory.release(region)
            shape, source = arranged_shape(of.kernel), _source(work.out_bytes)
            place = Place(sums, *result_strides(shape, work.out_bytes), source=source, dropped=dropped)
            place = place._replace(parts=work.parts, stride_parts=work.part_bytes)
            return self._results(shape, place)

    def _product(self, plan: Plan, stream: Tensor, w: Tensor, shape: Shape, drain: Drain) -> Tensor:
        with self.account.kind("descriptors"):
            [node] = plan.nodes
            (at_stream, at_kernel), [at_sums] = node.reads, node.writes
            sums = plan.tensors[at_sums].format
            assert isinstance(sums, Sums)
            regions = {
                at_stream: stream.held.region,
                at_kernel: w.held.region,
                at_sums: self._take_results(sums.nbytes),
            }
            fields = {**_lies(stream), "out_shift": drain.shift}
            descriptors = [replace(each, **fields) for each in node.at(lambda number: regions[number].address)]
            self._work.add(descriptors, [regions[at_stream], regions[at_kernel]], [regions[at_sums]])
            _, _, stride_y = result_strides(shape, sums.out_bytes)
            strides = sums.sample_bytes, sums.block_bytes, stride_y
            return self._results(shape, Place(regions[at_sums], *strides, _source(sums.out_bytes)))

    def _charge(self, of: Normed, a: Tensor, b: Tensor, input_shape: Shape | None = None) -> None:
        """The work, as `host.ops` charges it."""
        x = (input_shape or a.shape)[1:]
        self._board.charge(a.shape[0] * of.product.macs(x, of.kernel), a.bits, b.bits)

    # Memory ---------------------------------------------------------------------------------------------------------

    def _take(self, nbytes: int) -> Region:
        memory = self._board.memory
        try:
            return memory.take(nbytes)
        except NoRoom:
            self._work.run()  # what waits may hold tensors that nobody needs any more
        try:
            return memory.take(nbytes)
        except NoRoom:
            size = self._board.memory_bytes
            raise ValueError(
                f"the tensors of a training step do not fit the board's memory of {size} bytes: {nbytes} more are "
                "needed; a smaller --micro-batch needs less"
            ) from None

    def _take_results(self, nbytes: int) -> Region:
        """For results of a product: on the chip, if there is room."""
        if nbytes <= self._board.config.chip_bytes:
            self._largest = max(self._largest, nbytes)
        return self._take_near(nbytes, 0)

    def _take_stored(self, nbytes: int) -> Region:
        """For what passes store: on the chip, if there is room for the largest results as well."""
        return self._take_near(nbytes, self._largest)

    def _take_near(self, nbytes: int, spare: int) -> Region:
        try:
            return self._board.chip.take(ceil_div(nbytes, _COPIED) * _COPIED, spare)
        except NoRoom:
            return self._take(nbytes)

    def _planes(self, shape: Shape, bits: int, signed: bool, take: Callable[[int], Region]) -> Tensor:
        """A tensor with a place, and nothing in it yet."""
        strides = plane_strides(shape, bits)
        return self._owned(Tensor(shape, bits, signed, Place(take(shape[0] * strides[0]), *strides)))

    def _results(self, shape: Shape, place: Place) -> Tensor:
        return self._owned(Tensor(shape, U_BITS, True, place))

    def _owned(self, tensor: Tensor) -> Tensor:
        """Its region is in use as long as it lives."""
        finalize(tensor, self._board.memory.release, tensor.held.region)
        return tensor

    def _written(self, raw: np.ndarray, shape: Shape, bits: int, signed: bool) -> Tensor:
        tensor = self._planes(shape, bits, signed, self._take)
        self._board.put(tensor.held.region.address, raw)
        return tensor

    def _raw(self, tensor: Tensor) -> np.ndarray:
        """The bytes of a tensor, which are read once."""
        if tensor not in self._read:
            readable = self._where_the_host_reads(tensor)
            self._work.run()
            region = readable.held.region
            self._read[tensor] = self._board.get(region.address, region.nbytes)
        return self._read[tensor]

    def _where_the_host_reads(self, tensor: Tensor) -> Tensor:
        """The tensor, or the bytes of one on the chip after a pass that copies them: numbers of any kind of 16 bits."""
        region = tensor.held.region
        if region.address < CHIP_BASE:
            return tensor
        shape = (1, WORD_CHANNELS, region.nbytes // _COPIED, BEAT_WORDS)
        bits = _COPIED // BEAT_BYTES
        numbers = Tensor(shape, bits, False, Place(region, *plane_strides(shape, bits)))
        return self.run(VectorPass(_SAME, (1 << bits) - 1, numbers, signed=False, kept=True)).stored


def _lies(stream: Tensor) -> dict[str, int]:
    """The fields of a descriptor that say how a streaming operand lies."""
    place: Place = stream.held
    close = plane_strides(stream.shape, stream.bits)[2]
    pitch = 0 if place.stride_y == close else place.stride_y
    strides = {"n": place.stride_n, "c": place.stride_c, "y": pitch}
    return {f"stream_stride_{axis}": stride for axis, stride in strides.items()}


def _spec(tensor: Tensor) -> Spec:
    return Spec(tensor.shape, tensor.bits, tensor.signed)


def _source(out_bytes: int) -> Source:
    """Of results of so many bytes."""
    return Source(out_bytes.bit_length() - 1)
