"""python -m inference.submission: right predictions are zipped, and everything wrong is named with its file."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.specs.registry import DATASETS, dataset_spec
from inference.results import label_id_map
from utils.images import write_image

KITTI = dataset_spec("kitti")
NAMES = ("000000_10", "000001_10", "000002_10")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """KITTI's test images, three of them, the second larger."""
    for i, name in enumerate(NAMES):
        size = (12, 30, 3) if i == 1 else (10, 30, 3)
        write_image(tmp_path / "data" / "testing" / "image_2" / f"{name}.png", np.full(size, 90, np.uint8))
    return tmp_path / "data"


@pytest.fixture
def pred(root: Path, tmp_path: Path) -> Path:
    """A right prediction for each."""
    for i, name in enumerate(NAMES):
        labels = np.random.default_rng(i).integers(0, 19, (12 if i == 1 else 10, 30), np.uint8)
        write_image(tmp_path / "pred" / f"{name}.png", label_id_map(labels, KITTI.classes))
    return tmp_path / "pred"


@pytest.fixture
def check(command, root, pred, tmp_path):
    """Check `pred`, or another path, and zip it."""
    return lambda path=pred, *flags: command(
        "inference.submission", path, "--dataset", "kitti", "--dataset_dir", root, "--zip", tmp_path / "out.zip", *flags
    )


def test_right_predictions_are_zipped_and_the_zip_is_checked_too(check, pred, tmp_path):
    ended = check()
    assert ended.code == 0
    assert ended.out == f"{tmp_path / 'out.zip'}: 3 predictions of kitti test; names, sizes and values are correct\n"
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sorted(archive.namelist()) == [f"{name}.png" for name in NAMES]
        assert archive.read("000000_10.png") == (pred / "000000_10.png").read_bytes()
    assert check(tmp_path / "out.zip", "--zip", "").code == 0, "a zip can be checked as well as a folder"


def test_a_zip_is_not_put_into_what_it_is_made_of(check, pred):
    ended = check(pred, "--zip", pred / "out.zip")
    assert ended.code == 1
    assert "choose a place outside" in ended.err
    assert not (pred / "out.zip").exists()


def damage(kind: str, pred: Path) -> None:
    first = pred / "000000_10.png"
    match kind:
        case "missing":
            first.unlink()
        case "stranger":
            (pred / "notes.txt").write_text("no prediction")
        case "size":
            write_image(first, np.full((10, 29), 7, np.uint8))
        case "value":
            ids = np.full((10, 30), 7, np.uint8)
            ids[4, 5] = 0
            write_image(first, ids)
        case "colours":
            write_image(first, np.zeros((10, 30, 3), np.uint8))
        case "16 bits":
            write_image(first, np.full((10, 30), 7, np.uint16))
        case "palette":
            Image.fromarray(np.full((10, 30), 7, np.uint8)).convert("P").save(first)
        case "jpeg":
            Image.fromarray(np.full((10, 30), 7, np.uint8)).save(first, "JPEG")
        case "cut off":
            first.write_bytes(first.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "000000_10.png: missing"),
        ("stranger", "notes.txt: the split has no image of this name"),
        ("size", "000000_10.png: is 29x10 pixels, but its image is 30x10"),
        ("value", "000000_10.png: value 0 at row 4, column 5 (1 such pixel) is not the label id of a class: 7, 8, 11"),
        ("colours", "000000_10.png: has several channels"),
        ("16 bits", "000000_10.png: has 16 bits per pixel"),
        ("palette", "000000_10.png: has a palette"),
        ("jpeg", "000000_10.png: is not a PNG file"),
        ("cut off", "000000_10.png: is damaged"),
    ],
)
def test_what_is_wrong_is_told_with_its_file_and_nothing_is_zipped(check, pred, tmp_path, kind, told):
    damage(kind, pred)
    ended = check()
    assert ended.code == 1
    first, last = ended.err.splitlines()
    assert told in first
    assert last == "error: 1 problem; not ready for submission."
    assert not (tmp_path / "out.zip").exists()


def test_many_problems_are_counted_and_some_of_them_listed(check, pred):
    for i in range(30):
        (pred / f"extra{i}.png").write_bytes(b"")
    lines = check().err.splitlines()
    assert len(lines) == 21
    assert "30 problems" in lines[-1]


def test_no_such_predictions_and_a_data_set_not_named_are_told(check, command, pred, tmp_path):
    assert "no such file or folder" in check(tmp_path / "none").err
    assert "name the data set with --dataset" in command("inference.submission", pred).err
    (tmp_path / "fake.zip").write_text("text")
    assert "neither a folder nor a zip file" in check(tmp_path / "fake.zip").err


def test_settings_of_another_program_and_damaged_ones_are_told(command, pred):
    settings = pred / "settings.json"
    for content in ('{"theme": "dark"}', "[1, 2]", '{"data": {'):
        settings.write_text(content)
        assert f"error: {settings} is damaged or not of eval.py" in command("inference.submission", pred).err


def test_a_result_folder_of_eval_says_itself_what_it_is(command, light_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "camvid", replace(dataset_spec("camvid"), unlabelled=("test",)))
    for name in ("a", "b"):
        write_image(tmp_path / "data" / "test" / f"{name}.png", np.zeros((32, 40, 3), np.uint8))
    flags = ("--snapshot", light_checkpoint, "--ckpt_path", tmp_path, "--exp_name", "x", "--split", "test")
    assert command("eval", *flags, "--dataset_dir", tmp_path / "data", "--device", "cpu").code == 0
    ended = command("inference.submission", tmp_path / "x", "--zip", tmp_path / "x.zip")
    assert "2 predictions of camvid test" in ended.out
    (tmp_path / "x" / "pred" / "a.png").unlink()
    assert "a.png: missing" in command("inference.submission", tmp_path / "x").err
    (tmp_path / "x" / "pred").rename(tmp_path / "elsewhere")
    told = command("inference.submission", tmp_path / "x").err
    assert "has no folder pred; run eval.py again with --dump_images" in told
