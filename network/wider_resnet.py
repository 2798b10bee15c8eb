"""The trunk WideResNet38, variant A2 ("Wider or Deeper", arXiv:1611.10080, figure 2), at output stride 8.

Pre-activation blocks; modules 5, 6 and 7 keep stride 8 and dilate by 2, 4 and 4. Keys are those of the published
weights, except for their last batch norm and classifier (`bn_out`, `classifier`), which are omitted here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn

from network.blocks import Trunk


class WideStage(NamedTuple):
    """One of the modules 2 to 7. channels: of each convolution in a block; three of them form a bottleneck."""

    name: str
    num_blocks: int
    channels: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    dropout: float = 0.0


WIDE_STAGES = (
    WideStage("mod2", 3, (128, 128)),
    WideStage("mod3", 3, (256, 256)),
    WideStage("mod4", 6, (512, 512), stride=2),
    WideStage("mod5", 3, (512, 1024), dilation=2),
    WideStage("mod6", 1, (512, 1024, 2048), dilation=4, dropout=0.3),
    WideStage("mod7", 1, (1024, 2048, 4096), dilation=4, dropout=0.5),
)


def bn_relu(channels: int) -> nn.Sequential:
    """Batch norm and ReLU; the nesting gives the published keys (`bn1.0.weight`)."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, or a 1x1, 3x3, 1x1 bottleneck, with a shortcut; normalised before, not after."""

    def __init__(self, in_channels: int, spec: WideStage, stride: int) -> None:
        super().__init__()
        self.bn1 = bn_relu(in_channels)
        bottleneck = len(spec.channels) == 3
        layers: dict[str, nn.Module] = {}
        channels = in_channels
        for index, out_channels in enumerate(spec.channels, start=1):
            if index > 1:
                layers[f"bn{index}"] = bn_relu(channels)
            if index == 3 and spec.dropout:
                layers["dropout"] = nn.Dropout2d(spec.dropout)
            kernel, dilation = (1, 1) if bottleneck and index != 2 else (3, spec.dilation)
            own_stride, padding = stride if index == 1 else 1, dilation * (kernel // 2)
            conv = nn.Conv2d(channels, out_channels, kernel, own_stride, padding, dilation, bias=False)
            layers[f"conv{index}"] = conv
            channels = out_channels
        self.convs = nn.Sequential(OrderedDict(layers))
        same_shape = stride == 1 and in_channels == channels
        self.proj_conv = None if same_shape else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        activated = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        return self.convs(activated) + shortcut


def wider_resnet38() -> Trunk:
    """The trunk: 4096 channels at stride 8; the fine input is module 2's 128 channels at stride 2."""
    stem = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 64, 3, padding=1, bias=False)))
    modules: dict[str, nn.Module] = {"mod1": stem}
    in_channels = 64
    for spec in WIDE_STAGES:
        if spec.name in ("mod2", "mod3"):
            modules[f"pool{spec.name[-1]}"] = nn.MaxPool2d(3, stride=2, padding=1)
        stage = nn.Sequential()
        for position in range(spec.num_blocks):
            block = PreActivationBlock(in_channels, spec, spec.stride if position == 0 else 1)
            stage.add_module(f"block{position + 1}", block)
            in_channels = spec.channels[-1]
        modules[spec.name] = stage
    return Trunk(
        modules=modules,
        stages=tuple(modules),
        fine_stage="mod2",
        fine_channels=WIDE_STAGES[0].channels[-1],
        out_channels=in_channels,
    )
