"""Atrous convolutions summed tap by tap, which in bfloat16 suits CPUs with matrix tiles (AMX)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.deepv3 import DeepLabV3Plus


class TapwiseConv2d(nn.Conv2d):
    """A convolution that keeps H and W, in bfloat16 as one 1x1 convolution for all taps and a sum of its shifted parts.

    oneDNN's kernels for AMX lose most of their speed beside padding, which is as wide as the dilation: 2048 channels to
    256 at 64x128, dilation 36, take 540 ms there and 48 ms this way. In float32 and without AMX, oneDNN's way is the
    faster one. The taps are summed in float32.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over the weights of `conv`, whose padding must keep H and W."""
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
            conv.groups, bias=conv.bias is not None,
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        if x.dtype != torch.bfloat16:
            return super().forward(x)
        weights = self.weight.permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None]
        taps = F.conv2d(x, weights).unflatten(1, (-1, self.out_channels))
        total = x.new_zeros(x.shape[0], self.out_channels, *x.shape[2:], dtype=torch.float32)
        total = total.contiguous(memory_format=torch.channels_last)
        if self.bias is not None:
            total += self.bias[:, None, None]
        columns_of_taps = self.kernel_size[1]
        for number in range(taps.shape[1]):
            offset = divmod(number, columns_of_taps)
            shifts = [d * (o - k // 2) for d, o, k in zip(self.dilation, offset, self.kernel_size, strict=True)]
            if all(abs(shift) < side for shift, side in zip(shifts, x.shape[2:], strict=True)):
                (to_rows, from_rows), (to_columns, from_columns) = map(_overlap, shifts, x.shape[2:])
                total[:, :, to_rows, to_columns] += taps[:, number, :, from_rows, from_columns]
        return total.to(x.dtype)


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """Where a map lies that is `shift` ahead: the places it reaches, and what of it reaches them."""
    return slice(max(0, -shift), min(side, side - shift)), slice(max(0, shift), min(side, side + shift))


def sum_pyramid_by_taps(net: DeepLabV3Plus) -> None:
    """Have the atrous convolutions of the pyramid summed tap by tap, in place. The network can be trained no more."""
    for branch in net.aspp.features:
        conv = branch.get_submodule("0")
        if isinstance(conv, nn.Conv2d) and conv.groups == 1 and max(conv.dilation) > 1:
            branch.set_submodule("0", TapwiseConv2d(conv))
