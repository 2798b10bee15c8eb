"""Checkpoints describe themselves, published ones load, and none runs code."""

import math
import os
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from config import TrainConfig, as_dict
from datasets.specs.registry import dataset_spec
from network.checkpoint import Checkpoint, describe, load_checkpoint, load_state, save_checkpoint
from network.deepv3 import build_network
from training.checkpoints import changed_flags
from utils.flags import parse_command_line


def light_network(num_classes=11):
    return build_network("DeepMNV3V3PlusD_m1", num_classes)


def described(net):
    spec = dataset_spec("camvid")
    return Checkpoint(
        state_dict=net.state_dict(),
        arch="DeepMNV3V3PlusD_m1",
        dataset="camvid",
        classes=spec.classes,
        scores={"mean_iou": np.float64(0.5)},
        epoch=3,
    )


def test_a_checkpoint_describes_itself_and_holds_plain_numbers(tmp_path):
    save_checkpoint(tmp_path / "a.pth", described(light_network()))
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert (checkpoint.arch, checkpoint.dataset, checkpoint.epoch) == ("DeepMNV3V3PlusD_m1", "camvid", 3)
    assert checkpoint.classes == dataset_spec("camvid").classes
    assert type(checkpoint.scores["mean_iou"]) is float
    torch.load(tmp_path / "a.pth", weights_only=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_a_published_checkpoint_with_prefix_and_no_description_loads(tmp_path):
    net, other = light_network(), light_network()
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "p.pth")
    checkpoint = load_checkpoint(tmp_path / "p.pth")
    assert checkpoint.arch is None
    load_state(other, checkpoint, tmp_path / "p.pth")
    assert all((a == b).all() for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("core", [b"_core", b"core"])  # as NumPy 2 and 1 name it
def test_a_published_checkpoint_may_hold_a_numpy_number(tmp_path, core):
    torch.save({"state_dict": {"a": torch.ones(2)}, "mean_iu": np.float64(0.81)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "p.pth", "w") as rewritten:
        for name in new.namelist():
            rewritten.writestr(name, re.sub(rb"numpy\._?core\.", b"numpy." + core + b".", new.read(name)))
    assert b"numpy." + core + b".multiarray" in (tmp_path / "p.pth").read_bytes()
    assert load_checkpoint(tmp_path / "p.pth").state_dict["a"].tolist() == [1, 1]


def test_safetensors_keep_the_description_and_half_precision_is_widened(tmp_path):
    net, other = light_network(), light_network()
    halves = {key: v.half() if v.is_floating_point() else v for key, v in net.state_dict().items()}
    kept = replace(described(net), state_dict=halves, scores={"mean_iou": math.nan}, training={"optimizer": {}})
    save_checkpoint(tmp_path / "a.safetensors", kept)
    read = load_checkpoint(tmp_path / "a.safetensors")
    assert (read.arch, read.dataset, read.classes, read.epoch) == (kept.arch, "camvid", kept.classes, 3)
    assert (read.mean, read.std, read.scores, read.training) == (kept.mean, kept.std, {"mean_iou": None}, {})
    load_state(other, read, "a.safetensors")
    weight = other.state_dict()["final.6.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, halves["final.6.weight"].float())


def test_safetensors_of_another_program_are_weights_alone(tmp_path):
    save_file({f"model.{key}": value for key, value in light_network().state_dict().items()}, tmp_path / "a.bin")
    checkpoint = load_checkpoint(tmp_path / "a.bin")  # known by its content, not by its name
    assert checkpoint.arch is None
    load_state(light_network(), checkpoint, "a.bin")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated, damaged"):
        load_checkpoint(tmp_path / "cut.safetensors")


PREFIXES = ("", "module.", "_orig_mod.", "model.", "net.", "network.", "segmentor.", "student.", "model.module.net.",
            "module._orig_mod.model.", "any.thing._fsdp_wrapped_module.")  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_keys_may_have_any_prefix(prefix, tmp_path):
    net, other = light_network(), light_network()
    state = {prefix + key: value for key, value in net.state_dict().items()}
    wraps = all(part in ("", "module", "_orig_mod") for part in prefix.split("."))
    beside = {} if wraps else {"criterion.weight": torch.ones(11)}
    torch.save({"state_dict": {**beside, **state}}, tmp_path / "a.pth")
    load_state(other, load_checkpoint(tmp_path / "a.pth"), "a.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert load_state(light_network(19), load_checkpoint(tmp_path / "a.pth"), "a.pth", partly=True).matched


def test_of_two_networks_with_prefixes_the_first_is_taken():
    nets = {name: light_network() for name in ("student", "teacher")}
    state = {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}
    other = light_network()
    load_state(other, Checkpoint(state_dict=state), "a.pth")
    assert torch.equal(other.state_dict()["final.6.weight"], nets["student"].state_dict()["final.6.weight"])


@pytest.mark.parametrize("key", ["final.6.weight", "features.0.1.running_mean", "features.0.1.running_var"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_or_statistic_that_is_not_finite_is_named_on_loading_and_saving(key, value, tmp_path):
    kept = described(light_network())
    kept.state_dict[key].view(-1)[0] = value
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(ValueError, match=rf"{name}: NaN or infinite: {key} \(1 of \d+ values\)"):
            save_checkpoint(tmp_path / name, kept)
    assert not list(tmp_path.iterdir())
    torch.save({f"model.{k}": v for k, v in kept.state_dict.items()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a.pth: NaN or infinite: model.{key} "):
        load_checkpoint(tmp_path / "a.pth")


def test_a_checkpoint_for_other_classes_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"another number of classes \(--dataset\)"):
        load_state(light_network(19), described(light_network(11)), "a.pth")


def test_a_checkpoint_of_another_architecture_says_so():
    with pytest.raises(ValueError, match=r"architecture \(--arch\) than the network: 0 tensors match"):
        load_state(light_network(), Checkpoint(state_dict={"x": torch.zeros(1)}), "a.pth")


def test_a_network_starts_from_one_of_other_classes_but_not_from_a_deeper_one():
    load_state(light_network(19), described(light_network(11)), "a.pth", partly=True)
    shallow, deep = (build_network(f"Deep{trunk}V3PlusD_m1", 11) for trunk in ("R50", "R101"))
    with pytest.raises(ValueError, match="306 unexpected"):
        load_state(shallow, Checkpoint(state_dict=deep.state_dict()), "deep.pth", partly=True)


def test_a_file_older_than_num_batches_tracked_is_whole():
    old = {key: value for key, value in light_network().state_dict().items() if not key.endswith("_tracked")}
    report = load_state(light_network(), Checkpoint(state_dict=old), "old.pth")
    assert report.matched == tuple(old)


class Dangerous:
    def __reduce__(self):
        return os.system, ("touch was_executed",)


def test_code_in_a_checkpoint_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Dangerous()}, "bad.pth")
    with pytest.raises(ValueError, match=r"bad.pth: refused, it contains objects"):
        load_checkpoint("bad.pth")
    Path("worse.pth").write_bytes(pickle.dumps(Dangerous()))
    with pytest.raises(ValueError, match=r"worse.pth"):
        load_checkpoint("worse.pth")
    assert not Path("was_executed").exists()


def test_a_file_with_damaged_bytes_is_named_whatever_they_were(tmp_path):
    content = {"state_dict": {"a": torch.ones(2)}, "epoch": 3}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=False)  # unlike a zip it has no checksums
    content, generator = (tmp_path / "a.pth").read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[generator.integers(len(content))] = generator.integers(256)
        (tmp_path / "b.pth").write_bytes(damaged)
        try:
            load_checkpoint(tmp_path / "b.pth")
        except ValueError as error:
            assert "b.pth" in str(error)


@pytest.mark.parametrize("wrong", [{"mean": 3}, {"head": 3}, {"scores": 3}, {"config": 3}, {"training": 3}])
def test_a_description_with_a_number_for_a_table_is_damage(tmp_path, wrong):
    description = describe(Checkpoint(state_dict={}))
    torch.save({**description, **wrong, "state_dict": {"a": torch.ones(2)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth: truncated or damaged"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_description_that_lacks_a_part_is_damage(tmp_path):
    torch.save({"format": 1, "state_dict": {"a": torch.ones(2)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth: truncated or damaged"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(tmp_path, keep):
    save_checkpoint(tmp_path / "a.pth", described(light_network()))
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r"cut.pth"):
        load_checkpoint(tmp_path / "cut.pth")


def test_flags_without_effect_in_an_earlier_checkpoint_are_no_change_of_settings(tmp_path):
    now = as_dict(parse_command_line(TrainConfig, ["--resume"]))
    then = {**now, "model": {**now["model"], "trunk": "x"}, "device": {**now["device"], "debug": True}}
    then["precision"] = {**now["precision"], "apex": True, "local_rank": 3}
    assert changed_flags(then, now) == []


@pytest.mark.parametrize(("write", "told"), [
    (lambda p: torch.jit.script(nn.Linear(2, 2)).save(str(p)), "a TorchScript network"),
    (lambda p: torch.save(nn.Linear(2, 2), p), "could run code"),
    (lambda p: torch.save(nn.Linear(2, 2), p, _use_new_zipfile_serialization=False), "could run code"),
    (lambda p: p.write_text("<!DOCTYPE html>\n<html>"), "no file of weights"),
    (lambda p: p.write_bytes(b""), "no file of weights"),
    (lambda p: p.write_bytes(bytes(1000)), "truncated, damaged"),
    (lambda p: torch.save([torch.zeros(1)], p), "it holds a list"),
    (lambda p: p.mkdir(), "is a folder; name a file of weights"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_file_of_another_kind_is_called_what_it_is(write, told, tmp_path):
    path = tmp_path / "best.pth"
    write(path)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [
    {"model": {"state_dict": {"a": torch.ones(1)}}, "epoch": 1},
    {"model": {"a": torch.ones(1)}, "optimizer": {"state": {}}, "epoch": 3},
    {"format": "pt", "state_dict": {"a": torch.ones(1)}},
    {"n_averaged": torch.tensor(3), "module.a": torch.ones(1)},  # torch.optim.swa_utils.AveragedModel
])  # fmt: skip
def test_weights_are_found_where_other_programs_keep_them(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert (list(checkpoint.state_dict), checkpoint.arch) == (["a"], None)
