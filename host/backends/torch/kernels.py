"""A convolution and its two gradients in PyTorch, in the floating-point dtype of the operands, in two ways.

Both add up products and nothing else, which exactness needs: no transform as in Winograd's or FFT convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from host.backends.torch.exact import EXACT, exact_arithmetic
from host.geometry import out_size

#: Most elements of the windows of a batch that are laid out at a time.
_MOST_COLUMNS = 1 << 28


class Kernels(Protocol):
    """x (N, C, H, W), w (M, C, kh, kw), g (N, M, H', W'); all of one dtype.

    Attributes
    ----------
    sums_images_wide : whether the weight gradient's sums over images are formed in float64 whatever the dtype.
    """

    sums_images_wide: bool

    def forward(self, x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor: ...

    def input_grad(self, g: Tensor, w: Tensor, input_shape: Sequence[int], stride: int, padding: int) -> Tensor: ...

    def weight_grad(self, g: Tensor, x: Tensor, kernel_shape: Sequence[int], stride: int, padding: int) -> Tensor: ...


class Direct:
    """PyTorch's own convolutions: by far the fastest on a CPU."""

    sums_images_wide = False

    def forward(self, x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
        return functional.conv2d(x, w, stride=stride, padding=padding)

    def input_grad(self, g: Tensor, w: Tensor, input_shape: Sequence[int], stride: int, padding: int) -> Tensor:
        return conv2d_input(input_shape, w, g, stride=stride, padding=padding)

    def weight_grad(self, g: Tensor, x: Tensor, kernel_shape: Sequence[int], stride: int, padding: int) -> Tensor:
        return conv2d_weight(x, kernel_shape, g, stride=stride, padding=padding)


class Columns:
    """Windows laid out as columns, and matrix products; some images at a time where the columns are many."""

    sums_images_wide = True

    def forward(self, x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
        rows, _, height, width = w.shape
        size = out_size(x.shape[2:], (height, width), stride, padding)
        matrix = w.reshape(rows, -1)
        parts = x.split(_images(matrix.shape[1] * size[0] * size[1]))
        columns = (functional.unfold(part, (height, width), padding=padding, stride=stride) for part in parts)
        return torch.cat([matrix @ part for part in columns]).reshape(len(x), rows, *size)

    def input_grad(self, g: Tensor, w: Tensor, input_shape: Sequence[int], stride: int, padding: int) -> Tensor:
        matrix = w.reshape(len(w), -1).T
        flat = g.reshape(*g.shape[:2], -1)
        how = {"kernel_size": tuple(w.shape[2:]), "padding": padding, "stride": stride}
        parts = flat.split(_images(len(matrix) * flat.shape[2]))
        return torch.cat([functional.fold(matrix @ part, tuple(input_shape[2:]), **how) for part in parts])

    def weight_grad(self, g: Tensor, x: Tensor, kernel_shape: Sequence[int], stride: int, padding: int) -> Tensor:
        flat = g.reshape(*g.shape[:2], -1)
        images = _images(kernel_shape[1] * kernel_shape[2] * kernel_shape[3] * flat.shape[2])
        total = torch.zeros((), dtype=torch.float64, device=g.device)
        for part, image in zip(flat.split(images), x.split(images), strict=True):
            columns = functional.unfold(image, tuple(kernel_shape[2:]), padding=padding, stride=stride)
            total = total + (part @ columns.transpose(1, 2)).sum(dim=0, dtype=torch.float64)
        return total.reshape(tuple(kernel_shape))


def is_exact(kernels: Kernels, device: torch.device) -> bool:
    """Whether products whose sums come close to 2**24 are exact in single precision, as a transform's are not."""
    numbers = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-340, 341, (16, 16, s, s), generator=numbers).to(device) for s in (12, 3))
    g = torch.randint(-81, 82, x.shape, generator=numbers).to(device)

    def products(dtype: torch.dtype) -> list[Tensor]:
        a, b, c = x.to(dtype), w.to(dtype), g.to(dtype)
        return [
            kernels.forward(a, b, 1, 1),
            kernels.input_grad(a, b, x.shape, 1, 1),
            kernels.weight_grad(c, c, w.shape, 1, 1),
        ]

    with exact_arithmetic(device):
        pairs = zip(products(torch.float32), products(torch.float64), strict=True)
        return all(torch.equal(a.double(), b) and b.abs().max() <= EXACT[torch.float32] for a, b in pairs)


def _images(columns: int) -> int:
    """How many images of so many elements in columns are laid out at a time."""
    return max(_MOST_COLUMNS // max(columns, 1), 1)
