"""Atrous convolutions summed tap by tap: faster in bfloat16 on CPUs with matrix tiles (AMX) and on Hopper GPUs."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.deepv3 import DeepLabV3Plus
from utils.device import why_no_triton


class TapwiseConv2d(nn.Module):
    """A convolution in bfloat16 that keeps H and W, as one 1x1 convolution for all taps and a sum of its shifted parts.

    oneDNN's kernels for AMX lose most of their speed near padding, which is as wide as the dilation: 2048 channels to
    256 at 64x128, dilation 36, take 540 ms that way and 48 ms this way. In float32 or without AMX, oneDNN's kernels
    are faster. cuDNN 9 lacks Hopper kernels for large dilations: 4096 channels to 256 at 128x256 take 1.5 ms on an
    H200, and 0.84 ms this way. The taps' outputs are rounded to bfloat16 and summed in float32.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Replace `conv`, which must have stride 1, one group, and padding that keeps H and W."""
        super().__init__()
        assert type(conv) is nn.Conv2d, "a subclass may do more than convolve"
        assert keeps_size(conv) and conv.groups == 1
        self.kernel_size, self.dilation = list(conv.kernel_size), list(conv.dilation)
        of_taps = conv.weight.detach().permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None]
        self.weight = nn.Parameter(of_taps.to(torch.bfloat16))
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W] bfloat16."""
        total: Tensor = sum_of_taps(F.conv2d(x, self.weight), self.bias, self.kernel_size, self.dilation)
        return total


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether its output has the size of its input, with zero padding."""
    padding = tuple(d * (k // 2) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    odd = all(k % 2 for k in conv.kernel_size)
    return odd and conv.stride == (1, 1) and conv.padding == padding and conv.padding_mode == "zeros"


# Opaque to torch.compile, which would recompile for each map size, since that decides which shifted parts lie inside.
@torch.library.custom_op("segmentation::sum_of_taps", mutates_args=())
def sum_of_taps(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    """Shift the taps' outputs [B, taps * C, H, W], any float type, and sum in float32: [B, C, H, W] of that type.

    bias: [C], added to the sum.
    """
    return _sum_by_steps(taps, bias, kernel_size, dilation)


def _sum_by_steps(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    total = _like_one_tap(taps, bias, kernel_size, dilation).float().zero_()
    if bias is not None:
        total += bias.float()[:, None, None]
    parts = taps.unflatten(1, (-1, total.shape[1]))
    for number in range(parts.shape[1]):
        offset = divmod(number, kernel_size[1])
        shifts = [d * (o - k // 2) for d, o, k in zip(dilation, offset, kernel_size, strict=True)]
        if all(abs(shift) < side for shift, side in zip(shifts, taps.shape[2:], strict=True)):
            (to_rows, from_rows), (to_columns, from_columns) = map(_overlap, shifts, taps.shape[2:])
            total[:, :, to_rows, to_columns] += parts[:, number, :, from_rows, from_columns]
    return total.to(taps.dtype)


@sum_of_taps.register_kernel("cuda")
def _sum_on_gpu(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    if problem := why_no_triton():
        warnings.warn(f"{problem}: the pyramid's taps are summed in plain PyTorch, slower.", stacklevel=2)
        return _sum_by_steps(taps, bias, kernel_size, dilation)
    from network.kn2row_triton import sum_in_one_pass

    with torch.cuda.device_of(taps):  # Triton launches on the current device, wherever the tensors are
        return sum_in_one_pass(taps, bias, _like_one_tap(taps, bias, kernel_size, dilation), kernel_size, dilation)


@sum_of_taps.register_fake
def _like_one_tap(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    batch, channels, height, width = taps.shape
    shape = (batch, channels // (kernel_size[0] * kernel_size[1]), height, width)
    return torch.empty(shape, dtype=taps.dtype, device=taps.device, memory_format=torch.channels_last)


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """For a map shifted back by `shift`: the target positions that it covers, and the source positions for them."""
    return slice(max(0, -shift), min(side, side - shift)), slice(max(0, shift), min(side, side + shift))


def sum_pyramid_by_taps(net: DeepLabV3Plus) -> None:
    """Have the pyramid's atrous convolutions summed tap by tap, in place. The network can no longer be trained."""
    for branch in net.aspp.features:
        conv = branch.get_submodule("0")
        if isinstance(conv, nn.Conv2d) and conv.groups == 1 and max(conv.dilation) > 1:
            branch.set_submodule("0", TapwiseConv2d(conv))
