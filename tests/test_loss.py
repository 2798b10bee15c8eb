"""The losses: what relaxation allows, what each pixel is worth, and the recorded figures."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from loss.class_weights import balanced_weights
from loss.cross_entropy import CrossEntropy, ImageWeightedCrossEntropy
from loss.published import published_target
from loss.relaxation import RelaxedCrossEntropy
from loss.sets import relaxed_sets
from tests.golden import parity_fixtures as fixtures

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


@pytest.mark.parametrize(
    "record", [r for r in RECORDS if "target_channel_sums" in r], ids=lambda record: record["tag"]
)
def test_published_target_has_the_recorded_channel_sums(record):
    labels, _, criterion = recorded_case(record)
    classes = labels.long().where(labels != 255, 19)
    target = published_target(classes, 19, 1 if is_relaxed(record) else 0, criterion.strict_classes)
    assert target.sum((0, 2, 3)).tolist() == record["target_channel_sums"]
    assert target.max() == record["target_max"]


# What relaxation allows: sets small enough to read off.


def sets_of(labels, num_classes=3, **options):
    """The class set of each pixel of a label map [H, W], as a map of strings such as '01'; '-' where ignored."""
    labels = torch.tensor(labels).unsqueeze(0)
    classes = labels.where(labels != 255, num_classes)
    text = ["-" if c == num_classes else str(c) for c in classes.flatten().tolist()]
    sets = relaxed_sets(classes, num_classes, options.pop("border", 1), **options)
    for pixel, members in zip(sets.pixels.tolist(), sets.members.T.tolist(), strict=True):
        assert str(members[0]) == text[pixel], "a pixel's own class comes first"
        text[pixel] = "".join(str(c) for c in sorted(members) if c != num_classes)
    width = labels.shape[2]
    return [" ".join(text[i : i + width]) for i in range(0, len(text), width)]


def test_both_sides_of_a_boundary_are_relaxed():
    assert sets_of([[0, 0, 1, 1]] * 2) == ["0 01 01 1"] * 2


def test_a_wider_border_relaxes_more_pixels():
    assert sets_of([[0, 0, 0, 1, 1, 1]], border=2) == ["0 01 01 01 01 1"]


def test_a_border_wider_than_the_image_allows_every_class_in_it():
    assert sets_of([[0, 0, 0, 1], [2, 2, 2, 2]], border=9) == ["012 012 012 012"] * 2


def test_a_pole_one_pixel_wide_may_be_its_surroundings():
    assert sets_of([[0, 0, 1, 2, 2]] * 3) == ["0 01 012 12 2"] * 3


def test_diagonal_neighbours_count():
    assert sets_of([[0, 0, 0], [0, 0, 0], [0, 0, 1]]) == ["0 0 0", "0 01 01", "0 01 01"]


def test_the_edge_of_the_image_is_no_boundary():
    assert sets_of([[1, 1], [1, 1]]) == ["1 1", "1 1"]


def test_void_is_neither_relaxed_nor_a_neighbour():
    assert sets_of([[0, 0, 255, 1, 1]]) == ["0 0 - 1 1"]


def test_relaxation_reaches_across_a_void_narrower_than_the_border():
    assert sets_of([[0, 0, 255, 1, 1]], border=2) == ["0 01 - 01 1"]


def test_strict_pixels_keep_their_class_and_still_relax_their_neighbours():
    assert sets_of([[0, 0, 1, 1]], strict_classes=(1,)) == ["0 01 1 1"]


@pytest.mark.parametrize("num_classes", [19, 62, 63, 65, 124, 130])
def test_sets_are_right_up_to_the_last_class_whatever_their_number(num_classes):
    last = num_classes - 1
    assert sets_of([[0, 0, last, last]], num_classes=num_classes) == [f"0 0{last} 0{last} {last}"]


# What a pixel is worth.


def relaxed(logits, labels, relax=True, **options):
    return RelaxedCrossEntropy(logits.shape[1], **options)(logits, labels, relax=relax)


def random_case(batch=2, num_classes=5, height=9, width=11, seed=0, dtype=torch.float32):
    """Random logits and labels in 3x3 blocks with some void."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, num_classes, height, width, generator=generator, dtype=dtype) * 3
    grid = torch.randint(0, num_classes + 1, (batch, -(-height // 3), -(-width // 3)), generator=generator)
    labels = grid.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width]
    return logits, labels.masked_fill(labels == num_classes, 255)


def test_equal_scores_cost_the_log_of_the_share_of_allowed_classes():
    loss = relaxed(torch.zeros(1, 4, 1, 4), torch.tensor([[[0, 0, 1, 1]]]), upper_bound=0)
    assert loss.item() == pytest.approx((2 * math.log(4) + 2 * math.log(2)) / 4)


def test_the_sum_is_the_mean_times_the_labelled_pixels():
    logits, labels = random_case()
    mean, total = relaxed(logits, labels), relaxed(logits, labels, reduction="sum")
    assert total.item() == pytest.approx(mean.item() * (labels != 255).sum().item(), rel=1e-5)


def test_rarer_classes_weigh_more_and_a_boundary_pixel_the_mean_of_its_set():
    # Sets 0, 0, 01, 01: class 0 is in four, class 1 in two, of six. Weights: 1 + 2/6 and 1 + 4/6, mean 3/2.
    loss = relaxed(torch.zeros(1, 4, 1, 4), torch.tensor([[[0, 0, 0, 1]]]))
    assert loss.item() == pytest.approx((2 * 4 / 3 * math.log(4) + 2 * 3 / 2 * math.log(2)) / 4)


def test_void_does_not_change_the_class_weights():
    logits = torch.zeros(1, 4, 1, 4)
    wide = F.pad(logits, (0, 3))
    labels = torch.tensor([[[0, 0, 0, 1]]])
    with_void = F.pad(labels, (0, 3), value=255)
    assert relaxed(wide, with_void).item() == pytest.approx(relaxed(logits, labels).item())


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
ALL_LOSSES = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda cls: cls.__name__)


def loss_and_gradient(criterion, logits, labels, relax=True):
    logits = logits.detach().requires_grad_()
    loss = criterion(logits, labels, relax=relax)
    loss.backward()
    return loss.detach(), logits.grad


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


@ALL_LOSSES
@pytest.mark.parametrize("options", [{}, {"published": True}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened_before_anything_is_computed(criterion, options, dtype):
    options = {} if criterion is CrossEntropy else options
    logits, labels = random_case(height=64, width=64)
    logits = (logits * 20).to(dtype)
    exact, exact_grad = loss_and_gradient(criterion(5, **options), logits.float(), labels)
    with torch.autocast("cpu", dtype=dtype):
        loss, grad = loss_and_gradient(criterion(5, **options), logits, labels)
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


def test_the_published_form_is_finite_for_large_logits_and_without_labels():
    logits, labels = random_case()
    for other in (labels, torch.full_like(labels, 255)):
        loss, grad = loss_and_gradient(RelaxedCrossEntropy(5, published=True), 1e4 * logits.sign(), other)
        assert loss.isfinite()
        assert grad.isfinite().all()


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
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 3, dtype=torch.long), r"labels must be \[B, H, W\]"),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.long), r"labels must be \[B, H, W\]"),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2), "integer train ids"),
    ],
)
def test_wrong_shapes_and_types_are_named(criterion, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        criterion(5)(logits, labels)


@ALL_LOSSES
def test_labels_that_are_no_train_ids_are_named(criterion):
    labels = torch.tensor([[[0, 33], [5, 255]]], dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"labels hold 5, 33: .*\(0 to 4\) nor ignore_label 255"):
        criterion(5)(torch.zeros(1, 5, 2, 2), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strict_classes": (3, 19)}, r"strict_classes \[19\].*0 to 18"),
        ({"border": 0}, "border must be at least 1"),
        ({"reduction": "none"}, "'none' is unknown. Choose one of: mean, sum"),
        ({"reduction": "sum", "published": True}, "leave reduction at 'mean'"),
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
