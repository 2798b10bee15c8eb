"""ResNet trunks (arXiv:1512.03385) at output stride 8.

Stages 3 and 4 keep stride 8 and dilate by 2 and 4 instead (DeepLabV3, arXiv:1706.05587, section 3.1). Keys below
`layer1` ... `layer4` are torchvision's; its `conv1` and `bn1` are `layer0.0` and `layer0.1` here.
"""

from __future__ import annotations

from torch import Tensor, nn

from network.blocks import Trunk

STAGE_CHANNELS = (64, 128, 256, 512)
STAGE_STRIDES = (1, 2, 1, 1)
STAGE_DILATIONS = (1, 1, 2, 4)


def shortcut_projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The projection of a block's input to the shape of its output, or None if it has that shape."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = (nn.ReLU(inplace=True) for _ in range(2))
        self.downsample = shortcut_projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu2(out + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.downsample = shortcut_projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu3(out + shortcut)


def resnet_trunk(block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]) -> Trunk:
    """The stem and four stages of `depths` blocks; the fine input is the first stage's output, at stride 4."""
    modules: dict[str, nn.Module] = {
        "layer0": nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
    }
    in_channels = 64
    for index in range(4):
        blocks: list[nn.Module] = []
        for position in range(depths[index]):
            stride = STAGE_STRIDES[index] if position == 0 else 1
            blocks.append(block(in_channels, STAGE_CHANNELS[index], stride, STAGE_DILATIONS[index]))
            in_channels = STAGE_CHANNELS[index] * block.expansion
        modules[f"layer{index + 1}"] = nn.Sequential(*blocks)
    return Trunk(
        modules=modules,
        stages=tuple(modules),
        fine_stage="layer1",
        fine_channels=STAGE_CHANNELS[0] * block.expansion,
        out_channels=in_channels,
        published_keys={"conv1.": "layer0.0.", "bn1.": "layer0.1."},
    )


def resnet18() -> Trunk:
    """18 layers, 512 channels at stride 8."""
    return resnet_trunk(BasicBlock, (2, 2, 2, 2))


def resnet50() -> Trunk:
    """50 layers, 2048 channels at stride 8."""
    return resnet_trunk(Bottleneck, (3, 4, 6, 3))


def resnet101() -> Trunk:
    """101 layers, 2048 channels at stride 8."""
    return resnet_trunk(Bottleneck, (3, 4, 23, 3))
