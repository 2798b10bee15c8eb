"""Mistakes of all kinds in all commands: one clear line, the right exit code, and nothing written.

A table: each row is a command line, with places in braces, and what the line must tell. `test_bad_input.py` has the
mistakes that need more than a line.
"""

from __future__ import annotations

import dataclasses
import json
import typing
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from network.checkpoint import load_checkpoint
from tests.commands import CONFIGS
from tests.trees import png
from utils.flags import NOT_NEGATIVE, POSITIVE, SHARE
from utils.images import write_image

# What a command cannot do without.
NEEDED = {
    "eval": "--snapshot x",
    "demo_folder": "--demo-folder x",
    "export": "--snapshot x --out y",
    "propagate": "--dataset camvid",
    "datasets.verify": "--dataset camvid",
    "datasets.show": "--dataset camvid",
    "datasets.streets.__main__": "--root x",
    "inference.submission": "x",
    "network.convert": "x --arch y --out z",
    "training.compare": "x",
    "video.train": "--frames x",
}


def wrong_values() -> Iterator[tuple[str, str]]:
    """Every flag that has a rule, with a value that breaks it: the command line, and the flag that must be named."""
    for command, config in CONFIGS.items():
        for group in typing.get_type_hints(config).values():
            kinds = typing.get_type_hints(group)
            for setting in dataclasses.fields(group):
                kind, rule = str(kinds[setting.name]), setting.metadata["must_be"]
                named = max((f"--{setting.name}", *setting.metadata["flags"]), key=len).lstrip("-")
                values = {POSITIVE: "0", NOT_NEGATIVE: "-1", SHARE: "1.5"}.get(rule, "")
                if setting.metadata["choices"] or "int" in kind or "float" in kind:
                    values += " many"
                if "float" in kind:
                    values += " nan"
                if setting.metadata["at_most"]:
                    values += " 99999999"
                for value in values.split():
                    yield f"{command} {NEEDED.get(command, '')} --{setting.name}={value}", named


WRONG_VALUES = list(wrong_values())
UNKNOWN = [(f"{command} {NEEDED.get(command, '')} --no_such_flag 1", "unrecognized arguments: --no_such_flag")
           for command in CONFIGS]  # fmt: skip
MISSING = [(command, "the following arguments are required") for command in NEEDED if command != "propagate"]
TEXTS = [
    ("train --crop_size 0", "--crop_size must be positive, got 0."),
    ("train --lr nan", "--lr must be a finite number, got nan."),
    ("train --pre_size 100000", "--pre_size must be at most 16384, got 100000."),
    ("eval --snapshot x --sliding_overlap -0.1", "--sliding_overlap must be between 0 and 1"),
    ("eval --snapshot x --scale 1", "did you mean --scales?"),
    ("train --split val", "did you mean --train_split?"),
]


@pytest.mark.parametrize(("line", "told"), [*WRONG_VALUES, *UNKNOWN, *MISSING, *TEXTS], ids=lambda text: text)
def test_a_wrong_flag_is_named_and_ends_with_code_2(command, line, told):
    ended = command(*line.split())
    assert ended.code == 2
    assert ended.out == ""
    (told_line,) = ended.err.splitlines()
    assert told_line.startswith("error: ")
    assert told in told_line


CLASSES = {"name": "road", "color": [1, 2, 3], "ids": [0]}, {"name": "car", "color": "#040506", "ids": [1]}

# classes.json -> what is told of it
BAD_CLASSES: list[tuple[object, str]] = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"\xff\xfe{}", "not valid JSON"),
    ([], 'expected {"classes"'),
    ({}, 'expected {"classes"'),
    (None, 'expected {"classes"'),
    ({"classes": []}, 'expected {"classes"'),
    ({"classes": {}}, 'expected {"classes"'),
    ({"classes": ["road"]}, 'expected {"classes"'),
    ({"classes": [{}]}, 'needs a "name"'),
    ({"classes": [{"name": 3, "color": [0, 0, 0]}]}, 'needs a "name"'),
    ({"classes": [{"name": " ", "color": [0, 0, 0]}]}, 'needs a "name"'),
    ({"classes": [{"name": "road"}]}, 'needs a "color"'),
    ({"classes": [{"name": "road", "color": "red"}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": [1, 2]}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": [1, 2, 256]}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": [1, 2, -1]}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": [1, 2, 0.5]}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": "#12345"}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": None}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ids": []}]}, '"ids" must be a list'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ids": 4}]}, '"ids" must be a list'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ids": [-1]}]}, '"ids" must be a list'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ids": [65536]}]}, '"ids" must be a list'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ids": [True]}]}, '"ids" must be a list'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ids": ["0"]}]}, '"ids" must be a list'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ignored": "yes"}]}, '"ignored" must be true or false'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "label_colors": []}]}, '"label_colors" must be a list'),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "label_colors": [[1]]}]}, "a colour must be"),
    ({"classes": [{"name": "road", "color": [1, 2, 3], "ignored": True}]}, "0 classes"),
    ({"classes": [CLASSES[0], CLASSES[0]]}, "belongs to two classes"),
    ({"classes": [CLASSES[0], {**CLASSES[1], "name": "road"}]}, "the name 'road' belongs to two classes"),
    ({"classes": [CLASSES[0], {**CLASSES[1], "ids": [0]}]}, "the id 0 belongs to two classes"),
    ({"classes": [CLASSES[0], {**CLASSES[1], "color": [1, 2, 3]}]}, "belongs to two classes"),
    ({"classes": list(CLASSES), "masks": "both"}, '"masks" must be'),
    ({"classes": list(CLASSES), "ignore_label": -1}, '"ignore_label" must be'),
    ({"classes": list(CLASSES), "ignore_label": "255"}, '"ignore_label" must be'),
    ({"classes": list(CLASSES), "ignore_label": 0}, "is also an id of class road"),
    ({"classes": [{"name": str(i), "color": [i % 256, i // 256, 0]} for i in range(300)]}, "300 classes"),
]

# train.txt -> what is told of it
BAD_LISTS: list[tuple[bytes, str]] = [
    (b"", "the list is empty"),
    (b"# nothing\n", "the list is empty"),
    (b"none\n", "line 1: no image none"),
    (b"\n", "the list is empty"),
    (b"a\n../secret\n", "line 2: no image ../secret"),
    (b"/etc/passwd\n", "no image /etc/passwd"),
    ("a\n".encode("utf-16"), "is not UTF-8 text"),
    (b"a\0\n", "is not UTF-8 text"),
    (b"\xff\xff\n", "no image"),
]


@pytest.fixture
def folder_set(tmp_path: Path) -> Path:
    """A data set of one's own with two images."""
    root = tmp_path / "own"
    for name in ("a", "b"):
        write_image(root / "images" / f"{name}.png", np.full((8, 8, 3), 100, np.uint8))
        write_image(root / "labels" / f"{name}.png", np.zeros((8, 8), np.uint8))
    (root / "classes.json").write_text(json.dumps({"classes": list(CLASSES)}))
    return root


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Time and size of every file below `folder`."""
    files = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (found.st_mtime_ns, found.st_size) for path, found in files.items()}


def assert_refused(ended, told: str, before: dict[Path, tuple[int, int]], folder: Path) -> None:
    lines = ended.err.strip().splitlines()
    assert ended.code == 1, (ended.out, ended.err)
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    assert told in lines[0]
    assert stamps(folder) == before


@pytest.mark.parametrize(("content", "told"), BAD_CLASSES, ids=[str(row[0])[:60] for row in BAD_CLASSES])
def test_a_class_file_that_is_wrong(command, folder_set, content, told):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder_set / "classes.json").write_bytes(text)
    before = stamps(folder_set)
    ended = command("datasets.verify", "--dataset", "folder", "--dataset_dir", folder_set, "--num_workers", 1)
    assert_refused(ended, told, before, folder_set)


@pytest.mark.parametrize(("content", "told"), BAD_LISTS, ids=[str(row[0]) for row in BAD_LISTS])
def test_a_list_that_is_wrong(command, folder_set, content, told):
    (folder_set / "train.txt").write_bytes(content)
    (folder_set / "val.txt").write_text("b\n")
    before = stamps(folder_set)
    flags = ("--dataset", "folder", "--dataset_dir", folder_set, "--split", "train", "--out", folder_set / "out.png")
    assert_refused(command("datasets.show", *flags), told, before, folder_set)


# Command lines about files. The files are made by `places`; none is changed.
MISTAKES: list[tuple[str, str]] = [
    # pictures
    *((f"demo --demo-image {{pictures}}/{name}", name) for name in (
        "empty.png", "text.jpg", "half.png", "half.jpg", "half.tif", "half.webp", "bomb.png", "bomb.gif", "bomb.tif",
        "page.html", "pointer.png", "flipped.png", "header.png", "zero.png", "folder.png", "broken-link.png",
        "none.jpg",
    )),
    *((f"demo_folder --demo-folder {{pictures}}/{name}", name) for name in ("none", "text.jpg", "*.none")),
    *((f"Pixel_percentage {{pictures}}/{name}", name) for name in (
        "empty.png", "half.png", "bomb.png", "float.tif", "half.jpg", "none.png",
    )),
    ("demo --demo-image {photo} --scales 1,,x", "--scales"),
    ("demo --demo-image {photo} --outputs ids,nothing", "--outputs"),
    ("demo --demo-image {photo} --classes Unicorn", "--classes"),
    ("demo --demo-image {photo} --demo-video {photo}", "--demo-"),
    ("demo", "--demo-image"),
    ("demo --demo-image {photo} --save-dir {photo}", "--save-dir"),
    ("demo --demo-image {photo} --save-dir /proc/none", "--save-dir"),
    ("demo_folder --demo-folder {data}/val --save-dir {photo}", "--save-dir"),
    ("demo --demo-image {photo} --dataset moon", "--dataset"),
    ("demo --demo-image {photo} --arch DeepMoon", "--arch"),
    ("demo --demo-image {photo} --device cuda:x", "--device"),
    ("demo --demo-image {photo} --max_memory 1e-9", "--max_memory"),
    # videos
    *((f"demo --demo-video {{pictures}}/{name}", name) for name in ("empty.mp4", "text.mp4", "none.mp4", "half.mp4")),
    ("demo --demo-video {photo}/x", "photo"),
    ("video.train --frames {pictures}/none", "none"),
    ("video.train --frames {pictures}/empty.mp4", "empty.mp4"),
    ("video.train --frames {data}/val", "--frames"),
    ("propagate --dataset camvid --video {pictures}/none.mp4 --labels {data}/valannot --out {out}/new", "none.mp4"),
    ("propagate --dataset camvid --video {pictures}/text.mp4 --labels {data}/valannot --out {out}/new", "text.mp4"),
    ("propagate --dataset camvid --video {data}/val --labels {data}/none --out {out}/new", "none"),
    ("propagate --dataset camvid --dataset_dir {data}/none", "--dataset_dir"),
    ("propagate --dataset camvid --dataset_dir {data} --keep everything", "--keep"),
    ("propagate --dataset camvid --dataset_dir {data} --flow raft --flow_weights {pictures}/none", "none"),
    ("propagate --dataset camvid --dataset_dir {data} --flow sdc --flow_weights {pictures}/text.jpg", "text.jpg"),
    # checkpoints
    *((f"demo --demo-image {{photo}} --snapshot {{checkpoints}}/{name}", name) for name in (
        "none.pth", "empty.pth", "text.pth", "half.pth", "bit.pth", "list.pth", "number.pth", "nothing.pth", "nan.pth",
        "future.pth", "classes.pth", "short.pth", "folder.pth", "pointer.pth", "half.safetensors", "header.safetensors",
        "note.safetensors", "code.pth",
    )),
    *((f"eval --dataset_dir {{data}} --ckpt_path {{out}} --snapshot {{checkpoints}}/{name}", name) for name in (
        "none.pth", "half.pth", "nan.pth", "future.pth",
    )),
    *((f"network.convert {{checkpoints}}/{name} {{trunk}}/x.safetensors", name) for name in (
        "none.pth", "text.pth", "half.pth", "nan.pth",
    )),
    ("network.convert {light} {trunk}/x.bin", "--out"),
    ("network.convert {light} {trunk}/x.safetensors", "this trunk (--arch)"),
    ("export --snapshot {light} --out {out}/x.bin", "--out"),
    ("export --snapshot {light} --out {photo}/x.pt2", "--out"),
    ("export --snapshot {checkpoints}/none.pth --out {out}/x.pt2", "none.pth"),
    ("export --snapshot {checkpoints}/bit.pth --out {out}/x.pt2", "bit.pth"),
    ("network.convert {light} --arch Moon --out {out}/x.safetensors", "Moon"),
    ("train --dataset camvid --dataset_dir {data} --snapshot {checkpoints}/bit.pth {train}", "bit.pth"),
    ("train --dataset camvid --dataset_dir {data} --snapshot {checkpoints}/nan.pth {train}", "nan.pth"),
    ("train --dataset camvid --dataset_dir {data} --trunk_weights {checkpoints}/text.pth {train}", "text.pth"),
    ("train --dataset camvid --dataset_dir {data} --trunk_weights {checkpoints}/none.pth {train}", "none.pth"),
    # training flags that do not go together
    ("train --dataset moon", "--dataset 'moon'"),
    ("train --dataset camvid --dataset_dir {data}/none {train}", "--dataset_dir"),
    ("train --dataset camvid --dataset_dir {data} --train_split dusk {train}", "dusk"),
    ("train --dataset camvid --dataset_dir {data} --cv 7 {train}", "--cv 7"),
    ("train --dataset camvid --dataset_dir {data} --global_batch 3 {train}", "--global_batch 3"),
    ("train --dataset camvid --dataset_dir {data} --global_batch 4 --accumulate 2 {train}", "--accumulate"),
    ("train --dataset camvid --dataset_dir {data} --device cpu --bf16_gradients {train}", "--bf16_gradients"),
    ("train --dataset camvid --dataset_dir {data} --no-sgd {train}", "--no-sgd"),
    ("train --dataset camvid --dataset_dir {data} --restore_optimizer {train}", "--snapshot"),
    ("train --dataset camvid --dataset_dir {data} --lr_schedule scl-poly {train}", "--rlx_off_epoch"),
    ("train --dataset camvid --dataset_dir {data} --rlx_off_epoch 1 {train}", "--rlx_off_epoch"),
    ("train --dataset camvid --dataset_dir {data} --relax --img_wt_loss {train}", "exclude each other"),
    ("train --dataset camvid --dataset_dir {data} --batch_weighting {train}", "--batch_weighting"),
    ("train --dataset camvid --dataset_dir {data} --relax --strict_bdr_cls 99 {train}", "--strict_bdr_cls"),
    ("train --dataset camvid --dataset_dir {data} --relax --strict_bdr_cls x {train}", "--strict_bdr_cls"),
    ("train --dataset camvid --dataset_dir {data} --coarse_boost_classes 3 {train}", "--coarse_boost_classes"),
    ("train --dataset camvid --dataset_dir {data} --scale_min 3 {train}", "--scale_min"),
    ("train --dataset camvid --dataset_dir {data} --aspp_rates 6,x {train}", "--aspp_rates"),
    ("train --dataset camvid --dataset_dir {data} --aspp_rates 6,-1 {train}", "--aspp_rates"),
    ("train --dataset camvid --dataset_dir {data} --device tpu {train}", "--device"),
    ("train --dataset camvid --dataset_dir {data} --maxSkip 2 --propagated_dir {data}/none {train}", "none"),
    ("train --dataset camvid --dataset_dir {data} --scf {train}", "--scf"),
    ("train --dataset camvid --dataset_dir {data} {train} --class_uniform_pct 0 --ckpt {photo}", "--ckpt"),
    ("train --dataset camvid --dataset_dir {data} {train} --index_dir {photo}", "--index_dir"),
    ("train --dataset camvid --dataset_dir {data} {train} --class_uniform_pct 0 --cache_dir {photo}", "--cache_dir"),
    # data and labels
    *((f"eval --snapshot {{light}} --dataset_dir {{bad_labels}}/{name} --ckpt_path {{out}}", name) for name in (
        "ids", "colors", "size", "jpeg", "float", "empty", "missing", "half", "bomb",
    )),
    ("eval --snapshot {light} --dataset_dir {data} --split night --ckpt_path {out}", "night"),
    ("eval --snapshot {light} --dataset_dir {data} --cv 4 --ckpt_path {out}", "--cv"),
    ("eval --snapshot {light} --dataset_dir {data} --split_index 5 --split_count 2 --ckpt_path {out}", "--split_index"),
    ("eval --snapshot {light} --dataset_dir {data} --split_count 9 --ckpt_path {out}", "--split_count 9"),
    ("eval --snapshot {light} --dataset_dir {data} --sliding_overlap 1 --ckpt_path {out}", "--sliding_overlap"),
    ("eval --snapshot {light} --dataset_dir {data}/none --ckpt_path {out}", "--dataset_dir"),
    ("eval --snapshot {light} --dataset_dir {data} --ckpt_path {photo}", "--ckpt_path"),
    ("datasets.verify --dataset moon", "--dataset"),
    ("datasets.verify --dataset folder --dataset_dir {data}", "classes.json"),
    ("datasets.verify --dataset camvid --dataset_dir {data} --split night", "night"),
    ("datasets.verify --dataset camvid --dataset_dir {data} --json {photo}/x.json", "--json"),
    ("datasets.verify --dataset camvid --dataset_dir {data} --plot {out}/x.exe", "--plot"),
    ("datasets.show --dataset camvid --dataset_dir {data}/none", "--dataset_dir"),
    ("datasets.show --dataset camvid --dataset_dir {data} --split night --out {out}/x.png", "night"),
    ("datasets.show --dataset camvid --dataset_dir {data} --split val --out {photo}/x.png", "--out"),
    ("datasets.show --dataset camvid --dataset_dir {data} --split val --out {out}/x.exe", "x.exe"),
    ("datasets.streets.__main__ --root {out} --size big", "--size"),
    ("datasets.streets.__main__ --root {out} --size 0x0", "--size"),
    ("datasets.streets.__main__ --root {data}", "data"),
    ("datasets.streets.__main__ --root {photo}", "photo"),
    ("Pixel_percentage {data}/valannot --dataset moon", "--dataset"),
    ("Pixel_percentage {data}/none", "none"),
    ("Pixel_percentage {data}/valannot/a.png --dataset camvid --csv {photo}/x.csv", "--csv"),
    ("Pixel_percentage {data}/valannot/a.png --dataset camvid --json {data}", "--json"),
    ("Pixel_percentage {data}/valannot/a.png --dataset camvid --plot {out}/x.exe", "--plot"),
    ("inference.submission {out}/none", "none"),
    ("inference.submission {data}", "--dataset"),
    ("inference.submission {data} --dataset moon", "--dataset"),
    ("inference.submission {data} --dataset camvid --dataset_dir {data}/none", "--dataset_dir"),
    ("inference.submission {photo} --dataset camvid --dataset_dir {data} --split val", "photo"),
    ("training.compare {data} --out {photo}/x", "--out"),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, light_checkpoint: Path) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 48, 3), np.uint8)
    write_image(folder / "photo.png", noise)
    write_image(folder / "data/val/a.png", noise)
    write_image(folder / "data/valannot/a.png", rng.integers(0, 12, (32, 48), np.uint8))
    for name in ("train", "trainannot", "test", "testannot"):
        write_image(folder / "data" / name / "b.png", noise if "annot" not in name else np.zeros((32, 48), np.uint8))
    make_pictures(folder / "pictures", noise)
    make_checkpoints(folder / "checkpoints", light_checkpoint)
    make_bad_labels(folder / "bad_labels", noise)
    train = "--arch DeepMNV3V3PlusD_m1 --crop_size 32 --bs_mult 2 --max_epoch 2 --num_workers 0"
    run = f"--ckpt {folder}/out --tb_path {folder}/out --index_dir {folder}/out"
    parts = {part: str(folder / part) for part in ("pictures", "data", "checkpoints", "bad_labels", "out")}
    return {
        **parts, "photo": f"{folder}/photo.png", "light": str(light_checkpoint), "train": f"{run} {train}",
        "trunk": f"--arch DeepR18V3PlusD_m1 --out {folder}/out",
    }  # fmt: skip


BOMB = (60000, 60000)  # declared by a file of a few bytes


def declare(width: int, height: int) -> bytes:
    """A PNG that says it has this size, with hardly any data."""
    return png(width, height, zlib.compress(bytes(999)))


def make_pictures(folder: Path, noise: np.ndarray) -> None:
    from PIL import Image

    (folder / "folder.png").mkdir(parents=True)
    (folder / "broken-link.png").symlink_to(folder / "nowhere.png")
    for name in ("half.png", "half.jpg", "half.tif", "half.webp"):
        Image.fromarray(noise).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2])
    Image.fromarray(noise).save(folder / "flipped.png")
    flipped = bytearray((folder / "flipped.png").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tif")
    for name, content in {
        "empty.png": b"", "empty.mp4": b"", "text.jpg": b"text", "text.mp4": b"text", "flipped.png": bytes(flipped),
        "half.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\x08moov", "page.html": b"<html></html>",
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "header.png": declare(8, 8)[:40], "zero.png": declare(0, 0), "bomb.png": declare(*BOMB),
        "bomb.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
        "bomb.tif": bytes.fromhex(
            "49492a00080000000800000104000100000060ea000001010400010000006"
            "0ea00000201030001000000080000000301030001000000010000000601030001000000010000001101040001000000000000001601"
            "04000100000060ea00001701040001000000080000000000000000"
        ),
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)


class Code:
    def __reduce__(self) -> tuple:
        return print, ("run",)


def make_checkpoints(folder: Path, light: Path) -> None:
    from safetensors.torch import save_file

    (folder / "folder.pth").mkdir(parents=True)
    content = torch.load(light, weights_only=True)
    whole = light.read_bytes()
    bit = bytearray(whole)
    bit[len(bit) // 2] ^= 1
    for name, data in {
        "empty.pth": b"", "text.pth": b"text", "half.pth": whole[: len(whole) // 2], "bit.pth": bytes(bit),
        "pointer.pth": b"version https://git-lfs.github.com/spec/v1\n",
        "header.safetensors": b"\xff\xff\0\0\0\0\0\0{}",
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    weights = content["state_dict"]
    key = next(iter(weights))
    for name, kept in {
        "list.pth": [1], "number.pth": 3, "nothing.pth": {}, "code.pth": {"state_dict": {"a": Code()}},
        "nan.pth": {**content, "state_dict": {**weights, key: weights[key] * float("nan")}},
        "future.pth": {**content, "format": 99},
        "classes.pth": {**content, "classes": [["road", [0, 0]]]},
        "short.pth": {**content, "state_dict": {key: weights[key]}},
        "published.pth": dict(load_checkpoint(light).state_dict),
    }.items():  # fmt: skip
        torch.save(kept, folder / name)
    save_file({"a": torch.zeros(3)}, folder / "half.safetensors")
    (folder / "half.safetensors").write_bytes((folder / "half.safetensors").read_bytes()[:-5])
    save_file({"a": torch.zeros(3)}, folder / "note.safetensors", {"kerbline": "{"})


def make_bad_labels(folder: Path, noise: np.ndarray) -> None:
    """Data sets of one image, each with another mistake in its labels."""
    from PIL import Image

    labels = np.zeros((32, 48), np.uint8)
    for name in ("ids", "colors", "size", "jpeg", "float", "empty", "missing", "half", "bomb"):
        write_image(folder / name / "val/a.png", noise)
        write_image(folder / name / "valannot/a.png", labels)
    write_image(folder / "ids/valannot/a.png", labels + 200)
    write_image(folder / "colors/valannot/a.png", noise)
    write_image(folder / "size/valannot/a.png", labels[:, :40])
    for name, suffix in (("jpeg", "JPEG"), ("float", "TIFF")):
        made = Image.fromarray(labels if name == "jpeg" else labels.astype(np.float32))
        made.save(folder / name / "valannot/a.png", format=suffix)
    (folder / "empty/valannot/a.png").write_bytes(b"")
    (folder / "missing/valannot/a.png").unlink()
    half = folder / "half/valannot/a.png"
    half.write_bytes(half.read_bytes()[:-20])
    (folder / "bomb/valannot/a.png").write_bytes(declare(*BOMB))


@pytest.mark.parametrize(("line", "told"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(command, places, monkeypatch, tmp_path, line, told):
    monkeypatch.chdir(tmp_path)  # where a command writes that was told no folder
    monkeypatch.setattr("inference.predictor.Predictor._network_logits", lambda *_: pytest.fail("the network ran"))
    words = line.format_map(places).split()
    folder = Path(places["out"]).parent
    before = stamps(folder)
    ended = command(*words)
    assert_refused(ended, told, before, folder)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


ENVIRONMENT = [
    ({"KERBLINE_CAMVID": "/nowhere"}, "KERBLINE_CAMVID"),
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
    ({"RANK": "first", "WORLD_SIZE": "2"}, "RANK"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
    ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK=2"),
]


@pytest.mark.parametrize(("variables", "told"), ENVIRONMENT, ids=[str(row[0]) for row in ENVIRONMENT])
def test_an_environment_that_is_wrong(command, places, monkeypatch, tmp_path, variables, told):
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    root = () if "KERBLINE_CAMVID" in variables else ("--dataset_dir", places["data"])
    flags = ("--dataset", "camvid", "--device", "cpu", *root, *places["train"].split())
    folder = Path(places["out"]).parent
    assert_refused(command("train", *flags), told, stamps(folder), folder)
