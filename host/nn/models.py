"""The networks, built from their layers for a given image size and number of classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from host.nn.float_layers import BatchNorm2d, GlobalAvgPool2d, ReLU
from host.nn.layers import Conv2d, Layer, Linear, Residual, Sequential
from host.nn.mobilenet import mobilenetv2


def cnn_small(image: tuple[int, int, int], classes: int, *, rng: np.random.Generator, edge_bits: int) -> Sequential:
    """Three 3x3 convolutions of 16, 32 and 32 channels with batch norm, global average pooling, one linear layer.

    All channel counts after the image's are multiples of 16, so every convolution but the first fills the array's
    16 rows and 16 channels x 9 taps. Images larger than 16 pixels are halved once more.
    """
    channels, height, _ = image
    return Sequential(
        conv1=Conv2d(channels, 16, rng=rng, first=True, min_bits=edge_bits),
        bn1=BatchNorm2d(16),
        relu1=ReLU(),
        conv2=Conv2d(16, 32, stride=2, rng=rng),
        bn2=BatchNorm2d(32),
        relu2=ReLU(),
        conv3=Conv2d(32, 32, stride=2 if height > 16 else 1, rng=rng),
        bn3=BatchNorm2d(32),
        relu3=ReLU(),
        pool=GlobalAvgPool2d(),
        fc=Linear(32, classes, rng=rng, min_bits=edge_bits),
    )


def resnet(n: int) -> Callable[..., Sequential]:
    """ResNet-(6n + 2) of arXiv 1512.03385, section 4.2, as FracTrain uses it.

    Three groups of n basic blocks with 16, 32 and 64 channels; each block where the shape changes has a shortcut of
    1x1 convolution and batch norm.
    """

    def build(image: tuple[int, int, int], classes: int, *, rng: np.random.Generator, edge_bits: int) -> Sequential:
        layers: dict[str, Layer] = {
            "conv": Conv2d(image[0], 16, rng=rng, first=True, min_bits=edge_bits),
            "bn": BatchNorm2d(16),
            "relu": ReLU(),
        }
        wide = 16
        for group, channels in enumerate((16, 32, 64), 1):
            for block in range(1, n + 1):
                stride = 2 if group > 1 and block == 1 else 1
                layers[f"group{group}_block{block}"] = _basic_block(wide, channels, stride, rng)
                layers[f"group{group}_relu{block}"] = ReLU()
                wide = channels
        return Sequential(**layers, pool=GlobalAvgPool2d(), fc=Linear(64, classes, rng=rng, min_bits=edge_bits))

    return build


def _basic_block(in_channels: int, channels: int, stride: int, rng: np.random.Generator) -> Residual:
    body = Sequential(
        conv1=Conv2d(in_channels, channels, stride=stride, rng=rng),
        bn1=BatchNorm2d(channels),
        relu=ReLU(),
        conv2=Conv2d(channels, channels, rng=rng),
        bn2=BatchNorm2d(channels),
    )
    if stride == 1 and in_channels == channels:
        return Residual(body)
    project = Conv2d(in_channels, channels, kernel=1, stride=stride, rng=rng)
    return Residual(body, Sequential(conv=project, bn=BatchNorm2d(channels)))


#: Model names of the command line: build(image=(C, H, W), classes, rng=..., edge_bits=...) -> Sequential.
MODELS: dict[str, Callable[..., Sequential]] = {
    "cnn-small": cnn_small,
    "resnet8": resnet(1),
    "resnet20": resnet(3),
    "resnet38": resnet(6),
    "resnet74": resnet(12),
    "mobilenetv2": mobilenetv2(),
}


def build_model(name: str, image: tuple[int, int, int], classes: int, *, seed: int, edge_bits: int) -> Sequential:
    """Build a model with initial weights drawn from `seed`; an unknown name raises ValueError listing the known."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name](image, classes, rng=np.random.default_rng([seed, 1]), edge_bits=edge_bits)
