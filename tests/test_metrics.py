"""Scores, and the matrix that they are read off."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.metrics import ConfusionMatrix, scores


def test_precision_and_recall_are_not_swapped():
    confusion = ConfusionMatrix(2, 255)
    confusion.update(torch.tensor([0, 0, 0, 0, 1, 255]), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert confusion.matrix.tolist() == [[3, 1], [0, 1]]
    result = scores(confusion.matrix, ["a", "b"])
    expected = {"precision": [1.0, 0.5], "recall": [0.75, 1.0], "iou": [0.75, 0.5]}
    assert {name: result.per_class[name] for name in expected} == expected
    assert (result.totals["mean_iou"], result.totals["pixel_accuracy"]) == (0.625, 0.8)


def test_a_class_absent_from_the_truth_is_named_and_left_out_of_the_mean():
    confusion = ConfusionMatrix(3, 255)
    confusion.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1]))
    result = scores(confusion.matrix, ["a", "b", "c"])
    assert result.absent == ("c",)
    assert math.isnan(result.per_class["iou"][2])
    assert result.totals["mean_iou"] == pytest.approx((0.5 + 1.0) / 2)
    assert "c" in result.table().splitlines()[-1]
    json.dumps(result.as_dict(), allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 255]), st.integers(0, 2)), min_size=1, max_size=60))
@settings(deadline=None)
def test_the_matrix_counts_every_labelled_pixel_once(pixels):
    labels, guesses = (torch.tensor(column) for column in zip(*pixels, strict=True))
    confusion = ConfusionMatrix(3, 255)
    confusion.update(labels, guesses)
    assert int(confusion.matrix.sum()) == sum(label != 255 for label, _ in pixels)
    assert int(confusion.matrix.diagonal().sum()) == sum(label == guess for label, guess in pixels)
