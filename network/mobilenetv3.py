"""The trunk MobileNetV3-Large ("Searching for MobileNetV3", arXiv:1905.02244, table 1) at output stride 16.

The keys equal those of torchvision's `mobilenet_v3_large` (`features.0.0.weight` ... `features.16.1.bias`), so its
ImageNet weights load. The layers after the last 960 channels (pooling, 1280, classes) are omitted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from network.blocks import DepthwiseConv2d, SqueezeExcitation, Trunk

BN_EPS = 1e-3  # the value that the published weights were trained with


class BlockSpec(NamedTuple):
    """One block. expanded: channels that are filtered; squeeze: gate them by squeeze and excitation."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int = 1
    dilation: int = 1
    pads_late: bool = False


class LatePad(nn.Module):
    """The zeros that TensorFlow's "same" padding adds before a convolution with stride 2.

    For even sizes one row and column fewer above and on the left than below and on the right: PyTorch's symmetric
    padding would move every feature by half a pixel of the result, and weights that come from TensorFlow with it.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, C, H, W]."""
        above, left = self.reach - 1 + x.shape[2] % 2, self.reach - 1 + x.shape[3] % 2
        return F.pad(x, (left, self.reach, above, self.reach))


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    activation: type[nn.Module] | None,
    stride: int = 1,
    dilation: int = 1,
    *,
    depthwise: bool = False,
    pads_late: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm and, if given, an activation. Only a depthwise convolution may be dilated."""
    pads_late = pads_late and stride == 2
    padding = 0 if pads_late else dilation * (kernel // 2)
    conv = (
        DepthwiseConv2d(out_channels, kernel, stride, dilation, padding)
        if depthwise
        else nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    )
    layers = nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps=BN_EPS))
    if activation is not None:
        layers.append(activation(inplace=True))
    return layers.insert(0, LatePad(kernel)) if pads_late else layers


def nearest_multiple_of_8(value: float) -> int:
    """Round to a multiple of 8; up if rounding down would lose more than a tenth (the rule of the MobileNet family)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class InvertedResidual(nn.Module):
    """Expand, filter each channel, gate, project; with a shortcut if the shape is kept."""

    def __init__(self, in_channels: int, spec: BlockSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if spec.expanded != in_channels:
            layers.append(conv_bn(in_channels, spec.expanded, 1, spec.activation))
        layers.append(
            conv_bn(
                spec.expanded, spec.expanded, spec.kernel, spec.activation, spec.stride, spec.dilation,
                depthwise=True, pads_late=spec.pads_late,
            )
        )  # fmt: skip
        if spec.squeeze:
            layers.append(SqueezeExcitation(spec.expanded, nearest_multiple_of_8(spec.expanded / 4), F.hardsigmoid))
        layers.append(conv_bn(spec.expanded, spec.out, 1, None))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = spec.stride == 1 and in_channels == spec.out

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        out = self.block(x)
        return out + x if self.has_shortcut else out


def layer_names(features: nn.Sequential) -> list[list[str]]:
    """For each element of a trunk the names of its convolutions and batch norms, in the order in which they run."""
    kinds = nn.Conv2d | nn.BatchNorm2d
    return [
        [f"features.{index}.{name}" for name, module in element.named_modules() if isinstance(module, kinds)]
        for index, element in enumerate(features)
    ]


def timm_keys(features: nn.Sequential, repeats: tuple[int, ...]) -> dict[str, str]:
    """Prefixes of timm's keys -> ours. repeats: how many blocks each of timm's stages has."""
    stem, *blocks = layer_names(features)
    keys = dict(zip(("conv_stem.", "bn1."), stem, strict=True))
    places = [(stage, number) for stage, count in enumerate(repeats) for number in range(count)]
    for (stage, number), names in zip(places, blocks, strict=True):
        theirs = {
            2: ("conv", "bn1"),
            4: ("conv_dw", "bn1", "conv_pw", "bn2"),
            6: ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
            8: ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"),
        }[len(names)]
        keys |= {f"blocks.{stage}.{number}.{name}.": ours for name, ours in zip(theirs, names, strict=True)}
    return {theirs: f"{ours}." for theirs, ours in keys.items()}


# The last three rows keep stride 16; dilation 2 gives them the field of view of stride 32 (DeepLabV3,
# arXiv:1706.05587).
BLOCKS = (
    BlockSpec(3, 16, 16, False, nn.ReLU, 1),
    BlockSpec(3, 64, 24, False, nn.ReLU, 2),
    BlockSpec(3, 72, 24, False, nn.ReLU, 1),
    BlockSpec(5, 72, 40, True, nn.ReLU, 2),
    BlockSpec(5, 120, 40, True, nn.ReLU, 1),
    BlockSpec(5, 120, 40, True, nn.ReLU, 1),
    BlockSpec(3, 240, 80, False, nn.Hardswish, 2),
    BlockSpec(3, 200, 80, False, nn.Hardswish, 1),
    BlockSpec(3, 184, 80, False, nn.Hardswish, 1),
    BlockSpec(3, 184, 80, False, nn.Hardswish, 1),
    BlockSpec(3, 480, 112, True, nn.Hardswish, 1),
    BlockSpec(3, 672, 112, True, nn.Hardswish, 1),
    BlockSpec(5, 672, 160, True, nn.Hardswish, 1, 2),
    BlockSpec(5, 960, 160, True, nn.Hardswish, 1, 2),
    BlockSpec(5, 960, 160, True, nn.Hardswish, 1, 2),
)


def mobilenetv3_large() -> Trunk:
    """The trunk: 960 channels at stride 16, and 24 channels at stride 4 for the decoder."""
    channels = 16
    layers: list[nn.Module] = [conv_bn(3, channels, 3, nn.Hardswish, stride=2)]
    for spec in BLOCKS:
        layers.append(InvertedResidual(channels, spec))
        channels = spec.out
    layers.append(conv_bn(channels, 960, 1, nn.Hardswish))
    features = nn.Sequential(*layers)
    return Trunk(
        modules={"features": features},
        stages=tuple(f"features.{index}" for index in range(len(layers))),
        fine_stage="features.3",
        fine_channels=BLOCKS[2].out,
        out_channels=960,
        finest_stage="features.1",
        finest_channels=BLOCKS[0].out,
        published_keys=timm_keys(features, (1, 2, 3, 4, 2, 3, 1)),
    )
