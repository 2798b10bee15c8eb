"""Logits and labels for tests of losses, and what a loss makes of them."""

import torch


def random_case(batch=2, num_classes=5, height=9, width=11, seed=0, dtype=torch.float32):
    """Random logits and labels in 3x3 blocks with some void."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, num_classes, height, width, generator=generator, dtype=dtype) * 3
    grid = torch.randint(0, num_classes + 1, (batch, -(-height // 3), -(-width // 3)), generator=generator)
    labels = grid.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width]
    return logits, labels.masked_fill(labels == num_classes, 255)


def loss_and_gradient(loss, logits, labels, **options):
    logits = logits.detach().requires_grad_()
    value = loss(logits, labels, **options)
    value.backward()
    return value.detach(), logits.grad
