"""MobileNetV2 for images of 32 x 32 pixels (arXiv 1801.04381, with the strides that FracTrain's CIFAR version has)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from host.nn.depthwise import Depthwise
from host.nn.float_layers import BatchNorm2d, GlobalAvgPool2d, ReLU
from host.nn.layers import Conv2d, Layer, Linear, Residual, Sequential
from host.quantise import Precision

#: (expansion, output channels, blocks, stride of the first) of each group. Against ImageNet's network the strides of
#: the first convolution and of the second group are 1.
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class SignedConv2d(Conv2d):
    """`Conv2d` of an input of either sign: a bottleneck's, which no ReLU follows."""

    signed = True


class DepthwiseConv2d(Conv2d):
    """A 3x3 convolution of each channel by itself, on the board; non-negative x (N, C, H, W) -> (N, C, H', W').

    Its precision is FW8/BW16 whatever the schedule says, as in FracTrain's code: it is a few percent of the network's
    products, and a sum of nine averages little noise. Weights are rounded to 8 bits too, as that code counts them but
    does not do. See `host.nn.depthwise` for what it costs.
    """

    of_kind = Depthwise
    fixed = Precision(8, 16)

    def __init__(self, channels: int, stride: int = 1, *, rng: np.random.Generator):
        super().__init__(1, channels, stride=stride, rng=rng)


def mobilenetv2(
    groups: tuple[tuple[int, int, int, int], ...] = GROUPS, stem: int = 32, head: int = 1280
) -> Callable[..., Sequential]:
    """A builder, as `host.nn.models.MODELS` holds, of inverted bottlenecks between `stem` and `head` channels."""

    def build(image: tuple[int, int, int], classes: int, *, rng: np.random.Generator, edge_bits: int) -> Sequential:
        layers: dict[str, Layer] = {
            "conv1": Conv2d(image[0], stem, rng=rng, first=True, min_bits=edge_bits),
            "bn1": BatchNorm2d(stem),
            "relu1": ReLU(),
        }
        wide, pointwise = stem, Conv2d
        for group, (expansion, channels, blocks, stride) in enumerate(groups, 1):
            for block in range(1, blocks + 1):
                layers[f"group{group}_block{block}"] = _bottleneck(
                    pointwise, wide, expansion * wide, channels, stride if block == 1 else 1, rng
                )
                # The first block's input comes from a ReLU, that of all others from a linear layer.
                wide, pointwise = channels, SignedConv2d
        return Sequential(
            **layers,
            conv2=pointwise(wide, head, 1, rng=rng),
            bn2=BatchNorm2d(head),
            relu2=ReLU(),
            pool=GlobalAvgPool2d(),
            fc=Linear(head, classes, rng=rng, min_bits=edge_bits),
        )

    return build


def _bottleneck(
    pointwise: type[Conv2d], in_channels: int, wide: int, out_channels: int, stride: int, rng: np.random.Generator
) -> Layer:
    """Expand, convolve each channel, project; with a shortcut where the size of the image stays."""
    body = Sequential(
        conv1=pointwise(in_channels, wide, 1, rng=rng),
        bn1=BatchNorm2d(wide),
        relu1=ReLU(),
        conv2=DepthwiseConv2d(wide, stride, rng=rng),
        bn2=BatchNorm2d(wide),
        relu2=ReLU(),
        conv3=Conv2d(wide, out_channels, 1, rng=rng),
        bn3=BatchNorm2d(out_channels),
    )
    if stride > 1:
        return body
    if in_channels == out_channels:
        return Residual(body)
    project = pointwise(in_channels, out_channels, 1, rng=rng)
    return Residual(body, Sequential(conv=project, bn=BatchNorm2d(out_channels)))
