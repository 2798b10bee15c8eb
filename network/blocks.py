"""What every network is, and the blocks that trunks and heads share.

Shapes: B images, C channels, H x W pixels of the feature map at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

from utils.device import upsample


def init_weights(net: nn.Module) -> None:
    """He initialisation (arXiv:1502.01852) for every convolution, and biases of 0.

    Fan-in, not fan-out: it counts the connections of grouped and depthwise convolutions correctly.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also works in training mode on a single value per channel.

    One image pooled to 1x1 has no batch statistics: (x - mean) / std is 0 / 0, and PyTorch rejects it. In that case
    the running statistics are used, as in evaluation, and not updated. Same keys as `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [B, C, H, W]."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, dilation: int = 1, separable: bool = False
) -> nn.Sequential:
    """A bias-free convolution that keeps H and W, two if separable; batch norm, ReLU.

    Separable: across channels first, then within each (blueprint separable, CVPR 2020, arXiv:2003.13549). A head
    reduces the channels, so this order filters fewer of them: a training step takes 8 % less CPU time in float32
    and 16 % less in bfloat16 than with the usual order.
    """
    if separable and kernel > 1:
        across = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        layers = [across, DepthwiseConv2d(out_channels, kernel, dilation=dilation)]
    else:
        padding = dilation * (kernel // 2)
        layers = [nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def concatenate(inputs: tuple[Tensor, Tensor]) -> Tensor:
    """Fine input [B, F, H, W] and context [B, C, h, w], upsampled to its size: [B, F + C, H, W]."""
    fine, context = inputs
    return torch.cat([fine, upsample(context, (fine.shape[2], fine.shape[3]))], dim=1)


class JoiningConv2d(nn.Conv2d):
    """The decoder's first convolution, over its fine input and the upsampled context; bias-free, keeps H and W.

    Same keys as one convolution over the concatenation of both. With kernel 1 it commutes with upsampling: each input
    is then convolved separately, the context while it is small.
    """

    def __init__(self, fine_channels: int, context_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(fine_channels + context_channels, out_channels, kernel, padding=kernel // 2, bias=False)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """inputs: fine [B, fine_channels, H, W] and context [B, context_channels, h, w] -> [B, out_channels, H, W]."""
        if self.kernel_size != (1, 1):
            return super().forward(concatenate(inputs))
        fine, context = inputs
        size = (fine.shape[2], fine.shape[3])
        of_fine, of_context = self.weight.split([fine.shape[1], context.shape[1]], dim=1)
        return F.conv2d(fine, of_fine, self.bias) + upsample(F.conv2d(context, of_context), size)


def mean_of_map(x: Tensor, training: bool) -> Tensor:
    """The mean over H and W of `x` [B, C, H, W]: [B, C, 1, 1]. training: with a gradient that keeps the layout."""
    out: Tensor = _MeanOfMap.apply(x) if training else x.mean((2, 3), keepdim=True)
    return out


class _MeanOfMap(torch.autograd.Function):
    """Its gradient is a view of [B, C, 1, 1]. PyTorch writes it out as NCHW, so that all later sums mix layouts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        _, _, height, width = ctx.shape
        return (gradient / (height * width)).expand(ctx.shape)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabV3, arXiv:1706.05587, section 3.3).

    Returns [B, width * (2 + len(rates)), H, W]: the image mean, a 1x1 convolution, and one 3x3 convolution per rate.
    """

    def __init__(self, in_channels: int, width: int, rates: tuple[int, ...], separable: bool = False) -> None:
        super().__init__()
        # Attribute names, and their order, are keys of published checkpoints. Renaming breaks loading.
        self.features = nn.ModuleList(
            [conv_bn_relu(in_channels, width, 1)]
            + [conv_bn_relu(in_channels, width, 3, rate, separable) for rate in rates]
        )
        self.img_conv = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False), PooledBatchNorm2d(width), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        branches = [branch(x) for branch in self.features]
        pooled = self.img_conv(mean_of_map(x, self.training)).expand_as(branches[0])
        if not torch.compiler.is_compiling():  # exported files would lose the copy
            # Written out in the layout of the others: a view has none, and the concatenation would lose theirs.
            pooled = torch.empty_like(branches[0]).copy_(pooled)
        return torch.cat([pooled, *branches], dim=1)


class SqueezeExcitation(nn.Module):
    """Channels are weighted by a gate computed from their means (arXiv:1709.01507). gate: sigmoid or its like."""

    def __init__(self, channels: int, squeezed: int, gate: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, channels, H, W]."""
        return x * self.gate(self.fc2(F.relu(self.fc1(mean_of_map(x, self.training)))))


class Trunk(NamedTuple):
    """A feature extractor, whose modules become attributes of the network.

    A published checkpoint names the trunk's stages at the top level, without a common prefix, hence the plain mapping.
    """

    modules: dict[str, nn.Module]
    """name in the checkpoint -> module"""
    stages: tuple[str, ...]
    """dotted names of its parts from the image on; those of a DeepLabV3+ are run one after the other"""
    out_channels: int
    fine_stage: str = ""
    """the stage whose output is the fine input of a DeepLabV3+ decoder"""
    fine_channels: int = 0
    finest_stage: str | None = None
    """the stage whose output, at stride 2, a refined decoder reads as well; None: it has none"""
    finest_channels: int = 0
    published_keys: dict[str, str] = {}  # noqa: RUF012 - never changed
    """prefixes in other people's files -> prefixes here, where they differ"""
    published_norm: tuple[float, float] | None = None
    """mean and deviation, of values from 0 to 1, that such files were trained with, if not ImageNet's usual ones"""
    unify_keys: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    """other people's tensors -> those that `published_keys` is about, where renaming is not enough"""


class Network(nn.Module):
    """A trunk and a head: `forward` maps images [B, 3, H, W] (float, normalised) to logits [B, num_classes, H, W].

    upsamples: whether logits are upsampled to the image size; if False, they may be coarser, for callers that upsample
    them themselves (`utils.device.upsample`). unused_keys: how the keys of published tensors begin that take no part in
    segmentation.
    """

    upsamples = True
    unused_keys: tuple[str, ...] = ()

    def __init__(self, trunk: Trunk, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        self.trunk_names = tuple(trunk.modules)
        self.stages = trunk.stages
        self.published_keys = dict(trunk.published_keys)
        self.published_norm = trunk.published_norm
        self.unify_keys = trunk.unify_keys or dict
        # Attribute names, and their order, are keys of published checkpoints. Renaming breaks loading.
        for name, module in trunk.modules.items():
            self.add_module(name, module)

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

    def stages_after(self, key: str) -> int:
        """How many stages with weights follow that of the trunk's parameter `key`; of what is in none, as of the first.

        So the last stage has 0, and the embeddings of a transformer have the most.
        """
        weighty = [stage for stage in self.stages if next(self.get_submodule(stage).parameters(), None) is not None]
        own = (number for number, stage in enumerate(weighty) if key.startswith(f"{stage}."))
        return len(weighty) - 1 - next(own, 0)

    def checkpoint_activations(self) -> None:
        """Have each block of the trunk keep only its input for the gradient, and compute the rest a second time."""
        for stage in map(self.get_submodule, self.stages):
            parts = list(stage) if isinstance(stage, nn.Sequential) else []
            for block in parts if parts and all(next(part.children(), None) for part in parts) else [stage]:
                twice = partial(lambda block: (nullcontext(), _keep_statistics(block)), block)
                block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=twice)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    """Its batch norms do not update their running statistics meanwhile: they have seen this batch already."""
    kind = nn.modules.batchnorm._BatchNorm
    norms = [norm for norm in block.modules() if isinstance(norm, kind) and norm.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # not track_running_stats = False: the gradient keeps them, and both times must keep as much
        norm.momentum = 0.0
        norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
    try:
        yield
    finally:  # the second time ends, by an exception, as soon as all is there that the gradient needs
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class DepthwiseConv2d(nn.Conv2d):
    """Filter each channel separately: an `nn.Conv2d` with as many groups as channels and the same keys.

    In bfloat16 training on a CPU it computes its gradients differently: there, PyTorch 2.13's weight gradient takes
    three to six times as long as in float32 (960 channels, 5x5, dilation 2, batch 8: 67 ms against 11 ms) and its input
    gradient ten to thirty times as long as the forward pass. This makes a training step of MobileNetV3 a quarter
    shorter.
    """

    def __init__(
        self, channels: int, kernel: int, stride: int = 1, dilation: int = 1, padding: int | None = None
    ) -> None:
        """padding: of each side; by default as much as keeps H and W at stride 1."""
        padding = dilation * (kernel // 2) if padding is None else padding
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, channels, H, W]."""
        if self.training and x.device.type == "cpu" and x.dtype == torch.bfloat16:
            with torch.autocast("cpu", enabled=False):
                weight = self.weight.to(torch.bfloat16)
                out: Tensor = _Bf16Depthwise.apply(x, weight, self.stride, self.padding, self.dilation)
            return out
        return super().forward(x)


class _Bf16Depthwise(torch.autograd.Function):
    """The convolution, with its weight gradient in float32 and its input gradient as a convolution."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, dilation)  # type: ignore[attr-defined]
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        stride, padding, dilation = ctx.geometry  # type: ignore[attr-defined]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]

        # The kernel is odd: the gradient at the places of its centre, 0 elsewhere, correlated with the mirrored kernel.
        reach = [d * (k // 2) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        spaced = gradient
        if gradient.shape != x.shape:
            spaced = torch.zeros_like(x)
            rows, columns = (
                slice(r - p, r - p + s * n, s)
                for r, p, s, n in zip(reach, padding, stride, gradient.shape[2:], strict=True)
            )
            spaced[:, :, rows, columns] = gradient
        x_gradient = F.conv2d(spaced, weight.flip(2, 3), None, 1, reach, dilation, channels)
        weight_gradient = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), None, stride, padding, dilation, False, [0, 0], channels,
            [False, True, False],
        )[1]  # fmt: skip
        return x_gradient, weight_gradient.to(weight.dtype), None, None, None
