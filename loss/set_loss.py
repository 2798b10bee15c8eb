"""The sum that all losses here share: over pixels, a weight times how unlikely the pixel's allowed classes are.

A pixel's loss is `weight * (lse_all - lse_S)`, the difference between the log-sum-exps of its logits over all classes
and over its allowed ones; its gradient is `weight * (softmax_all - softmax_S)`. If only the pixel's own class is
allowed, that is cross entropy, so only pixels with larger sets are gathered and need more work.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from loss.sets import RelaxedSets


class SetTarget(NamedTuple):
    """The target that the logits of a batch are compared with.

    own: [B, H, W] int64 in 0 ... C-1, the pixel's class; any class where ignored.
    weights: [B, H, W] float32 or float64, 0 where ignored.
    sets: the pixels with further allowed classes.
    """

    own: Tensor
    weights: Tensor
    sets: RelaxedSets


def set_loss(logits: Tensor, target: SetTarget) -> Tensor:
    """The sum over pixels, a scalar of the weights' dtype. logits: [B, C, H, W], any dtype, layout and device."""
    total: Tensor = _SetLoss.apply(logits, *target)
    return total


class _SetLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, own: Tensor, weights: Tensor, sets: RelaxedSets) -> Tensor:
        log_p = F.log_softmax(logits, 1, dtype=weights.dtype).contiguous()
        total, softmax_set = _compare(log_p, SetTarget(own, weights, sets))
        ctx.save_for_backward(log_p, own, weights, *sets, softmax_set)
        ctx.dtype = logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        log_p, own, weights, pixels, members, softmax_set = ctx.saved_tensors
        target = SetTarget(own, weights * grad, RelaxedSets(pixels, members))
        return _gradient(log_p.exp(), target, softmax_set * grad).to(ctx.dtype), None, None, None


def _compare(log_p: Tensor, target: SetTarget) -> tuple[Tensor, Tensor]:
    """The summed loss, and `weight * softmax_S` [K, N] of the sets' members.

    log_p: [B, C, H, W] contiguous, log probabilities.
    """
    own, weights, sets = target
    loss = -log_p.gather(1, own.unsqueeze(1)).squeeze(1)
    chosen = log_p.view(-1)[_positions(sets, log_p.shape)]
    chosen.masked_fill_(sets.members == log_p.shape[1], -torch.inf)
    log_p_set = chosen.logsumexp(0)
    loss.view(-1)[sets.pixels] = -log_p_set
    softmax_set = (chosen - log_p_set).exp() * weights.reshape(-1)[sets.pixels]
    return (loss * weights).sum(), softmax_set


def _gradient(probabilities: Tensor, target: SetTarget, softmax_set: Tensor) -> Tensor:
    """`weight * (softmax_all - softmax_S)` [B, C, H, W], written over the contiguous `probabilities`."""
    own, weights, sets = target
    own, weights = own.unsqueeze(1), weights.unsqueeze(1)
    result = probabilities.mul_(weights)
    alone = weights.clone(memory_format=torch.contiguous_format)  # pixels with their own class only
    alone.view(-1)[sets.pixels] = 0
    # Neither line writes a position twice, so both are deterministic without accumulation.
    result.scatter_(1, own, result.gather(1, own) - alone)
    used = (sets.members != result.shape[1]).nonzero(as_tuple=True)
    result.view(-1)[_positions(sets, result.shape)[used]] -= softmax_set[used]
    return result


def _positions(sets: RelaxedSets, shape: torch.Size) -> Tensor:
    """Positions of the sets' members in the flattened logits [B, C, H, W]: [K, N]; arbitrary for empty places."""
    num_classes, plane = shape[1], shape[2] * shape[3]
    first = sets.pixels // plane * (num_classes * plane) + sets.pixels % plane
    return first + sets.members.clamp(max=num_classes - 1) * plane
