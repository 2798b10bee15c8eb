"""Augmentation of image and labels together: scale, crop, flip, padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import AugmentConfig
from transforms.augmentation import MEAN_COLOR, TrainTransform, Window, draw_window, resample

IGNORE = 255


def test_flip_moves_image_and_labels_together():
    labels = np.arange(9, dtype=np.uint8).reshape(3, 3)
    plain = AugmentConfig(crop_size=3, scale_min=1.0, scale_max=1.0, color_aug=0.0, gblur=False)
    transform, seen = TrainTransform(plain, IGNORE), set()
    for seed in range(9):
        image, ids = transform(np.repeat(labels[..., None], 3, 2), labels, None, np.random.default_rng(seed))
        assert (image[..., 0] == ids).all()
        seen.add(tuple(ids[0].tolist()))
    assert seen == {(0, 1, 2), (2, 1, 0)}


def test_padding_is_always_ignore_and_the_mean_colour():
    crop = TrainTransform(AugmentConfig(crop_size=8, scale_min=1.0, scale_max=1.0), IGNORE).crop
    image, labels = crop(np.full((4, 4, 3), 200, np.uint8), np.zeros((4, 4), np.uint8), None, np.random.default_rng(0))
    assert (labels == 0).sum() == 16
    assert (labels == IGNORE).sum() == 48
    assert (image[labels == IGNORE] == MEAN_COLOR).all()
    assert (image[labels == 0] == 200).all()


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    side=st.integers(1, 40),
    scale=st.floats(0.3, 3.0),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_a_window_lies_in_the_image_or_contains_it_and_shows_its_centre(height, width, side, scale, seed, data):
    center = data.draw(st.none() | st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)))
    window = draw_window((height, width), (side, side), scale, center, np.random.default_rng(seed))
    for start, length, size in ((window.top, window.height, height), (window.left, window.width, width)):
        inside = start >= 0 and start + length <= size
        contains = start <= 0 and start + length >= size
        assert inside or contains
    if center is not None:
        assert window.top <= center[0] < window.top + window.height
        assert window.left <= center[1] < window.left + window.width


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    side=st.integers(1, 40),
    scale=st.floats(0.3, 3.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_padding_is_never_mixed_with_the_image(height, width, side, scale, seed):
    crop = TrainTransform(AugmentConfig(crop_size=side, scale_min=scale, scale_max=scale), IGNORE).crop
    whole = np.full((height, width, 3), 200, np.uint8), np.zeros((height, width), np.uint8)
    image, labels = crop(*whole, None, np.random.default_rng(seed))
    assert image.shape == (side, side, 3)
    assert labels.shape == (side, side)
    assert (image[labels == 0] == 200).all()
    assert (image[labels == IGNORE] == MEAN_COLOR).all()
    shown = [min(side, max(1, round(length * scale))) for length in (height, width)]
    assert abs((labels == 0).any(1).sum() - shown[0]) <= 1 + scale
    assert abs((labels == 0).any(0).sum() - shown[1]) <= 1 + scale


def test_resampling_keeps_image_and_labels_aligned():
    # A checkerboard of 8-pixel squares, whose grey level is its label: after resizing they must still agree.
    labels = (np.indices((64, 64)) // 8).sum(0).astype(np.uint8) % 2
    image = np.repeat(labels[..., None] * 255, 3, 2).astype(np.uint8)
    window = Window(3, 5, 41, 47)
    small = resample(image, window, (60, 70), (0, 0, 0), labels=False)
    ids = resample(labels, window, (60, 70), 0, labels=True)
    assert ((small[..., 0] > 127) == (ids == 1)).mean() > 0.97


def test_a_crop_of_the_whole_image_at_scale_one_is_the_image():
    image = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    assert (resample(image, Window(0, 0, 12, 16), (12, 16), (0, 0, 0), labels=False) == image).all()


def test_a_scale_range_the_wrong_way_round_is_an_error():
    with pytest.raises(ValueError, match=r"--scale_min 2.0 is larger than --scale_max 1.0"):
        TrainTransform(AugmentConfig(scale_min=2.0, scale_max=1.0), IGNORE)
