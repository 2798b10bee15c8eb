"""DeepLabV3+ ("Encoder-Decoder with Atrous Separable Convolution", arXiv:1802.02611) on several trunks.

The named networks are those of "Improving Semantic Segmentation via Video Propagation and Label Relaxation"
(CVPR 2019, arXiv:1812.01593) and lighter relatives. In a name, D means that the trunk is dilated, and m1 that the
decoder's fine input comes from the first stage (stride 4). Networks contain no loss: images in, logits out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from config import short_name
from network.blocks import ASPP, DepthwiseConv2d, JoiningConv2d, Network, Trunk, conv_bn_relu, init_weights
from network.dpt import DPTHead, LinearHead, Transformer
from network.mobile import efficientnet_lite, mobilenetv3_large
from network.resnet import BasicBlock, Bottleneck, resnet, seresnext
from network.vit import vision_transformer
from network.wider_resnet import wider_resnet38
from utils.device import upsample

FINE_WIDTH = 48  # channels of the fine input after its reduction (arXiv:1802.02611, section 4.1)


class DeepLabV3Plus(Network):
    """A trunk, atrous spatial pyramid pooling, and a decoder with one fine input.

    Any H and W work, as long as the deepest map has more than one pixel during training. Without `upsamples`, logits
    keep the size of the decoder's fine input.
    """

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
        super().__init__(trunk, num_classes)
        if refine and trunk.finest_stage is None:
            raise ValueError("--refine needs a trunk with a stage at stride 2 that the decoder does not read yet.")
        self.fine_stage = trunk.fine_stage
        self.finest_stage = trunk.finest_stage if refine else None
        self.aspp = ASPP(trunk.out_channels, width, rates, separable)
        self.bot_fine = nn.Conv2d(trunk.fine_channels, FINE_WIDTH, 1, bias=False)
        self.bot_aspp = nn.Conv2d(width * (2 + len(rates)), width, 1, bias=False)
        self.final = last = _decoder_layers(FINE_WIDTH, width, width, separable)
        if refine:
            self.refined = last = _decoder_layers(trunk.finest_channels, width, width // 2, separable)
        classifier = nn.Conv2d(width // 2 if refine else width, num_classes, 1, bias=False)
        last.append(classifier)
        init_weights(self)
        # Small, so that a new network finds all classes about equally likely, and no large first step is wasted.
        nn.init.normal_(classifier.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, num_classes, H, W] for images [B, 3, H, W]."""
        x = fine = finest = images
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
            if stage == self.finest_stage:
                finest = x
            if stage == self.fine_stage:
                fine = x
        logits = self.final((self.bot_fine(fine), self.bot_aspp(self.aspp(x))))
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
        *conv_bn_relu(width, width, 3, separable=separable),
    )


HEAD = {"rates": (12, 24, 36)}  # at stride 8, twice the rates for stride 16 (arXiv:1706.05587, section 3.3)
# For small images, whose maps are small: half of the rates for stride 16. --aspp_rates 6,12,18 suits large ones.
LIGHT_HEAD = {"rates": (3, 6, 9), "width": 128, "separable": True}


class NetworkSpec(NamedTuple):
    """What a name stands for: the trunk, the usual options of the head, and the class that joins both.

    torchvision, timm, published: how weights of the trunk are called there: model, model, pattern of file names; "" if
    there are none. source: where the published file is.
    """

    trunk: Callable[[], Trunk]
    head: Mapping[str, Any] = HEAD
    torchvision: str = ""
    timm: str = ""
    published: str = ""
    source: str = ""
    network: Callable[..., Network] = DeepLabV3Plus


DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
SMALL_VIT: dict[str, Any] = {
    "timm": "vit_small_patch14_dinov2",
    "published": "dinov2_vits14_pretrain*",
    "source": f"{DINOV2}/dinov2_vits14/dinov2_vits14_pretrain.pth",
    "network": Transformer,
}

# Recipes and checkpoints of the published code use these names; config.py lists them for --help.
NETWORKS = {
    "DeepWV3Plus": NetworkSpec(wider_resnet38, published="wider_resnet38*.pth*"),
    "DeepSRNX50V3PlusD_m1": NetworkSpec(
        partial(seresnext, 3, 4, 6, 3), timm="seresnext50_32x4d", published="se_resnext50_32x4d*.pth"
    ),
    "DeepSRNX101V3PlusD_m1": NetworkSpec(
        partial(seresnext, 3, 4, 23, 3), timm="seresnext101_32x4d", published="se_resnext101_32x4d*.pth"
    ),
    "DeepR18V3PlusD_m1": NetworkSpec(partial(resnet, BasicBlock, 2, 2, 2, 2), torchvision="resnet18", timm="resnet18"),
    "DeepR50V3PlusD_m1": NetworkSpec(
        partial(resnet, Bottleneck, 3, 4, 6, 3), torchvision="resnet50", timm="resnet50", published="resnet50*.pth"
    ),
    "DeepR101V3PlusD_m1": NetworkSpec(
        partial(resnet, Bottleneck, 3, 4, 23, 3), torchvision="resnet101", timm="resnet101"
    ),
    "DeepMNV3V3PlusD_m1": NetworkSpec(
        mobilenetv3_large, LIGHT_HEAD, torchvision="mobilenet_v3_large", timm="mobilenetv3_large_100"
    ),
    "DeepEffLite0V3PlusD_m1": NetworkSpec(
        partial(efficientnet_lite, 0), LIGHT_HEAD, timm="tf_efficientnet_lite0", published="efficientnet-lite0*.pth"
    ),
    "DeepEffLite1V3PlusD_m1": NetworkSpec(
        partial(efficientnet_lite, 1), LIGHT_HEAD, timm="tf_efficientnet_lite1", published="efficientnet-lite1*.pth"
    ),
    "DeepEffLite2V3PlusD_m1": NetworkSpec(
        partial(efficientnet_lite, 2), LIGHT_HEAD, timm="tf_efficientnet_lite2", published="efficientnet-lite2*.pth"
    ),
    "DinoV2SmallDPT": NetworkSpec(
        partial(vision_transformer, 384), {"head": partial(DPTHead, width=64, channels=(48, 96, 192, 384))}, **SMALL_VIT
    ),
    "DinoV2BaseDPT": NetworkSpec(
        partial(vision_transformer, 768), {"head": partial(DPTHead, width=128, channels=(96, 192, 384, 768))},
        timm="vit_base_patch14_dinov2", published="dinov2_vitb14_pretrain*",
        source=f"{DINOV2}/dinov2_vitb14/dinov2_vitb14_pretrain.pth", network=Transformer,
    ),
    "DinoV2SmallLinear": NetworkSpec(partial(vision_transformer, 384), {"head": LinearHead}, **SMALL_VIT),
}  # fmt: skip


def build_network(arch: str, num_classes: int, **head: Any) -> Network:
    """Build `arch`, given as `DeepWV3Plus` or as `network.deepv3.DeepWV3Plus`, with freshly initialised weights.

    head: `rates` and `refine` of `DeepLabV3Plus`, where they are not the usual ones (`config.ModelConfig.head`).
    Raises ValueError for an unknown name, or a head that the network does not have.
    """
    name = short_name(arch)
    if name not in NETWORKS:
        raise ValueError(f"--arch {arch!r} is unknown. Choose one of: {', '.join(NETWORKS)}.")
    spec = NETWORKS[name]
    if head and spec.network is not DeepLabV3Plus:
        raise ValueError(f"--aspp_rates and --refine change the head of a DeepLabV3+; {name} has another one.")
    return spec.network(spec.trunk(), num_classes, **{**spec.head, **head})
