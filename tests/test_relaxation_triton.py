"""The GPU's kernels of label relaxation against plain PyTorch: on the CPU by Triton's interpreter, or on a GPU."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import loss.relaxation
from loss.relaxation import image_weighted_cross_entropy, relaxed_cross_entropy
from tests.losses import loss_and_gradient

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
from loss import relaxation_triton  # interpreted where there is no GPU, see conftest.py

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def case(seed, batch, num_classes, size, dtype=torch.float32):
    """Random logits [B, C, H, W], and labels in blocks of 2x2 with some void."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, num_classes, *size, generator=generator).mul_(3).to(dtype)
    grid = torch.randint(0, num_classes + 1, (batch, size[0] // 2 + 1, size[1] // 2 + 1), generator=generator)
    labels = grid.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, : size[0], : size[1]]
    return logits.to(DEVICE), labels.masked_fill(labels == num_classes, 255).to(DEVICE)


def with_kernels(use, *case, loss_of=relaxed_cross_entropy, **options):
    """Loss and gradient by the kernels, or in plain PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss.relaxation, "_kernels", lambda _: loss.relaxation_triton if use else None)
        return loss_and_gradient(loss_of, *case, **options)


def assert_same(*case, **options):
    value, gradient = with_kernels(True, *case, **options)
    expected, expected_gradient = with_kernels(False, *case, **options)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    num_classes=st.integers(1, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    border=st.integers(0, 3),
    strict=st.sets(st.integers(0, 5), max_size=2),
    upper_bound=st.sampled_from([0.0, 1.0, 6.0]),
    batch_weighting=st.booleans(),
    published=st.booleans(),
)
def test_kernels_equal_plain_pytorch(
    seed, batch, num_classes, size, border, strict, upper_bound, batch_weighting, published
):
    options = {"upper_bound": upper_bound, "batch_weighting": batch_weighting, "published": published}
    given = case(seed, batch, num_classes, size)
    assert_same(*given, border=border, strict_classes=sorted(c for c in strict if c < num_classes), **options)
    assert_same(*given, loss_of=image_weighted_cross_entropy, **options)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("num_classes", [19, 32, 33, 65, 124])
def test_kernels_are_right_up_to_the_last_class_whatever_their_number(num_classes, published):
    logits, labels = case(0, 2, num_classes, (6, 30))
    labels[:, :, 10:15] = num_classes - 1
    labels[:, :, 15:20] = num_classes - 2
    assert_same(logits, labels, strict_classes=(num_classes - 1,), published=published)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_widen_half_precision_and_return_its_gradient(dtype):
    logits, labels = case(1, 2, 5, (8, 20), dtype)
    assert with_kernels(True, logits, labels)[1].dtype == dtype
    assert_same(logits, labels)


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int32, torch.int64])
def test_kernels_take_any_layout_and_integer_type(label_dtype):
    logits, labels = case(2, 2, 5, (6, 9))
    expected, gradient = with_kernels(False, logits, labels)
    sliced = F.pad(logits, (2, 3, 1, 1, 0, 2))[:, :-2, 1:-1, 2:-3]
    for layout in (logits.contiguous(memory_format=torch.channels_last), sliced, logits.transpose(2, 3)):
        transposed = layout.shape != logits.shape
        found, got = with_kernels(True, layout, (labels.mT if transposed else labels).to(label_dtype))
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(got.mT if transposed else got, gradient)


@pytest.mark.parametrize("gap", [104.0, 1000.0, 1e4])
def test_kernels_stay_finite_at_large_logits(gap):
    logits, labels = case(3, 2, 5, (8, 20))
    assert_same(gap * logits.sign(), labels)


@pytest.mark.parametrize("factor", [1.0, 3.0, 2.0**-9])
def test_what_multiplies_the_loss_multiplies_its_gradient(factor):
    logits, labels = case(6, 2, 5, (8, 20))
    _, gradient = with_kernels(True, logits, labels)
    with_factor = with_kernels(True, logits, labels, loss_of=lambda *case: factor * relaxed_cross_entropy(*case))[1]
    assert torch.equal(with_factor, factor * gradient)


def test_a_second_gradient_of_one_loss_is_refused_since_the_first_was_changed_in_place():
    logits, labels = case(6, 2, 5, (8, 20))
    logits.requires_grad_()
    sets = relaxation_triton.class_sets(labels, 5, 255, border=1)
    weights = relaxation_triton.mean_weights(sets, 5, 1.0, batch_weighting=False)
    total = relaxation_triton.fused_loss_sum(logits, sets, weights, None)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        total.backward()


def test_kernels_give_zero_without_a_label():
    logits, labels = case(4, 2, 5, (8, 20))
    value, gradient = with_kernels(True, logits, torch.full_like(labels, 255))
    assert value == 0
    assert not gradient.any()


def test_kernels_pass_on_a_logit_that_is_no_number():
    logits, labels = case(5, 1, 5, (4, 4))
    labels[0, 1, 1] = 0
    logits[0, 3, 1, 1] = torch.nan
    value, gradient = with_kernels(True, logits, labels)
    assert value != value
    assert gradient[0, :, 1, 1].isnan().all()
    assert gradient.isnan().sum() == 5


def test_a_mask_word_holds_one_bit_per_allowed_class():
    labels = torch.tensor([[[0, 33, 255, 2]]], device=DEVICE)
    sets = relaxation_triton.class_sets(labels, 34, 255, border=1)
    assert sets.words.view(2, 4).tolist() == [[1, 1, 0, 4], [2, 2, 0, 0]]
    assert sets.counts[0].nonzero().flatten().tolist() == [0, 2, 33]
    assert sets.counts[0, [0, 2, 33]].tolist() == [2, 1, 2]
    assert sets.num_used.tolist() == [3]


@pytest.mark.gpu
def test_on_a_gpu_the_loss_uses_the_kernels_and_equals_the_cpus(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    logits, labels = case(6, 2, 19, (300, 301))
    expected = relaxed_cross_entropy(logits.cpu(), labels.cpu())
    first = relaxed_cross_entropy(logits, labels)
    assert first.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(relaxed_cross_entropy(logits, labels), first), "the same bits every time"
    monkeypatch.setattr(loss.relaxation, "relaxed_sets", None)
    for form in (relaxed_cross_entropy, image_weighted_cross_entropy, partial(relaxed_cross_entropy, border=0)):
        for published in (False, True):
            form(logits, labels, published=published)
