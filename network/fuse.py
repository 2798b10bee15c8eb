"""Fold layers into their neighbours, for inference."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from network.blocks import DepthwiseConv2d, JoiningConv2d, concatenated
from network.deepv3 import DeepLabV3Plus
from network.kn2row import keeps_size, sum_pyramid_by_taps


class ConvTracer(fx.Tracer):
    """Treats convolutions and batch norms as leaves, including this project's subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the tracer treats `m` as a single operation."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms(net: nn.Module) -> int:
    """Fold, in place, every batch norm whose input is a convolution that feeds nothing else; return their number.

    In evaluation a batch norm is a factor and an offset per channel, which the convolution's weights can absorb:
    the same function in fewer passes over memory. Batch norms after a sum (pre-activation blocks) stay. The network
    must be in evaluation mode and can no longer be trained.
    """
    assert not net.training, "in training, a batch norm depends on its batch"
    modules = dict(net.named_modules())
    num_folded = 0
    for node in ConvTracer().trace(net).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        (source,) = node.args
        conv = modules.get(source.target) if source.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and len(source.users) == 1:
            net.set_submodule(source.target, fuse_conv_bn_eval(conv, modules[node.target]))
            net.set_submodule(node.target, nn.Identity())
            num_folded += 1
    return num_folded


@torch.no_grad()
def fold_reductions(net: DeepLabV3Plus) -> None:
    """Fold, in place, the two 1x1 convolutions before the decoder into its first one, if that is 1x1 as well.

    Nothing lies between them, so their product is the same function. The network can no longer be trained.
    """
    joining = net.final[0]
    if not (isinstance(joining, JoiningConv2d) and joining.kernel_size == (1, 1)):
        return
    reductions = [net.bot_fine, net.bot_aspp]
    parts = joining.weight.split([conv.out_channels for conv in reductions], dim=1)
    products = [part.flatten(1) @ conv.weight.flatten(1) for part, conv in zip(parts, reductions, strict=True)]
    folded = JoiningConv2d(net.bot_fine.in_channels, net.bot_aspp.in_channels, joining.out_channels, 1)
    folded.weight = nn.Parameter(torch.cat(products, dim=1)[:, :, None, None])
    net.final[0] = folded
    for reduction in ("bot_fine", "bot_aspp"):
        net.set_submodule(reduction, nn.Identity())


def store_convolutions_in(net: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of all convolutions in `dtype`, in place: autocast need not cast them per image."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)


CHANNELS = 8  # tensor cores need multiples of it
CUDNN_LIMIT = 2**31 - 1  # most values in a map that cuDNN can index with 32 bits
MANY_CHANNELS = 1024  # dilated convolutions with this many output channels or more are slow


def suit_tensor_cores(net: DeepLabV3Plus, *, compiled: bool) -> None:
    """Rewrite `net` into the forms of this file, in place, for bfloat16. It can no longer be trained.

    compiled: the network will be compiled, which itself fuses activations into the layers before them.
    """
    sum_pyramid_by_taps(net)
    if not compiled:
        fuse_activations(net)
    split_dilated(net)
    pad_classifier(net)


class ConvReLU(nn.Conv2d):
    """Convolution, bias and ReLU in one pass; as separate layers, bias and ReLU read and write the map again."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvReLU:
        """The fused layer with the geometry and weights of `conv`, which must have a bias."""
        assert conv.padding_mode == "zeros"
        fused = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
            conv.groups, device="meta",
        )  # fmt: skip
        fused.weight, fused.bias = conv.weight, conv.bias
        return fused

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        x = x.to(self.weight.dtype)
        num_pixels = x.numel() // self.in_channels
        if not x.is_cuda or num_pixels * max(self.in_channels, self.out_channels) > CUDNN_LIMIT:
            return super().forward(x).relu_()
        return torch.cudnn_convolution_relu(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups  # type: ignore[arg-type]
        )


class SplitConv2d(nn.Module):
    """A convolution with dilation d as one without: it never combines pixels that are not a multiple of d apart.

    So each of the d x d grids of pixels is an image of its own. cuDNN 9's kernels for dilation take 1.4 to 1.7 times
    as long if there are 1024 output channels or more (LOG.md).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Wrap `conv`, which must have stride 1, the same dilation both ways, and padding that keeps H and W."""
        super().__init__()
        self.step = conv.dilation[0]
        assert keeps_size(conv) and conv.dilation == (self.step, self.step)
        conv.padding, conv.dilation = tuple(k // 2 for k in conv.kernel_size), (1, 1)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        return merged(self.conv(split(x, self.step)), self.step, (x.shape[2], x.shape[3]))


def split(x: Tensor, step: int) -> Tensor:
    """Every `step`th row and column as a map of its own: [B, C, H, W] -> [B * step², C, H / step, W / step].

    Zeros are added below and on the right if a side is not a multiple of `step`. The result is channels last.
    """
    below, right = -x.shape[2] % step, -x.shape[3] % step
    if torch.compiler.is_compiling() or below or right:  # compiled code is the same for every remainder
        x = F.pad(x, (0, right, 0, below))
    grids = x.permute(0, 2, 3, 1).unflatten(2, (-1, step)).unflatten(1, (-1, step))  # [B, H/s, s, W/s, s, C]
    return grids.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def merged(x: Tensor, step: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `split`, cropped to `size`: [B * step², C, h, w] -> [B, C, H, W], channels last."""
    grids = x.permute(0, 2, 3, 1).unflatten(0, (-1, step, step))  # [B, s, s, h, w, C]
    whole = grids.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return whole[:, :, : size[0], : size[1]]


class PaddedConv2d(nn.Module):
    """A convolution whose output channels are padded to a multiple of 8; the extra ones are dropped."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """conv: one group, without bias."""
        super().__init__()
        assert conv.groups == 1 and conv.bias is None
        self.num_wanted = conv.out_channels
        missing = -conv.out_channels % CHANNELS
        conv.weight = nn.Parameter(F.pad(conv.weight.detach(), (0, 0, 0, 0, 0, 0, 0, missing)))
        conv.out_channels += missing
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        logits: Tensor = self.conv(x)
        return logits[:, : self.num_wanted]


class Concatenation(nn.Module):
    """The concatenation at the start of `JoiningConv2d`, as a layer."""

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """inputs: as those of `JoiningConv2d`."""
        return concatenated(inputs)


def fuse_activations(net: nn.Module) -> None:
    """Fuse every convolution that has a bias with the ReLU after it, in place."""
    modules = dict(net.named_modules())
    nodes = [node for node in ConvTracer().trace(net).nodes if node.op == "call_module"]
    num_calls = Counter(str(node.target) for node in nodes)
    for node in nodes:
        name, source = str(node.target), node.args[0]
        if not isinstance(modules[name], nn.ReLU) or num_calls[name] > 1:
            continue
        while isinstance(modules.get(str(source.target)), nn.Identity) and len(source.users) == 1:
            source = source.args[0]
        conv = modules.get(str(source.target))
        if not isinstance(conv, nn.Conv2d) or conv.bias is None:
            continue
        if len(source.users) > 1 or num_calls[str(source.target)] > 1:
            continue
        if isinstance(conv, DepthwiseConv2d):  # PyTorch has its own kernels for it
            continue
        fused = ConvReLU.of(conv)
        in_place = nn.Sequential(Concatenation(), fused) if isinstance(conv, JoiningConv2d) else fused
        net.set_submodule(str(source.target), in_place)
        net.set_submodule(name, nn.Identity())


def split_dilated(net: DeepLabV3Plus) -> None:
    """Split the trunk's dilated convolutions that have many output channels, in place."""
    for name, conv in list(net.named_modules()):
        if not (isinstance(conv, nn.Conv2d) and net.is_trunk_key(name)):
            continue
        if conv.dilation[0] > 1 and conv.groups == 1 and conv.out_channels >= MANY_CHANNELS:
            net.set_submodule(name, SplitConv2d(conv))


def pad_classifier(net: DeepLabV3Plus) -> None:
    """Have the last convolution compute a multiple of 8 classes, in place."""
    net.last_decoder[-1] = PaddedConv2d(net.last_decoder[-1])  # type: ignore[arg-type]
