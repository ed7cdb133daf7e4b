"""The products of training in PyTorch, on a CPU or a GPU: for experiments too large for a model of the hardware.

Every product is computed in floating point and is exact (`host.backends.torch.exact` says why), so it equals what the
hardware gives, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from array_api_compat import is_torch_array
from torch import Tensor

from host.backends.torch.exact import EXACT, digit_product, exact_arithmetic, largest_sum
from host.backends.torch.kernels import Columns, Direct, Kernels, is_exact
from host.board import Board
from host.geometry import out_size
from host.operand import Operand
from rtl.config import AcceleratorConfig

#: Narrowest operand that is worth splitting before double precision takes it.
_SPLIT_BITS = 5
#: Most pixels whose squares are added up in single precision; the allowance for rounding grows with them.
_MOST_PIXELS = 1 << 20


class TorchBoard(Board):
    """PyTorch as a board.

    Parameters
    ----------
    config : an accelerator to compute costs with; the products do not depend on it.
    device : where they are computed: `"cpu"`, `"cuda"`, `"cuda:1"`, ...

    Raises
    ------
    RuntimeError
        If PyTorch knows no such device, cannot use it, or has no double precision there.
    """

    name = "torch"
    quick = True

    def __init__(self, config: AcceleratorConfig, device: str = "cpu"):
        self.config = config
        try:
            self.device = torch.zeros(1, dtype=torch.float64, device=device).device
        except (AssertionError, RuntimeError, TypeError) as error:
            raise RuntimeError(f"board 'torch' cannot use the device {device!r}: {error}") from None
        # The libraries of GPUs choose Winograd or FFT as they like; matrix products are exact everywhere.
        direct = self.device.type == "cpu" and is_exact(Direct(), self.device)
        self._kernels: Kernels = Direct() if direct else Columns()

    def place(self, array: Any) -> Tensor:
        if is_torch_array(array):
            return array.to(self.device)
        array = np.asarray(array)
        if array.dtype.kind == "u" and array.itemsize > 1:  # of these PyTorch computes little
            array = array.astype(np.int64)
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self.device)

    def conv2d(self, x: Operand, w: Operand, stride: int, padding: int) -> Tensor:
        kernel, table = w.codes, x.table

        def product(codes: Tensor) -> Tensor:
            return self._kernels.forward(codes, kernel.to(codes.dtype), stride, padding)

        with self.standing_in(), exact_arithmetic(self.device):
            norm = largest_sum(kernel.reshape(len(kernel), -1))
            if table is None or table.all():
                return digit_product(product, x.codes, x.bits, x.largest, norm)
            size = out_size(x.codes.shape[2:], kernel.shape[2:], stride, padding)
            shape = (len(table), len(kernel), *size)
            if not table.any():
                return torch.zeros(shape, dtype=torch.float32, device=self.device)
            chosen = torch.from_numpy(np.flatnonzero(table)).to(self.device)
            part = digit_product(product, x.codes[chosen], x.bits, x.largest, norm)
            return part.new_zeros(shape).index_copy_(0, chosen, part)

    def conv2d_input_grad(
        self, g: Operand, w: Operand, input_shape: Sequence[int], stride: int, padding: int
    ) -> Tensor:
        kernel = w.codes

        def product(codes: Tensor) -> Tensor:
            return self._kernels.input_grad(codes, kernel.to(codes.dtype), input_shape, stride, padding)

        with self.standing_in(), exact_arithmetic(self.device):
            norm = largest_sum(kernel.transpose(0, 1).reshape(kernel.shape[1], -1))
            return digit_product(product, g.codes, g.bits, g.largest, norm)

    def conv2d_weight_grad(
        self, g: Operand, x: Operand, kernel_shape: Sequence[int], stride: int, padding: int
    ) -> Tensor:
        """As the base class says.

        The sum runs over the whole batch, and what the operands might hold bounds it badly. By Cauchy and Schwarz no
        part of it exceeds the product of the two norms that they do have, which real gradients keep small.
        """
        geometry = (kernel_shape, stride, padding)
        with self.standing_in(), exact_arithmetic(self.device):
            sums = self._weight_grad(g.codes.float(), g.bits, x.codes.float(), geometry)
            fits = sums.dtype == torch.int64 and bool((sums.abs() <= EXACT[torch.float64]).all())
            return sums.double() if fits else sums

    def _weight_grad(self, g: Tensor, bits: int, x: Tensor, geometry: tuple[Sequence[int], int, int]) -> Tensor:
        squares = _image_squares(g), _image_squares(x)
        if _largest_part(squares, len(g)) >= 1 << 63:
            raise OverflowError("conv2d_weight_grad: a sum of products may reach 2**63, beyond int64")
        dtype = torch.float32
        if _largest_part(squares, 1) > EXACT[dtype]:
            if bits >= _SPLIT_BITS:
                width = bits // 2
                high = torch.round(g * 2.0**-width)
                upper = self._weight_grad(high, bits - width + 1, x, geometry).to(torch.int64)
                lower = self._weight_grad(g - high * 2.0**width, width, x, geometry).to(torch.int64)
                return (upper << width) + lower
            dtype = torch.float64
        limit = EXACT[torch.float64 if self._kernels.sums_images_wide else dtype]
        images = len(g)
        while images > 1 and _largest_part(squares, images) > limit:
            images = (images + 1) // 2
        parts = zip(g.to(dtype).split(images), x.to(dtype).split(images), strict=True)
        sums = [self._kernels.weight_grad(*part, *geometry) for part in parts]
        return sums[0] if len(sums) == 1 else torch.stack([part.to(torch.int64) for part in sums]).sum(dim=0)

    def matmul(self, a: Operand, b: Operand) -> Tensor:
        matrix = b.codes
        with self.standing_in(), exact_arithmetic(self.device):
            norm = largest_sum(matrix.T)
            return digit_product(lambda codes: codes @ matrix.to(codes.dtype), a.codes, a.bits, a.largest, norm)


def _image_squares(images: Tensor) -> np.ndarray:
    """For every channel of every image at least the sum of its squares: float64 (N, C)."""
    pixels = images.shape[2] * images.shape[3]
    wide = images if pixels <= _MOST_PIXELS else images.double()
    # No sum of n rounded squares of float32 is more than about n * 2**-24 short.
    return (wide * wide).sum(dim=(2, 3)).double().cpu().numpy() * (1 + pixels * 2.0**-23)


def _largest_part(squares: tuple[np.ndarray, np.ndarray], images: int) -> float:
    """What no sum of products over `images` successive images exceeds in magnitude, for the worst pair of channels."""
    starts = np.arange(0, len(squares[0]), images)
    g, x = (np.add.reduceat(part, starts, axis=0).max(axis=1) for part in squares)
    return float(np.sqrt((g * x).max()))
