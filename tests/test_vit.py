"""DINOv2's transformers and their heads: the reference's values, the ways in which weights arrive, sizes, rates."""

import ast
import re
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from config import OptimConfig
from network.checkpoint import load_checkpoint, load_state
from network.deepv3 import NETWORKS, build_network
from network.dpt import DPTHead, LinearHead
from network.vit import HEAD_WIDTH, VisionTransformer, bicubic_matrix, unify_keys, vision_transformer
from network.weights import find_imagenet_weights, load_trunk_weights
from tests.golden import parity_fixtures as fixtures
from tests.networks import GOLDEN, without_memory
from tests.tiny import metrics, run
from training.optim import build_optimizer


@cache
def recorded_weights():
    """The weights that the records were made with, under the names that they have in Hugging Face's memory."""
    state = {}
    for line in (GOLDEN / "dinov2_small_keys.tsv").read_text().splitlines():
        key, shape = line.split("\t")
        shape = ast.literal_eval(shape)
        u = fixtures.unit(key, int(np.prod(shape))).reshape(shape)
        if "lambda1" in key or re.search(r"norm\d?\.weight$", key):
            u = 1 + u / 5
        elif key.startswith("embeddings.") and "projection" not in key:
            u = u / 2
        else:
            u = u / 10 if len(shape) == 1 else u * np.sqrt(12 / np.prod(shape[1:]))
        state[key] = torch.from_numpy(u).float()
    return state


@pytest.mark.parametrize("size", [(224, 224), (238, 322)])
@torch.inference_mode()
def test_tokens_are_those_of_the_reference_also_where_the_position_table_is_resized(size):
    net = VisionTransformer(384).eval()
    weights = unify_keys(recorded_weights())
    assert set(weights) - set(net.state_dict()) == {"mask_token"}
    net.load_state_dict(weights, strict=False)
    found = {}
    for number, block in enumerate(net.blocks, 1):
        block.register_forward_hook(lambda _, __, out, number=number: found.update({f"after{number}": out}))
    maps = net(fixtures.image(*size, "dinov2"))
    found["normed"] = net.norm(found["after12"])
    assert torch.equal(maps[3].flatten(2).transpose(1, 2), found["normed"][:, 1:])
    recorded = np.load(GOLDEN / f"dinov2_small_{size[0]}x{size[1]}.npz")
    for name in recorded.files:
        assert np.abs(found[name][0, ::7, ::8].numpy() - recorded[name]).max() < 1e-4, name


@pytest.mark.parametrize(("width", "published"), [(384, 22_056_576), (768, 86_580_480)])
def test_a_trunk_has_as_many_parameters_as_the_published_one(width, published):
    with torch.device("meta"):
        net = VisionTransformer(width)
    assert sum(parameter.numel() for parameter in net.parameters()) + width == published  # whose mask token is unused


def as_published():
    """A trunk's weights as in `dinov2_vits14_pretrain.pth`, which are timm's too."""
    return {**unify_keys(recorded_weights()), "mask_token": torch.zeros(1, 384)}


def as_hugging_face_writes_them():
    names = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    state = {}
    for key, value in recorded_weights().items():
        for theirs, in_files in names.items():
            key = key.replace(theirs, in_files)
        state[key] = value
    return state


def as_part_of_something(prefix):
    return {f"{prefix}{key}": value for key, value in as_hugging_face_writes_them().items()} | {
        "classifier.bias": torch.ones(2)
    }


@pytest.mark.parametrize(
    "content", [as_published, recorded_weights, as_hugging_face_writes_them, lambda: as_part_of_something("dinov2.")]
)
def test_the_trunk_is_filled_from_published_files_and_from_hugging_faces(content, tmp_path):
    save_file(content(), tmp_path / "model.safetensors")
    net = build_network("DinoV2SmallDPT", 3)
    report = load_trunk_weights(net, tmp_path / "model.safetensors")
    assert report.complete or report.unexpected == ("classifier.bias",)
    for key, value in unify_keys(recorded_weights()).items():
        assert key == "mask_token" or torch.equal(net.state_dict()[f"backbone.{key}"], value), key


def test_a_trunk_of_another_width_or_with_registers_is_refused(tmp_path):
    torch.save(as_published(), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"not the weights of this trunk \(--arch\): 0 tensors match"):
        load_trunk_weights(without_memory("DinoV2BaseDPT"), tmp_path / "small.pth")
    torch.save({**as_published(), "register_tokens": torch.zeros(1, 4, 384)}, tmp_path / "reg4.pth")
    with pytest.raises(ValueError, match="register tokens"):
        load_trunk_weights(without_memory("DinoV2SmallDPT"), tmp_path / "reg4.pth")


def test_what_is_missing_says_where_the_published_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr("network.weights.CARRIED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/") as error:
        find_imagenet_weights("DinoV2SmallDPT")
    file = Path(NETWORKS["DinoV2SmallDPT"].source).name
    assert "dinov2_vits14_pretrain" in str(error.value)
    (tmp_path / file).touch()
    assert find_imagenet_weights("DinoV2SmallDPT") == tmp_path / file


def test_a_published_checkpoint_loads_with_the_parts_that_take_no_part(tmp_path):
    net = build_network("DinoV2SmallDPT", 19)
    extra = {"backbone.mask_token": torch.zeros(1, 384)}
    for part in ("conv1", "conv2"):
        extra[f"head.scratch.refinenet4.resConfUnit1.{part}.weight"] = torch.zeros(64, 64, 3, 3)
        extra[f"head.scratch.refinenet4.resConfUnit1.{part}.bias"] = torch.zeros(64)
    content = {f"module.{key}": value for key, value in {**net.state_dict(), **extra}.items()}
    torch.save({"model": content, "epoch": 3}, tmp_path / "published.pth")
    load_state(build_network("DinoV2SmallDPT", 19), load_checkpoint(tmp_path / "published.pth"), "published.pth")
    # 24.8 million in the published log
    assert round(sum(value.numel() for value in content.values()) / 1e6, 1) == 24.8


def test_a_head_of_deeplab_is_refused():
    with pytest.raises(ValueError, match="--aspp_rates and --refine"):
        build_network("DinoV2SmallDPT", 3, refine=True)


def test_the_table_is_resized_as_bicubic_interpolation_does_it():
    net = VisionTransformer(HEAD_WIDTH, depth=4)
    grid = net.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (37, 37))
    expected = F.interpolate(grid, (5, 41), mode="bicubic").flatten(2).transpose(1, 2)
    assert torch.allclose(net.position_table(5, 41), expected, atol=1e-6)
    assert torch.equal(net.position_table(37, 37), net.pos_embed[:, 1:])


def test_a_table_that_evaluation_resized_first_can_be_trained():
    net = VisionTransformer(HEAD_WIDTH, depth=4)
    with torch.inference_mode():
        net.position_table(3, 43)
    net.position_table(3, 43).sum().backward()
    assert net.pos_embed.grad.any()
    assert bicubic_matrix(3, torch.device("cpu")) is bicubic_matrix(3, torch.device("cpu"))


@torch.inference_mode()
def test_padding_to_whole_patches_is_cut_back():
    torch.manual_seed(0)
    net = build_network("DinoV2SmallDPT", 3).eval()
    images = torch.randn(1, 3, 28, 42)
    images[:, :, 25:], images[:, :, :, 31:] = 0, 0  # the mean colour, which is what is padded with
    assert torch.allclose(net(images[:, :, :25, :31]), net(images)[:, :, :25, :31], atol=1e-6)


def test_the_head_is_the_published_one_written_out():
    torch.manual_seed(0)
    head, maps = DPTHead(8, 3, 4, (2, 4, 6, 8)), torch.randn(4, 1, 8, 3, 5)
    scratch = head.scratch

    def refine(unit, x):
        return x + unit.conv2(F.relu(unit.conv1(F.relu(x))))

    x = None
    for number in (4, 3, 2, 1):
        block = scratch[f"refinenet{number}"]
        own = head.resize_layers[number - 1](head.projects[number - 1](maps[number - 1]))
        level = scratch[f"layer{number}_rn"](own)
        if x is not None:
            coarser = F.interpolate(x, level.shape[2:], mode="bilinear", align_corners=True)
            level = coarser + refine(block.resConfUnit1, level)
        x = block.out_conv(refine(block.resConfUnit2, level))
    expected = scratch["output_conv"](F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
    logits = head(list(maps))
    assert logits.shape == (1, 3, 24, 40)  # stride 1.75
    assert torch.allclose(logits, expected, atol=1e-6)


@pytest.mark.parametrize(("arch", "first", "last"), [
    ("DinoV2SmallDPT", "backbone.pos_embed", "backbone.norm.weight"),
    ("DinoV2SmallDPT", "backbone.patch_embed.proj.bias", "backbone.norm.bias"),
    ("DeepR18V3PlusD_m1", "layer0.0.weight", "layer4.1.conv2.weight"),
])  # fmt: skip
def test_each_stage_learns_slower_than_the_next(arch, first, last):
    net = without_memory(arch)
    optimizer = build_optimizer(OptimConfig(lr=1.0, trunk_lr=0.5, layer_decay=0.9, adam=True), net)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[last] == 0.5
    assert rates[first] == pytest.approx(0.5 * 0.9 ** (13 if arch.startswith("Dino") else 4))
    assert {rate for name, rate in rates.items() if not net.is_trunk_key(name)} == {1.0}
    if arch.startswith("Dino"):
        blocks = [rates[f"backbone.blocks.{number}.ls1.gamma"] for number in range(12)]
        assert blocks == pytest.approx([0.5 * 0.9 ** (12 - number) for number in range(12)])
        assert rates["backbone.cls_token"] == rates["backbone.patch_embed.proj.weight"]


def test_linear_layers_in_an_onnx_file_get_their_names_back(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weight, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"]), helper.make_node("Add", ["fc.bias", "y"], ["z"])],
        "net",
        [helper.make_tensor_value_info("x", 1, [1, 2])],
        [helper.make_tensor_value_info("z", 1, [1, 3])],
        [numpy_helper.from_array(weight, "onnx::MatMul_7"), numpy_helper.from_array(bias, "fc.bias")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    tensors = load_checkpoint(tmp_path / "net.onnx").state_dict
    assert set(tensors) == {"fc.weight", "fc.bias"}
    assert torch.equal(tensors["fc.weight"], torch.from_numpy(weight.T.copy()))


def test_a_position_table_that_an_exporter_split_is_put_together():
    parts = {"net.embeddings.cls_token": torch.zeros(1, 1, 2), "onnx::Reshape_5": torch.ones(1, 4, 2)}
    found = unify_keys({**parts, "onnx::Concat_3": torch.zeros(1, 1, 2)})
    assert found["net.pos_embed"].shape == (1, 5, 2)
    assert not found["net.pos_embed"][:, 0].any()


def test_reading_onnx_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "net.onnx").write_bytes(b"0123456789")
    with pytest.raises(ValueError, match="pip install onnx"):
        load_checkpoint(tmp_path / "net.onnx")


@torch.inference_mode()
def test_the_linear_head_sees_the_last_map_alone():
    head = LinearHead(4, 3).eval()
    maps = [torch.randn(1, 4, 2, 5) for _ in range(4)]
    assert head(maps).shape == (1, 3, 2, 5)
    assert torch.equal(head(maps), head([*torch.zeros(3, 1, 4, 2, 5), maps[3]]))


def test_a_small_transformer_trains_and_is_evaluated_in_tiles_at_several_scales(
    tiny_set, tmp_path, monkeypatch, command
):
    monkeypatch.setattr("network.vit.VisionTransformer", partial(VisionTransformer, depth=4))
    small = NETWORKS["DinoV2SmallDPT"]._replace(trunk=partial(vision_transformer, HEAD_WIDTH))
    monkeypatch.setitem(NETWORKS, "DinoV2SmallDPT", small)
    flags = ("--arch", "DinoV2SmallDPT", "--bf16", "--ema", "0.9", "--layer_decay", "0.8", "--checkpoint_activations")
    run(tiny_set, tmp_path, "--max_epoch", "2", *flags)
    run(tiny_set, tmp_path, "--max_epoch", "3", *flags, "--resume")
    assert [row["epoch"] for row in metrics(tmp_path, "val")] == [1, 2, 3]
    best = tmp_path / "ckpt/default/best.pth"
    out = ("--ckpt_path", tmp_path / "eval", "--exp_name", "tiles")
    done = command(
        "eval", "--snapshot", best, "--dataset_dir", tiny_set, "--crop_size", "40", "--scales", "0.8,1.3",
        "--device", "cpu", "--bf16", *out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert load_trunk_weights(build_network("DinoV2SmallDPT", 11), best).missing == ()
