"""Networks made fast for evaluation say what they said before."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from inference.predictor import Predictor, most_probable
from network.deepv3 import build_network
from network.fuse import (
    ConvReLU,
    Frozen,
    SpaceToBatchConv2d,
    fast_network,
    fuse_activations,
    fuse_batch_norms,
    fuse_reductions,
    store_weights_in,
    use_space_to_batch,
)
from tests.conftest import as_if_trained
from tests.networks import LARGER_ARE_SLOW
from utils.device import compile_for, upsample
from utils.images import read_label_ids, write_image

CPU = torch.device("cpu")
PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "device": "cpu"}


def conv_and_norm(factor: float, offset: float) -> nn.Sequential:
    """A convolution that doubles, and a batch norm that multiplies by `factor` and adds `offset`."""
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        conv.weight.fill_(2.0)
        norm.weight.fill_(factor)
        norm.bias.fill_(offset)
    return nn.Sequential(conv, norm).eval()


def test_times_two_and_then_times_three_plus_one_is_one_convolution_by_six_plus_one():
    net = conv_and_norm(3.0, 1.0)
    fuse_batch_norms(net)
    assert isinstance(net[1], nn.Identity)
    assert net[0].weight.item() == 6.0
    assert net[0].bias.item() == 1.0


def test_a_convolution_that_feeds_something_else_too_keeps_its_batch_norm():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv_and_norm(3.0, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + self.norm(x)

    net = Both().eval()
    fuse_batch_norms(net)
    assert isinstance(net.norm, nn.BatchNorm2d)
    assert net(torch.ones(1, 1, 1, 1)).item() == 2 + 7


def test_a_batch_norm_before_its_convolution_stays():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1)).eval()
    fuse_batch_norms(net)
    assert isinstance(net[0], nn.BatchNorm2d)


def test_a_network_in_training_is_not_folded():
    with pytest.raises(AssertionError):
        fuse_batch_norms(conv_and_norm(1.0, 0.0).train())


@pytest.mark.parametrize("arch", [*LARGER_ARE_SLOW, "refined"])
def test_every_network_says_the_same_when_it_is_fast(arch: str):
    torch.manual_seed(0)
    refined = {"arch": "DeepEffLite0V3PlusD_m1", "refine": True, "rates": (6, 12, 18)}
    # In float32, a hundred untrained layers make much of a last bit.
    net = build_network(**(refined if arch == "refined" else {"arch": arch}), num_classes=5)
    net = as_if_trained(net.eval().double())
    images = torch.randn(1, 3, 48, 65, dtype=torch.float64)
    with torch.inference_mode():
        before, fast = net(images), fast_network(net, CPU)
        after = fast(images)
    assert (upsample(after, (48, 65)) - before).abs().max() <= 1e-4 * before.abs().max()
    if arch in ("DeepWV3Plus", "DeepSRNX50V3PlusD_m1", "DeepR50V3PlusD_m1", "DeepMNV3V3PlusD_m1"):
        fuse_activations(fast)  # as on a GPU with tensor cores
        use_space_to_batch(fast)
        kinds = [type(module) for module in fast.modules()]
        assert kinds.count(ConvReLU) > 5
        assert kinds.count(SpaceToBatchConv2d) == (5 if arch == "DeepWV3Plus" else 0)
        with torch.inference_mode():
            assert (fast(images) - after).abs().max() <= 1e-9 * after.abs().max()


@pytest.mark.parametrize("arch", ["DeepMNV3V3PlusD_m1", "DeepSRNX50V3PlusD_m1"])
def test_weights_kept_in_bfloat16_change_nothing_beside_those_that_autocast_casts(arch: str):
    torch.manual_seed(0)
    net, images = as_if_trained(build_network(arch, 5).eval()), torch.randn(1, 3, 64, 96)
    usual, kept = fast_network(copy.deepcopy(net), CPU), copy.deepcopy(net)
    fuse_batch_norms(kept)
    fuse_reductions(kept)
    store_weights_in(kept, torch.bfloat16)
    kept.upsamples = False
    kept.to(memory_format=torch.channels_last)  # as the other: in another layout other kernels sum in another order
    assert {module.weight.dtype for module in kept.modules() if isinstance(module, nn.Conv2d)} == {torch.bfloat16}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kept(images), usual(images))


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_reported_before_anything_is_compiled(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("utils.device.why_no_triton", lambda: "Triton is not installed")
    for device, missing in (("cpu", r"needs a C\+\+ compiler"), ("cuda", "needs Triton: Triton is not installed")):
        with pytest.raises(ValueError, match=missing):
            compile_for(nn.Conv2d(3, 2, 1), torch.device(device))


@pytest.mark.slow
def test_a_network_compiled_for_evaluation_has_its_weights_built_in():
    conv = torch.nn.Conv2d(3, 5, 1)
    net, images = Frozen(compile_for(conv, CPU)), torch.randn(1, 3, 8, 8)
    before = net(images)
    torch.nn.init.zeros_(conv.weight)
    assert torch.equal(net(images), before)


def test_labels_are_the_most_probable_classes_whichever_way_they_are_found():
    torch.manual_seed(0)
    net = nn.Conv2d(3, 7, 3, padding=1)
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    for how in ({}, {"flip": True}, {"tile": 20}, {"scales": (0.5, 1.0)}):
        predictor = Predictor(net, 7, **PLAIN, **how)
        assert np.array_equal(predictor.predict(image), predictor.probabilities(image).argmax(0)), how


def test_of_equally_large_logits_the_first_class_is_taken():
    net = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    assert not Predictor(net, 4, **PLAIN).predict(np.zeros((5, 200, 3), np.uint8)).any()


@given(
    st.sampled_from([2, 19, 66]), st.integers(1, 12), st.integers(1, 9), st.integers(1, 47), st.integers(1, 33),
    st.sampled_from([1, 600, 1 << 20]), st.integers(0, 9),
)  # fmt: skip
def test_labels_of_coarse_logits_are_those_of_the_enlarged_ones(num_classes, h, w, height, width, together, seed):
    torch.manual_seed(seed)
    logits = torch.randn(num_classes, h, w)
    enlarged = upsample(logits[None], (height, width))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.predictor._BAND", together)
        labels = most_probable(logits, (height, width)).long()
    chosen = enlarged.gather(0, labels[None])[0]
    assert (enlarged.amax(0) - chosen).max() < 1e-5  # of two classes that differ in the last bit, either will do
    assert torch.equal(most_probable(enlarged), enlarged.argmax(0).to(torch.uint8))


def test_a_single_row_or_column_of_logits_covers_the_whole_image():
    assert most_probable(torch.tensor([[[0.0]], [[1.0]]]), (3, 4)).eq(1).all()
    assert most_probable(torch.tensor([[[0.0, 2.0]], [[1.0, 1.0]]]), (2, 3)).tolist() == [[1, 0, 0], [1, 0, 0]]


def test_a_network_may_leave_its_logits_small():
    class Coarse(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, ::4, ::4] * 3

    class Full(Coarse):
        def forward(self, images: Tensor) -> Tensor:
            return upsample(super().forward(images), (images.shape[2], images.shape[3]))

    image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)
    for how in ({}, {"flip": True}, {"tile": 32}, {"scales": (0.5, 1.0)}):
        coarse, full = (Predictor(net, 3, **PLAIN, **how) for net in (Coarse(), Full()))
        assert torch.allclose(coarse.probabilities(image), full.probabilities(image), atol=1e-6), how
        assert torch.equal(coarse.predict(image), full.predict(image)), how


def test_bfloat16_on_request_changes_few_labels(command, light_checkpoint: Path, tmp_path: Path, shared: Path):
    photo = shared / "samples" / "dashcam" / "test1.jpg"
    for folder, flags in (("exact", ()), ("fast", ("--bf16",))):
        result = command(
            "demo", "--demo-image", photo, "--snapshot", light_checkpoint, "--save-dir", tmp_path / folder,
            "--scales", "0.25", "--device", "cpu", *flags,
        )  # fmt: skip
        assert result.code == 0, result.err
    exact, fast = (read_label_ids(next((tmp_path / folder).glob("*_ids.png"))) for folder in ("exact", "fast"))
    assert np.mean(exact == fast) > 0.8  # an untrained network is hardly sure anywhere
    assert not np.array_equal(exact, fast)  # so it did compute otherwise


def test_compiling_on_a_cpu_without_a_compiler_says_what_is_missing(command, light_checkpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    write_image(tmp_path / "photo.png", np.zeros((20, 30, 3), np.uint8))
    result = command(
        "demo", "--demo-image", tmp_path / "photo.png", "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out",
        "--device", "cpu", "--compile",
    )  # fmt: skip
    assert result.code == 1
    assert "--compile on a CPU needs a C++ compiler" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_compiled_network_says_the_same():
    torch.manual_seed(0)
    net = build_network("DeepMNV3V3PlusD_m1", 5).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before = copy.deepcopy(net)(images)
        after = upsample(fast_network(net, CPU, compile=True)(images), (64, 96))
    assert (after - before).abs().max() <= 1e-4 * before.abs().max()
