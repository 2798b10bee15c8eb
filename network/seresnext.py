"""SE-ResNeXt trunks, 32 groups of 4 channels (arXiv:1611.05431, arXiv:1709.01507), at output stride 8.

Keys are those of the published ImageNet weights. Blocks and dilation as in `network.resnet`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from network.blocks import Trunk
from network.resnet import Bottleneck, residual_trunk


class Stem(nn.Sequential):
    """7x7 convolution and pooling, down to stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu1 = nn.ReLU(inplace=True)
        # Unlike ResNet's pooling, it rounds up and pads only right and below: the published weights expect it.
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)


def seresnext(*depths: int) -> Trunk:
    """SE-ResNeXt with `depths` blocks in its four stages: 2048 channels at stride 8."""
    timm_keys = {"conv1.": "layer0.conv1.", "bn1.": "layer0.bn1."}  # the published keys are ours
    for stage, depth in enumerate(depths, start=1):
        timm_keys |= {f"layer{stage}.{i}.se.": f"layer{stage}.{i}.se_module." for i in range(depth)}
    return residual_trunk(Stem(), partial(Bottleneck, groups=32), Bottleneck.expansion, depths, timm_keys)
