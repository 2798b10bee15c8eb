"""Scores, and the matrix that they are read off."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.metrics import confusion_matrix, scores, scores_table


def test_precision_and_recall_are_not_swapped():
    matrix = confusion_matrix(torch.tensor([0, 0, 0, 0, 1, 255]), torch.tensor([0, 0, 0, 1, 1, 1]), 2, 255)
    assert matrix.tolist() == [[3, 1], [0, 1]]
    found = scores(matrix, ["a", "b"])
    expected = {"precision": (1.0, 0.5), "recall": (0.75, 1.0), "iou": (0.75, 0.5)}
    assert {name: tuple(one[name] for one in found["classes"].values()) for name in expected} == expected
    assert (found["mean_iou"], found["pixel_accuracy"]) == (0.625, 0.8)


def test_a_class_absent_from_the_truth_is_named_and_left_out_of_the_mean():
    found = scores(confusion_matrix(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1]), 3, 255), ["a", "b", "c"])
    assert found["absent"] == ["c"]
    assert found["classes"]["c"]["iou"] is None
    assert found["mean_iou"] == pytest.approx((0.5 + 1.0) / 2)
    assert "c" in scores_table(found).splitlines()[-1]
    json.dumps(found, allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 255]), st.integers(0, 2)), min_size=1, max_size=60))
@settings(deadline=None)
def test_the_matrix_counts_every_labelled_pixel_once(pixels):
    labels, guesses = (torch.tensor(column) for column in zip(*pixels, strict=True))
    matrix = confusion_matrix(labels, guesses, 3, 255)
    assert int(matrix.sum()) == sum(label != 255 for label, _ in pixels)
    assert int(matrix.diagonal().sum()) == sum(label == guess for label, guess in pixels)
