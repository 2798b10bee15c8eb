"""The networks: the published function, and what every network must be able to do.

A network inherits its checks by being listed in `network/names.py`.
"""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from network.blocks import ASPP, JoiningConv2d, PooledBatchNorm2d, Trunk
from network.build import CONSTRUCTORS, build_network, load_trunk_weights
from network.deepv3 import DeepLabV3Plus
from network.depthwise import DepthwiseConv2d
from network.mobilenetv3 import nearest_multiple_of_8
from network.names import ARCHITECTURES
from tests.golden import parity_fixtures as fixtures
from utils.upsampling import upsample

GOLDEN = Path(__file__).parent / "golden" / "networks"
RECORDED = ("DeepWV3Plus", "DeepSRNX50V3PlusD_m1", "DeepSRNX101V3PlusD_m1", "DeepR50V3PlusD_m1")
LIGHT = ("DeepMNV3V3PlusD_m1", "DeepR18V3PlusD_m1")
# Parameters of the ImageNet classifiers as published, less their last layers.
TRUNK_PARAMETERS = {
    "DeepR18V3PlusD_m1": 11_689_512 - 513_000,
    "DeepR50V3PlusD_m1": 25_557_032 - 2_049_000,
    "DeepR101V3PlusD_m1": 44_549_160 - 2_049_000,
    "DeepSRNX50V3PlusD_m1": 27_559_896 - 2_049_000,
    "DeepSRNX101V3PlusD_m1": 48_955_416 - 2_049_000,
    "DeepMNV3V3PlusD_m1": 5_483_032 - 2_511_080,
}


def recorded_keys():
    """arch -> [(key, shape as text)] in order."""
    rows = {}
    with (GOLDEN / "checkpoint_keys.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            rows.setdefault(row["arch"], []).append((row["key"], row["shape"]))
    return rows


def without_memory(arch, num_classes=19):
    """The network with shapes but no values: even the largest costs nothing."""
    with torch.device("meta"):
        return build_network(arch, num_classes)


def network_with_recorded_weights(arch):
    net = without_memory(arch)
    empty = {key: torch.empty_like(value, device="cpu") for key, value in net.state_dict().items()}
    net.load_state_dict(fixtures.state_dict(empty), assign=True)
    return net.eval()


def tiny_network(num_classes=3):
    """A DeepLabV3+ of a few hundred weights, keyed as WideResNet38 is."""
    torch.manual_seed(0)
    modules = {
        "mod1": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        "mod2": nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1)),
    }
    trunk = Trunk(modules, stages=("mod1", "mod2"), fine_stage="mod1", fine_channels=4, out_channels=6)
    return DeepLabV3Plus(trunk, num_classes, rates=(1, 2), width=8)


# --- the published function -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", RECORDED)
def test_keys_shapes_and_their_order_are_those_of_published_checkpoints(arch):
    state = without_memory(arch).state_dict()
    ours = [(key, "x".join(map(str, value.shape)) or "scalar") for key, value in state.items()]
    assert ours == recorded_keys()[arch]


@pytest.mark.parametrize("arch", RECORDED)
def test_logits_are_those_of_the_published_network(arch):
    net = network_with_recorded_weights(arch)
    for height, width in ((128, 256), (129, 193)):
        record = np.load(GOLDEN / f"{arch}_{height}x{width}.npz")
        with torch.inference_mode():
            logits = net(fixtures.image(height, width))[0]
        expected = record["logits"]
        assert expected.std(axis=(1, 2)).min() > 0, "a constant map would prove nothing"
        error = np.abs(logits[:, ::16, ::16].numpy() - expected).max() / np.abs(expected).max()
        assert error < 1e-4, f"{height}x{width}: relative error {error:.2e}"
        assert logits.mean().item() == pytest.approx(float(record["mean"]), abs=1e-4 * float(record["std"]))
        assert logits.std().item() == pytest.approx(float(record["std"]), rel=1e-4)
        histogram = np.bincount(logits.argmax(0).flatten().numpy(), minlength=19)
        moved = np.abs(histogram - record["argmax_hist"]).sum()
        assert moved <= 1e-3 * height * width, "pixels changed their class"


@pytest.mark.parametrize("arch", TRUNK_PARAMETERS)
def test_a_trunk_has_as_many_parameters_as_the_published_classifier_without_its_end(arch):
    assert sum(p.numel() for p in without_memory(arch).trunk_parameters()) == TRUNK_PARAMETERS[arch]


def test_the_light_trunk_has_torchvisions_keys():
    state = without_memory("DeepMNV3V3PlusD_m1").state_dict()
    for key, shape in (
        ("features.0.0.weight", (16, 3, 3, 3)),
        ("features.1.block.0.0.weight", (16, 1, 3, 3)),
        ("features.1.block.1.0.weight", (16, 16, 1, 1)),
        ("features.4.block.2.fc1.weight", (24, 72, 1, 1)),
        ("features.4.block.3.1.running_var", (40,)),
        ("features.13.block.1.0.weight", (672, 1, 5, 5)),
        ("features.15.block.2.fc2.bias", (960,)),
        ("features.16.0.weight", (960, 160, 1, 1)),
        ("features.16.1.num_batches_tracked", ()),
    ):
        assert tuple(state[key].shape) == shape, key


@pytest.mark.parametrize("deep, shallow", [("DeepR101V3PlusD_m1", "DeepR50V3PlusD_m1")])
def test_a_deeper_network_has_the_shallow_ones_keys_and_more(deep, shallow):
    deep_state, shallow_state = without_memory(deep).state_dict(), without_memory(shallow).state_dict()
    assert all(deep_state[key].shape == value.shape for key, value in shallow_state.items())
    assert {key.split(".")[0] for key in set(deep_state) - set(shallow_state)} == {"layer3"}


# --- names ------------------------------------------------------------------------------------------------------


def test_the_listed_names_are_the_ones_that_can_be_built():
    assert tuple(CONSTRUCTORS) == ARCHITECTURES
    assert all(constructor.__name__ == name for name, constructor in CONSTRUCTORS.items())


def test_full_and_short_names_build_the_same_network():
    with torch.device("meta"):
        full = build_network("network.deepv3.DeepR18V3PlusD_m1", 11)
    assert list(full.state_dict()) == list(without_memory("DeepR18V3PlusD_m1", 11).state_dict())
    assert full.final[-1].out_channels == 11


@pytest.mark.parametrize("arch", ["DeepWV3", "", "network.deepv3.", "deepwv3plus", "os.system"])
def test_an_unknown_name_lists_the_known_ones(arch):
    with pytest.raises(ValueError, match=re.escape(f"--arch {arch!r} is unknown. Choose one of: DeepWV3Plus, ")):
        build_network(arch, 19)


def test_a_network_without_classes_is_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        build_network("DeepR18V3PlusD_m1", 0)


def test_names_are_readable_without_torch():
    code = "import sys, network.names; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# --- every network ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ARCHITECTURES)
def fresh(request):
    """Each network in turn, freshly initialised, with 5 classes."""
    torch.manual_seed(0)
    return build_network(request.param, 5)


def test_every_parameter_is_of_the_trunk_or_of_the_head_and_none_is_shared(fresh):
    assert len(list(fresh.named_parameters())) == len(list(fresh.named_parameters(remove_duplicate=False)))
    of_trunk = {id(p) for p in fresh.trunk_parameters()}
    for key, parameter in fresh.named_parameters():
        of_head = key.split(".")[0] in ("aspp", "bot_fine", "bot_aspp", "final")
        assert of_head == (id(parameter) not in of_trunk), key
        assert of_head != fresh.is_trunk_key(key), key


@pytest.mark.parametrize("size", [(33, 49), (40, 31)])
def test_logits_have_the_images_size_whatever_it_is(fresh, size):
    fresh.eval()
    with torch.inference_mode():
        logits = fresh(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert torch.isfinite(logits).all()


def test_logits_are_finite_under_bfloat16_autocast(fresh):
    fresh.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(fresh(torch.randn(1, 3, 33, 49)).float()).all()


def test_a_training_step_on_one_image_reaches_every_parameter(fresh):
    torch.manual_seed(0)
    fresh.train()
    images = torch.randn(1, 3, 33, 49).contiguous(memory_format=torch.channels_last)
    untouched = images.clone()
    logits = fresh(images)
    F.cross_entropy(logits, torch.randint(0, 5, (1, 33, 49))).backward()
    gradients = {key: parameter.grad for key, parameter in fresh.named_parameters()}
    fresh.zero_grad()
    assert torch.equal(images, untouched)
    for key, gradient in gradients.items():
        assert gradient is not None, key
        assert torch.isfinite(gradient).all(), key
        assert gradient.any(), key


# --- the light networks, closer ---------------------------------------------------------------------------------


def test_the_light_network_has_at_most_six_million_parameters():
    assert sum(p.numel() for p in without_memory("DeepMNV3V3PlusD_m1").parameters()) <= 6_000_000


@pytest.mark.parametrize("arch", LIGHT)
def test_a_fresh_network_is_unsure_and_learns_a_picture_in_a_few_steps(arch):
    torch.manual_seed(0)
    net = build_network(arch, 2).train()
    images = torch.randn(2, 3, 64, 64) * 0.1
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, :, 32:] = 1
    images[:, :, :, 32:] += 1
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(2), abs=0.3)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("arch", LIGHT)
def test_memory_layout_does_not_change_the_logits(arch):
    torch.manual_seed(0)
    net = build_network(arch, 4).eval()
    images = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        plain = net(images)
        last = net.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(plain, last, atol=1e-4 * plain.abs().max().item())


# --- blocks -----------------------------------------------------------------------------------------------------


def test_upsampling_puts_corners_onto_corners():
    corners = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert upsample(corners, (3, 3))[0, 0].tolist() == [[0.0, 0.5, 1.0], [1.0, 1.5, 2.0], [2.0, 2.5, 3.0]]


def test_pooled_batch_norm_uses_running_statistics_for_a_single_value():
    norm = PooledBatchNorm2d(2).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    x = torch.tensor([3.0, 2.0]).reshape(1, 2, 1, 1)
    assert torch.allclose(norm(x).flatten(), torch.tensor([2.0, 0.0]), atol=1e-4)
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.num_batches_tracked == 0


def test_pooled_batch_norm_is_plain_batch_norm_otherwise():
    x = torch.randn(3, 2, 1, 1)
    pooled, plain = PooledBatchNorm2d(2).train(), nn.BatchNorm2d(2).train()
    assert torch.equal(pooled(x), plain(x))
    assert torch.equal(pooled.running_var, plain.running_var)
    assert list(pooled.state_dict()) == list(plain.state_dict())


def test_synchronised_batch_norm_can_replace_all_of_them():
    with torch.device("meta"):
        net = nn.SyncBatchNorm.convert_sync_batchnorm(build_network("DeepMNV3V3PlusD_m1", 5))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_the_pyramids_first_channels_are_the_images_mean():
    aspp = ASPP(4, 8, rates=(1, 2)).eval()
    x = torch.randn(1, 4, 5, 6)
    with torch.inference_mode():
        out = aspp(x)
        pooled = aspp.img_conv(x.mean((2, 3), keepdim=True))
    assert out.shape == (1, 8 * 4, 5, 6)
    assert torch.equal(out[:, :8], pooled.expand(-1, -1, 5, 6))


@pytest.mark.parametrize("value, rounded", [(16, 16), (18, 24), (30, 32), (168, 168), (3, 8)])
def test_channels_are_rounded_to_multiples_of_eight(value, rounded):
    assert nearest_multiple_of_8(value) == rounded


# --- ImageNet weights -------------------------------------------------------------------------------------------


def imagenet_file(arch, path):
    """A file as torchvision's classifiers have it: bare keys and a head. Returns the trunk's state."""
    torch.manual_seed(1)
    net = build_network(arch, 2)
    trunk = {key: torch.rand_like(v, dtype=torch.float) for key, v in net.state_dict().items() if net.is_trunk_key(key)}
    names = {ours: published for published, ours in (("conv1.", "layer0.0."), ("bn1.", "layer0.1."))}
    published = {}
    for key, value in trunk.items():
        prefix = next((p for p in names if key.startswith(p)), "")
        published[names.get(prefix, "") + key.removeprefix(prefix)] = value
    for head in ("fc.weight", "fc.bias", "classifier.0.weight"):
        published[head] = torch.zeros(3)
    torch.save(published, path)
    return trunk


@pytest.mark.parametrize("arch", LIGHT)
def test_imagenet_weights_fill_the_trunk_and_leave_the_head(arch, tmp_path):
    trunk = imagenet_file(arch, tmp_path / "imagenet.pth")
    net = build_network(arch, 2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    report = load_trunk_weights(net, tmp_path / "imagenet.pth")
    assert len(report.matched) == len(trunk)
    assert report.complete
    for key, value in net.state_dict().items():
        expected = trunk[key].to(value.dtype) if net.is_trunk_key(key) else before[key]
        assert torch.equal(value, expected), key


def test_published_wrapping_and_missing_batch_counts_are_accepted(tmp_path):
    net, other = tiny_network(), tiny_network()
    trunk = {key: value for key, value in other.state_dict().items() if other.is_trunk_key(key)}
    content = {f"module.{key}": torch.full_like(value, 2.0) for key, value in trunk.items()}
    for head in ("bn_out.0.weight", "classifier.fc.weight"):
        content[f"module.{head}"] = torch.zeros(3)
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / "trunk.pth")
    report = load_trunk_weights(net, tmp_path / "trunk.pth")
    assert len(report.matched) == 4
    assert all((parameter == 2).all() for parameter in net.trunk_parameters())


def test_seresnext_files_need_no_renaming():
    net = without_memory("DeepSRNX50V3PlusD_m1")
    keys = [key for key, _ in recorded_keys()["DeepSRNX50V3PlusD_m1"] if key.startswith("layer")]
    assert "layer0.conv1.weight" in keys
    assert [key for key in net.state_dict() if net.is_trunk_key(key)] == [net.trunk_key(key) for key in keys]


def test_a_whole_networks_checkpoint_gives_its_trunk_too(tmp_path):
    net, other = tiny_network(3), tiny_network(7)
    with torch.no_grad():
        other.mod1[0].bias.fill_(5)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "net.pth")
    report = load_trunk_weights(net, tmp_path / "net.pth")
    assert "final.6.weight" in report.unexpected
    assert (net.mod1[0].bias == 5).all()


def test_a_file_of_another_trunk_is_refused_with_examples_of_its_keys(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({f"blocks.{i}.weight": torch.zeros(2, 3) for i in range(3)}, path)
    with pytest.raises(ValueError, match="0 of 4 tensors match") as error:
        load_trunk_weights(tiny_network(), path)
    message = str(error.value)
    assert str(path) in message
    assert "blocks.0.weight (2, 3)" in message
    assert "mod1.0.weight (4, 3, 3, 3)" in message
    assert "\n" not in message


def test_a_deeper_trunks_file_is_refused_though_it_has_all_keys(tmp_path):
    net = tiny_network()
    content = {key: value for key, value in net.state_dict().items() if net.is_trunk_key(key)}
    content |= {f"mod2.{i}.weight": torch.zeros(1) for i in range(1, 4)}
    torch.save(content, tmp_path / "deeper.pth")
    with pytest.raises(ValueError, match="4 of 7 tensors match"):
        load_trunk_weights(net, tmp_path / "deeper.pth")


def test_a_missing_damaged_or_unsafe_file_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        load_trunk_weights(tiny_network(), tmp_path / "nothing.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 cut off")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "run": Path}, tmp_path / "unsafe.pth")
    for name in ("damaged.pth", "unsafe.pth"):
        with pytest.raises(ValueError, match=re.escape(name)) as error:
            load_trunk_weights(tiny_network(), tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 1, 2), (3, 2, 1), (5, 2, 1)])
def test_the_bf16_depthwise_gradients_are_those_of_the_plain_convolution(kernel, stride, dilation):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(96, kernel, stride, dilation)
    images = torch.randn(2, 96, 14, 17).to(torch.bfloat16)

    def gradients(of):
        x = images.clone().to(next(of.parameters()).dtype if of is exact else torch.bfloat16).requires_grad_()
        of.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=of is conv):
            out = of(x).float()
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        return x.grad.float(), of.weight.grad.float()

    exact = torch.nn.Conv2d(96, 96, kernel, stride, conv.padding, dilation, 96, bias=False).double()
    exact.load_state_dict({"weight": conv.weight.to(torch.bfloat16).double()})
    for ours, right in zip(gradients(conv), gradients(exact), strict=True):
        assert (ours - right).abs().max() <= 0.01 * right.abs().max()  # bfloat16 keeps 8 bits


def test_depthwise_convolutions_take_the_fast_route_only_where_it_is_one():
    conv = DepthwiseConv2d(8, 3)
    images = torch.randn(1, 8, 6, 6)
    assert type(conv(images.bfloat16()).grad_fn).__name__ == "_Bf16DepthwiseBackward"
    assert type(conv(images).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize("kernel", [1, 3])
def test_joining_fine_and_enlarged_context_is_one_convolution_over_both(kernel: int):
    torch.manual_seed(0)
    joining = JoiningConv2d(3, 5, 4, kernel)
    fine, context = torch.randn(2, 3, 12, 15), torch.randn(2, 5, 4, 5)
    both = torch.cat([fine, upsample(context, (12, 15))], dim=1)
    expected = F.conv2d(both, joining.weight, padding=kernel // 2)
    assert torch.allclose(joining((fine, context)), expected, atol=1e-6)


def test_the_pyramid_keeps_the_memory_layout_it_is_given():
    maps = torch.randn(2, 8, 6, 7).to(memory_format=torch.channels_last)
    aspp = ASPP(8, 4, (1, 2)).to(memory_format=torch.channels_last)
    assert aspp(maps).is_contiguous(memory_format=torch.channels_last)


def test_training_hands_float32_logits_to_the_loss_even_under_autocast():
    net = tiny_network().train()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.randn(2, 3, 64, 64)).dtype == torch.float32
