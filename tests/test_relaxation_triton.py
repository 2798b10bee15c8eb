"""The GPU's kernels of label relaxation against plain PyTorch: on the CPU by Triton's interpreter, or on a GPU."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from loss.cross_entropy import set_loss
from loss.relaxation import RelaxedCrossEntropy

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


def values(loss, logits, labels, relax=True):
    """The loss as a plain number, and its gradient."""
    logits = logits.detach().requires_grad_()
    value = loss(logits, labels, relax)
    value.backward()
    return value.item(), logits.grad


def plain(criterion):
    """A criterion in plain PyTorch."""
    return lambda logits, labels, relax: set_loss(logits, criterion.target(labels, relax, logits.dtype))


def assert_same(criterion, logits, labels, relax=True):
    value, gradient = values(criterion._fused, logits, labels, relax)
    expected, expected_gradient = values(plain(criterion), logits, labels, relax)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    num_classes=st.integers(1, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    border=st.integers(1, 3),
    strict=st.sets(st.integers(0, 5), max_size=2),
    upper_bound=st.sampled_from([0.0, 1.0, 6.0]),
    batch_weighting=st.booleans(),
    relax=st.booleans(),
)
def test_kernels_equal_plain_pytorch(
    seed, batch, num_classes, size, border, strict, upper_bound, batch_weighting, relax
):
    strict = {c for c in strict if c < num_classes}
    criterion = RelaxedCrossEntropy(num_classes, 255, border, strict, upper_bound, batch_weighting).to(DEVICE)
    assert_same(criterion, *case(seed, batch, num_classes, size), relax)


@pytest.mark.parametrize("num_classes", [19, 32, 33, 65, 124])
def test_kernels_are_right_up_to_the_last_class_whatever_their_number(num_classes):
    criterion = RelaxedCrossEntropy(num_classes, strict_classes=(num_classes - 1,)).to(DEVICE)
    logits, labels = case(0, 2, num_classes, (6, 30))
    labels[:, :, 10:15] = num_classes - 1
    labels[:, :, 15:20] = num_classes - 2
    assert_same(criterion, logits, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_widen_half_precision_and_return_its_gradient(dtype):
    logits, labels = case(1, 2, 5, (8, 20), dtype)
    _, gradient = values(RelaxedCrossEntropy(5).to(DEVICE)._fused, logits, labels)
    assert gradient.dtype == dtype
    assert_same(RelaxedCrossEntropy(5).to(DEVICE), logits, labels)


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int32, torch.int64])
def test_kernels_take_any_layout_and_integer_type(label_dtype):
    logits, labels = case(2, 2, 5, (6, 9))
    criterion = RelaxedCrossEntropy(5).to(DEVICE)
    expected, gradient = values(plain(criterion), logits, labels)
    sliced = F.pad(logits, (2, 3, 1, 1, 0, 2))[:, :-2, 1:-1, 2:-3]
    for layout in (logits.contiguous(memory_format=torch.channels_last), sliced, logits.transpose(2, 3)):
        transposed = layout.shape != logits.shape
        found, got = values(criterion._fused, layout, (labels.mT if transposed else labels).to(label_dtype))
        assert found == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(got.mT if transposed else got, gradient)


@pytest.mark.parametrize("gap", [104.0, 1000.0, 1e4])
def test_kernels_stay_finite_at_large_logits(gap):
    logits, labels = case(3, 2, 5, (8, 20))
    assert_same(RelaxedCrossEntropy(5).to(DEVICE), gap * logits.sign(), labels)


def test_kernels_give_zero_without_a_label():
    logits, labels = case(4, 2, 5, (8, 20))
    value, gradient = values(RelaxedCrossEntropy(5).to(DEVICE)._fused, logits, torch.full_like(labels, 255))
    assert value == 0
    assert not gradient.any()


def test_kernels_pass_on_a_logit_that_is_no_number():
    logits, labels = case(5, 1, 5, (4, 4))
    labels[0, 1, 1] = 0
    logits[0, 3, 1, 1] = torch.nan
    value, gradient = values(RelaxedCrossEntropy(5).to(DEVICE)._fused, logits, labels)
    assert value != value
    assert gradient[0, :, 1, 1].isnan().all()
    assert gradient.isnan().sum() == 5


def test_a_mask_word_holds_one_bit_per_allowed_class():
    labels = torch.tensor([[[0, 33, 255, 2]]], device=DEVICE)
    sets = relaxation_triton.class_sets(labels, torch.zeros(34, dtype=torch.bool, device=DEVICE), 255, 1, False)
    assert sets.words.view(2, 4).tolist() == [[1, 1, 0, 4], [2, 2, 0, 0]]
    assert sets.counts[0].nonzero().flatten().tolist() == [0, 2, 33]
    assert sets.counts[0, [0, 2, 33]].tolist() == [2, 1, 2]
    assert sets.num_labelled == 3


@pytest.mark.gpu
def test_on_a_gpu_the_loss_uses_the_kernels_and_equals_the_cpus(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    logits, labels = case(6, 2, 19, (300, 301))
    expected = RelaxedCrossEntropy(19)(logits.cpu(), labels.cpu())
    criterion = RelaxedCrossEntropy(19).cuda()
    first = criterion(logits, labels)
    assert first.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(criterion(logits, labels), first), "the same bits every time"
    monkeypatch.setattr(criterion, "target", None)
    criterion(logits, labels)
