"""Exported files: they give what PyTorch gives, for any image, and a file that does not is refused."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from config import ARCHITECTURES, AS_IN_TRAINING
from datasets.specs.registry import dataset_spec
from export import main
from inference import load_model
from inference.exported import Deployed, open_exported, write_exported
from inference.settings import ExportConfig
from network.checkpoint import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Checkpoint,
    describe,
    load_checkpoint,
    save_checkpoint,
)
from network.deepv3 import build_network
from network.fuse import fast_network
from tests.conftest import ROOT
from tests.networks import tiny_network
from utils.device import normalise, upsample
from utils.flags import parse_command_line
from utils.images import read_image, read_label_ids, write_image

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = dataset_spec("camvid").classes
DESCRIPTION = describe(Checkpoint(state_dict={}, arch="DeepR18V3PlusD_m1", classes=CLASSES))


def deployed(net, input="uint8", output="labels"):
    return Deployed(net, input=input, output=output, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """suffix -> a file of a tiny network for images of any size."""
    files = {suffix: tmp_path_factory.mktemp("exported") / f"net{suffix}" for suffix in (".onnx", ".pt2")}
    for path in files.values():
        write_exported(path, deployed(tiny_network(len(CLASSES))), DESCRIPTION)
    return files


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 33, 97), (3, 64, 40)])
def test_a_file_takes_images_of_any_size_in_batches_of_any_length(tiny_file, suffix, shape):
    images = noise(*shape, 3)
    labels, logits = open_exported(tiny_file[suffix]).run(images)
    with torch.no_grad():
        upsampled = tiny_network(len(CLASSES)).eval()(
            normalise(images.permute(0, 3, 1, 2), IMAGENET_MEAN, IMAGENET_STD)
        )
    assert labels.dtype == torch.uint8
    assert (labels == upsampled.argmax(1)).float().mean() > 0.999
    assert logits.shape[:2] == (shape[0], len(CLASSES))


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_input_and_output_are_as_asked_for(output, tmp_path):
    path = tmp_path / "net.onnx"
    write_exported(path, deployed(tiny_network(3), "float", output), DESCRIPTION, (32, 48))
    images = torch.randn(2, 3, 32, 48)
    (found,) = open_exported(path).run(images)
    with torch.no_grad():
        logits = tiny_network(3).eval()(images)
    assert torch.allclose(found, logits if output == "logits" else logits.softmax(1), atol=1e-5)


def test_axes_have_names(tiny_file):
    session = onnxruntime.InferenceSession(tiny_file[".onnx"])
    assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    assert session.get_outputs()[0].shape == ["batch", "height", "width"]


def test_metadata_say_classes_colours_and_origin(tiny_file):
    notes = onnxruntime.InferenceSession(tiny_file[".onnx"]).get_modelmeta().custom_metadata_map
    name, color, _ = json.loads(notes["classes"])[0]
    assert (name, tuple(color)) == (CLASSES[0].name, CLASSES[0].color)
    assert json.loads(notes["mean"]) == list(IMAGENET_MEAN)
    assert json.loads(notes["arch"]) == "DeepR18V3PlusD_m1"


# Whole networks in images so small that nearly all time is the exporter's.
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_exported(arch, tmp_path):
    path = tmp_path / "net.onnx"
    torch.manual_seed(0)
    net = deployed(fast_network(build_network(arch, len(CLASSES)), torch.device("cpu")))
    write_exported(path, net, DESCRIPTION, (64, 80))
    images = noise(2, 64, 80, 3)
    labels, logits = open_exported(path).run(images)
    with torch.no_grad():
        usual = net(images)[1]
        pixels = (images.permute(0, 3, 1, 2).double() - net.shift.double()) * net.scale.double()
        exact = net.net.double()(pixels)
    # A new network of a hundred layers amplifies rounding without end; the file's is to be like PyTorch's.
    rounding = max((usual - exact).abs().max(), 1e-4 * exact.abs().max())
    assert (logits - exact).abs().max() < 4 * rounding
    assert (labels == upsample(logits, (64, 80)).argmax(1)).float().mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if "Lite" in a or "MNV3" in a or "R18" in a or "Small" in a])
def test_light_networks_are_exported_for_every_size(arch, tmp_path):
    path = tmp_path / "net.onnx"
    torch.manual_seed(0)
    net = deployed(fast_network(build_network(arch, len(CLASSES)), torch.device("cpu")))
    write_exported(path, net, DESCRIPTION)
    for shape in ((1, 64, 80), (2, 79, 113)):
        images = noise(*shape, 3)
        logits = open_exported(path).run(images)[1]
        with torch.no_grad():
            expected = net(images)[1]
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


# The command


@pytest.fixture
def export(command, light_checkpoint, tmp_path):
    """Run export.py with an image of 96x64."""
    picture = tmp_path / "picture.png"
    write_image(picture, cv2.resize(noise(4, 6, 3).numpy(), (96, 64)))
    flags = ("--snapshot", light_checkpoint, "--images", picture, "--size", 64, 96)
    return lambda name, *more: command("export", "--out", tmp_path / name, *flags, *more)


@pytest.fixture(scope="module")
def light_file(light_checkpoint, tmp_path_factory):
    """The tests' light checkpoint as an ONNX file for images of 96x64, written by the command."""
    folder = tmp_path_factory.mktemp("exported")
    write_image(folder / "picture.png", cv2.resize(noise(4, 6, 3).numpy(), (96, 64)))
    words = ["--snapshot", light_checkpoint, "--images", folder / "picture.png", "--size", 64, 96]
    assert main(parse_command_line(ExportConfig, [str(word) for word in (*words, "--out", folder / "light.onnx")])) == 0
    return folder / "light.onnx"


def test_the_check_of_an_onnx_file_is_recorded(light_file):
    (line,) = json.loads(light_file.with_suffix(".json").read_text())["checks"]
    assert line["equal"] == 1.0


@pytest.mark.parametrize("name", ["net.pt2", "net.safetensors"])
def test_a_file_is_checked_and_the_check_recorded(export, name, tmp_path):
    ended = export(name)
    assert ended.code == 0, ended.err
    assert "96x64: 100.000% of the labels are PyTorch's" in ended.out
    (line,) = json.loads((tmp_path / "net.json").read_text())["checks"]
    assert line["equal"] == 1.0
    assert load_model(tmp_path / name).classes == CLASSES


@pytest.mark.parametrize(("name", "flag"), [("net.onnx", "--int8"), ("net.safetensors", "--half")])
def test_a_smaller_file_is_checked_too(export, name, flag, tmp_path, monkeypatch):
    monkeypatch.setattr("export.LEAST_INT8", 0.0)  # an untrained network finds all classes nearly alike
    assert export(name, flag, "--calibration", tmp_path / "picture.png").code == 0
    report = json.loads((tmp_path / "net.json").read_text())
    assert report["bytes"][1] < 9e6 < report["bytes"][0]
    assert min(report["milliseconds"]) > 0
    (line,) = report["checks"]
    assert line["equal"] > (0 if flag == "--int8" else 0.99)
    if flag == "--half":
        monkeypatch.setattr("export.LEAST_HALF", 1.1)
        (tmp_path / name).unlink()
        assert "asked for" in export(name, flag).err
        assert not (tmp_path / name).exists()


def test_a_file_says_what_it_holds_but_not_where_it_was_trained(export, light_checkpoint, tmp_path):
    trained = load_checkpoint(light_checkpoint)
    flags = {"data": {"dataset": "camvid", "dataset_dir": "/home/me/camvid"}}
    save_checkpoint(tmp_path / "best.pth", replace(trained, config=flags, training={"minutes": 3.0}))
    assert export("small.safetensors", "--half", "--snapshot", tmp_path / "best.pth").code == 0
    small = load_checkpoint(tmp_path / "small.safetensors")
    assert (small.arch, small.classes, small.training) == (trained.arch, trained.classes, {})
    assert small.config == {"data": {"dataset": "camvid"}}
    assert (tmp_path / "small.safetensors").stat().st_size < 0.55 * (tmp_path / "best.pth").stat().st_size


def test_lost_accuracy_is_told(export, tmp_path, monkeypatch):
    for name, values in (("val", noise(64, 96, 3).numpy()), ("valannot", noise(64, 96).numpy() % 11)):
        write_image(tmp_path / "set" / name / "a.png", values)
    ended = export("net.safetensors", "--dataset_dir", tmp_path / "set")
    same, before = json.loads((tmp_path / "net.json").read_text())["mean_iou"]
    assert same == before
    assert f"mIoU {100 * same:.2f}; the checkpoint has {100 * same:.2f}" in ended.out
    assert "lost" not in ended.err
    monkeypatch.setattr("export.MOST_LOST", -0.1)
    assert "points of mIoU are lost" in export("net.safetensors", "--dataset_dir", tmp_path / "set").err


def test_a_file_that_gives_other_labels_is_not_kept(export, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.exported.ExportedNetwork.label", lambda self, images: 0 * images[..., 0])
    ended = export("net.pt2")
    assert ended.code == 1
    assert "picture.png at 96x64; the largest difference is in row" in ended.err
    assert not (tmp_path / "net.pt2").exists()


def test_a_demo_takes_exported_files(command, light_file, light_checkpoint, tmp_path):
    photo = tmp_path / "photo.png"
    write_image(photo, cv2.resize(noise(4, 6, 3).numpy(), (96, 64)))
    ids = {}
    for snapshot in (light_file, light_checkpoint):
        out = tmp_path / snapshot.stem
        ended = command("demo", "--demo-image", photo, "--snapshot", snapshot, "--save-dir", out, "--flip")
        assert ended.code == 0, ended.err
        ids[snapshot] = read_image(out / "photo_ids.png")
    assert (ids[light_file] == ids[light_checkpoint]).all()


def test_an_exported_file_is_scored_like_its_checkpoint(command, light_file, light_checkpoint, tmp_path):
    write_image(tmp_path / "set/val/a.png", cv2.resize(noise(4, 6, 3).numpy(), (96, 64)))
    write_image(tmp_path / "set/valannot/a.png", (noise(64, 96).numpy() % 11).astype(np.uint8))
    scores = []
    for snapshot in (light_file, light_checkpoint):
        flags = ("--dataset", "camvid", "--dataset_dir", tmp_path / "set", "--ckpt_path", tmp_path / snapshot.stem)
        ended = command("eval", "--snapshot", snapshot, *flags, *AS_IN_TRAINING.split(), "--device", "cpu")
        assert ended.code == 0, ended.err
        scores.append(json.loads(next((tmp_path / snapshot.stem).rglob("metrics.json")).read_text())["confusion"])
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("name", "flags", "problem"), [
    ("net.onnx", ("--size", 16, 96), "--size 16 96: the networks need at least 32"),
    ("net.bin", (), "must end in one of .onnx, .pt2, .safetensors"),
    ("net.onnx", ("--images", "nowhere"), "no such file: nowhere"),
])  # fmt: skip
def test_a_mistake_is_one_line(export, name, flags, problem):
    ended = export(name, *flags)
    assert ended.code == 1
    assert problem in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_a_missing_package_is_named(export, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else name)
    assert "pip install onnxruntime" in export("net.onnx").err


def test_a_file_of_one_size_refuses_others(command, light_file, tmp_path):
    photo = tmp_path / "photo.png"
    write_image(photo, np.zeros((40, 50, 3), np.uint8))
    ended = command("demo", "--demo-image", photo, "--snapshot", light_file, "--save-dir", tmp_path)
    assert "takes images of 96x64 pixels only, not 50x40" in ended.err
    assert "do not change an exported file" in command(
        "demo", "--demo-image", photo, "--snapshot", light_file, "--save-dir", tmp_path, "--bf16"
    ).err  # fmt: skip


def test_a_damaged_file_is_named(command, light_file, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(light_file.read_bytes()[:1000])
    ended = command("demo", "--demo-image", "x.png", "--snapshot", bad)
    assert "error:" in ended.err
    with pytest.raises(ValueError, match=r"bad\.onnx: damaged"):
        load_model(bad)


# What docs/python.md shows


def snippets():
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_documented_lines_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(snippets()[0], names)
    assert names["probabilities"].sum(0).allclose(torch.ones(1), atol=1e-4)
    assert names["picture"].shape == names["image"].shape
    exec(snippets()[1], names)
    assert names["prediction"].shape == (48, 64)


def test_a_program_without_this_project_finds_the_labels_of_the_demo(command, light_file, light_checkpoint, tmp_path):
    photo = tmp_path / "photo.png"
    write_image(photo, cv2.resize(noise(4, 6, 3).numpy(), (96, 64)))
    shutil.copy(light_file, tmp_path / "net.onnx")
    subprocess.run([sys.executable, "-c", snippets()[2], photo], check=True, cwd=tmp_path)
    flags = ("--demo-image", photo, "--snapshot", light_checkpoint, "--save-dir", tmp_path, "--outputs", "ids")
    command("demo", *flags)
    expected = read_label_ids(tmp_path / "photo_ids.png")  # CamVid's label ids are its train ids
    with Image.open(tmp_path / "labels.png") as labels:
        assert (np.asarray(labels) == expected).all()
