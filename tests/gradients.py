"""Weight gradients on random tensors in memory, as descriptors, beside a plain reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from references import conv2d_weight_grad

from host.plan.memory import Region
from host.plan.packing import pack_stream, row_bytes
from host.ring import RESERVED_BYTES
from host.step.arrange import arranged_shape, restore
from host.step.gradient import Operand, WeightGradient
from host.step.places import Place, blocks
from rtl.config import WORD_CHANNELS, AcceleratorConfig
from rtl.isa import Descriptor, Flag

#: Coefficients: of 16 channels as they are, as many as there may be, then of 16 that become zero.
IDENTITY = np.array([1, 0], "<i8")
CHANNELS = 64


@dataclass
class Trial:
    """A weight gradient of g and x, which are the upper planes of tensors of some more planes."""

    config: AcceleratorConfig
    g: np.ndarray
    x: np.ndarray
    bits: tuple[int, int]
    signed: bool
    kernel: tuple[int, int, int, int]
    stride: int
    seed: int
    more: int = 0

    @classmethod
    def drawn(cls, rng: np.random.Generator, config: AcceleratorConfig, **fixed):
        """Random sizes, but for those that are fixed: width, height, stride, bits and so on."""
        width = fixed.get("width", int(rng.integers(1, 40)))
        height, n = fixed.get("height", int(rng.integers(1, 12))), fixed.get("n", int(rng.integers(1, 6)))
        rows, channels = (16 * int(rng.integers(1, 3)) for _ in range(2))
        stride, side = fixed.get("stride", int(rng.integers(1, 3))), fixed.get("side", int(rng.choice([1, 3])))
        bits = fixed.get("bits", (int(rng.integers(1, 17)), int(rng.integers(1, 17))))
        signed = bool(rng.integers(2))
        lows = -(1 << bits[0] - 1), -(1 << bits[1] - 1) * signed
        out = tuple(-(-size // stride) for size in (height, width))
        g = rng.integers(lows[0], lows[0] + (1 << bits[0]), (n, rows, *out))
        x = rng.integers(lows[1], lows[1] + (1 << bits[1]), (n, channels, height, width))
        kernel = (rows, channels, side, side)
        return cls(config, g, x, bits, signed, kernel, stride, int(rng.integers(1 << 30)), int(rng.integers(3)))

    def __post_init__(self):
        self._places()
        at = self.operands
        self.plan = WeightGradient(self.config, *at, self.kernel, self.stride)
        zeros = [self.plan.zeros(self.digits, self.coefficients + CHANNELS * 16)] if self.plan.has_gaps else []
        passes = self.plan.passes(self.digits, self.coefficients)
        products = self.plan.products(self.digits, self.out)
        products[0].flags |= Flag.FENCE
        self.work: list[Descriptor] = [*zeros, *passes, *products]

    def _places(self):
        address, self.operands = RESERVED_BYTES, []
        for codes, bits, signed, more in (
            (self.g, self.bits[0], True, 0),
            (self.x, self.bits[1], self.signed, self.more),
        ):
            n, channels, height, width = codes.shape
            pitch = (bits + more) * row_bytes(width)
            place = Place(Region(address, 0), blocks(channels) * height * pitch, height * pitch, pitch)
            self.operands.append(Operand(codes.shape, bits, signed, place))
            address += n * place.stride_n
        self.coefficients = address
        self.digits = address + (CHANNELS + WORD_CHANNELS) * 16
        plan = WeightGradient(self.config, *self.operands, self.kernel, self.stride)
        self.out = self.digits + plan.digits_bytes

    def memory(self, size: int) -> np.ndarray:
        """The image, of random bytes where nothing has been written."""
        rng = np.random.default_rng(self.seed)
        memory = rng.integers(0, 256, size).astype(np.uint8)
        lowest = rng.integers(0, 1 << self.more, self.x.shape)
        for codes, operand, more in (
            (self.g, self.operands[0], 0),
            (self.x << self.more | lowest, self.operands[1], self.more),
        ):
            raw = pack_stream(codes.transpose(0, 2, 3, 1), operand.bits + more)
            memory[operand.place.region.address :][: raw.size] = raw.reshape(-1)
        raw = np.concatenate([np.tile(IDENTITY, CHANNELS), np.zeros(2 * WORD_CHANNELS, "<i8")]).view(np.uint8)
        memory[self.coefficients :][: raw.size] = raw
        return memory

    def found(self, memory: np.ndarray) -> np.ndarray:
        """The gradient (M, C, k, k) in memory."""
        shape, nbytes = arranged_shape(self.kernel), self.plan.out_bytes
        raw = memory[self.out :][: self.plan.results_bytes].view(f"<i{nbytes}").astype(np.int64)
        raw = raw.reshape(self.plan.parts, -1).sum(axis=0)
        ordered = raw.reshape(shape[0], blocks(shape[1]), shape[2], WORD_CHANNELS, WORD_CHANNELS)
        return restore(ordered.transpose(0, 1, 4, 2, 3).reshape(shape), self.kernel)

    @property
    def expected(self) -> np.ndarray:
        return conv2d_weight_grad(self.g, self.x, self.kernel, self.stride, self.kernel[2] // 2)
