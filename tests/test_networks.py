"""The networks: the published function, and what every network must be able to do.

A network inherits its checks by being listed in `NETWORKS`, `network/deepv3.py`.
"""

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from config import ARCHITECTURES, ModelConfig
from network.blocks import ASPP, JoiningConv2d, PooledBatchNorm2d, SqueezeExcitation, Trunk, mean_of_map
from network.deepv3 import NETWORKS, DeepLabV3Plus, build_network
from network.mobile import nearest_multiple_of_8
from tests.golden import parity_fixtures as fixtures
from tests.networks import (
    GOLDEN,
    LARGER_ARE_SLOW,
    LIGHT,
    recorded_keys,
    tiny_network,
    trunk_parameters,
    without_memory,
)
from utils.device import upsample

RECORDED = ("DeepWV3Plus", "DeepSRNX50V3PlusD_m1", "DeepSRNX101V3PlusD_m1", "DeepR50V3PlusD_m1")
# Parameters of the ImageNet classifiers as published, less their last layers.
TRUNK_PARAMETERS = {
    "DeepR18V3PlusD_m1": 11_689_512 - 513_000,
    "DeepR50V3PlusD_m1": 25_557_032 - 2_049_000,
    "DeepR101V3PlusD_m1": 44_549_160 - 2_049_000,
    "DeepSRNX50V3PlusD_m1": 27_559_896 - 2_049_000,
    "DeepSRNX101V3PlusD_m1": 48_955_416 - 2_049_000,
    "DeepMNV3V3PlusD_m1": 5_483_032 - 2_511_080,
}


def network_with_recorded_weights(arch):
    net = without_memory(arch)
    empty = {key: torch.empty_like(value, device="cpu") for key, value in net.state_dict().items()}
    net.load_state_dict(fixtures.state_dict(empty), assign=True)
    return net.eval()


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
    assert sum(p.numel() for p in trunk_parameters(without_memory(arch))) == TRUNK_PARAMETERS[arch]


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
    assert tuple(NETWORKS) == ARCHITECTURES


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
    code = "import sys, network; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# --- every network ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=LARGER_ARE_SLOW)
def fresh(request):
    """Each network in turn, freshly initialised, with 5 classes."""
    torch.manual_seed(0)
    return build_network(request.param, 5)


def test_every_parameter_is_of_the_trunk_or_of_the_head_and_none_is_shared(fresh):
    assert len(list(fresh.named_parameters())) == len(list(fresh.named_parameters(remove_duplicate=False)))
    of_trunk = {id(p) for p in trunk_parameters(fresh)}
    for key, parameter in fresh.named_parameters():
        of_head = key.split(".")[0] in ("aspp", "bot_fine", "bot_aspp", "final", "head")
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


@pytest.mark.parametrize("arch", ["DeepR18V3PlusD_m1", "DeepMNV3V3PlusD_m1", "DinoV2SmallDPT"])
def test_blocks_computed_twice_give_the_same_gradients_and_statistics_from_fewer_kept_values(arch):
    torch.manual_seed(0)
    usual = build_network(arch, 3).train()
    sparing = copy.deepcopy(usual)
    sparing.checkpoint_activations()
    images, kept = torch.randn(2, 3, 42, 56), []
    for net in (usual, sparing):
        values = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, v=values: v.append(x) or x, lambda x: x):
            loss = net(images).square().mean()
        apart = {x.data_ptr(): x.numel() for x in values if not isinstance(x, nn.Parameter)}
        kept.append(sum(apart.values()))
        loss.backward()
    assert kept[1] < 0.7 * kept[0]
    for (name, one), other in zip(usual.named_parameters(), sparing.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    for (name, one), other in zip(usual.state_dict().items(), sparing.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("training", [False, True])
def test_the_mean_of_a_map_has_pytorchs_values_and_gradient_and_keeps_the_layout_of_what_joins_it(training):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = mean_of_map(x, training)
    (x * out).square().sum().backward()
    other = x.detach().clone().requires_grad_()
    (other * other.mean((2, 3), keepdim=True)).square().sum().backward()
    assert torch.equal(out, x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(x.grad, other.grad)


def test_gradients_of_a_gated_map_are_channels_last():
    found = []
    x = torch.randn(2, 8, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    kept = x * 1
    kept.register_hook(found.append)
    SqueezeExcitation(8, 4)(kept).square().sum().backward()
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_a_block_computed_twice_drops_the_same_channels_both_times():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout2d(0.5), nn.Conv2d(8, 3, 1))
    modules = {"stem": nn.Sequential(block, copy.deepcopy(block))}
    trunk = Trunk(modules, ("stem",), fine_stage="stem", fine_channels=3, out_channels=3)
    net = DeepLabV3Plus(trunk, 3, rates=(1,), width=4).train()
    sparing = copy.deepcopy(net)
    sparing.checkpoint_activations()
    for one in (net, sparing):
        torch.manual_seed(1)
        one(torch.ones(2, 3, 4, 4)).square().mean().backward()
    gradients = [one.stem[0][0].weight.grad for one in (net, sparing)]
    assert torch.equal(*gradients) and gradients[0].any()


# --- heads that flags change ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["DeepMNV3V3PlusD_m1", "DeepEffLite2V3PlusD_m1"])
def test_a_refined_decoder_ends_at_stride_2_and_trains_all_of_its_layers(arch):
    net = build_network(arch, 5, refine=True).train()
    logits = net(torch.randn(2, 3, 40, 56))
    assert logits.shape == (2, 5, 40, 56)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.upsamples = False
    assert net.eval()(torch.randn(1, 3, 40, 56)).shape == (1, 5, 20, 28)


def test_a_refined_decoder_needs_a_stage_that_is_not_read_yet():
    with pytest.raises(ValueError, match="--refine needs a trunk"):
        build_network("DeepR18V3PlusD_m1", 5, refine=True)


def test_the_pyramids_rates_are_those_of_the_flag_or_the_architectures_own():
    def rates(**head):
        with torch.device("meta"):
            net = build_network("DeepEffLite0V3PlusD_m1", 5, **head)
        return [branch[1].dilation[0] for branch in net.aspp.features[1:]]

    assert rates() == [3, 6, 9]
    assert rates(**ModelConfig(aspp_rates="6, 12,18").head) == [6, 12, 18]
    assert ModelConfig().head == {}
    with pytest.raises(ValueError, match="--aspp_rates"):
        _ = ModelConfig(aspp_rates="0,6").head


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
