"""The losses: what is allowed at a pixel and what it is worth, gradients, mistakes, and the flags that choose one."""

import itertools
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from config import LossConfig, TrainConfig
from datasets.specs.registry import dataset_spec
from loss import balanced_weights, build_loss, cross_entropy, soft_jaccard
from loss.relaxation import _twice_at_boundaries, image_weighted_cross_entropy, relaxed_cross_entropy, relaxed_sets
from tests.golden import parity_fixtures as fixtures
from tests.losses import loss_and_gradient, random_case
from utils.flags import parse_command_line

UNRELAXED = partial(relaxed_cross_entropy, border=0)
LOSSES = {
    "plain": cross_entropy,
    "image-weighted": image_weighted_cross_entropy,
    "relaxed": relaxed_cross_entropy,
    "unrelaxed": UNRELAXED,
}
PUBLISHED = {f"{name}-published": partial(LOSSES[name], published=True) for name in list(LOSSES)[1:]}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_form = pytest.mark.parametrize("loss", [*LOSSES.values(), *PUBLISHED.values()], ids=[*LOSSES, *PUBLISHED])

# What relaxation allows: sets small enough to read off.


def sets_of(labels, num_classes=3, border=1, **options):
    """The class set of each pixel of a label map [H, W], as a map of strings such as '01'; '-' where ignored."""
    labels = torch.tensor(labels).unsqueeze(0)
    classes = labels.where(labels != 255, num_classes)
    text = ["-" if c == num_classes else str(c) for c in classes.flatten().tolist()]
    sets = relaxed_sets(classes, num_classes, border, **options)
    for (_, row, column), allowed in zip(torch.stack(sets.places, 1).tolist(), sets.allowed.tolist(), strict=True):
        text[row * labels.shape[2] + column] = "".join(str(c) for c, is_in in enumerate(allowed) if is_in)
    assert sets.sizes.flatten().tolist() == [len(members.strip("-")) for members in text]
    width = labels.shape[2]
    return [" ".join(text[i : i + width]) for i in range(0, len(text), width)]


@pytest.mark.parametrize(
    ("labels", "options", "sets"),
    [
        ([[0, 0, 1, 1]] * 2, {}, ["0 01 01 1"] * 2),
        ([[0, 0, 0, 1, 1, 1]], {"border": 2}, ["0 01 01 01 01 1"]),
        ([[0, 0, 0, 1], [2, 2, 2, 2]], {"border": 9}, ["012 012 012 012"] * 2),
        ([[0, 0, 1, 2, 2]] * 3, {}, ["0 01 012 12 2"] * 3),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 1]], {}, ["0 0 0", "0 01 01", "0 01 01"]),
        ([[1, 1], [1, 1]], {}, ["1 1", "1 1"]),
        ([[0, 0, 255, 1, 1]], {}, ["0 0 - 1 1"]),
        ([[0, 0, 255, 1, 1]], {"published": True}, ["0 0 01 1 1"]),
        ([[0, 0, 255, 1, 1]], {"border": 2}, ["0 01 - 01 1"]),
        ([[0, 0, 1, 1]], {"strict_classes": (1,)}, ["0 01 1 1"]),
    ],
    ids=[
        "both sides of a boundary", "a wider border", "a border wider than the image", "a pole one pixel wide",
        "diagonal neighbours", "the edge of the image is no boundary", "void is no neighbour", "void as published",
        "across a narrow void", "strict pixels relax only their neighbours",
    ],
)  # fmt: skip
def test_a_pixel_may_be_any_class_near_it(labels, options, sets):
    assert sets_of(labels, **options) == sets


@pytest.mark.parametrize("num_classes", [19, 62, 65, 130])
def test_sets_are_right_up_to_the_last_class_whatever_their_number(num_classes):
    last = num_classes - 1
    sets = relaxed_sets(torch.tensor([[[0, 0, last, last]]]), num_classes, 1)
    assert [place.tolist() for place in sets.places] == [[0, 0], [0, 0], [1, 2]]
    assert sets.allowed.nonzero().tolist() == [[0, 0], [0, last], [1, 0], [1, last]]


# What a pixel is worth.


def test_equal_scores_cost_the_log_of_the_share_of_allowed_classes():
    loss = relaxed_cross_entropy(torch.zeros(1, 4, 1, 4), torch.tensor([[[0, 0, 1, 1]]]), upper_bound=0)
    assert loss.item() == pytest.approx((2 * math.log(4) + 2 * math.log(2)) / 4)


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("upper_bound", [0.0, 1.0])
def test_without_a_boundary_relaxation_changes_nothing(border, upper_bound):
    logits, _ = random_case(batch=2)
    labels = torch.full((2, 9, 11), 255)
    labels[:, :3] = 4  # one class: its share is 1, its weight 1
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    found = relaxed_cross_entropy(logits, labels, border=border, upper_bound=upper_bound)
    assert found.item() == pytest.approx(expected.item())


def test_with_relaxation_off_it_is_class_weighted_cross_entropy():
    logits, labels = random_case(batch=1)
    share = torch.bincount(labels[labels != 255], minlength=5) / (labels != 255).sum()
    weights = torch.where(share > 0, 2 - share, 1)
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=255, reduction="none").sum()
    expected = expected / (labels != 255).sum()
    assert UNRELAXED(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_plain_cross_entropy_is_that_of_pytorch():
    logits, labels = random_case()
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    for chosen in (None, weights):
        expected = loss_and_gradient(partial(F.cross_entropy, weight=chosen, ignore_index=255), logits, labels)
        torch.testing.assert_close(loss_and_gradient(cross_entropy, logits, labels, class_weights=chosen), expected)
    torch.testing.assert_close(cross_entropy(logits, labels), UNRELAXED(logits, labels, upper_bound=0))


def test_being_sure_of_a_neighbouring_class_costs_nothing_at_the_boundary():
    labels = torch.tensor([[[0, 0, 1, 1]]])
    logits = F.one_hot(torch.tensor([[[0, 1, 0, 1]]]), 3).permute(0, 3, 1, 2) * 100.0
    assert relaxed_cross_entropy(logits, labels).item() == 0
    assert UNRELAXED(logits, labels).item() > 40
    assert relaxed_cross_entropy(logits, labels, strict_classes=(1,)).item() > 20


@every_loss
def test_ignored_pixels_change_neither_loss_nor_gradient(loss):
    logits, labels = random_case()
    ignored = (labels == 255).unsqueeze(1)
    assert ignored.any()
    value, grad = loss_and_gradient(loss, logits, labels)
    changed = logits + ignored * torch.arange(5.0).view(1, 5, 1, 1)
    torch.testing.assert_close(loss_and_gradient(loss, changed, labels), (value, grad))
    assert not (grad * ignored).any()


@every_loss
def test_a_batch_of_equal_images_has_the_loss_of_one(loss):
    logits, labels = random_case(batch=1)
    one, one_grad = loss_and_gradient(loss, logits, labels)
    four, four_grad = loss_and_gradient(loss, logits.repeat(4, 1, 1, 1), labels.repeat(4, 1, 1))
    torch.testing.assert_close(four, one)
    torch.testing.assert_close(four_grad * 4, one_grad.repeat(4, 1, 1, 1))


@every_form
def test_a_batch_without_a_label_gives_zero_and_no_gradient(loss):
    logits, labels = random_case()
    value, grad = loss_and_gradient(loss, logits, torch.full_like(labels, 255))
    assert value.item() == 0
    assert not grad.any()


@every_loss
@pytest.mark.parametrize("options", [{}, {"batch_weighting": True}], ids=["per image", "per batch"])
def test_an_image_without_a_label_adds_nothing(loss, options):
    logits, labels = random_case()
    labels[1] = 255
    options = {} if loss is cross_entropy else options
    both, grad = loss_and_gradient(loss, logits, labels, **options)
    first, first_grad = loss_and_gradient(loss, logits[:1], labels[:1], **options)
    torch.testing.assert_close(both, first)
    torch.testing.assert_close(grad[:1], first_grad)
    assert not grad[1].any()


def test_batch_weighting_takes_the_shares_over_the_batch():
    # Image 0 is all class 0, image 1 all class 1: alone each share is 1, together 1/2.
    logits, labels = torch.zeros(2, 3, 2, 2), torch.tensor([0, 1]).view(2, 1, 1).expand(2, 2, 2)
    assert relaxed_cross_entropy(logits, labels).item() == pytest.approx(math.log(3))
    assert relaxed_cross_entropy(logits, labels, batch_weighting=True).item() == pytest.approx(1.5 * math.log(3))


def test_image_weighted_is_the_mean_of_each_images_weighted_mean():
    # Image 0: three of class 0, one of class 1. Weights 1 + 1/4 and 1 + 3/4 of a sum of 5.5.
    labels = torch.tensor([[[0, 0, 0, 1]], [[1, 1, 255, 255]]])
    logits = torch.zeros(2, 2, 1, 4)
    logits[0, 0, 0, 3] = math.log(3)  # the last pixel of image 0 costs log 4, all others log 2
    first = (3 * 1.25 * math.log(2) + 1.75 * math.log(4)) / 5.5
    assert image_weighted_cross_entropy(logits, labels).item() == pytest.approx((first + math.log(2)) / 2)
    published = image_weighted_cross_entropy(logits, labels, published=True)
    assert published.item() == pytest.approx(first + math.log(2))


# The losses of the published code, against the figures recorded from it.

RECORDS = json.loads((Path(__file__).parent / "golden" / "loss.json").read_text())


def recorded_case(record):
    """Logits [N, 19, H, W], labels [N, H, W], and the loss of one record with its options."""
    n, h, w, tag = (record[key] for key in ("n", "h", "w", "tag"))
    labels = torch.stack([torch.from_numpy(fixtures.labels(h, w, f"{tag}-label-{i}")) for i in range(n)])
    logits = fixtures.logits(n, h, w, f"{tag}-logits")
    if record["kind"] == "ce":
        return logits, labels, cross_entropy, {}
    options = {key: record[key] for key in ("upper_bound", "batch_weighting")} | {"published": True}
    if record["kind"] == "imgwt":
        return logits, labels, image_weighted_cross_entropy, options
    is_relaxed = not record["epoch"] > record["rlx_off_epoch"] >= 0
    options |= {"border": int(is_relaxed), "strict_classes": record["strict"] or ()}
    return logits, labels, relaxed_cross_entropy, options


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["tag"])
def test_loss_and_gradient_equal_the_recorded_figures(record):
    logits, labels, loss, options = recorded_case(record)
    value, grad = loss_and_gradient(loss, logits, labels, **options)
    grad = grad.double()
    got = {"loss": value.item(), "grad_l2": grad.norm().item(), "grad_abs_sum": grad.abs().sum().item()}
    assert got == {key: pytest.approx(record[key], rel=1e-5) for key in got}
    for position, recorded in record["grad_at"]:
        assert grad[tuple(position)].item() == pytest.approx(recorded, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("record", [r for r in RECORDS if "target_channel_sums" in r], ids=lambda record: record["tag"])
def test_published_sets_have_as_many_members_as_recorded(record):
    _, labels, _, options = recorded_case(record)
    repeats = None if options["border"] else _twice_at_boundaries(labels)
    classes = labels.long().where(labels != 255, 19)
    sets = relaxed_sets(classes, 19, options["border"], options["strict_classes"], True, repeats)
    assert sets.counts.sum(0).tolist() == record["target_channel_sums"]


def test_once_relaxation_is_off_a_boundary_counts_for_the_pixels_behind_it_in_all_images():
    labels = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])  # the boundary makes the places count 2, 3, 3, 2 times
    loss = UNRELAXED(torch.zeros(2, 2, 1, 4), labels, upper_bound=0, published=True)
    assert loss.item() == pytest.approx(2 * 10 * math.log(2) / (4 + 1))


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
    options = {"border": border, "strict_classes": strict, "upper_bound": upper_bound}
    loss, grad = loss_and_gradient(
        relaxed_cross_entropy, logits, labels, **options, batch_weighting=batch_weighting
    )  # fmt: skip
    torch.testing.assert_close(loss, expected.detach())
    if expected.requires_grad:
        torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0])
    else:
        assert not grad.any()


@pytest.mark.parametrize("options", [{}, {"border": 2, "strict_classes": (1,), "upper_bound": 6.0}, {"border": 0}])
@pytest.mark.parametrize("published", [False, True])
def test_the_gradient_is_that_of_the_loss(options, published):
    logits, labels = random_case(num_classes=3, height=6, width=6, dtype=torch.float64)
    loss = partial(relaxed_cross_entropy, labels=labels, published=published, **options)
    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_the_gradient_scales_with_the_loss():
    logits, labels = random_case()
    _, grad = loss_and_gradient(relaxed_cross_entropy, logits, labels)
    _, scaled = loss_and_gradient(lambda *given: 1024 * relaxed_cross_entropy(*given), logits, labels)
    torch.testing.assert_close(scaled, 1024 * grad)


# Numbers as they come: large, half precision, any layout and integer type.


@every_form
@pytest.mark.parametrize("gap", [104.0, 1000.0, 1e4])
def test_large_logits_give_finite_loss_and_gradient(loss, gap):
    logits, labels = random_case()
    value, grad = loss_and_gradient(loss, gap * logits.sign(), labels)
    assert value.isfinite()
    assert grad.isfinite().all()


def test_a_gap_of_1000_costs_1000_where_wrong_and_nothing_where_right():
    labels = torch.zeros(1, 3, 3, dtype=torch.long)
    logits = torch.zeros(1, 2, 3, 3)
    logits[:, 0] = 1000
    assert relaxed_cross_entropy(logits, labels).item() == 0
    assert relaxed_cross_entropy(-logits, labels).item() == pytest.approx(1000)


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened_before_anything_is_computed(loss, dtype):
    logits, labels = random_case(height=64, width=64)
    logits = (logits * 20).to(dtype)
    exact, exact_grad = loss_and_gradient(loss, logits.float(), labels)
    with torch.autocast("cpu", dtype=dtype):
        value, grad = loss_and_gradient(loss, logits, labels)
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value, exact)
    torch.testing.assert_close(grad, exact_grad.to(dtype))


@every_form
def test_layout_and_integer_type_do_not_matter(loss):
    logits, labels = random_case()
    expected = loss_and_gradient(loss, logits, labels)
    sliced = F.pad(logits, (2, 3, 1, 1))[:, :, 1:-1, 2:-3]
    transposed = labels.transpose(1, 2).contiguous().transpose(1, 2)
    for other in (logits.contiguous(memory_format=torch.channels_last), sliced):
        for same in (labels.to(torch.uint8), labels.int(), transposed):
            torch.testing.assert_close(loss_and_gradient(loss, other, same), expected)


def test_repeating_the_loss_gives_the_same_bits():
    case = random_case(height=40, width=40)
    first, again = (loss_and_gradient(relaxed_cross_entropy, *case) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@every_form
def test_another_ignore_label_works_for_signed_labels(loss):
    logits, labels = random_case()
    assert loss(logits, labels.masked_fill(labels == 255, -1).int(), ignore_label=-1) == loss(logits, labels)


def test_the_loss_needs_no_gradient():
    logits, labels = random_case()
    with torch.no_grad():
        value = relaxed_cross_entropy(logits, labels)
    assert value == relaxed_cross_entropy(logits.requires_grad_(), labels)


# Mistakes.


@every_loss
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(5, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long), r"logits must be \[B, C, H, W\]"),
        (torch.zeros(1, 5, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long), "floating point"),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 3, dtype=torch.long), r"labels \[B, H, W\]"),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2), r"labels \[B, H, W\] integer"),
        (
            torch.zeros(1, 5, 2, 2),
            torch.tensor([[[0, 33], [5, 255]]], dtype=torch.uint8),
            r"labels contain 5, 33: .*\(0 to 4\) nor ignore_label 255",
        ),
    ],
)
def test_wrong_shapes_types_and_labels_are_named(loss, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        loss(logits, labels)


def test_balanced_weights_are_the_median_count_over_the_class_count_to_a_power():
    assert balanced_weights([100, 400, 0, 25], 1.0) == [1.0, 0.25, 1.0, 4.0]
    assert balanced_weights([100, 400, 0, 25], 0.5) == [1.0, 0.5, 1.0, 2.0]
    assert balanced_weights([100, 400, 0, 25], 0.0) == [1.0, 1.0, 1.0, 1.0]


def test_the_soft_jaccard_loss_is_one_minus_the_iou_of_probabilities():
    labels = torch.tensor([[[0, 0], [1, 1]]])
    undecided = torch.zeros(1, 3, 2, 2)
    # Each pixel is a third of each class: of 2 pixels, 2/3 in common; in either, 2 + 4/3 - 2/3.
    assert soft_jaccard(undecided, labels).item() == pytest.approx(1 - (2 / 3) / (8 / 3))
    right = 100 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    assert soft_jaccard(right, labels).item() == pytest.approx(0)
    assert soft_jaccard(right.flip(2), labels).item() == pytest.approx(1)
    labels[0, 0] = 255
    assert soft_jaccard(right.flip(2), labels).item() == pytest.approx(1)  # of class 1 alone
    assert soft_jaccard(right, torch.full_like(labels, 255)).item() == 0


# Which loss the flags of train.py describe, and combinations in which a flag would change nothing.

SPEC = dataset_spec("camvid")


def built(*words):
    return build_loss(parse_command_line(TrainConfig, words).loss, SPEC, torch.device("cpu"))


def test_the_jaccard_flag_adds_its_loss_to_the_chosen_one():
    logits, labels = torch.randn(1, 11, 4, 4), torch.randint(0, 11, (1, 4, 4))
    for words in ((), ("--relax",)):
        together = [loss(logits, labels) for loss in built(*words, "--jaccard", "0.5")]
        added = [loss(logits, labels) + 0.5 * soft_jaccard(logits, labels, ignore_label=11) for loss in built(*words)]
        torch.testing.assert_close(together, added)


def same(first, second):
    case = random_case(num_classes=SPEC.num_classes)
    one, other = (loss_and_gradient(loss, *case) for loss in (first, second))
    return all(torch.allclose(a, b, 1e-5, 1e-8) for a, b in zip(one, other, strict=True))


def test_relax_differs_from_cross_entropy_in_the_relaxation_alone():
    relaxed, unrelaxed = built("--relax")
    assert not same(relaxed, cross_entropy)
    assert same(unrelaxed, cross_entropy)
    assert same(relaxed, built("--jointwtborder", "--wt_bound", "0")[0])
    assert not same(built("--jointwtborder")[1], cross_entropy)  # its class weights stay


def test_the_flags_of_the_relaxation_reach_it():
    relaxed, unrelaxed = built("--jointwtborder", "--rlx_border", "3", "--strict_bdr_cls", "2,6", "--wt_bound", "2",
                               "--batch_weighting", "--published_loss")  # fmt: skip
    options = {"strict_classes": (2, 6), "upper_bound": 2.0, "batch_weighting": True, "published": True}
    assert same(relaxed, partial(relaxed_cross_entropy, border=3, **options))
    assert same(unrelaxed, partial(relaxed_cross_entropy, border=0, **options))


@pytest.mark.parametrize("flags", [
    ("--strict_bdr_cls", "2"), ("--rlx_border", "2"), ("--wt_bound", "6"), ("-wb", "0"), ("--batch_weighting",),
    ("--published_loss",), ("--published_loss", "--class_balance", "0.5"),
    ("--rlx_border", "2", "--img_wt_loss"), ("--strict_bdr_cls", "2", "--img_wt_loss"),
    ("--wt_bound", "6", "--relax"), ("--batch_weighting", "--relax"), ("--batch_weighting", "--class_balance", "1"),
    ("--batch_weighting", "--jointwtborder", "--wt_bound", "0"), ("--batch_weighting", "--img_wt_loss", "-wb", "0"),
], ids=" ".join)  # fmt: skip
def test_a_flag_that_would_change_nothing_is_told_with_the_flags_it_needs(flags):
    name = "--wt_bound" if flags[0] == "-wb" else flags[0]
    with pytest.raises(ValueError, match=f"^{name} changes nothing without --.*; add that, or leave {name} out"):
        built(*flags)


@pytest.mark.parametrize("flags", [
    ("--relax", "--jointwtborder"), ("--relax", "--img_wt_loss"), ("--jointwtborder", "--img_wt_loss"),
    ("--relax", "--class_balance"), ("--jointwtborder", "--class_balance"), ("--img_wt_loss", "--class_balance"),
], ids=" ".join)  # fmt: skip
def test_two_losses_exclude_each_other(flags):
    chosen = LossConfig(**{flag.strip("-"): 1 for flag in flags})
    with pytest.raises(ValueError, match=f"^{' and '.join(flags)} exclude each other; give one of them."):
        build_loss(chosen, SPEC, torch.device("cpu"))


@pytest.mark.parametrize("flags", [
    (), ("--class_balance", "0.5"), ("--img_wt_loss", "--wt_bound", "6", "--batch_weighting", "--published_loss"),
    ("--jointwtborder", "--strict_bdr_cls", "2", "--rlx_border", "2", "--wt_bound", "0", "--published_loss"),
], ids=" ".join)  # fmt: skip
def test_flags_that_belong_together_are_accepted(flags):
    built(*flags)


def test_a_strict_class_that_is_unknown_is_told():
    with pytest.raises(ValueError, match="--strict_bdr_cls 2,11: camvid has train ids 0 to 10"):
        built("--relax", "--strict_bdr_cls", "2,11")
    assert built("--relax", "--strict_bdr_cls", "2,10")
