"""ImageNet weights for trunks: what is accepted, what they fill, and what is refused."""

import csv
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from config import ARCHITECTURES
from network.deepv3 import NETWORKS, build_network
from network.weights import find_imagenet_weights, load_trunk_weights
from tests.networks import GOLDEN, LIGHT, recorded_keys, tiny_network, trunk_parameters, without_memory


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


def timm_keys():
    """model -> its keys that end in weight, with shapes, as timm has them."""
    rows = {}
    with (GOLDEN.parent / "timm_keys.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            rows.setdefault(row["model"], {})[row["key"]] = tuple(map(int, row["shape"].split(",")))
    return rows


@pytest.mark.parametrize("model", timm_keys())
def test_every_weight_of_a_trunk_has_its_place_in_timms_files(model):
    (arch,) = (arch for arch, names in NETWORKS.items() if names.timm == model)
    net = without_memory(arch)
    found = {net.trunk_key(key): shape for key, shape in timm_keys()[model].items()}
    own = {key: tuple(value.shape) for key, value in net.state_dict().items() if net.is_trunk_key(key)}
    assert {key: found.get(key) for key in own if key.endswith("weight")} == {
        key: shape for key, shape in own.items() if key.endswith("weight")
    }


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_error_about_missing_imagenet_weights_says_what_to_get(arch, tmp_path, monkeypatch):
    monkeypatch.setattr("network.weights.CARRIED", tmp_path)
    names = NETWORKS[arch]
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))) as error:
        find_imagenet_weights(arch)
    assert all(name in str(error.value) for name in (names.torchvision, names.timm, names.published))
    name = f"{names.timm}.safetensors" if names.timm else names.published.replace("*", "")
    (tmp_path / name).touch()
    assert find_imagenet_weights(f"network.deepv3.{arch}") == tmp_path / name


def test_published_wrapping_and_missing_batch_counts_are_accepted(tmp_path):
    net, other = tiny_network(), tiny_network()
    trunk = {key: value for key, value in other.state_dict().items() if other.is_trunk_key(key)}
    content = {f"module.{key}": torch.full_like(value, 2.0) for key, value in trunk.items()}
    for head in ("bn_out.0.weight", "classifier.fc.weight"):
        content[f"module.{head}"] = torch.zeros(3)
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / "trunk.pth")
    report = load_trunk_weights(net, tmp_path / "trunk.pth")
    assert len(report.matched) == 4
    assert all((parameter == 2).all() for parameter in trunk_parameters(net))


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "net.encoder.", "student.backbone."])
def test_a_trunk_may_be_part_of_something_larger(prefix, tmp_path):
    trunk = imagenet_file("DeepR18V3PlusD_m1", tmp_path / "bare.pth")
    content = torch.load(tmp_path / "bare.pth")
    wrapped = {**{prefix + key: value for key, value in content.items()}, "decode_head.weight": torch.ones(1)}
    save_file(wrapped, tmp_path / "trunk.safetensors")
    net = build_network("DeepR18V3PlusD_m1", 2)
    assert load_trunk_weights(net, tmp_path / "trunk.safetensors").complete
    assert torch.equal(net.state_dict()["layer0.0.weight"], trunk["layer0.0.weight"])


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
    assert report.complete
    assert (net.mod1[0].bias == 5).all()


def test_a_file_of_another_trunk_is_refused_with_examples_of_its_keys(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({f"blocks.{i}.weight": torch.zeros(2, 3) for i in range(3)}, path)
    with pytest.raises(ValueError, match="0 tensors match, 4 missing") as error:
        load_trunk_weights(tiny_network(), path)
    message = str(error.value)
    assert str(path) in message
    assert "The file has blocks.0.weight" in message
    assert "expected mod1.0.weight" in message
    assert "\n" not in message


def test_a_deeper_trunks_file_is_refused_though_it_has_all_keys(tmp_path):
    net = tiny_network()
    content = {key: value for key, value in net.state_dict().items() if net.is_trunk_key(key)}
    content |= {f"mod2.{i}.weight": torch.zeros(1) for i in range(1, 4)}
    torch.save(content, tmp_path / "deeper.pth")
    with pytest.raises(ValueError, match="4 tensors match, 3 unexpected"):
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
