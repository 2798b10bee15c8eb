"""Colour and blur against the same operations in plain floating point."""

from itertools import permutations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from config import AugmentConfig
from transforms.augmentation import TrainTransform, change_colors, color_jitter, gaussian_blur

GRAY = np.array([0.299, 0.587, 0.114])
STEPS = ("brightness", "contrast", "saturation", "hue")

Image = NDArray[np.float64]


def plain_hue(image: Image, turn: float) -> Image:
    """Hue of the HSV hexagon, moved; by its textbook definition."""
    high, low = image.max(-1), image.min(-1)
    spread = np.where(high > low, high - low, 1)
    red, green, blue = np.moveaxis(image, -1, 0)
    from_red, from_green, from_blue = (green - blue) / spread % 6, (blue - red) / spread + 2, (red - green) / spread + 4
    sector = np.select([high == red, high == green], [from_red, from_green], from_blue)
    distances = [np.abs((sector + 6 * turn - peak + 3) % 6 - 3) for peak in (0, 2, 4)]
    return np.stack([low + (high - low) * np.clip(2 - d, 0, 1) for d in distances], -1)


def plain_step(image: Image, step: str, amount: float) -> Image:
    if step == "hue":
        return plain_hue(image, amount)
    gray = image @ GRAY
    center = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray[..., None]}[step]
    return np.clip(center + (image - center) * amount, 0, 255)


def differs_by(image, steps):
    """The largest difference, in grey levels, between the steps in integers and in floating point."""
    plain = image.astype(np.float64)
    for name, amount in steps:
        plain = plain_step(plain, name, amount)
    return np.abs(change_colors(image, steps) - plain).max()


def changed(pixel, *step):
    return change_colors(np.array([[pixel]], np.uint8), [step])[0, 0].tolist()


def test_each_step_is_what_it_says():
    assert changed((100, 50, 200), "brightness", 1.5) == [150, 75, 255]
    gray = round(0.299 * 100 + 0.587 * 50 + 0.114 * 200)
    assert changed((100, 50, 200), "saturation", 0.0) == [gray] * 3
    assert changed((100, 50, 200), "contrast", 0.0) == [gray] * 3


def test_hue_goes_round_the_circle_in_both_directions():
    assert changed((255, 0, 0), "hue", 1 / 6) == [255, 255, 0]
    assert changed((255, 0, 0), "hue", 1 / 3) == [0, 255, 0]
    assert changed((255, 0, 0), "hue", -1 / 6) == [255, 0, 255]
    assert changed((255, 0, 0), "hue", 1 / 12) == [255, 128, 0]
    assert changed((100, 50, 200), "hue", 1 / 3) == [200, 100, 50]
    assert changed((77, 77, 77), "hue", 0.2) == [77, 77, 77]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_asks_for_no_change_makes_none(step):
    image = np.random.default_rng(0).integers(0, 256, (140, 9, 3), dtype=np.uint8)
    assert (change_colors(image, [(step, 0.0 if step == "hue" else 1.0)]) == image).all()


@pytest.mark.parametrize("order", list(permutations(STEPS)), ids="-".join)
def test_jitter_in_any_order_stays_within_one_grey_level_of_floating_point(order):
    image = np.random.default_rng(0).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    for sign in (-1, 1):
        ends = {"brightness": 1 + 0.25 * sign, "contrast": 1.25, "saturation": 1 - 0.25 * sign, "hue": 0.21 * sign}
        assert differs_by(image, [(step, ends[step]) for step in order]) <= 1


@given(
    st.lists(st.tuples(st.sampled_from(STEPS[:3]), st.floats(0.5, 1.5)), max_size=3),
    st.floats(-0.5, 0.5),
    st.integers(0, 3),
    st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=200),
)
@settings(deadline=None)
def test_any_steps_on_any_colours_stay_within_one_grey_level(steps, turn, when, colors):
    image = np.array(colors, np.uint8)[:, None]  # one column: up to 200 rows are more than one band
    assert differs_by(image, [*steps[:when], ("hue", turn), *steps[when:]]) <= 1


def test_jitter_of_strength_zero_leaves_the_picture_alone():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert (color_jitter(image, 0.0, np.random.default_rng(1)) == image).all()


def test_jitter_changes_a_copy_and_comes_out_the_same_with_the_same_generator():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    before = image.copy()
    results = [color_jitter(image, 0.25, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert (image == before).all()
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


def test_jitter_draws_all_orders_and_the_published_ranges(monkeypatch):
    seen = []
    monkeypatch.setattr("transforms.augmentation.change_colors", lambda image, steps: seen.append(steps))
    for seed in range(400):
        color_jitter(np.zeros((1, 1, 3), np.uint8), 0.25, np.random.default_rng(seed))
    assert len({tuple(name for name, _ in steps) for steps in seen}) == 24
    for step in STEPS:
        amounts = [dict(steps)[step] for steps in seen]
        low, high = (-0.25, 0.25) if step == "hue" else (0.75, 1.25)
        assert low <= min(amounts) < low + 0.01
        assert high - 0.01 < max(amounts) <= high


@pytest.mark.parametrize("sigma", np.linspace(0.15, 1.3, 9))
def test_blur_stays_within_one_grey_level_of_floating_point(sigma):
    image = np.random.default_rng(0).integers(0, 2, (60, 70, 3), dtype=np.uint8) * np.uint8(255)
    plain = gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="nearest", truncate=4)
    assert np.abs(gaussian_blur(image, sigma) - plain).max() <= 1


def test_the_blur_is_drawn_from_the_published_range(monkeypatch):
    sigmas, image = [], np.zeros((9, 9, 3), np.uint8)
    monkeypatch.setattr("transforms.augmentation.gaussian_blur", lambda image, sigma: sigmas.append(sigma) or image)
    transform = TrainTransform(AugmentConfig(crop_size=9, color_aug=0), 255)
    for seed in range(300):
        transform(image, image[..., 0], None, np.random.default_rng(seed))
    assert 0.15 <= min(sigmas) < 0.17
    assert 1.28 < max(sigmas) <= 1.3


def test_threads_do_not_change_a_pixel():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    threads = cv2.getNumThreads()
    try:
        results = []
        for count in (1, 4):
            cv2.setNumThreads(count)
            generator = np.random.default_rng(5)
            results.append(gaussian_blur(color_jitter(image, 0.25, generator), 1.0))
    finally:
        cv2.setNumThreads(threads)
    assert (results[0] == results[1]).all()
