"""The trunk MobileNetV3-Large ("Searching for MobileNetV3", arXiv:1905.02244, table 1) at output stride 16.

The keys equal those of torchvision's `mobilenet_v3_large` (`features.0.0.weight` ... `features.16.1.bias`), so its
ImageNet weights load. The layers after the last 960 channels (pooling, 1280, classes) are omitted.
"""

from __future__ import annotations

from torch import nn

from network.blocks import Trunk
from network.inverted_residual import BlockSpec, InvertedResidual, conv_bn, timm_keys

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
STEM_CHANNELS = 16
LAST_CHANNELS = 960
TIMM_REPEATS = (1, 2, 3, 4, 2, 3, 1)  # blocks in each of timm's stages


def mobilenetv3_large() -> Trunk:
    """The trunk: 960 channels at stride 16, and 24 channels at stride 4 for the decoder."""
    layers: list[nn.Module] = [conv_bn(3, STEM_CHANNELS, 3, nn.Hardswish, stride=2)]
    channels = STEM_CHANNELS
    for spec in BLOCKS:
        layers.append(InvertedResidual(channels, spec))
        channels = spec.out
    layers.append(conv_bn(channels, LAST_CHANNELS, 1, nn.Hardswish))
    features = nn.Sequential(*layers)
    return Trunk(
        modules={"features": features},
        stages=tuple(f"features.{index}" for index in range(len(layers))),
        fine_stage="features.3",
        fine_channels=BLOCKS[2].out,
        out_channels=LAST_CHANNELS,
        finest_stage="features.1",
        finest_channels=BLOCKS[0].out,
        published_keys=timm_keys(features, TIMM_REPEATS),
    )
