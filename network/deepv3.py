"""DeepLabV3+ ("Encoder-Decoder with Atrous Separable Convolution", arXiv:1802.02611) on several trunks.

The named networks are those of "Improving Semantic Segmentation via Video Propagation and Label Relaxation"
(CVPR 2019, arXiv:1812.01593) and lighter relatives. In a name, D means that the trunk is dilated, and m1 that the
decoder's fine input comes from the first stage (stride 4). Networks contain no loss: images in, logits out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from network.blocks import ASPP, DepthwiseConv2d, JoiningConv2d, Trunk, conv_layers, init_weights
from network.efficientnet_lite import efficientnet_lite
from network.mobilenetv3 import mobilenetv3_large
from network.resnet import resnet18, resnet50, resnet101
from network.seresnext import seresnext50, seresnext101
from network.wider_resnet import wider_resnet38
from utils.device import upsample

RATES_STRIDE_8 = (12, 24, 36)  # arXiv:1706.05587, section 3.3: twice the rates for stride 16
# For small images, whose maps are small: half of the rates for stride 16. --aspp_rates 6,12,18 suits large ones.
LIGHT_HEAD: dict[str, Any] = {"rates": (3, 6, 9), "width": 128, "separable": True}
FINE_WIDTH = 48  # channels of the fine input after its reduction (arXiv:1802.02611, section 4.1)


class DeepLabV3Plus(nn.Module):
    """A trunk, atrous spatial pyramid pooling, and a decoder with one fine input.

    `forward` maps images [B, 3, H, W] (float, normalised) to logits [B, num_classes, H, W], in both training and
    evaluation. Any H and W work, as long as the deepest map has more than one pixel during training.
    upsamples: whether logits are upsampled to the image size; if False, they keep the size of the decoder's fine
    input, for callers that upsample them themselves (`utils.device.upsample`). head: in what the head differs from
    the architecture's usual one (`network.build.build_network`); part of a checkpoint.
    """

    upsamples = True
    head: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        *,
        rates: tuple[int, ...],
        width: int = 256,
        separable: bool = False,
        refine: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if refine and trunk.finest_stage is None:
            raise ValueError("--refine needs a trunk with a stage at stride 2 that the decoder does not read yet.")
        self.trunk_names = tuple(trunk.modules)
        self.stages = trunk.stages
        self.fine_stage = trunk.fine_stage
        self.finest_stage = trunk.finest_stage if refine else None
        self.published_keys = dict(trunk.published_keys)
        self.published_norm = trunk.published_norm
        # Attribute names, and their order, are keys of published checkpoints. Renaming breaks loading.
        for name, module in trunk.modules.items():
            self.add_module(name, module)
        self.aspp = ASPP(trunk.out_channels, width, rates, separable)
        self.bot_fine = nn.Conv2d(trunk.fine_channels, FINE_WIDTH, 1, bias=False)
        self.bot_aspp = nn.Conv2d(width * (2 + len(rates)), width, 1, bias=False)
        self.final = _decoder_layers(FINE_WIDTH, width, width, separable)
        if refine:
            self.refined = _decoder_layers(trunk.finest_channels, width, width // 2, separable)
        self.last_decoder.append(nn.Conv2d(width // 2 if refine else width, num_classes, 1, bias=False))
        init_weights(self)
        # Small, so that a new network finds all classes about equally likely, and no large first step is wasted.
        nn.init.normal_(self.last_decoder[-1].weight, std=0.01)  # type: ignore[arg-type]

    @property
    def last_decoder(self) -> nn.Sequential:
        """The part of the decoder that ends with the classifier."""
        return self.final if self.finest_stage is None else self.refined

    def trunk_modules(self) -> list[nn.Module]:
        """The feature extractor's modules, which ImageNet weights initialise and `--freeze_trunk` freezes."""
        return [self.get_submodule(name) for name in self.trunk_names]

    def is_trunk_key(self, key: str) -> bool:
        """Whether `key` of a state dict belongs to the trunk."""
        return key.split(".", 1)[0] in self.trunk_names

    def trunk_key(self, key: str) -> str:
        """A key of a published ImageNet file -> the key here."""
        for published, ours in self.published_keys.items():
            if key.startswith(published):
                return ours + key.removeprefix(published)
        return key

    def run_trunk(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the trunk: the decoder's inputs at stride 2 (`images` without --refine) and 4, and the deepest map."""
        x = fine = finest = images
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
            if stage == self.finest_stage:
                finest = x
            if stage == self.fine_stage:
                fine = x
        return finest, fine, x

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, num_classes, H, W] for images [B, 3, H, W]."""
        finest, fine, deep = self.run_trunk(images)
        logits = self.final((self.bot_fine(fine), self.bot_aspp(self.aspp(deep))))
        if self.finest_stage is not None:
            logits = self.refined((finest, logits))
        if self.training:
            logits = logits.float().contiguous()  # as the loss needs them, while they are small
        return upsample(logits, (images.shape[2], images.shape[3])) if self.upsamples else logits


def _decoder_layers(fine_channels: int, context_channels: int, width: int, separable: bool) -> nn.Sequential:
    """Two convolutions over the fine input and the upsampled context: pair of maps -> [B, width, H, W]."""
    joining = JoiningConv2d(fine_channels, context_channels, width, 1 if separable else 3)
    return nn.Sequential(
        *([joining, DepthwiseConv2d(width, 3)] if separable else [joining]),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *conv_layers(width, width, 3, separable=separable),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


# Recipes and checkpoints of the published code use the names below. head: `rates` and `refine` of DeepLabV3Plus, where
# they are not the network's usual ones.
# ruff: noqa: N802


def DeepWV3Plus(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """WideResNet38 (A2), fine input at stride 2: the paper's best network."""
    return DeepLabV3Plus(wider_resnet38(), num_classes, **{"rates": RATES_STRIDE_8, **head})


def DeepSRNX50V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """SE-ResNeXt50 32x4d: the paper's network for ablations."""
    return DeepLabV3Plus(seresnext50(), num_classes, **{"rates": RATES_STRIDE_8, **head})


def DeepSRNX101V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """SE-ResNeXt101 32x4d."""
    return DeepLabV3Plus(seresnext101(), num_classes, **{"rates": RATES_STRIDE_8, **head})


def DeepR50V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """ResNet-50."""
    return DeepLabV3Plus(resnet50(), num_classes, **{"rates": RATES_STRIDE_8, **head})


def DeepR101V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """ResNet-101."""
    return DeepLabV3Plus(resnet101(), num_classes, **{"rates": RATES_STRIDE_8, **head})


def DeepR18V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """ResNet-18: the smallest network with the published head."""
    return DeepLabV3Plus(resnet18(), num_classes, **{"rates": RATES_STRIDE_8, **head})


def DeepMNV3V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """MobileNetV3-Large at output stride 16 with a separable head of half the width; can be trained on a CPU."""
    return DeepLabV3Plus(mobilenetv3_large(), num_classes, **{**LIGHT_HEAD, **head})


def DeepEffLite0V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """EfficientNet-Lite0 with the head of the MobileNetV3 network: the light network with ImageNet weights at hand."""
    return DeepLabV3Plus(efficientnet_lite(0), num_classes, **{**LIGHT_HEAD, **head})


def DeepEffLite1V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """EfficientNet-Lite1: deeper."""
    return DeepLabV3Plus(efficientnet_lite(1), num_classes, **{**LIGHT_HEAD, **head})


def DeepEffLite2V3PlusD_m1(num_classes: int, **head: Any) -> DeepLabV3Plus:
    """EfficientNet-Lite2: deeper and wider."""
    return DeepLabV3Plus(efficientnet_lite(2), num_classes, **{**LIGHT_HEAD, **head})
