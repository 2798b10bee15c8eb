"""The losses of the published code, against the figures recorded from it."""

import json
import math
from pathlib import Path

import pytest
import torch

from loss.cross_entropy import CrossEntropy, ImageWeightedCrossEntropy
from loss.published import published_target
from loss.relaxation import RelaxedCrossEntropy
from tests.golden import parity_fixtures as fixtures
from tests.losses import loss_and_gradient, random_case

RECORDS = json.loads((Path(__file__).parent / "golden" / "loss.json").read_text())


def recorded_case(record):
    """Labels [N, H, W], logits [N, 19, H, W] and the criterion of one record."""
    n, h, w, tag = (record[key] for key in ("n", "h", "w", "tag"))
    labels = torch.stack([torch.from_numpy(fixtures.labels(h, w, f"{tag}-label-{i}")) for i in range(n)])
    logits = fixtures.logits(n, h, w, f"{tag}-logits")
    options = {key: record[key] for key in ("upper_bound", "batch_weighting")}
    if record["kind"] == "ce":
        criterion = CrossEntropy(19)
    elif record["kind"] == "imgwt":
        criterion = ImageWeightedCrossEntropy(19, published=True, **options)
    else:
        criterion = RelaxedCrossEntropy(19, strict_classes=record["strict"] or (), published=True, **options)
    return labels, logits, criterion


def is_relaxed(record):
    return not record["epoch"] > record["rlx_off_epoch"] >= 0


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["tag"])
def test_loss_and_gradient_equal_the_recorded_figures(record):
    labels, logits, criterion = recorded_case(record)
    logits.requires_grad_()
    loss = criterion(logits, labels, relax=is_relaxed(record))
    loss.backward()
    grad = logits.grad.double()
    got = {"loss": loss.item(), "grad_l2": grad.norm().item(), "grad_abs_sum": grad.abs().sum().item()}
    assert got == {key: pytest.approx(record[key], rel=1e-5) for key in got}
    for position, value in record["grad_at"]:
        assert grad[tuple(position)].item() == pytest.approx(value, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("record", [r for r in RECORDS if "target_channel_sums" in r], ids=lambda record: record["tag"])
def test_published_target_has_the_recorded_channel_sums(record):
    labels, _, criterion = recorded_case(record)
    classes = labels.long().where(labels != 255, 19)
    target = published_target(classes, 19, 1 if is_relaxed(record) else 0, criterion.strict_classes)
    assert target.sum((0, 2, 3)).tolist() == record["target_channel_sums"]
    assert target.max() == record["target_max"]


def test_the_published_form_is_finite_for_large_logits_and_without_labels():
    logits, labels = random_case()
    for other in (labels, torch.full_like(labels, 255)):
        loss, grad = loss_and_gradient(RelaxedCrossEntropy(5, published=True), 1e4 * logits.sign(), other)
        assert loss.isfinite()
        assert grad.isfinite().all()


def test_once_relaxation_is_off_a_boundary_counts_for_the_pixels_behind_it_in_all_images():
    labels = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])  # the boundary makes the places count 2, 3, 3, 2 times
    loss = RelaxedCrossEntropy(2, upper_bound=0, published=True)(torch.zeros(2, 2, 1, 4), labels, relax=False)
    assert loss.item() == pytest.approx(2 * 10 * math.log(2) / (4 + 1))
