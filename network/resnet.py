"""ResNet trunks (arXiv:1512.03385), and SE-ResNeXt, 32 groups of 4 channels (arXiv:1611.05431, 1709.01507); stride 8.

Stages 3 and 4 keep stride 8 and dilate by 2 and 4 instead (DeepLabV3, arXiv:1706.05587, section 3.1). Keys below
`layer1` ... `layer4` are torchvision's; its `conv1` and `bn1` are `layer0.0` and `layer0.1` here. SE-ResNeXt's keys are
those of the published ImageNet weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from network.blocks import SqueezeExcitation, Trunk

RESNET_STAGES = ((64, 1, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4))  # inner channels, stride and dilation


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
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 one has the stride.

    As of SE-ResNeXt: with twice the channels in `groups` of them, and gated before the shortcut is added.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, groups: int = 1) -> None:
        super().__init__()
        width = channels if groups == 1 else channels * 2  # 32 groups of 4 channels where ResNet has 64
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.se_module = None if groups == 1 else SqueezeExcitation(out_channels, out_channels // 16)
        self.downsample = shortcut_projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.se_module is not None:
            out = self.se_module(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu3(out + shortcut)


def residual_trunk(
    stem: nn.Module,
    block: Callable[[int, int, int, int], nn.Module],
    expansion: int,
    depths: tuple[int, ...],
    published_keys: dict[str, str],
) -> Trunk:
    """`stem`, to 64 channels at stride 4, and four stages of `depths` blocks, the first of which is the fine input.

    block: makes one from its channels in, inner channels, stride and dilation. expansion: channels out per inner one.
    """
    modules: dict[str, nn.Module] = {"layer0": stem}
    in_channels = 64
    for index, (channels, first_stride, dilation) in enumerate(RESNET_STAGES):
        blocks = nn.Sequential()
        for position in range(depths[index]):
            blocks.append(block(in_channels, channels, first_stride if position == 0 else 1, dilation))
            in_channels = channels * expansion
        modules[f"layer{index + 1}"] = blocks
    return Trunk(
        modules=modules,
        stages=tuple(modules),
        fine_stage="layer1",
        fine_channels=64 * expansion,
        out_channels=in_channels,
        published_keys=published_keys,
    )


def resnet(block: type[BasicBlock] | type[Bottleneck], *depths: int) -> Trunk:
    """ResNet with `depths` blocks in its four stages."""
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    return residual_trunk(stem, block, block.expansion, depths, {"conv1.": "layer0.0.", "bn1.": "layer0.1."})


def seresnext(*depths: int) -> Trunk:
    """SE-ResNeXt with `depths` blocks in its four stages: 2048 channels at stride 8."""
    stem = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu1=nn.ReLU(inplace=True),
            # Unlike ResNet's pooling, it rounds up and pads only right and below: the published weights expect it.
            pool=nn.MaxPool2d(3, stride=2, ceil_mode=True),
        )
    )
    timm_keys = {"conv1.": "layer0.conv1.", "bn1.": "layer0.bn1."}  # the published keys are ours
    for stage, depth in enumerate(depths, start=1):
        timm_keys |= {f"layer{stage}.{i}.se.": f"layer{stage}.{i}.se_module." for i in range(depth)}
    return residual_trunk(stem, partial(Bottleneck, groups=32), Bottleneck.expansion, depths, timm_keys)
