"""Label relaxation on a GPU in Triton kernels; `loss.relaxation` is the same function in plain PyTorch.

The set of classes allowed at a pixel is a bit mask of as many 32-bit words as the classes need. One kernel makes the
masks and counts the classes from the labels alone, one computes the classes' weights from the counts. One reads the
logits once, sums the loss and writes its gradient, which the backward pass multiplies by what comes from above: usually
by 1, which takes no time.

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
_SETS_BLOCK = 256  # pixels per program that reads only labels
# Logits per program that reads logits: classes, rounded up to a power of 2, times pixels. It is one warp, so that sums
# over classes wait for no other, and its registers hold all of them.
_TILE = 2048
_SCALE_BLOCK, _SCALE_PROGRAMS = 4096, 1024


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
    tally = labels.new_zeros((batch, num_words * _BITS + 1), dtype=torch.int32)  # one tensor: cleared in one launch
    sizes = labels.new_empty(labels.shape if published else 0, dtype=torch.int32)
    if labels.numel():
        with torch.cuda.device_of(labels):  # Triton launches on the current device, wherever the tensors are
            _sets_kernel[(triton.cdiv(height * width, _SETS_BLOCK), batch)](
                labels, words, tally, sizes, _is_strict(tuple(strict_classes), num_classes, labels.device),
                labels if repeats is None else repeats.contiguous(), height, width, labels.numel(), ignore_label,
                border, PUBLISHED=published, REPEATS=repeats is not None, NUM_CLASSES=num_classes, WORDS=num_words,
                BLOCK=_SETS_BLOCK,
            )  # fmt: skip
    return ClassSets(words, tally[:, : num_classes + 1], tally[:, -1], sizes)


def mean_weights(sets: ClassSets, num_classes: int, upper_bound: float, batch_weighting: bool) -> Tensor:
    """`loss.relaxation.class_weights` of the sets, divided by the number of the batch's labelled pixels: [B, C]."""
    batch = len(sets.counts)
    table = sets.counts.new_empty((batch, num_classes), dtype=torch.float32)
    if batch:
        with torch.cuda.device_of(table):
            _weights_kernel[(batch,)](
                sets.counts, sets.num_used, table, batch, sets.counts.stride(0), num_classes, float(upper_bound),
                BATCH_WEIGHTING=batch_weighting, CLASSES=triton.next_power_of_2(num_classes),
            )  # fmt: skip
    return table


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
        # The gradient is rounded to half precision by this step, after all factors: some of them are tiny.
        total: Tensor = _FusedSetLoss.apply(logits.float(), sets.words, table.contiguous(), scale)
    return total


class _FusedSetLoss(torch.autograd.Function):
    """The sum of the pixels' losses, with its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, words: Tensor, table: Tensor, scale: Tensor | None) -> Tensor:
        logits = logits.contiguous(memory_format=_layout(logits))
        batch, num_classes, height, width = logits.shape
        classes, plane = triton.next_power_of_2(num_classes), height * width
        block = max(16, _TILE // classes)
        grid = (triton.cdiv(plane, block), batch)
        # One sum per program, added up by PyTorch: bitwise reproducible, unlike atomics.
        partial = logits.new_empty(grid)
        ctx.gradient = torch.empty_like(logits, memory_format=_layout(logits)) if ctx.needs_input_grad[0] else None
        # Derived from the shape: PyTorch does not define the stride of a dimension of size 1.
        steps = (1, num_classes) if _layout(logits) == torch.channels_last else (plane, 1)
        if logits.numel():
            _loss_kernel[grid](
                logits, words, table, table if scale is None else scale, partial,
                logits if ctx.gradient is None else ctx.gradient, plane, batch * plane, *steps,
                HAS_SCALE=scale is not None, HAS_GRADIENT=ctx.gradient is not None, NUM_CLASSES=num_classes,
                WORDS=len(words), CLASSES=classes, BLOCK=block, num_warps=1,
            )  # fmt: skip
        return partial.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("this loss has given its gradient away; compute the loss again for another one.")
        if gradient.numel():
            programs = min(_SCALE_PROGRAMS, triton.cdiv(gradient.numel(), _SCALE_BLOCK))
            _scale_kernel[(programs,)](gradient, grad, gradient.numel(), BLOCK=_SCALE_BLOCK)
        return gradient, None, None, None


def _layout(logits: Tensor) -> torch.memory_format:
    """The layout for the kernels: the logits' own if contiguous or channels last; others are copied to contiguous."""
    plain = logits.is_contiguous() or not logits.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


# In the kernels `plane` is H * W and `total` B * H * W; offsets that may exceed 2^31 are int64.


@triton.jit
def _sets_kernel(
    labels, words, tally, sizes, is_strict, repeats, height, width, total, ignore_label, border,
    PUBLISHED: tl.constexpr, REPEATS: tl.constexpr, NUM_CLASSES: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the sets of BLOCK pixels of one image. Only the published sets know "ignored or outside"."""
    image = tl.program_id(1)
    plane = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < plane
    row, column = pixel // width, pixel % width
    start = image.to(tl.int64) * plane
    tally += image * (WORDS * 32 + 1)
    own = tl.load(labels + start + pixel, mask=inside, other=0).to(tl.int32)
    labelled = inside & (own >= 0) & (own < NUM_CLASSES) & (own != ignore_label)
    own = tl.where(labelled, own, NUM_CLASSES)
    has_set = inside if PUBLISHED else labelled
    relaxed = has_set & (tl.load(is_strict + own, mask=labelled, other=0) == 0)
    bit = tl.arange(0, 32)
    size = tl.zeros_like(own)
    for word in tl.static_range(WORDS):
        members = tl.where(has_set & (own // 32 == word), 1 << (own % 32), 0)
        for down in range(-border, border + 1):
            for right in range(-border, border + 1):
                y, x = row + down, column + right
                seen = relaxed & (y >= 0) & (y < height) & (x >= 0) & (x < width)
                near = tl.load(labels + start + y * width + x, mask=seen, other=0).to(tl.int32)
                is_class = seen & (near >= 0) & (near < NUM_CLASSES) & (near != ignore_label)
                near = tl.where(is_class, near, NUM_CLASSES)
                counts_here = relaxed if PUBLISHED else is_class
                members |= tl.where(counts_here & (near // 32 == word), 1 << (near % 32), 0)
        tl.store(words + word * total + start + pixel, members, mask=inside)
        found = (members[None, :] >> bit[:, None]) & 1
        if PUBLISHED:
            size += tl.sum(tl.where((word * 32 + bit < NUM_CLASSES)[:, None], found, 0), 0)
        if REPEATS:
            found *= tl.load(repeats + start + pixel, mask=inside, other=0)[None, :]
        is_found = tl.sum(found, 1)
        tl.atomic_add(tally + word * 32 + bit, is_found, mask=is_found > 0)
    if PUBLISHED:
        tl.store(sizes + start + pixel, size, mask=inside)
    tl.atomic_add(tally + WORDS * 32, tl.sum(((size > 0) if PUBLISHED else labelled).to(tl.int32), 0))


@triton.jit
def _weights_kernel(
    counts, num_used, table, batch, stride, num_classes, upper_bound,
    BATCH_WEIGHTING: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """One program: the weights of the classes of one image."""
    image = tl.program_id(0)
    c = tl.arange(0, CLASSES)
    used = tl.zeros([], tl.int64)
    count = tl.load(counts + image * stride + c, mask=c < num_classes, other=0).to(tl.int64)
    for other in range(batch):
        used += tl.load(num_used + other * stride)
        if BATCH_WEIGHTING and other != image:
            count += tl.load(counts + other * stride + c, mask=c < num_classes, other=0)
    share = count.to(tl.float32) / tl.maximum(tl.sum(count, 0), 1).to(tl.float32)
    weight = (1 + upper_bound * (1 - share)) / tl.maximum(used, 1).to(tl.float32)
    tl.store(table + image * num_classes + c, weight, mask=c < num_classes)


@triton.jit
def _softmax_parts(x):
    """exp(x - max), its sum and the max, over the classes of each pixel; 0, 1 and 0 where all are -inf."""
    highest = tl.max(x, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    raised = tl.exp2((x - highest[None, :]) * 1.4426950408889634)  # log2(e); tl.exp also keeps what is below 1e-38
    total = tl.sum(raised, 0)
    return raised, tl.where(total == 0, 1.0, total), highest


@triton.jit
def _loss_kernel(
    logits, words, table, scale, partial, gradient, plane, total, stride_c, stride_p, HAS_SCALE: tl.constexpr,
    HAS_GRADIENT: tl.constexpr, NUM_CLASSES: tl.constexpr, WORDS: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the sum of the losses of BLOCK pixels of one image, and weight * (softmax_all - softmax_S)."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, CLASSES)
    inside = pixel < plane
    exists = (c[:, None] < NUM_CLASSES) & inside[None, :]
    start = image.to(tl.int64) * NUM_CLASSES * plane
    at = start + c.to(tl.int64)[:, None] * stride_c + pixel.to(tl.int64)[None, :] * stride_p
    x = tl.load(logits + at, mask=exists, other=float("-inf"))
    allowed = exists & False
    for word in tl.static_range(WORDS):
        members = tl.load(words + word * total + image.to(tl.int64) * plane + pixel, mask=inside, other=0)
        is_member = ((members[None, :] >> (c % 32)[:, None]) & 1) == 1
        allowed = allowed | (is_member & ((c // 32 == word) & (c < NUM_CLASSES))[:, None])
    class_weight = tl.load(table + image * NUM_CLASSES + c, mask=c < NUM_CLASSES, other=0)
    weight = tl.sum(tl.where(allowed, class_weight[:, None], 0.0), 0)
    if HAS_SCALE:
        weight *= tl.load(scale + pixel, mask=inside, other=0)
    else:
        weight /= tl.maximum(tl.sum(allowed.to(tl.float32), 0), 1.0)
    raised_all, sum_all, max_all = _softmax_parts(x)
    raised_set, sum_set, max_set = _softmax_parts(tl.where(allowed, x, float("-inf")))
    loss = weight * ((max_all - max_set) + (tl.log(sum_all) - tl.log(sum_set)))
    tl.store(partial + tl.program_id(0) * tl.num_programs(1) + image, tl.sum(loss, 0))
    if HAS_GRADIENT:
        result = raised_all * (weight / sum_all)[None, :] - raised_set * (weight / sum_set)[None, :]
        tl.store(gradient + at, result, mask=exists)


@triton.jit
def _scale_kernel(values, factor, num_values, BLOCK: tl.constexpr):
    """Multiply the values by the factor, in place. By 1 it reads none of them."""
    number = tl.load(factor)
    if number != 1.0:
        for first in range(tl.program_id(0).to(tl.int64) * BLOCK, num_values, tl.num_programs(0) * BLOCK):
            place = first + tl.arange(0, BLOCK)
            value = tl.load(values + place, mask=place < num_values)
            tl.store(values + place, value * number, mask=place < num_values)
