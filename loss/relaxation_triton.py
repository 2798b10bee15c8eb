"""Label relaxation on a GPU in three Triton kernels; `loss.relaxation` is the same function in plain PyTorch.

The set of classes allowed at a pixel is a bit mask of as many 32-bit words as the classes need. One kernel makes the
masks and counts the classes from the labels alone; one reads the logits once and sums the loss; one reads them
again and writes the gradient once. The last two both compute what they need from the logits, so nothing of the
logits' size is kept between them.

With the environment variable TRITON_INTERPRET=1, set before this file is imported, the kernels run on the CPU, slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_BITS = 32
_SETS_BLOCK = 512  # pixels per program that reads only labels
_TILE = 4096  # logits per program that reads logits: classes, rounded up to a power of 2, times pixels


class ClassSets(NamedTuple):
    """The classes allowed at each pixel; the last three as in `loss.relaxation.LabelSets`.

    words: [N, B, H, W] int32, N = ceil((C + 1) / 32): class c is bit c % 32 of word c // 32; C: "ignored or outside".
    sizes: only of the published sets.
    """

    words: Tensor
    counts: Tensor
    num_used: Tensor
    sizes: Tensor


def class_sets(
    labels: Tensor,
    num_classes: int,
    ignore_label: int,
    border: int = 0,
    strict_classes: Sequence[int] = (),
    published: bool = False,
    repeats: Tensor | None = None,
) -> ClassSets:
    """The classes allowed at each pixel of labels [B, H, W]; see `loss.relaxation.relaxed_sets`.

    A label that is neither a class nor `ignore_label` is ignored.
    """
    labels = labels.contiguous()
    batch, height, width = labels.shape
    num_words = triton.cdiv(num_classes + 1, _BITS)
    words = labels.new_empty((num_words, batch, height, width), dtype=torch.int32)
    counts = labels.new_zeros((batch, num_words * _BITS), dtype=torch.int32)
    num_used = labels.new_zeros(batch, dtype=torch.int32)
    sizes = labels.new_empty(labels.shape if published else 0, dtype=torch.int32)
    if labels.numel():
        with torch.cuda.device_of(labels):  # Triton launches on the current device, wherever the tensors are
            _sets_kernel[(triton.cdiv(height * width, _SETS_BLOCK), batch)](
                labels, words, counts, num_used, sizes, _is_strict(tuple(strict_classes), num_classes, labels.device),
                labels if repeats is None else repeats.contiguous(), height, width, labels.numel(), num_classes,
                ignore_label, border,
                PUBLISHED=published, REPEATS=repeats is not None, WORDS=num_words, BLOCK=_SETS_BLOCK,
            )  # fmt: skip
    return ClassSets(words, counts[:, : num_classes + 1], num_used, sizes)


@cache
def _is_strict(strict_classes: tuple[int, ...], num_classes: int, device: torch.device) -> Tensor:
    """[C] bool: is this class not relaxed at its own pixels?"""
    return torch.tensor([c in strict_classes for c in range(num_classes)], device=device)


def fused_loss_sum(logits: Tensor, sets: ClassSets, table: Tensor, scale: Tensor | None) -> Tensor:
    """Sum over pixels of `w(p) * (lse_all - lse_S)`, float32.

    logits: [B, C, H, W] float32, float16 or bfloat16, any strides. w(p) is the sum over S(p) of the image's row of
    `table` [B, C], times `scale` [H, W]; the mean if there is no scale. The gradient has the logits' dtype.
    """
    scale = None if scale is None else scale.contiguous()
    with torch.cuda.device_of(logits):
        total: Tensor = _FusedSetLoss.apply(logits, sets.words, table.contiguous(), scale)
    return total


class _FusedSetLoss(torch.autograd.Function):
    """The sum of the pixels' losses, with its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, words: Tensor, table: Tensor, scale: Tensor | None) -> Tensor:
        logits = logits.contiguous(memory_format=_layout(logits))
        ctx.save_for_backward(logits, words, table, scale)
        grid, sizes = _launch(logits)
        # One sum per program, added up by PyTorch: bitwise reproducible, unlike atomics.
        partial = logits.new_zeros(grid, dtype=torch.float32)
        if logits.numel():
            _loss_kernel[grid](logits, words, table, table if scale is None else scale, partial, *_strides(logits),
                               HAS_SCALE=scale is not None, **sizes)  # fmt: skip
        return partial.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, words, table, scale = ctx.saved_tensors
        grid, sizes = _launch(logits)
        gradient = torch.empty_like(logits, memory_format=_layout(logits))
        if logits.numel():
            _gradient_kernel[grid](logits, words, table, table if scale is None else scale, grad, gradient,
                                   *_strides(logits), HAS_SCALE=scale is not None, **sizes)  # fmt: skip
        return gradient, None, None, None


def _layout(logits: Tensor) -> torch.memory_format:
    """The layout for the kernels: the logits' own if contiguous or channels last; others are copied to contiguous."""
    plain = logits.is_contiguous() or not logits.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


def _strides(logits: Tensor) -> tuple[int, ...]:
    """Number of classes, pixels per image and in total, and the memory steps to the next image, class and pixel.

    The steps are derived from the shape: PyTorch does not define the stride of a dimension of size 1.
    """
    batch, num_classes, height, width = logits.shape
    plane = height * width
    steps = (1, num_classes) if _layout(logits) == torch.channels_last else (plane, 1)
    return (num_classes, plane, batch * plane, num_classes * plane, *steps)


def _launch(logits: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants of the kernels that read logits."""
    batch, num_classes, height, width = logits.shape
    classes = triton.next_power_of_2(num_classes)
    block = max(16, _TILE // classes)
    words = triton.cdiv(num_classes + 1, _BITS)
    return (triton.cdiv(height * width, block), batch), {"WORDS": words, "CLASSES": classes, "BLOCK": block}


# In the kernels `plane` is H * W and `total` B * H * W; offsets that may exceed 2^31 are int64.


@triton.jit
def _sets_kernel(
    labels, words, counts, num_used, sizes, is_strict, repeats, height, width, total, num_classes, ignore_label, border,
    PUBLISHED: tl.constexpr, REPEATS: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the sets of BLOCK pixels of one image. Only the published sets know "ignored or outside"."""
    image = tl.program_id(1)
    plane = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < plane
    row, column = pixel // width, pixel % width
    start = image.to(tl.int64) * plane
    own = tl.load(labels + start + pixel, mask=inside, other=0).to(tl.int32)
    labelled = inside & (own >= 0) & (own < num_classes) & (own != ignore_label)
    own = tl.where(labelled, own, num_classes)
    has_set = inside if PUBLISHED else labelled
    relaxed = has_set & (tl.load(is_strict + own, mask=labelled, other=0) == 0)
    repeat = tl.load(repeats + start + pixel, mask=inside, other=0) if REPEATS else inside.to(tl.int32)
    side = 2 * border + 1
    bit = tl.arange(0, 32)
    size = tl.zeros_like(own)
    for word in tl.static_range(WORDS):
        members = tl.where(has_set & (own // 32 == word), 1 << (own % 32), 0)
        for offset in range(side * side):
            y, x = row + offset // side - border, column + offset % side - border
            seen = relaxed & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            near = tl.load(labels + start + y * width + x, mask=seen, other=0).to(tl.int32)
            is_class = seen & (near >= 0) & (near < num_classes) & (near != ignore_label)
            near = tl.where(is_class, near, num_classes)
            counts_here = relaxed if PUBLISHED else is_class
            members |= tl.where(counts_here & (near // 32 == word), 1 << (near % 32), 0)
        tl.store(words + word * total + start + pixel, members, mask=inside)
        found = (members[None, :] >> bit[:, None]) & 1
        is_found = tl.sum(found * repeat[None, :], 1)
        tl.atomic_add(counts + (image * WORDS + word) * 32 + bit, is_found, mask=is_found > 0)
        if PUBLISHED:
            size += tl.sum(tl.where((word * 32 + bit < num_classes)[:, None], found, 0), 0)
    if PUBLISHED:
        tl.store(sizes + start + pixel, size, mask=inside)
    tl.atomic_add(num_used + image, tl.sum(((size > 0) if PUBLISHED else labelled).to(tl.int32), 0))


@triton.jit
def _read_tile(
    logits, words, table, scale, image, pixel, num_classes, plane, total, stride_b, stride_c, stride_p,
    HAS_SCALE: tl.constexpr, WORDS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Logits [CLASSES, P] of P pixels, which of them exist and which are allowed there, and each pixel's weight [P]."""
    c = tl.arange(0, CLASSES)
    inside = pixel < plane
    exists = (c[:, None] < num_classes) & inside[None, :]
    start = image.to(tl.int64) * stride_b
    at = c.to(tl.int64)[:, None] * stride_c + pixel.to(tl.int64)[None, :] * stride_p
    x = tl.load(logits + start + at, mask=exists, other=0).to(tl.float32)
    allowed = exists & False
    for word in tl.static_range(WORDS):
        members = tl.load(words + word * total + image.to(tl.int64) * plane + pixel, mask=inside, other=0)
        is_member = ((members[None, :] >> (c % 32)[:, None]) & 1) == 1
        allowed = allowed | (exists & is_member & (c // 32 == word)[:, None])
    class_weight = tl.load(table + image * num_classes + c, mask=c < num_classes, other=0)
    weight = tl.sum(tl.where(allowed, class_weight[:, None], 0.0), 0)
    if HAS_SCALE:
        weight *= tl.load(scale + pixel, mask=inside, other=0)
    else:
        weight /= tl.maximum(tl.sum(allowed.to(tl.float32), 0), 1.0)
    return x, exists, allowed, weight


@triton.jit
def _softmax_parts(x, chosen):
    """exp(x - max), its sum and the max, over the chosen classes of each pixel; 0, 1 and 0 where none is chosen."""
    x = tl.where(chosen, x, float("-inf"))
    highest = tl.max(x, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    raised = tl.exp(x - highest[None, :])
    total = tl.sum(raised, 0)
    return raised, tl.where(total == 0, 1.0, total), highest


@triton.jit
def _loss_kernel(
    logits, words, table, scale, partial, num_classes, plane, total, stride_b, stride_c, stride_p,
    HAS_SCALE: tl.constexpr, WORDS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the sum of the losses of BLOCK pixels of one image."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, exists, allowed, weight = _read_tile(
        logits, words, table, scale, image, pixel, num_classes, plane, total, stride_b, stride_c, stride_p,
        HAS_SCALE, WORDS, CLASSES,
    )  # fmt: skip
    _, sum_all, max_all = _softmax_parts(x, exists)
    _, sum_set, max_set = _softmax_parts(x, allowed)
    loss = weight * ((max_all - max_set) + (tl.log(sum_all) - tl.log(sum_set)))
    loss = tl.where(weight > 0, loss, 0.0)
    tl.store(partial + tl.program_id(0) * tl.num_programs(1) + image, tl.sum(loss, 0))


@triton.jit
def _gradient_kernel(
    logits, words, table, scale, grad, gradient, num_classes, plane, total, stride_b, stride_c, stride_p,
    HAS_SCALE: tl.constexpr, WORDS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: grad * weight * (softmax_all - softmax_S) at BLOCK pixels of one image."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, exists, allowed, weight = _read_tile(
        logits, words, table, scale, image, pixel, num_classes, plane, total, stride_b, stride_c, stride_p,
        HAS_SCALE, WORDS, CLASSES,
    )  # fmt: skip
    raised_all, sum_all, _ = _softmax_parts(x, exists)
    raised_set, sum_set, _ = _softmax_parts(x, allowed)
    difference = raised_all / sum_all[None, :] - raised_set / sum_set[None, :]
    result = tl.where(weight[None, :] > 0, tl.load(grad) * weight[None, :] * difference, 0.0)
    start = image.to(tl.int64) * stride_b
    c = tl.arange(0, CLASSES)
    at = c.to(tl.int64)[:, None] * stride_c + pixel.to(tl.int64)[None, :] * stride_p
    tl.store(gradient + start + at, result.to(gradient.dtype.element_ty), mask=exists)
