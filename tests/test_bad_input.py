"""Bad input ends with one clear line that names file, flag or value, exit code 1 or 2, and no half-written output."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.specs.registry import dataset_spec
from network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import ROOT
from utils.command import one_line
from utils.files import UMASK, atomic_path
from utils.images import write_image


class RunsCode:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.jpg"
    write_image(path, np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A CamVid of one picture."""
    rng = np.random.default_rng(0)
    write_image(tmp_path / "data" / "val" / "a.png", rng.integers(0, 256, (32, 48, 3), np.uint8))
    write_image(tmp_path / "data" / "valannot" / "a.png", rng.integers(0, 12, (32, 48), np.uint8))
    return tmp_path / "data"


@pytest.fixture
def refused(command, tmp_path: Path, monkeypatch) -> Callable[..., str]:
    """Run a command that must end with one line on standard error and nothing written; returns the line."""
    monkeypatch.setattr("inference.predictor.Predictor._network_logits", lambda *_: pytest.fail("the network ran"))
    monkeypatch.chdir(tmp_path)  # where a command writes that was told no folder

    def run(module: str, *arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        ended = command(module, *arguments)
        lines = ended.err.strip().splitlines()
        assert ended.code == 1
        assert len(lines) == 1, ended.err
        assert lines[0].startswith("error: ")
        made = [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.is_file()]
        assert not made
        return lines[0]

    return run


# Pictures


def test_no_such_picture(refused, light_checkpoint, tmp_path):
    line = refused("demo", "--demo-image", tmp_path / "none.jpg", "--snapshot", light_checkpoint)
    assert "no such file" in line
    assert "none.jpg" in line


@pytest.mark.parametrize("content", [b"", b"plain text", b"\xff\xd8\xff\xe0 not really"])
def test_a_file_that_is_no_picture(refused, light_checkpoint, tmp_path, content):
    (tmp_path / "fake.jpg").write_bytes(content)
    assert "fake.jpg" in refused("demo", "--demo-image", tmp_path / "fake.jpg", "--snapshot", light_checkpoint)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_picture(refused, light_checkpoint, tmp_path, suffix):
    path = tmp_path / f"half{suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = refused("demo", "--demo-image", path, "--snapshot", light_checkpoint)
    assert path.name in line
    assert "truncated" in line


def test_a_folder_in_place_of_a_picture_and_the_other_way_round(refused, light_checkpoint, photo):
    assert "is a folder" in refused("demo", "--demo-image", photo.parent, "--snapshot", light_checkpoint)
    assert "is a file" in refused("demo_folder", "--demo-folder", photo, "--snapshot", light_checkpoint)


def test_no_such_folder_and_an_empty_one(refused, light_checkpoint, tmp_path):
    folder = tmp_path / "empty"
    assert "no such folder" in refused("demo_folder", "--demo-folder", folder, "--snapshot", light_checkpoint)
    folder.mkdir()
    (folder / "notes.txt").write_text("no picture")
    assert "contains no images" in refused("demo_folder", "--demo-folder", folder, "--snapshot", light_checkpoint)
    assert "contains no images" in refused("Pixel_percentage", folder)


# Checkpoints


def test_no_such_checkpoint(refused, photo, tmp_path):
    assert "none.pth" in refused("demo", "--demo-image", photo, "--snapshot", tmp_path / "none.pth")


def test_a_truncated_checkpoint(refused, photo, light_checkpoint, tmp_path):
    path = tmp_path / "half.pth"
    path.write_bytes(light_checkpoint.read_bytes()[:100_000])
    assert "half.pth: truncated" in refused("demo", "--demo-image", photo, "--snapshot", path)


@pytest.mark.parametrize("content", [b"", b"plain text"])
def test_a_file_that_is_no_checkpoint(refused, photo, tmp_path, content):
    (tmp_path / "fake.pth").write_bytes(content)
    assert "fake.pth" in refused("demo", "--demo-image", photo, "--snapshot", tmp_path / "fake.pth")


def test_a_checkpoint_that_carries_code_is_refused_and_the_code_not_run(refused, photo, tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": RunsCode(tmp_path / "hacked")}, tmp_path / "evil.pth")
    with (tmp_path / "plain.pth").open("wb") as file:
        pickle.dump({"state_dict": RunsCode(tmp_path / "hacked")}, file)
    for name in ("evil.pth", "plain.pth"):
        assert name in refused("demo", "--demo-image", photo, "--snapshot", tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def test_a_checkpoint_of_another_architecture(refused, photo, light_checkpoint, tmp_path):
    without_description = tmp_path / "published.pth"
    torch.save(dict(load_checkpoint(light_checkpoint).state_dict), without_description)
    line = refused("demo", "--demo-image", photo, "--snapshot", without_description, "--arch", "DeepR18V3PlusD_m1",
                   "--dataset", "camvid")  # fmt: skip
    assert "architecture (--arch)" in line
    line = refused("demo", "--demo-image", photo, "--snapshot", light_checkpoint, "--arch", "DeepR18V3PlusD_m1")
    assert "contradicts" in line


def test_a_checkpoint_of_another_number_of_classes(refused, photo, light_checkpoint, tmp_path):
    path = tmp_path / "published.pth"
    torch.save(dict(load_checkpoint(light_checkpoint).state_dict), path)
    flags = ("--arch", "DeepMNV3V3PlusD_m1", "--dataset", "mapillary")
    assert "another number of classes" in refused("demo", "--demo-image", photo, "--snapshot", path, *flags)


# Flags


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--arch", "DeepLab"), "--arch 'DeepLab' is unknown. Choose one of"),
        (("--dataset", "cityscape"), "--dataset 'cityscape' is unknown. Choose one of"),
        (("--device", "cuda:97"), "--device 'cuda:97'"),
        (("--device", "tpu"), "--device 'tpu'"),
        (("--scales", "1,zwei"), "--scales"),
        (("--scales", "0"), "--scales"),
        (("--scales", ""), "--scales"),
        (("--scales", "1,inf"), "--scales"),
        (("--scales", "nan"), "--scales"),
    ],
)
def test_wrong_values_name_the_flag(refused, photo, light_checkpoint, tmp_path, flags, told):
    snapshot = tmp_path / "published.pth"  # says nothing of itself, so that nothing contradicts it
    torch.save(dict(load_checkpoint(light_checkpoint).state_dict), snapshot)
    agreeing = {"--arch": "DeepMNV3V3PlusD_m1", "--dataset": "camvid", flags[0]: flags[1]}
    arguments = [part for pair in agreeing.items() for part in pair]
    assert told in refused("demo", "--demo-image", photo, "--snapshot", snapshot, *arguments)


@pytest.mark.parametrize(
    ("module", "flags", "told"),
    [
        ("demo", ("--tile", "0"), "--tile must be positive"),
        ("demo", ("--tile", "big"), "--tile"),
        ("eval", ("--crop_size", "-3"), "--crop_size must be positive"),
        ("eval", ("--batch_size", "0"), "--batch_size must be positive"),
        ("eval", ("--sliding_overlap", "-0.1"), "--sliding_overlap must be between 0 and 1"),
        ("eval", ("--inference_mode", "magic"), "--inference_mode"),
        ("eval", ("--split_count", "0"), "--split_count must be positive"),
        ("eval", ("--unheard", "1"), "--unheard"),
        ("eval", ("--scale", "1"), "did you mean --scales?"),
        ("train", ("--split", "val"), "did you mean --train_split?"),
    ],
)
def test_values_out_of_range_end_with_code_2(command, module, flags, told):
    required = {
        "demo": ("--snapshot", "x.pth", "--demo-image", "x.jpg"), "eval": ("--snapshot", "x.pth"), "train": (),
    }  # fmt: skip
    ended = command(module, *required[module], *flags)
    assert ended.code == 2
    assert told in ended.err.splitlines()[-1]


def test_the_demo_for_one_picture_names_the_way_for_folders_and_videos(refused, light_checkpoint, tmp_path):
    (tmp_path / "drive.mp4").touch()
    assert "is a folder" in refused("demo", "--demo-image", tmp_path, "--snapshot", light_checkpoint)
    assert "--demo-video" in refused("demo", "--demo-image", tmp_path / "drive.mp4", "--snapshot", light_checkpoint)


def test_a_required_flag_is_missing(command):
    ended = command("eval", "--split", "val")
    assert ended.code == 2
    assert "--snapshot" in ended.err


# Where results go


@pytest.mark.parametrize("below", [False, True])
def test_a_save_folder_that_cannot_be_written(refused, photo, light_checkpoint, tmp_path, below):
    (tmp_path / "file").write_text("a file is in the way")
    target = tmp_path / "file" / "sub" if below else tmp_path / "file"
    flags = ("--snapshot", light_checkpoint, "--save-dir", target)
    assert "--save-dir" in refused("demo", "--demo-image", photo, *flags)
    assert "--save-dir" in refused("demo_folder", "--demo-folder", photo.parent, *flags)


def test_a_full_disk_is_told_with_the_file_that_has_no_room(tmp_path):
    with pytest.raises(OSError, match="No space") as told, atomic_path(tmp_path / "a.png"):
        raise OSError(28, "No space left on device")  # as write() raises it, without a name
    assert one_line(told.value) == f"{tmp_path / 'a.png'}: No space left on device"
    assert not list(tmp_path.iterdir())


def test_who_may_read_a_result_is_found_out_without_touching_what_other_threads_write(tmp_path, monkeypatch):
    monkeypatch.setattr("os.umask", lambda _: pytest.fail("it holds for all threads"))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~UMASK


def test_tables_that_cannot_be_written(refused, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "file").write_text("a file is in the way")
    for flag in ("--csv", "--json", "--plot"):
        assert flag in refused("Pixel_percentage", tmp_path / "a.png", flag, tmp_path / "file" / "x.png")
        assert flag in refused("Pixel_percentage", tmp_path / "a.png", flag, tmp_path)
    assert "--plot" in refused("Pixel_percentage", tmp_path / "a.png", "--plot", tmp_path / "x.xyz")


def test_an_evaluation_folder_that_cannot_be_written(refused, root, light_checkpoint, tmp_path):
    (tmp_path / "file").write_text("a file is in the way")
    flags = ("--snapshot", light_checkpoint, "--dataset_dir", root, "--ckpt_path", tmp_path / "file")
    assert "--ckpt_path" in refused("eval", *flags)


# Data sets


@pytest.fixture
def refused_eval(refused, root, light_checkpoint, tmp_path) -> Callable[..., str]:
    base = ("eval", "--snapshot", light_checkpoint, "--ckpt_path", tmp_path / "out", "--dataset_dir", root)
    return lambda *flags: refused(*base, *flags)


def test_image_and_labels_of_different_sizes(refused_eval, root):
    write_image(root / "valannot" / "a.png", np.zeros((32, 40), np.uint8))
    line = refused_eval()
    assert "a.png" in line
    assert "same size" in line


def test_a_label_out_of_range(refused_eval, root):
    write_image(root / "valannot" / "a.png", np.full((32, 48), 77, np.uint8))
    line = refused_eval()
    assert "valannot" in line
    assert "77" in line


def test_labels_in_colors(refused_eval, root):
    write_image(root / "valannot" / "a.png", np.zeros((32, 48, 3), np.uint8))
    assert "channel" in refused_eval()


def test_a_missing_label_file_and_an_empty_split(refused_eval, root):
    (root / "valannot" / "a.png").unlink()
    assert "no label file" in refused_eval()
    shutil.rmtree(root / "val")
    assert "no folder" in refused_eval()
    (root / "val").mkdir()
    assert "no images match" in refused_eval()


def test_no_such_data_set_folder_split_or_part(refused_eval, tmp_path):
    assert "--dataset_dir" in refused_eval("--dataset_dir", tmp_path / "nowhere")
    assert "error: split 'vall' is unknown" in refused_eval("--split", "vall")
    assert "--split_index 2 must be below --split_count 2" in refused_eval("--split_index", 2, "--split_count", 2)
    assert "--split_count 9" in refused_eval("--split_count", 9)
    assert "--sliding_overlap at least 0 and below 1" in refused_eval("--sliding_overlap", "1")
    assert "--cv" in refused_eval("--cv", 5)


def test_a_checkpoint_for_a_data_set_not_known_here(refused, root, light_checkpoint, tmp_path):
    described = load_checkpoint(light_checkpoint)
    classes = dataset_spec("camvid").classes
    save_checkpoint(tmp_path / "moon.pth", Checkpoint(
        state_dict=described.state_dict, arch=described.arch, dataset="moon", classes=classes))  # fmt: skip
    assert "'moon'" in refused("eval", "--snapshot", tmp_path / "moon.pth", "--dataset_dir", root)


# Whole processes


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_process_ends_with_one_line_and_debug_shows_the_traceback(light_checkpoint, tmp_path):
    flags = ("--demo-image", tmp_path / "none.jpg", "--snapshot", light_checkpoint)
    ended = run_script("demo.py", *flags)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "none.jpg" in ended.stderr
    assert "Traceback" in run_script("demo.py", *flags, "--debug").stderr


def test_pixel_percentage_as_a_process(tmp_path):
    ended = run_script("Pixel_percentage.py", tmp_path / "none.png")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
