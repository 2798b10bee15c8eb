"""Data sets and pictures that people bring along: what is unusual about them is told, not passed over."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets import legend as fonts
from datasets.legend import counted_shares, pixels_per_class, with_legend
from datasets.specs.spec import SegClass, first_difference
from tests.conftest import Outcome
from tests.trees import CAR, ROAD, folder_tree, write_classes, write_pair
from utils.images import IMAGE_SUFFIXES, read_image

ROAD_COLOR, CAR_COLOR = (64, 32, 32), (0, 255, 102)


@pytest.fixture
def root(tmp_path) -> Path:
    """A clean folder data set: ten pairs of 4x6 pixels, half road, half car."""
    folder_tree(tmp_path / "data", 10)
    return tmp_path / "data"


@pytest.fixture
def verify(root, verified) -> Callable[..., tuple[Outcome, dict[str, Any]]]:
    """Verify the folder data set, see `verified`."""
    return partial(verified, root)


def messages(found: dict[str, Any]) -> list[str]:
    return [finding["message"] for finding in found["findings"]]


def write_turned(path: Path, orientation: int, size: tuple[int, int] = (6, 4)) -> None:
    """A picture [H, W] as stored, with a note of how it is to be turned."""
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.random.default_rng(orientation).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


# Photos that are turned


def test_a_size_that_differs_by_exif_says_so(verify, root):
    write_turned(root / "images/03.jpg", 6)
    (message,) = messages(verify()[1])
    assert "03.png is 4x6" in message
    assert "images are turned upright as EXIF says, label files are not" in message


# Messages


def test_the_first_difference_between_classes_is_named():
    assert first_difference(("road", "car"), ("Road", "car")) == "class 1 was 'road', is 'Road'"
    assert first_difference(("road",), ("road", "car")) == "class 2, 'car', is new"
    assert first_difference(("road", "car"), ("road",)) == "class 2, 'car', is gone"


def test_a_single_number_as_ids_is_told_to_be_a_list(root, command):
    write_classes(root, ROAD | {"ids": 0}, CAR)
    ended = command("datasets.verify", "--dataset", "folder", "--dataset_dir", root)
    assert '(road): "ids" must be a list of whole numbers from 0 to 65535; got 0.' in ended.err


def test_a_line_of_a_list_is_quoted_as_it_stands_there(verify, root):
    (root / "train.txt").write_text("00.jpg 00.png\n01\n")
    (root / "val.txt").write_text("# held out\nlabels/03.png\n")
    told = messages(verify()[1])
    images, rules = root / "images", "a list has one name per line; a comment begins with a # and a space"
    assert told == [
        f"train: {root}/train.txt, line 1: no image 00.jpg 00.png in {images} ({rules}).",
        f"val: {root}/val.txt, line 2: no image labels/03.png in {images} ({rules}).",
    ]


# Demos


def test_every_format_that_is_looked_for_can_be_read(tmp_path):
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    names = {".jpe": "JPEG", ".jfif": "JPEG", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"}
    for suffix in IMAGE_SUFFIXES:
        path = tmp_path / f"x{suffix}"
        try:
            picture.convert("1" if suffix == ".pbm" else "RGB").save(path, names.get(suffix))
        except (OSError, KeyError):
            continue  # this Pillow cannot write it
        assert read_image(path).shape == (8, 8, 3), suffix


def test_demo_folder_says_which_files_it_leaves_out(light_checkpoint, tmp_path, command):
    folder = tmp_path / "in"
    write_pair(folder / "a.jpg", None, size=(40, 64))
    Image.fromarray(np.full((40, 64, 3), 99, np.uint8)).save(folder / "b.gif")
    for name in ("c.heic", "d.HEIC", "notes", ".hidden.raw"):
        (folder / name).write_bytes(b"x")
    flags = ("--demo-folder", folder, "--snapshot", light_checkpoint, "--save-dir", folder)
    for _ in range(2):  # results of the first time, which lie there too, are not left out but none of its pictures
        ended = command("demo_folder", *flags)
        assert ended.code == 0
        assert "2 of 2 images done" in ended.out
        assert ended.out.splitlines()[-1] == "skipped 3 files without the extension of an image: .heic, no extension"


def test_tiles_too_small_to_show_anything_are_refused(light_checkpoint, tmp_path, command):
    write_pair(tmp_path / "a.png", None, size=(40, 64))
    flags = ("--snapshot", light_checkpoint, "--save-dir", tmp_path / "out", "--tile", 10)
    ended = command("demo", "--demo-image", tmp_path / "a.png", *flags)
    assert ended.code == 1
    assert "--tile, --crop_size 10: in fewer than 32 pixels" in ended.err


# Names in any script


def test_names_that_the_font_lacks_are_drawn_as_train_ids():
    labels = np.array([[0, 1], [0, 1]], np.uint8).repeat(200, 0).repeat(200, 1)
    black = np.zeros((*labels.shape, 3), np.uint8)

    def legend(*names: str) -> np.ndarray:
        classes = [SegClass(name, color) for name, color in zip(names, (ROAD_COLOR, CAR_COLOR), strict=True)]
        return with_legend(black, counted_shares(pixels_per_class(labels, 2), classes))

    assert (legend("道路", "Straße") == legend("train id 0", "Straße")).all()
    assert [fonts.drawable(name, "train id 0") for name in ("Дорога", "道路")] == ["Дорога", "train id 0"]


def test_plots_with_names_that_the_font_lacks_warn_of_no_glyphs(verify, root, tmp_path, command):
    write_classes(root, ROAD | {"name": "道路"}, CAR, title="街")
    flags = ("--dataset", "folder", "--dataset_dir", root, "--plot", tmp_path / "shares.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verify("--plot", tmp_path / "plot.png")[0].code == 0
        counted = command("Pixel_percentage", root / "labels", *flags)
        assert counted.code == 0, counted.err
    assert (tmp_path / "shares.png").is_file()
