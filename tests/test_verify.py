"""datasets.verify finds what is wrong with a data set; datasets.show draws its crops."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.streets.write import write_streets
from tests.conftest import ROOT, Outcome
from tests.trees import CAR, ROAD, cityscapes_tree, folder_tree, write_classes, write_pair
from utils.images import read_image, write_image


@pytest.fixture
def root(tmp_path) -> Path:
    """A clean folder data set: ten pairs of 4x6 pixels, half road, half car; 00 and 05 are held out."""
    folder_tree(tmp_path / "data", 10)
    return tmp_path / "data"


@pytest.fixture
def verify(root, verified) -> Callable[..., tuple[Outcome, dict[str, Any]]]:
    """Verify the folder data set, see `verified`."""
    return partial(verified, root)


def messages(found: dict[str, Any], kind: str) -> list[str]:
    assert {finding["kind"] for finding in found["findings"]} == {kind}
    return [finding["message"] for finding in found["findings"]]


def test_a_clean_data_set_ends_with_code_0_and_its_class_shares(verify):
    ended, found = verify()
    assert ended.code == 0, ended.out
    assert found["clean"]
    assert found["findings"] == []
    assert found["splits"]["train"] == {
        "images": 8,
        "labels": 8,
        "sizes": {"4x6": 8},
        "class_pixels": {"road": 96, "car": 96},
        "no_class_pixels": 0,
    }
    assert "no problems found" in ended.out
    assert [line.split() for line in ended.out.splitlines() if line.startswith("car")] == [["car", "50.00", "50.00"]]


def test_an_image_without_labels_and_labels_without_an_image(verify, root):
    (root / "labels/03.png").unlink()
    ended, found = verify()
    assert ended.code == 1
    assert messages(found, "no label file") == [f"{root / 'images/03.jpg'} has no label file"]
    (root / "images/03.jpg").unlink()
    (root / "images/04.jpg").unlink()
    ended, found = verify()
    assert messages(found, "no image") == [f"{root / 'labels/04.png'} has no image in {root / 'images'}"]


def test_labels_whose_ending_is_in_capitals_are_found_like_images(verify, root):
    (root / "labels/03.png").rename(root / "labels/03.PNG")
    (root / "labels/04.png").rename(root / "labels/lonely.PNG")
    _, found = verify()
    assert found["splits"]["train"]["labels"] == 7
    told = {finding["message"] for finding in found["findings"]}
    assert told == {
        f"{root / 'images/04.jpg'} has no label file",
        f"{root / 'labels/lonely.PNG'} has no image in {root / 'images'}",
    }


def test_labels_of_another_size(verify, root):
    write_image(root / "labels/03.png", np.zeros((6, 5), np.uint8))
    ended, found = verify()
    assert ended.code == 1
    assert messages(found, "size") == [
        f"{root / 'labels/03.png'} is 5x6, but its image {root / 'images/03.jpg'} is 4x6 (width x height; "
        "images are turned upright as EXIF says, label files are not)"
    ]


def test_a_value_of_no_class_with_file_value_and_place(verify, root):
    ids = np.zeros((6, 4), np.uint8)
    ids[2, 1:3] = 77
    ids[5, 0] = 9
    write_image(root / "labels/03.png", ids)
    ended, found = verify()
    assert ended.code == 1
    assert messages(found, "label value") == [
        f"{root / 'labels/03.png'}: value 9 is not a class of data (pixels: 1, the first at row 5, column 0)",
        f"{root / 'labels/03.png'}: value 77 is not a class of data (pixels: 2, the first at row 2, column 1)",
    ]
    assert "error: 2 problems found" in ended.err


@pytest.mark.parametrize("file", ["images/03.jpg", "labels/03.png"])
def test_a_file_that_is_cut_off(verify, root, file):
    write_pair(root / "images/03.jpg", root / "labels/03.png", np.indices((60, 40)).sum(0) % 2)
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[: len(content) // 2])
    ended, found = verify()
    assert ended.code == 1
    assert [message for message in messages(found, "unreadable") if file in message]


def test_the_same_picture_in_two_splits_even_as_another_file(verify, root):
    image = read_image(root / "images/00.jpg")
    write_image(root / "images/07.png", image)
    (root / "images/07.jpg").unlink()
    ended, found = verify()
    assert ended.code == 1
    (message,) = messages(found, "duplicate")
    assert message == (f"the same image is in train ({root / 'images/07.png'}) and val ({root / 'images/00.jpg'})")


def test_a_picture_in_two_lists(verify, root):
    (root / "train.txt").write_text("00\n01\n02\n")
    (root / "val.txt").write_text("02\n03\n")
    ended, found = verify()
    assert ended.code == 1
    assert messages(found, "duplicate") == [
        f"the same image is in train ({root / 'images/02.jpg'}) and val ({root / 'images/02.jpg'})"
    ]


def test_the_same_picture_twice_in_one_split_is_no_finding(verify, root):
    shutil.copy(root / "images/01.jpg", root / "images/02.jpg")
    assert verify()[0].code == 0


def test_a_class_that_never_occurs_is_a_note(verify, root):
    write_classes(root, ROAD, CAR, {"name": "moon", "color": [1, 1, 1]})
    ended, found = verify()
    assert ended.code == 0
    assert found["notes"] == ["train: no pixel of moon", "val: no pixel of moon"]
    assert "note: train: no pixel of moon" in ended.out


def test_all_findings_are_in_the_json_and_the_first_of_each_kind_are_printed(verify, root):
    folder_tree(root, 40)
    for number in range(1, 31):
        (root / f"labels/{number:02d}.png").unlink()
    ended, found = verify()
    assert len(messages(found, "no label file")) == 30
    assert ended.out.count("has no label file") == 10
    assert "and 20 more" in ended.out


def test_a_folder_that_cannot_be_read_is_told_and_not_left_out(verify, root, monkeypatch):
    write_pair(root / "images/locked/10.jpg", root / "labels/locked/10.png", np.zeros((6, 4)))
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    ended, found = verify()
    assert ended.code == 1
    assert f"train: {root / 'labels/locked'}: Permission denied" in messages(found, "split")


def test_one_split_alone(verify):
    found = verify("--split", "val")[1]
    assert list(found["splits"]) == ["val"]
    assert found["splits"]["val"]["images"] == 2


def test_every_worker_count_finds_the_same(verify, root):
    write_image(root / "labels/03.png", np.full((6, 4), 9, np.uint8))
    (root / "images/08.jpg").write_bytes(b"no picture")
    assert verify("--num_workers", 2)[1] == verify("--num_workers", 1)[1]


def test_a_plot_is_drawn_in_the_colors_of_the_classes(verify, tmp_path):
    assert verify("--plot", tmp_path / "out/shares.png")[0].code == 0
    picture = read_image(tmp_path / "out/shares.png")
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    assert ((red - green > 15) & (abs(green - blue) < 8) & (red < 140)).any(), "road, dark red, is not there"
    assert (green - red > 100).any(), "car, green, is not there"


def test_cityscapes_is_verified_as_far_as_it_is_there(tmp_path, command):
    cityscapes_tree(tmp_path)
    ended = command("datasets.verify", "--dataset", "cityscapes", "--dataset_dir", tmp_path, "--num_workers", 1)
    assert ended.code == 0, ended.out
    for line in ("note: test is missing: data set", "note: train_coarse is missing: data set",
                 "note: train: 3 images; the complete data set has 2975"):  # fmt: skip
        assert line in ended.out
    assert "sequence" not in ended.out
    shutil.rmtree(tmp_path / "gtFine/val")
    ended = command("datasets.verify", "--dataset", "cityscapes", "--dataset_dir", tmp_path, "--num_workers", 1)
    assert ended.code == 1
    assert "val: data set cityscapes: no folder" in ended.out
    assert str(tmp_path / "gtFine/val") in ended.out


def test_a_split_without_labels_is_looked_at_all_the_same(tmp_path, command):
    write_pair(tmp_path / "testing/image_2/000000_10.png", None)
    flags = ("--dataset", "kitti", "--dataset_dir", tmp_path, "--split", "test", "--num_workers", 1)
    ended = command("datasets.verify", *flags, "--plot", tmp_path / "x.png")
    assert ended.code == 0, ended.out
    assert "percent" not in ended.out
    assert f"note: {tmp_path / 'x.png'} is not written: without labels there is nothing to plot" in ended.out
    (tmp_path / "testing/image_2/000000_10.png").write_bytes(b"no picture")
    assert command("datasets.verify", *flags).code == 1


def test_streets_drawn_without_test_images_are_well(tmp_path, command):
    write_streets(tmp_path / "set", num_train=2, num_val=1, num_test=0, height=48, width=64, num_workers=1,
                  )  # fmt: skip
    flags = ("--dataset", "streets", "--dataset_dir", tmp_path / "set", "--num_workers", 1)
    ended = command("datasets.verify", *flags)
    assert ended.code == 0, ended.out
    assert "note: test is missing" in ended.out


def test_wrong_flags_end_with_one_line(command, root, tmp_path):
    def told(*flags: object) -> str:
        ended = command("datasets.verify", *flags)
        assert ended.code == 1
        assert len(ended.err.strip().splitlines()) == 1
        return ended.err

    assert "'citscapes' is unknown" in told("--dataset", "citscapes")
    assert "KERBLINE_FOLDER" in told("--dataset", "folder", "--dataset_dir", tmp_path / "none")
    here = ("--dataset", "folder", "--dataset_dir", root)
    assert "split 'vall' is unknown for folder" in told(*here, "--split", "vall")
    (tmp_path / "file").write_text("in the way")
    assert "--json" in told(*here, "--json", tmp_path / "file/x.json")
    assert "--plot" in told(*here, "--plot", tmp_path / "x.txt")
    assert "is a folder" in told(*here, "--plot", tmp_path)


def test_real_camvid_is_clean_and_has_its_published_pixel_counts(shared, command, tmp_path):
    root = shared / "camvid"
    flags = ("--split", "val", "--json", tmp_path / "found.json", "--num_workers", 1)
    ended = command("datasets.verify", "--dataset", "camvid", "--dataset_dir", root, *flags)
    assert ended.code == 0, ended.out
    published = json.loads((root / "classes.json").read_text())["pixels"]["val"]
    found = json.loads((tmp_path / "found.json").read_text())["splits"]["val"]
    assert [*found["class_pixels"].values(), found["no_class_pixels"]] == published


# The sheet of crops


def test_a_sheet_shows_crops_with_their_labels_and_a_legend(root, tmp_path, command):
    flags = ("--dataset", "folder", "--dataset_dir", root, "--crop_size", 30, "--num", 4, "--columns", 2)
    ended = command("datasets.show", *flags, "--out", tmp_path / "sheet.png")
    assert ended.code == 0, ended.err
    sheet = read_image(tmp_path / "sheet.png")
    # Two rows of two crops, each beside its labels and both over each other; the legend below.
    assert sheet.shape[0] > 2 * 30 + 12
    assert sheet.shape[1] >= 2 * (3 * 30 + 2 * 2) + 12
    labels = sheet[:30, 32:62]
    assert {tuple(color) for color in labels.reshape(-1, 3).tolist()} == {(64, 32, 32), (0, 255, 102), (0, 0, 0)}
    command("datasets.show", *flags, "--out", tmp_path / "again.png")
    assert (read_image(tmp_path / "again.png") == sheet).all()
    command("datasets.show", *flags, "--seed", 1, "--out", tmp_path / "other.png")
    other = read_image(tmp_path / "other.png")
    assert other.shape != sheet.shape or (other != sheet).any()


def test_a_sheet_of_a_split_without_labels_is_refused(tmp_path, command):
    write_pair(tmp_path / "testing/image_2/000000_10.png", None)
    flags = ("--dataset", "kitti", "--dataset_dir", tmp_path, "--split", "test", "--out", tmp_path / "sheet.png")
    ended = command("datasets.show", *flags)
    assert ended.code == 1
    assert "--split test: this split of kitti has no labels to show" in ended.err
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("module", ["datasets.verify", "datasets.show", "datasets.streets"])
def test_help_is_answered_without_loading_anything_heavy(module):
    words = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"usage: python -m {module}" in ended.stdout
    assert {"torch", "cv2", "numpy"} & {line.split()[-1] for line in ended.stderr.splitlines()} == set()
