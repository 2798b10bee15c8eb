"""The sum of shifted taps in one pass on a GPU; `network.fuse` is the same function in plain PyTorch.

With the environment variable TRITON_INTERPRET=1, set before this file is imported, it runs on the CPU, slowly.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS, _CHANNELS = 16, 128  # per program, at most


def sum_in_one_pass(
    taps: Tensor, bias: Tensor | None, out: Tensor, kernel_size: list[int], dilation: list[int]
) -> Tensor:
    """Sum the shifted parts of `taps` [B, taps * C, H, W] and `bias` [C] in float32 into `out` [B, C, H, W].

    `out` is channels last, and is returned.
    """
    batch, channels, height, width = out.shape
    taps = taps.contiguous(memory_format=torch.channels_last)
    block = min(_CHANNELS, triton.next_power_of_2(channels))
    grid = (triton.cdiv(batch * height * width, _PIXELS), triton.cdiv(channels, block))
    _sum_kernel[grid](
        taps, taps if bias is None else bias, out, batch * height * width, height, width, channels, *dilation,
        HAS_BIAS=bias is not None, ROWS=kernel_size[0], COLUMNS=kernel_size[1], PIXELS=_PIXELS, CHANNELS=block,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_pixels", "height", "width"])  # built once for all image sizes
def _sum_kernel(
    taps, bias, out, num_pixels, height, width, channels, row_step, column_step, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program: the sum at PIXELS pixels of CHANNELS channels."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x = pixel % width
    y = pixel // width % height
    wanted = (channel < channels)[None, :] & (pixel < num_pixels)[:, None]
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + channel, channel < channels, 0).to(tl.float32)[None, :]
    for row in tl.static_range(ROWS):
        for column in tl.static_range(COLUMNS):
            down = (row - ROWS // 2) * row_step
            right = (column - COLUMNS // 2) * column_step
            inside = (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
            place = (pixel + down * width + right) * (ROWS * COLUMNS) + row * COLUMNS + column
            part = tl.load(taps + place[:, None] * channels + channel[None, :], wanted & inside[:, None], 0)
            total += part.to(tl.float32)
    tl.store(out + pixel[:, None] * channels + channel[None, :], total.to(out.dtype.element_ty), wanted)
