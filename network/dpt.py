"""Heads for DINOv2: that of DPT ("Vision Transformers for Dense Prediction", arXiv:2103.13413), and a linear one.

Widths, keys and alignment of the first are those of UniMatch V2 (arXiv:2410.10777), whose checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.blocks import Network, Trunk
from network.vit import PATCH
from utils.device import upsample


class ResidualUnit(nn.Module):
    """Two convolutions with a shortcut, each after a ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, width, H, W]."""
        out: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return out + x


class FusionBlock(nn.Module):
    """Add the coarser map, refine, and upsample."""

    def __init__(self, width: int, *, is_first: bool) -> None:
        """is_first: there is no coarser map."""
        super().__init__()
        self.out_conv = nn.Conv2d(width, width, 1)
        if not is_first:
            self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)

    def forward(self, own: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """own, coarser: [B, width, h, w] -> [B, width, *size]."""
        x = own if coarser is None else coarser + self.resConfUnit1(own)
        # The 1x1 convolution commutes with upsampling, and is cheaper before it.
        return upsample(self.out_conv(self.resConfUnit2(x)), size)


class DPTHead(nn.Module):
    """Four maps at stride 14 become maps at strides 3.5, 7, 14 and 28, which are fused from coarse to fine."""

    def __init__(self, in_channels: int, num_classes: int, width: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        # Attribute names, and their order, are keys of published checkpoints. Renaming breaks loading.
        self.projects = nn.ModuleList(nn.Conv2d(in_channels, count, 1) for count in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, 2, 1),
            ]
        )
        self.scratch = nn.ModuleDict()
        for number, count in enumerate(channels, 1):
            self.scratch[f"layer{number}_rn"] = nn.Conv2d(count, width, 3, padding=1, bias=False)
        for number in range(1, 5):
            self.scratch[f"refinenet{number}"] = FusionBlock(width, is_first=number == 4)
        self.scratch["output_conv"] = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, num_classes, 1)
        )
        # PyTorch's initialisation keeps the sums of the residual units small; so does this, as in DeepLabV3+.
        nn.init.normal_(self.scratch["output_conv"][-1].weight, std=0.01)  # type: ignore[index]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """`maps`: [B, in_channels, h, w] four times -> logits [B, num_classes, 8 h, 8 w]."""
        levels = [
            self.scratch[f"layer{number}_rn"](resize(project(x)))
            for number, (x, project, resize) in enumerate(zip(maps, self.projects, self.resize_layers, strict=True), 1)
        ]
        rows, columns = levels[0].shape[2:]
        sizes = [(2 * rows, 2 * columns), *((level.shape[2], level.shape[3]) for level in levels[:-1])]
        x = None
        for number in (4, 3, 2, 1):
            x = self.scratch[f"refinenet{number}"](levels[number - 1], x, sizes[number - 1])
        logits: Tensor = self.scratch["output_conv"](x)
        return logits


class LinearHead(nn.Module):
    """Batch norm and a linear layer on the last map, as DINOv2's authors evaluate frozen trunks (section 7.4)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.linear = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """`maps`: [B, in_channels, h, w] each -> logits [B, num_classes, h, w]."""
        logits: Tensor = self.linear(self.norm(maps[-1]))
        return logits


class Transformer(Network):
    """DINOv2 with a head. Images of any size: they are padded to multiples of 14, and the logits cut back."""

    # Published parts that no prediction needs: what hid patches in training without labels, and a unit that is not run.
    unused_keys = ("backbone.mask_token", "head.scratch.refinenet4.resConfUnit1.")

    def __init__(self, trunk: Trunk, num_classes: int, *, head: Callable[[int, int], nn.Module]) -> None:
        """head: makes the head of the channels of its maps and the number of classes."""
        super().__init__(trunk, num_classes)
        (self.backbone,) = trunk.modules.values()
        self.head = head(trunk.out_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, num_classes, H, W] for images [B, 3, H, W]."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % PATCH, 0, -height % PATCH))  # with the mean colour
        logits: Tensor = self.head(self.backbone(padded))
        if self.training:
            logits = logits.float().contiguous()  # as the loss needs them, while they are small
        # Others could not know what was padded, and an exported network is for images of any size.
        if self.upsamples or torch.compiler.is_exporting() or padded.shape != images.shape:
            logits = upsample(logits.float(), (padded.shape[2], padded.shape[3]))[:, :, :height, :width]
        return logits
