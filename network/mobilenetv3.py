"""The trunk MobileNetV3-Large ("Searching for MobileNetV3", arXiv:1905.02244, table 1) at output stride 16.

The keys equal those of torchvision's `mobilenet_v3_large` (`features.0.0.weight` ... `features.16.1.bias`), so its
ImageNet weights load. The layers after the last 960 channels (pooling, 1280, classes) are omitted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from network.blocks import Trunk
from network.depthwise import DepthwiseConv2d


class BlockSpec(NamedTuple):
    """One row of table 1."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hardswish: bool
    stride: int
    dilation: int = 1


# The last three rows keep stride 16; dilation 2 gives them the field of view of stride 32 (DeepLabV3,
# arXiv:1706.05587).
BLOCKS = (
    BlockSpec(3, 16, 16, False, False, 1),
    BlockSpec(3, 64, 24, False, False, 2),
    BlockSpec(3, 72, 24, False, False, 1),
    BlockSpec(5, 72, 40, True, False, 2),
    BlockSpec(5, 120, 40, True, False, 1),
    BlockSpec(5, 120, 40, True, False, 1),
    BlockSpec(3, 240, 80, False, True, 2),
    BlockSpec(3, 200, 80, False, True, 1),
    BlockSpec(3, 184, 80, False, True, 1),
    BlockSpec(3, 184, 80, False, True, 1),
    BlockSpec(3, 480, 112, True, True, 1),
    BlockSpec(3, 672, 112, True, True, 1),
    BlockSpec(5, 672, 160, True, True, 1, 2),
    BlockSpec(5, 960, 160, True, True, 1, 2),
    BlockSpec(5, 960, 160, True, True, 1, 2),
)
STEM_CHANNELS = 16
LAST_CHANNELS = 960
BN_EPS = 1e-3  # the value that the published weights were trained with


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    activation: type[nn.Module] | None,
    stride: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm and, if given, an activation. Only a depthwise convolution may be dilated."""
    conv = (
        DepthwiseConv2d(out_channels, kernel, stride, dilation)
        if depthwise
        else nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    )
    layers = [conv, nn.BatchNorm2d(out_channels, eps=BN_EPS)]
    return nn.Sequential(*layers) if activation is None else nn.Sequential(*layers, activation(inplace=True))


class SqueezeExcitation(nn.Module):
    """Channels are weighted by a gate computed from their means (arXiv:1709.01507), here with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = nearest_multiple_of_8(channels / 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, channels, H, W]."""
        gate = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(gate)


def nearest_multiple_of_8(value: float) -> int:
    """Round to a multiple of 8; up if rounding down would lose more than a tenth (the rule of the MobileNet family)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class InvertedResidual(nn.Module):
    """Expand, filter each channel, gate, project; with a shortcut if the shape is kept."""

    def __init__(self, in_channels: int, spec: BlockSpec) -> None:
        super().__init__()
        activation = nn.Hardswish if spec.hardswish else nn.ReLU
        layers: list[nn.Module] = []
        if spec.expanded != in_channels:
            layers.append(conv_bn(in_channels, spec.expanded, 1, activation))
        layers.append(
            conv_bn(
                spec.expanded, spec.expanded, spec.kernel, activation, spec.stride, spec.dilation, depthwise=True
            )
        )
        if spec.squeeze:
            layers.append(SqueezeExcitation(spec.expanded))
        layers.append(conv_bn(spec.expanded, spec.out, 1, None))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = spec.stride == 1 and in_channels == spec.out

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        out = self.block(x)
        return out + x if self.has_shortcut else out


def mobilenetv3_large() -> Trunk:
    """The trunk: 960 channels at stride 16, and 24 channels at stride 4 for the decoder."""
    layers: list[nn.Module] = [conv_bn(3, STEM_CHANNELS, 3, nn.Hardswish, stride=2)]
    channels = STEM_CHANNELS
    for spec in BLOCKS:
        layers.append(InvertedResidual(channels, spec))
        channels = spec.out
    layers.append(conv_bn(channels, LAST_CHANNELS, 1, nn.Hardswish))
    return Trunk(
        modules={"features": nn.Sequential(*layers)},
        stages=tuple(f"features.{index}" for index in range(len(layers))),
        fine_stage="features.3",
        fine_channels=BLOCKS[2].out,
        out_channels=LAST_CHANNELS,
    )
