"""The trunks MobileNetV3-Large (arXiv:1905.02244, table 1) and EfficientNet-Lite0, 1 and 2, at output stride 16.

EfficientNet-Lite is EfficientNet (arXiv:1905.11946) for small machines: without squeeze and excitation, with ReLU6, and
with TensorFlow's padding, since its weights come from there. The layers after the last block (pooling, 1280 channels,
classes) are omitted. ImageNet weights load with timm's keys and this project's; of MobileNetV3 these are torchvision's
(`features.0.0.weight` ... `features.16.1.bias`), EfficientNet-Lite's also load with those of the published PyTorch
conversion (`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight` ...).
"""

from __future__ import annotations

import math
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


# Kernel, stride of the first block, filtered channels per input channel, channels out, number of blocks.
LITE_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LITE_STEM_CHANNELS = 32
WIDTHS = (1.0, 1.0, 1.1)  # of Lite0, Lite1 and Lite2
DEPTHS = (1.0, 1.1, 1.2)
TRAINED_AT = (224, 240, 260)  # pixels of a side


def efficientnet_lite(variant: int, *, output_stride: int = 16) -> Trunk:
    """The trunk of EfficientNet-Lite `variant`, 0 to 2: 320 (Lite2: 352) channels at stride 16, 24 at stride 4.

    output_stride: 32 is the classifier's own; at 16 the sixth stage keeps its size, and what follows is dilated by 2.
    """
    layers: list[nn.Module] = [conv_bn(3, LITE_STEM_CHANNELS, 3, nn.ReLU6, stride=2, pads_late=True)]
    channels, total_stride, dilation, repeats, fine = LITE_STEM_CHANNELS, 2, 1, [], 0
    trained_side = TRAINED_AT[variant] // 2
    for number, (kernel, first_stride, expansion, width, depth) in enumerate(LITE_STAGES):
        is_scaled = 0 < number < len(LITE_STAGES) - 1
        repeats.append(math.ceil(depth * DEPTHS[variant]) if is_scaled else depth)
        out = nearest_multiple_of_8(width * WIDTHS[variant])
        for position in range(repeats[-1]):
            stride = first_stride if position == 0 and total_stride * first_stride <= output_stride else 1
            # A map with an odd side was padded alike on both sides when the weights were trained.
            late = trained_side % 2 == 0
            spec = BlockSpec(kernel, channels * expansion, out, False, nn.ReLU6, stride, dilation, pads_late=late)
            layers.append(InvertedResidual(channels, spec))
            if position == 0:
                trained_side = -(-trained_side // first_stride)
                dilation *= first_stride // stride  # for what follows: this block still sees the grid it was trained on
            channels, total_stride = out, total_stride * stride
        if total_stride <= 4:
            fine, fine_channels = len(layers) - 1, channels
    features = nn.Sequential(*layers)
    return Trunk(
        modules={"features": features},
        stages=tuple(f"features.{index}" for index in range(len(layers))),
        fine_stage=f"features.{fine}",
        fine_channels=fine_channels,
        out_channels=channels,
        finest_stage="features.1",
        finest_channels=16,  # which no variant widens
        published_keys={**_published_keys(features), **timm_keys(features, tuple(repeats))},
        published_norm=(127 / 255, 128 / 255),  # (x - 127) / 128 for x from 0 to 255
    )


def _published_keys(features: nn.Sequential) -> dict[str, str]:
    """Prefixes of the published conversion's keys -> ours."""
    stem, *blocks = layer_names(features)
    keys = dict(zip(("_conv_stem.", "_bn0."), stem, strict=True))
    theirs = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    for number, names in enumerate(blocks):
        keys |= {f"_blocks.{number}.{name}.": ours for name, ours in zip(theirs[-len(names) :], names, strict=True)}
    return {prefix: f"{ours}." for prefix, ours in keys.items()}
