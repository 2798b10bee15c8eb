"""The losses: what each pixel is worth, their gradients, and mistakes in what they are given."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from loss.cross_entropy import CrossEntropy, ImageWeightedCrossEntropy, balanced_weights
from loss.relaxation import RelaxedCrossEntropy
from tests.losses import loss_and_gradient, random_case

# What a pixel is worth.


def relaxed(logits, labels, relax=True, **options):
    return RelaxedCrossEntropy(logits.shape[1], **options)(logits, labels, relax=relax)


def test_equal_scores_cost_the_log_of_the_share_of_allowed_classes():
    loss = relaxed(torch.zeros(1, 4, 1, 4), torch.tensor([[[0, 0, 1, 1]]]), upper_bound=0)
    assert loss.item() == pytest.approx((2 * math.log(4) + 2 * math.log(2)) / 4)


@pytest.mark.parametrize("relax", [True, False])
@pytest.mark.parametrize("upper_bound", [0.0, 1.0])
def test_without_a_boundary_relaxation_changes_nothing(relax, upper_bound):
    logits, _ = random_case(batch=2)
    labels = torch.full((2, 9, 11), 255)
    labels[:, :3] = 4  # one class: its share is 1, its weight 1
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    assert relaxed(logits, labels, relax, upper_bound=upper_bound).item() == pytest.approx(expected.item())


def test_with_relaxation_off_it_is_class_weighted_cross_entropy():
    logits, labels = random_case(batch=1)
    share = torch.bincount(labels[labels != 255], minlength=5) / (labels != 255).sum()
    weights = torch.where(share > 0, 2 - share, 1)
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=255, reduction="none").sum()
    expected = expected / (labels != 255).sum()
    assert relaxed(logits, labels, relax=False).item() == pytest.approx(expected.item(), rel=1e-5)


def test_with_relaxation_off_boundary_pixels_count_once():
    logits, labels = random_case()
    off = relaxed(logits, labels, relax=False, upper_bound=0)
    assert off.item() == pytest.approx(F.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-6)


def test_being_sure_of_a_neighbouring_class_costs_nothing_at_the_boundary():
    labels = torch.tensor([[[0, 0, 1, 1]]])
    logits = F.one_hot(torch.tensor([[[0, 1, 0, 1]]]), 3).permute(0, 3, 1, 2) * 100.0
    assert relaxed(logits, labels).item() == 0
    assert relaxed(logits, labels, relax=False).item() > 40
    assert relaxed(logits, labels, strict_classes=(1,)).item() > 20


CRITERIA = [CrossEntropy, ImageWeightedCrossEntropy, RelaxedCrossEntropy]
ALL_FORMS = pytest.mark.parametrize(
    "criterion",
    [*(cls(5) for cls in CRITERIA), *(cls(5, published=True) for cls in CRITERIA[1:])],
    ids=["plain", "image-weighted", "relaxed", "image-weighted-published", "relaxed-published"],
)
ALL_LOSSES = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda cls: cls.__name__)


@ALL_LOSSES
def test_ignored_pixels_change_neither_loss_nor_gradient(criterion):
    logits, labels = random_case()
    ignored = (labels == 255).unsqueeze(1)
    assert ignored.any()
    loss, grad = loss_and_gradient(criterion(5), logits, labels)
    changed = logits + ignored * torch.arange(5.0).view(1, 5, 1, 1)
    other_loss, other_grad = loss_and_gradient(criterion(5), changed, labels)
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(other_grad, grad)
    assert not (grad * ignored).any()


@ALL_LOSSES
@pytest.mark.parametrize("relax", [True, False])
def test_a_batch_of_equal_images_has_the_loss_of_one(criterion, relax):
    logits, labels = random_case(batch=1)
    one, one_grad = loss_and_gradient(criterion(5), logits, labels, relax)
    four, four_grad = loss_and_gradient(criterion(5), logits.repeat(4, 1, 1, 1), labels.repeat(4, 1, 1), relax)
    torch.testing.assert_close(four, one)
    torch.testing.assert_close(four_grad * 4, one_grad.repeat(4, 1, 1, 1))


@ALL_LOSSES
@pytest.mark.parametrize("relax", [True, False])
def test_a_batch_without_a_label_gives_zero_and_no_gradient(criterion, relax):
    logits, labels = random_case()
    loss, grad = loss_and_gradient(criterion(5), logits, torch.full_like(labels, 255), relax)
    assert loss.item() == 0
    assert not grad.any()


@ALL_LOSSES
@pytest.mark.parametrize("options", [{"upper_bound": 1.0}, {"upper_bound": 1.0, "batch_weighting": True}])
def test_an_image_without_a_label_adds_nothing(criterion, options):
    logits, labels = random_case()
    labels[1] = 255
    options = {} if criterion is CrossEntropy else options
    both, grad = loss_and_gradient(criterion(5, **options), logits, labels)
    first, first_grad = loss_and_gradient(criterion(5, **options), logits[:1], labels[:1])
    torch.testing.assert_close(both, first)
    torch.testing.assert_close(grad[:1], first_grad)
    assert not grad[1].any()


def test_batch_weighting_takes_the_shares_over_the_batch():
    # Image 0 is all class 0, image 1 all class 1: alone each share is 1, together 1/2.
    logits, labels = torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]).view(2, 1, 1).expand(2, 2, 2)
    assert relaxed(logits, labels).item() == pytest.approx(math.log(3))
    assert relaxed(logits, labels, batch_weighting=True).item() == pytest.approx(1.5 * math.log(3))


def test_image_weighted_is_the_mean_of_each_images_weighted_mean():
    # Image 0: three of class 0, one of class 1. Weights 1 + 1/4 and 1 + 3/4 of a sum of 5.5.
    labels = torch.tensor([[[0, 0, 0, 1]], [[1, 1, 255, 255]]])
    logits = torch.zeros(2, 2, 1, 4)
    logits[0, 0, 0, 3] = math.log(3)  # the last pixel of image 0 costs log 4, all others log 2
    first = (3 * 1.25 * math.log(2) + 1.75 * math.log(4)) / 5.5
    assert ImageWeightedCrossEntropy(2)(logits, labels).item() == pytest.approx((first + math.log(2)) / 2)
    assert ImageWeightedCrossEntropy(2, published=True)(logits, labels).item() == pytest.approx(first + math.log(2))


# The gradient, and an implementation that shares no code.


def slow_relaxed(logits, labels, border, strict, upper_bound, batch_weighting):
    """The default meaning, pixel by pixel with Python sets."""
    batch, _, height, width = logits.shape
    sets = {}
    for b, y, x in itertools.product(range(batch), range(height), range(width)):
        own = int(labels[b, y, x])
        if own == 255:
            continue
        window = labels[b, max(0, y - border) : y + border + 1, max(0, x - border) : x + border + 1]
        sets[b, y, x] = {own} if own in strict else set(window.flatten().tolist()) - {255}
    total = logits.new_zeros(())
    for (b, y, x), members in sets.items():
        population = [c for (image, _, _), s in sets.items() if batch_weighting or image == b for c in s]
        weights = [1 + upper_bound * (1 - population.count(c) / len(population)) for c in members]
        scores = logits[b, :, y, x]
        nll = scores.logsumexp(0) - scores[sorted(members)].logsumexp(0)
        total = total + sum(weights) / len(weights) * nll
    return total / max(1, len(sets))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 2),
    num_classes=st.integers(1, 6),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    border=st.integers(1, 4),
    strict=st.sets(st.integers(0, 5), max_size=2),
    upper_bound=st.sampled_from([0.0, 1.0, 6.0]),
    batch_weighting=st.booleans(),
)
def test_loss_and_gradient_equal_the_slow_implementation(
    seed, batch, num_classes, size, border, strict, upper_bound, batch_weighting
):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes + 1, (batch, *size), generator=generator)
    labels[labels == num_classes] = 255
    logits = torch.randn(batch, num_classes, *size, generator=generator, dtype=torch.float64).requires_grad_()
    strict = {c for c in strict if c < num_classes}
    expected = slow_relaxed(logits, labels, border, strict, upper_bound, batch_weighting)
    criterion = RelaxedCrossEntropy(
        num_classes, 255, border, strict, upper_bound=upper_bound, batch_weighting=batch_weighting
    )
    loss, grad = loss_and_gradient(criterion, logits, labels)
    torch.testing.assert_close(loss, expected.detach())
    if expected.requires_grad:
        torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0])
    else:
        assert not grad.any()


@pytest.mark.parametrize("options", [{}, {"border": 2, "strict_classes": (1,), "upper_bound": 6.0}])
@pytest.mark.parametrize("relax", [True, False])
def test_the_gradient_is_that_of_the_loss(relax, options):
    logits, labels = random_case(num_classes=3, height=6, width=6, dtype=torch.float64)
    criterion = RelaxedCrossEntropy(3, **options)
    assert torch.autograd.gradcheck(lambda x: criterion(x, labels, relax=relax), logits.requires_grad_())


def test_the_gradient_scales_with_the_loss():
    logits, labels = random_case()
    _, grad = loss_and_gradient(RelaxedCrossEntropy(5), logits, labels)
    _, scaled = loss_and_gradient(lambda *args, **kw: 1024 * RelaxedCrossEntropy(5)(*args, **kw), logits, labels)
    torch.testing.assert_close(scaled, 1024 * grad)


# Numbers as they come: large, half precision, any layout and integer type.


@ALL_LOSSES
@pytest.mark.parametrize("relax", [True, False])
@pytest.mark.parametrize("gap", [104.0, 1000.0, 1e4])
def test_large_logits_give_finite_loss_and_gradient(criterion, relax, gap):
    logits, labels = random_case()
    loss, grad = loss_and_gradient(criterion(5), gap * logits.sign(), labels, relax)
    assert loss.isfinite()
    assert grad.isfinite().all()


def test_a_gap_of_1000_costs_1000_where_wrong_and_nothing_where_right():
    labels = torch.zeros(1, 3, 3, dtype=torch.long)
    logits = torch.zeros(1, 2, 3, 3)
    logits[:, 0] = 1000
    assert relaxed(logits, labels).item() == 0
    assert relaxed(-logits, labels).item() == pytest.approx(1000)


@ALL_FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened_before_anything_is_computed(criterion, dtype):
    logits, labels = random_case(height=64, width=64)
    logits = (logits * 20).to(dtype)
    exact, exact_grad = loss_and_gradient(criterion, logits.float(), labels)
    with torch.autocast("cpu", dtype=dtype):
        loss, grad = loss_and_gradient(criterion, logits, labels)
    assert (loss.dtype, grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(grad, exact_grad.to(dtype))


@ALL_LOSSES
@pytest.mark.parametrize("relax", [True, False])
def test_layout_and_integer_type_do_not_matter(criterion, relax):
    logits, labels = random_case()
    expected, expected_grad = loss_and_gradient(criterion(5), logits, labels, relax)
    sliced = F.pad(logits, (2, 3, 1, 1))[:, :, 1:-1, 2:-3]
    transposed = labels.transpose(1, 2).contiguous().transpose(1, 2)
    for other in (logits.contiguous(memory_format=torch.channels_last), sliced):
        for same in (labels.to(torch.uint8), labels.int(), transposed):
            loss, grad = loss_and_gradient(criterion(5), other, same, relax)
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(grad, expected_grad)


def test_repeating_the_loss_gives_the_same_bits():
    logits, labels = random_case(height=40, width=40)
    loss, grad = loss_and_gradient(RelaxedCrossEntropy(5), logits, labels)
    again, grad_again = loss_and_gradient(RelaxedCrossEntropy(5), logits, labels)
    assert torch.equal(loss, again)
    assert torch.equal(grad, grad_again)


def test_another_ignore_label_works_for_signed_labels():
    logits, labels = random_case()
    expected = relaxed(logits, labels)
    assert relaxed(logits, labels.masked_fill(labels == 255, -1).int(), ignore_label=-1) == expected


def test_the_loss_needs_no_gradient():
    logits, labels = random_case()
    with torch.no_grad():
        value = relaxed(logits, labels)
    assert value == relaxed(logits.requires_grad_(), labels)


# Mistakes.


@ALL_LOSSES
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), r"logits must be .*\[B, 5, H, W\]"),
        (torch.zeros(5, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), r"logits must be"),
        (torch.zeros(1, 5, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long), "floating point"),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 3, dtype=torch.long), r"labels must match \[B, H, W\]"),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.long), r"labels must match \[B, H, W\]"),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2), "integer train ids"),
    ],
)
def test_wrong_shapes_and_types_are_named(criterion, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        criterion(5)(logits, labels)


@ALL_FORMS
def test_labels_that_are_no_train_ids_are_named(criterion):
    labels = torch.tensor([[[0, 33], [5, 255]]], dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"labels contain 5, 33: .*\(0 to 4\) nor ignore_label 255"):
        criterion(torch.zeros(1, 5, 2, 2), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strict_classes": (3, 19)}, r"strict_classes \[19\].*0 to 18"),
        ({"border": 0}, "border must be at least 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RelaxedCrossEntropy(19, **options)


def test_balanced_weights_are_the_median_count_over_the_class_count_to_a_power():
    assert balanced_weights([100, 400, 0, 25], 1.0) == [1.0, 0.25, 1.0, 4.0]
    assert balanced_weights([100, 400, 0, 25], 0.5) == [1.0, 0.5, 1.0, 2.0]
    assert balanced_weights([100, 400, 0, 25], 0.0) == [1.0, 1.0, 1.0, 1.0]


def test_class_weights_make_a_weighted_mean():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 0, 0, 0] = 2.0
    labels = torch.tensor([[[0, 1]]])
    first, second = math.log(1 + math.exp(-2)), math.log(2)
    weighted = CrossEntropy(2, class_weights=[3.0, 1.0])(logits, labels)
    assert weighted.item() == pytest.approx((3 * first + second) / 4)
    with pytest.raises(ValueError, match="class_weights must be 2 numbers, got 3"):
        CrossEntropy(2, class_weights=[1.0, 1.0, 1.0])
