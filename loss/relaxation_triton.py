"""Label relaxation on a GPU in three Triton kernels; `loss.relaxation` is the same function in plain PyTorch.

The set of classes allowed at a pixel is a bit mask of as many 32-bit words as the classes need. One kernel makes the
masks and counts the classes from the labels alone; one reads the logits once and sums the loss; one reads them
again and writes the gradient once. The last two both compute what they need from the logits, so nothing of the
logits' size is kept between them.

With the environment variable TRITON_INTERPRET=1, set before this file is imported, the kernels run on the CPU, slowly.
"""

from __future__ import annotations

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
    """The classes allowed at each pixel according to the labels.

    words: [N, B, H, W] int32, N = ceil(C / 32): class c is bit c % 32 of word c // 32. All 0 where ignored.
    counts: [B, 32 N] int32, how often a class occurs in an image's sets; with `batch_weighting`, all in row 0.
    num_labelled: scalar int32, pixels that are not ignored.
    """

    words: Tensor
    counts: Tensor
    num_labelled: Tensor


def fused_loss_sum(
    logits: Tensor,
    labels: Tensor,
    is_strict: Tensor,
    *,
    ignore_label: int,
    border: int,
    upper_bound: float,
    batch_weighting: bool,
) -> tuple[Tensor, Tensor]:
    """Sum over pixels of `w(S) * (lse_all - lse_S)`, float32, and the number of labelled pixels.

    logits: [B, C, H, W] float32, float16 or bfloat16, any strides; labels: [B, H, W] integer. A label that is neither a
    class nor `ignore_label` is ignored. is_strict: [C] bool, classes not relaxed at their own pixels. border: 0 for
    no relaxation. The gradient has the logits' dtype.
    """
    sets = class_sets(labels, is_strict, ignore_label, border, batch_weighting)
    total: Tensor = _FusedSetLoss.apply(logits, sets, upper_bound, batch_weighting)
    return total, sets.num_labelled


def class_sets(
    labels: Tensor, is_strict: Tensor, ignore_label: int, border: int, batch_weighting: bool
) -> ClassSets:
    """The classes allowed at each pixel of labels [B, H, W], and how often each is allowed. is_strict: [C] bool."""
    labels = labels.contiguous()
    batch, height, width = labels.shape
    num_words = triton.cdiv(len(is_strict), _BITS)
    sets = ClassSets(
        words=labels.new_empty((num_words, batch, height, width), dtype=torch.int32),
        counts=labels.new_zeros((batch, num_words * _BITS), dtype=torch.int32),
        num_labelled=labels.new_zeros((), dtype=torch.int32),
    )
    if labels.numel():
        _sets_kernel[(triton.cdiv(height * width, _SETS_BLOCK), batch)](
            labels, *sets, is_strict, height, width, labels.numel(), len(is_strict), ignore_label, border,
            BATCH_WEIGHTING=batch_weighting, WORDS=num_words, BLOCK=_SETS_BLOCK,
        )  # fmt: skip
    return sets


class _FusedSetLoss(torch.autograd.Function):
    """The sum of the pixels' losses, with its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, sets: ClassSets, upper_bound: float, batch_weighting: bool) -> Tensor:
        logits = logits.contiguous(memory_format=_layout(logits))
        ctx.save_for_backward(logits, sets.words, sets.counts)
        ctx.options = (upper_bound, batch_weighting)
        grid, sizes = _launch(logits)
        # One sum per program, added up by PyTorch: bitwise reproducible, unlike atomics.
        partial = logits.new_zeros(grid, dtype=torch.float32)
        if logits.numel():
            _loss_kernel[grid](logits, sets.words, sets.counts, partial, *_strides(logits), upper_bound,
                               BATCH_WEIGHTING=batch_weighting, **sizes)  # fmt: skip
        return partial.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, words, counts = ctx.saved_tensors
        upper_bound, batch_weighting = ctx.options
        grid, sizes = _launch(logits)
        gradient = torch.empty_like(logits, memory_format=_layout(logits))
        if logits.numel():
            _gradient_kernel[grid](logits, words, counts, grad, gradient, *_strides(logits), upper_bound,
                                   BATCH_WEIGHTING=batch_weighting, **sizes)  # fmt: skip
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
    words = triton.cdiv(num_classes, _BITS)
    return (triton.cdiv(height * width, block), batch), {"WORDS": words, "CLASSES": classes, "BLOCK": block}


# In the kernels `plane` is H * W and `total` B * H * W; offsets that may exceed 2^31 are int64.


@triton.jit
def _sets_kernel(
    labels, words, counts, num_labelled, is_strict, height, width, total, num_classes, ignore_label, border,
    BATCH_WEIGHTING: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the sets of BLOCK pixels of one image."""
    image = tl.program_id(1)
    plane = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < plane
    row, column = pixel // width, pixel % width
    start = image.to(tl.int64) * plane
    own = tl.load(labels + start + pixel, mask=inside, other=0).to(tl.int32)
    labelled = inside & (own >= 0) & (own < num_classes) & (own != ignore_label)
    tl.atomic_add(num_labelled, tl.sum(labelled.to(tl.int32), 0))
    relaxed = labelled & (tl.load(is_strict + own, mask=labelled, other=1) == 0)
    side = 2 * border + 1
    bit = tl.arange(0, 32)
    for word in tl.static_range(WORDS):
        members = tl.where(labelled & (own // 32 == word), 1 << (own % 32), 0)
        for offset in range(side * side):
            y, x = row + offset // side - border, column + offset % side - border
            seen = relaxed & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            near = tl.load(labels + start + y * width + x, mask=seen, other=0).to(tl.int32)
            is_class = seen & (near >= 0) & (near < num_classes) & (near != ignore_label)
            members |= tl.where(is_class & (near // 32 == word), 1 << (near % 32), 0)
        tl.store(words + word * total + start + pixel, members, mask=inside)
        found = tl.sum((members[None, :] >> bit[:, None]) & 1, 1)
        table_row = 0 if BATCH_WEIGHTING else image * WORDS * 32
        tl.atomic_add(counts + table_row + word * 32 + bit, found, mask=found > 0)


@triton.jit
def _read_tile(
    logits, words, counts, image, pixel, num_classes, plane, total, stride_b, stride_c, stride_p, upper_bound,
    BATCH_WEIGHTING: tl.constexpr, WORDS: tl.constexpr, CLASSES: tl.constexpr,
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
        allowed = allowed | (is_member & (c // 32 == word)[:, None])
    table_row = 0 if BATCH_WEIGHTING else image * WORDS * 32
    count = tl.load(counts + table_row + c, mask=c < num_classes, other=0).to(tl.float32)
    class_weight = 1 + upper_bound * (1 - count / tl.maximum(tl.sum(count, 0), 1.0))
    weight = tl.sum(tl.where(allowed, class_weight[:, None], 0.0), 0)
    return x, exists, allowed, weight / tl.maximum(tl.sum(allowed.to(tl.float32), 0), 1.0)


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
    logits, words, counts, partial, num_classes, plane, total, stride_b, stride_c, stride_p, upper_bound,
    BATCH_WEIGHTING: tl.constexpr, WORDS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the sum of the losses of BLOCK pixels of one image."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, exists, allowed, weight = _read_tile(
        logits, words, counts, image, pixel, num_classes, plane, total, stride_b, stride_c, stride_p, upper_bound,
        BATCH_WEIGHTING, WORDS, CLASSES,
    )  # fmt: skip
    _, sum_all, max_all = _softmax_parts(x, exists)
    _, sum_set, max_set = _softmax_parts(x, allowed)
    loss = weight * ((max_all - max_set) + (tl.log(sum_all) - tl.log(sum_set)))
    loss = tl.where(weight > 0, loss, 0.0)
    tl.store(partial + tl.program_id(0) * tl.num_programs(1) + image, tl.sum(loss, 0))


@triton.jit
def _gradient_kernel(
    logits, words, counts, grad, gradient, num_classes, plane, total, stride_b, stride_c, stride_p, upper_bound,
    BATCH_WEIGHTING: tl.constexpr, WORDS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: grad * weight * (softmax_all - softmax_S) at BLOCK pixels of one image."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, exists, allowed, weight = _read_tile(
        logits, words, counts, image, pixel, num_classes, plane, total, stride_b, stride_c, stride_p, upper_bound,
        BATCH_WEIGHTING, WORDS, CLASSES,
    )  # fmt: skip
    raised_all, sum_all, _ = _softmax_parts(x, exists)
    raised_set, sum_set, _ = _softmax_parts(x, allowed)
    difference = raised_all / sum_all[None, :] - raised_set / sum_set[None, :]
    result = tl.where(weight[None, :] > 0, tl.load(grad) * weight[None, :] * difference, 0.0)
    start = image.to(tl.int64) * stride_b
    c = tl.arange(0, CLASSES)
    at = c.to(tl.int64)[:, None] * stride_c + pixel.to(tl.int64)[None, :] * stride_p
    tl.store(gradient + start + at, result.to(gradient.dtype.element_ty), mask=exists)
