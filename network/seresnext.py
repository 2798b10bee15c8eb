"""SE-ResNeXt trunks, 32 groups of 4 channels (arXiv:1611.05431, arXiv:1709.01507), at output stride 8.

Keys are those of the published ImageNet weights. Dilation as in `network.resnet`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from network.blocks import Trunk
from network.resnet import STAGE_CHANNELS, STAGE_DILATIONS, STAGE_STRIDES, shortcut_projection

GROUPS = 32
EXPANSION = 4
REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """Channels are weighted by a gate computed from their means (arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, channels, H, W]."""
        gate = self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class SEResNeXtBottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions, gated, with a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        width = channels * 2  # 32 groups of 4 channels where ResNet has 64
        out_channels = channels * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, GROUPS, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.se_module = SqueezeExcitation(out_channels)
        self.downsample = shortcut_projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.se_module(self.bn3(self.conv3(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu3(out + shortcut)


class Stem(nn.Sequential):
    """7x7 convolution and pooling, down to stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu1 = nn.ReLU(inplace=True)
        # Unlike ResNet's pooling, it rounds up and pads only right and below: the published weights expect it.
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)


def seresnext_trunk(depths: tuple[int, int, int, int]) -> Trunk:
    """The stem and four stages of `depths` blocks; the fine input is the first stage's output, at stride 4."""
    modules: dict[str, nn.Module] = {"layer0": Stem()}
    in_channels = 64
    for index in range(4):
        blocks: list[nn.Module] = []
        for position in range(depths[index]):
            stride = STAGE_STRIDES[index] if position == 0 else 1
            blocks.append(SEResNeXtBottleneck(in_channels, STAGE_CHANNELS[index], stride, STAGE_DILATIONS[index]))
            in_channels = STAGE_CHANNELS[index] * EXPANSION
        modules[f"layer{index + 1}"] = nn.Sequential(*blocks)
    return Trunk(
        modules=modules,
        stages=tuple(modules),
        fine_stage="layer1",
        fine_channels=STAGE_CHANNELS[0] * EXPANSION,
        out_channels=in_channels,
        published_keys={"conv1.": "layer0.conv1.", "bn1.": "layer0.bn1."}  # timm's; the published keys are ours
        | {
            f"layer{stage}.{block}.se.": f"layer{stage}.{block}.se_module."
            for stage, depth in enumerate(depths, start=1)
            for block in range(depth)
        },
    )


def seresnext50() -> Trunk:
    """50 layers, 2048 channels at stride 8."""
    return seresnext_trunk((3, 4, 6, 3))


def seresnext101() -> Trunk:
    """101 layers, 2048 channels at stride 8."""
    return seresnext_trunk((3, 4, 23, 3))
