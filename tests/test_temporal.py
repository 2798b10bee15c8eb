"""--temporal: classes follow the motion, flicker less, and nothing of the past stays where it does not belong."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from demo import KEPT, Smoother, likeness

HEIGHT, WIDTH = 96, 128


def scene(shift: int) -> np.ndarray:
    """A textured picture [H, W, 3], as a camera that turns by `shift` pixels sees it."""
    rough = np.random.default_rng(0).integers(40, 216, (24, 64), np.uint8)
    wide = cv2.resize(rough, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.repeat(wide[:, 30 + shift : 30 + shift + WIDTH, None], 3, axis=2)


def inner(values: np.ndarray) -> np.ndarray:
    return values[..., 12:-12, 12:-12]


def test_what_came_from_outside_or_looks_different_is_not_trusted():
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[..., 0] = 5
    trust = likeness(scene(5), scene(0), flow)
    assert inner(trust).min() > 0.9
    assert (trust[:, -5:] == 0).all()
    assert likeness(scene(5), 255 - scene(0), flow).mean() < 0.2


def test_in_a_still_picture_the_past_is_mixed_in_by_a_fixed_share():
    smoother, image = Smoother(), scene(0)
    smoother(image, torch.zeros(2, HEIGHT, WIDTH))
    result = smoother(image, torch.ones(2, HEIGHT, WIDTH))
    torch.testing.assert_close(result, torch.full_like(result, 1 - KEPT), atol=1e-4, rtol=0)


def test_probabilities_follow_the_motion():
    step = torch.zeros(1, HEIGHT, WIDTH)
    step[..., 60:] = 1
    smoother = Smoother()
    smoother(scene(0), step)
    result = smoother(scene(5), step.roll(-5, 2))[0, 12:-12]  # the same things, five pixels to the left
    assert (result[:, 12:53] < 0.2).all()
    assert (result[:, 57:-12] > 0.8).all()


def test_after_a_cut_nothing_of_the_past_is_left():
    smoother = Smoother()
    smoother(scene(0), torch.zeros(1, HEIGHT, WIDTH))
    result = smoother(np.full((HEIGHT, WIDTH, 3), 255, np.uint8), torch.ones(1, HEIGHT, WIDTH))
    assert result.mean() > 0.95
