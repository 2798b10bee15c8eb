"""The trunks EfficientNet-Lite0, 1 and 2 (EfficientNet, arXiv:1905.11946, scaled down for small machines).

Without squeeze-and-excitation and with ReLU6; padding is TensorFlow's, where the published weights come from. The
layers after the last block (1280 channels, classes) are omitted. ImageNet weights load with the keys of the published
PyTorch conversion (`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight` ...), with timm's and with this project's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn

from network.blocks import Trunk
from network.mobilenetv3 import BlockSpec, InvertedResidual, conv_bn, layer_names, nearest_multiple_of_8, timm_keys


class LiteStage(NamedTuple):
    """Blocks of equal width; the first has the stride. expansion: filtered channels per input channel."""

    kernel: int
    stride: int
    expansion: int
    out: int
    repeats: int


LITE_STAGES = (
    LiteStage(3, 1, 1, 16, 1),
    LiteStage(3, 2, 6, 24, 2),
    LiteStage(5, 2, 6, 40, 2),
    LiteStage(3, 2, 6, 80, 3),
    LiteStage(5, 1, 6, 112, 3),
    LiteStage(5, 2, 6, 192, 4),
    LiteStage(3, 1, 6, 320, 1),
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
    for stage in LITE_STAGES:
        is_scaled = stage is not LITE_STAGES[0] and stage is not LITE_STAGES[-1]
        repeats.append(math.ceil(stage.repeats * DEPTHS[variant]) if is_scaled else stage.repeats)
        out = nearest_multiple_of_8(stage.out * WIDTHS[variant])
        for position in range(repeats[-1]):
            stride = stage.stride if position == 0 and total_stride * stage.stride <= output_stride else 1
            # A map with an odd side was padded alike on both sides when the weights were trained.
            spec = BlockSpec(
                stage.kernel, channels * stage.expansion, out, False, nn.ReLU6, stride, dilation,
                pads_late=trained_side % 2 == 0,
            )  # fmt: skip
            layers.append(InvertedResidual(channels, spec))
            if position == 0 and stride < stage.stride:
                dilation *= stage.stride  # for what follows: this block itself still sees the grid it was trained on
            if position == 0:
                trained_side = -(-trained_side // stage.stride)
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
        finest_channels=LITE_STAGES[0].out,  # which no variant widens
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
