"""Which loss the flags of train.py describe, and combinations in which a flag would change nothing."""

import pytest

from config import LossConfig, TrainConfig
from datasets.specs.registry import dataset_spec
from loss.build import build_loss
from loss.cross_entropy import CrossEntropy
from loss.relaxation import RelaxedCrossEntropy
from tests.losses import loss_and_gradient, random_case
from utils.flags import parse_command_line

SPEC = dataset_spec("camvid")


def built(*words):
    return build_loss(parse_command_line(TrainConfig, words).loss, SPEC, None)


def same(first, second, relax=True):
    case = random_case(num_classes=SPEC.num_classes)
    one, other = (loss_and_gradient(criterion, *case, relax) for criterion in (first, second))
    return all(bool(((a - b).abs() <= 1e-5 * a.abs() + 1e-8).all()) for a, b in zip(one, other, strict=True))


def test_relax_differs_from_cross_entropy_in_the_relaxation_alone():
    assert not same(built("--relax"), CrossEntropy(11))
    assert same(built("--relax"), CrossEntropy(11), relax=False)
    assert same(built("--relax"), built("--jointwtborder", "--wt_bound", "0"))
    assert not same(built("--jointwtborder"), CrossEntropy(11), relax=False)  # its class weights stay


def test_relax_takes_the_border_and_the_strict_classes():
    criterion = built("--relax", "--rlx_border", "3", "--strict_bdr_cls", "2,6")
    assert (criterion.border, criterion.strict_classes, criterion.published) == (3, (2, 6), False)
    assert built("--relax", "--published_loss").published


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
        build_loss(chosen, SPEC, None)


@pytest.mark.parametrize("flags", [
    (), ("--class_balance", "0.5"), ("--img_wt_loss", "--wt_bound", "6", "--batch_weighting", "--published_loss"),
    ("--jointwtborder", "--strict_bdr_cls", "2", "--rlx_border", "2", "--wt_bound", "0", "--published_loss"),
], ids=" ".join)  # fmt: skip
def test_flags_that_belong_together_are_accepted(flags):
    built(*flags)


def test_a_strict_class_that_is_unknown_is_told():
    with pytest.raises(ValueError, match="--strict_bdr_cls 2,11: camvid has train ids 0 to 10"):
        built("--relax", "--strict_bdr_cls", "2,11")
    assert isinstance(built("--relax", "--strict_bdr_cls", "2,10"), RelaxedCrossEntropy)
