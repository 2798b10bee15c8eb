"""Boundary IoU and boundary F-score: cases one can count by hand, and the definitions written out pixel by pixel."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import metrics as boundary
from utils.metrics import border_lines, boundary_counts, boundary_scores, close_pixels, near_border, scores

IGNORE = 255


@pytest.fixture(autouse=True)
def one_pixel_is_close(monkeypatch):
    monkeypatch.setattr(boundary, "close_pixels", lambda *_: 1)


def scored(truth: np.ndarray, guess: np.ndarray, num_classes: int = 2):
    iou, f = boundary_scores(torch.from_numpy(boundary_counts(truth, guess, num_classes, IGNORE)))
    means = {"mean_iou": float(iou.nanmean()), "mean_f": float(f.nanmean())}
    return SimpleNamespace(iou=tuple(iou.tolist()), f=tuple(f.tolist()), **means)


def halves(height: int, width: int, left: int) -> np.ndarray:
    """Class 0 in the first `left` columns, class 1 in the others."""
    labels = np.ones((height, width), np.uint8)
    labels[:, :left] = 0
    return labels


def test_close_means_11_pixels_in_cityscapes_and_one_at_least():
    assert close_pixels(1024, 2048) == 11
    assert close_pixels(360, 480) == 3
    assert close_pixels(2, 2) == 1


def test_near_the_border_are_the_pixels_beside_another_class_or_the_edge():
    near = near_border(halves(5, 8, 4), 1)
    assert near.tolist() == [[True] * 8, *[[True, False, False, True, True, False, False, True]] * 3, [True] * 8]


def test_border_lines_do_not_run_along_the_edge_nor_along_ignored_pixels():
    labels = halves(3, 6, 2)
    labels[:, 4:] = IGNORE
    assert border_lines(labels, IGNORE).tolist() == [[False, True, True, False, False, False]] * 3


def test_a_perfect_prediction_has_perfect_scores():
    labels = halves(9, 12, 5)
    found = scored(labels, labels)
    assert (found.mean_iou, found.mean_f) == (1.0, 1.0)


def test_boundary_iou_is_counted_where_the_definition_says():
    truth, guess = halves(5, 8, 4), halves(5, 8, 5)
    # Class 0 near its border: truth: 4 + 2 * 3 + 4 pixels, guess: 5 + 2 * 3 + 5, both: 4 + 1 * 3 + 4.
    counts = boundary_counts(truth, guess, 2, IGNORE)
    assert counts[0, :3].tolist() == [11, 14, 16]
    assert scored(truth, guess).iou[0] == 11 / (14 + 16 - 11)


def test_the_boundary_f_score_forgives_a_border_that_is_off_by_what_is_close_and_no_more():
    truth = halves(6, 12, 4)
    assert scored(truth, halves(6, 12, 5)).f == (1.0, 1.0)
    assert scored(truth, halves(6, 12, 6)).f == (0.0, 0.0)


def test_precision_and_recall_of_the_f_score_are_not_swapped():
    truth = np.zeros((10, 20), np.uint8)
    truth[:, 5:] = 1
    guess = truth.copy()
    guess[:, 15:] = 0  # a second border that the truth does not have: precision 1/2, recall 1
    counts = boundary_counts(truth, guess, 2, IGNORE)
    assert counts[0, 3:].tolist() == [10, 20, 10, 10]
    assert scored(truth, guess).f[0] == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_what_is_predicted_on_ignored_pixels_does_not_count():
    truth = halves(8, 12, 6)
    truth[2:5, 3:9] = IGNORE
    guess = truth.copy()
    guess[truth == IGNORE] = 1
    found = scored(truth, guess)
    assert (found.mean_iou, found.mean_f) == (1.0, 1.0)


def test_a_class_without_a_border_in_the_truth_is_left_out_of_the_means():
    truth, guess = halves(6, 12, 6), halves(6, 12, 6)
    guess[0, 0] = 2
    found = scored(truth, guess, num_classes=3)
    assert math.isnan(found.iou[2])
    assert math.isnan(found.f[2])
    assert found.mean_iou == pytest.approx((found.iou[0] + found.iou[1]) / 2)


def test_without_any_truth_there_is_no_score():
    nothing = np.full((4, 5), IGNORE, np.uint8)
    assert math.isnan(scored(nothing, halves(4, 5, 2)).mean_iou)


def test_counts_of_images_add_up_to_those_of_both():
    rng = np.random.default_rng(0)
    truth, guess = (rng.integers(0, 2, (2, 9, 9), np.uint8) for _ in range(2))
    parts = [boundary_counts(t, g, 2, IGNORE) for t, g in zip(truth, guess, strict=True)]
    total = scores(torch.cat([torch.eye(2, dtype=torch.int64), torch.from_numpy(sum(parts))], 1), ["a", "b"])
    ours = parts[0][:, 0] + parts[1][:, 0]
    whole = sum(part[:, 1] + part[:, 2] - part[:, 0] for part in parts)
    assert [one["boundary_iou"] for one in total["classes"].values()] == pytest.approx((ours / whole).tolist())


def labels_and_guess(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Blobs of three classes with some ignored pixels, and a prediction that is mostly right."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 4, (4, 5), np.uint8)
    truth = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    truth[truth == 3] = IGNORE
    guess = cv2.resize(small % 3, (width, height), interpolation=cv2.INTER_NEAREST)
    guess = np.roll(guess, rng.integers(-2, 3, 2), (0, 1))
    return truth, guess


def near_border_as_published(mask: np.ndarray, close: int) -> np.ndarray:
    """The mask without what is left of it after `close` erosions, in a frame of zeros (Cheng et al., section 4)."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    for _ in range(close):
        framed = cv2.erode(framed, np.ones((3, 3), np.uint8))
    return mask & (framed[1:-1, 1:-1] == 0)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1000), height=st.integers(1, 24), width=st.integers(1, 24), close=st.integers(1, 4))
def test_boundary_iou_is_the_published_one_class_by_class(seed, height, width, close):
    truth, guess = labels_and_guess(seed, height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "close_pixels", lambda *_: close)
        counts = boundary_counts(truth, guess, 3, IGNORE)
    known = truth != IGNORE
    for train_id in range(3):
        near_truth = near_border_as_published(truth == train_id, close)
        near_guess = near_border_as_published((guess == train_id) & known, close)
        both = (near_truth & near_guess).sum()
        assert counts[train_id, :3].tolist() == [both, near_truth.sum(), near_guess.sum()]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), height=st.integers(1, 12), width=st.integers(1, 12), close=st.integers(1, 3))
def test_the_boundary_f_score_counts_what_a_search_pixel_by_pixel_finds(seed, height, width, close):
    truth, guess = labels_and_guess(seed, height, width)
    guess[truth == IGNORE] = IGNORE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "close_pixels", lambda *_: close)
        counts = boundary_counts(truth, guess, 3, IGNORE)
    for train_id in range(3):
        true, guessed = (np.argwhere(border_lines(x, IGNORE) & (x == train_id)) for x in (truth, guess))

        def num_close(pixels: np.ndarray, others: np.ndarray) -> int:
            return sum(any(max(abs(p - o)) <= close for o in others) for p in pixels)

        expected = [num_close(guessed, true), len(guessed), num_close(true, guessed), len(true)]
        assert counts[train_id, 3:].tolist() == expected
