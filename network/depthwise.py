"""Depthwise convolution, whose backward pass in bfloat16 PyTorch leaves slow on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

Pair = tuple[int, int]


class DepthwiseConv2d(nn.Conv2d):
    """Filter each channel for itself: an `nn.Conv2d` with as many groups as channels, with the same keys.

    Trained in bfloat16 on a CPU it computes its gradients another way, since PyTorch 2.13's weight gradient there takes
    three to six times as long as in float32 (960 channels, 5x5, dilation 2, batch 8: 67 ms against 11 ms) and its input
    gradient ten times as long as the forward pass. A training step of MobileNetV3 gets a fifth shorter.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            channels, channels, kernel, stride, dilation * (kernel // 2), dilation, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, channels, H, W]."""
        if self.training and x.device.type == "cpu" and x.dtype == torch.bfloat16:
            with torch.autocast("cpu", enabled=False):
                weight = self.weight.to(torch.bfloat16)
                out: Tensor = _Bf16Depthwise.apply(x, weight, self.stride, self.padding, self.dilation)
            return out
        return super().forward(x)


class _Bf16Depthwise(torch.autograd.Function):
    """The convolution, with its weight gradient in float32 and, at stride 1, its input gradient as a convolution."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
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

        def plain(dtype: torch.dtype, wanted: list[bool]) -> list[Tensor]:
            return torch.ops.aten.convolution_backward(
                gradient.to(dtype), x.to(dtype), weight.to(dtype), None, stride, padding, dilation, False, [0, 0],
                channels, wanted,
            )  # fmt: skip

        if stride == (1, 1):  # "same" padding, odd kernel: the gradient is the correlation with the mirrored kernel
            x_gradient = F.conv2d(gradient, weight.flip(2, 3), None, 1, padding, dilation, channels)
        else:
            x_gradient = plain(torch.bfloat16, [True, False, False])[0]
        weight_gradient = plain(torch.float32, [False, True, False])[1]
        return x_gradient, weight_gradient.to(weight.dtype), None, None, None
