"""Names of files and classes come through every command as they are written."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest

from datasets.files import find_samples, normalize_unicode
from datasets.specs.class_table import class_table, read_spec
from datasets.specs.spec import SegClass
from inference.load import wanted_classes
from network.checkpoint import Checkpoint, save_checkpoint
from network.deepv3 import build_network
from tests.trees import ROAD, VOID, folder_tree, write_classes, write_pair
from utils.files import natural_order, write_csv
from utils.images import write_image
from utils.text import escape
from video.train import in_sequences
from video.video_dataset import match_labels

# Not UTF-8; more than one line; what HTML, CSV, URLs, terminals and templates read as their own.
NASTY = [os.fsdecode(b"stra\xdfe"), "a\nb", "a\rb", "<b>'\"", "\x1b[31m", "{{data}}", " 5, 50% #1? ", "$x_1$ \\frac{"]
HALVES = np.repeat([[0, 0, 1, 1]], 6, 0)
WHOLE = ("--inference_mode", "pooling", "--single_scale", "--no_flip")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of samples with NASTY names below a folder with such a name, whose classes have such names as well."""
    root = tmp_path / "".join(NASTY).replace("/", "")
    write_classes(root, ROAD | {"name": 'road, "wet"\n$_%\x1b'}, {"name": "<b>$\\frac{", "color": [0, 0, 9]})
    for name in NASTY:
        write_pair(root / f"images/{name}.png", root / f"labels/{name}.png", np.kron(HALVES, np.ones((8, 12))))
    return root


@pytest.fixture
def snapshot(root: Path, tmp_path: Path) -> Path:
    """An untrained network for the classes of `root`."""
    state, spec = build_network("DeepMNV3V3PlusD_m1", 2).state_dict(), read_spec(root)
    path = tmp_path / "net.pth"
    save_checkpoint(
        path, Checkpoint(state_dict=state, arch="DeepMNV3V3PlusD_m1", dataset="folder", classes=spec.classes)
    )
    return path


def first_fields(table: Path) -> set[str]:
    """The first field of every line below the header; all lines are equally long."""
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert len(set(map(len, lines))) == 1
    return {line[0] for line in lines[1:]}


def as_text(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


# Every command


def test_an_evaluation_gives_its_results_whatever_the_names(root, snapshot, tmp_path, command):
    flags = ("--snapshot", snapshot, "--dataset_dir", root, "--split", "trainval", "--ckpt_path", tmp_path / "eval")
    ended = command("eval", *flags, *WHOLE, "--dump_images")
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out
    folder = tmp_path / "eval/folder_trainval"
    assert first_fields(folder / "per_image.csv") == set(map(as_text, NASTY))
    data = json.loads((folder / "report.html").read_text().split('id="data">')[1].split("</script>")[0])
    assert {image["name"] for image in data["images"]} == set(map(escape, NASTY))
    for image in data["images"]:
        assert (folder / "rgb" / os.fsdecode(unquote_to_bytes(image["file"] + ".png"))).is_file()

    assert f"{len(NASTY)} predictions" in command("inference.submission", folder).out
    refused = command("inference.submission", folder, "--zip", tmp_path / "all.zip")
    assert refused.err == "error: --zip: stra\\udcdfe.png is not a UTF-8 name, as a zip needs; rename its image.\n"
    assert not (tmp_path / "all.zip").exists()

    files = ("--csv", tmp_path / "shares.csv", "--json", tmp_path / "shares.json", "--plot", tmp_path / "shares.png")
    ended = command("Pixel_percentage", folder / "pred", "--dataset", "folder", "--dataset_dir", root, *files)
    assert ended.code == 0, ended.err
    assert {Path(file).stem for file in json.loads((tmp_path / "shares.json").read_text())["files"]} == set(NASTY)


def test_all_but_names_that_are_not_utf_8_can_be_zipped(root, snapshot, tmp_path, command):
    for folder, ending in (("images", "png"), ("labels", "png")):
        (root / folder / f"{NASTY[0]}.{ending}").unlink()
    flags = ("--snapshot", snapshot, "--dataset_dir", root, "--split", "trainval", "--ckpt_path", tmp_path / "eval")
    command("eval", *flags, *WHOLE, "--dump_images")
    ended = command("inference.submission", tmp_path / "eval/folder_trainval", "--zip", tmp_path / "all.zip")
    assert ended.code == 0, ended.err


def test_a_folder_is_segmented_whatever_the_names(root, snapshot, tmp_path, command):
    flags = ("--demo-folder", root / "images", "--snapshot", snapshot, "--save-dir", tmp_path / "out")
    for more in ((), ("--resume",)):  # the second time the table is read again
        ended = command("demo_folder", *flags, *more)
        assert ended.code == 0, ended.err
        assert "\x1b" not in ended.out
        assert len(ended.out.splitlines()) == (1 if more else 1 + len(NASTY))
        assert first_fields(tmp_path / "out/class_shares.csv") == {f"{as_text(name)}.png" for name in NASTY}


def test_verify_tells_findings_whatever_the_names(root, verified, tmp_path):
    for name in NASTY:
        (root / f"labels/{name}.png").write_bytes(b"no image")
    ended, found = verified(root)
    assert ended.code == 1
    assert {Path(finding["file"]).stem for finding in found["findings"]} == set(NASTY)
    assert len([line for line in ended.out.splitlines() if line.startswith("    ")]) == len(NASTY)
    assert "\x1b" not in ended.out


def test_labels_are_propagated_whatever_the_names(tmp_path, propagate):
    frames, labels, out = (tmp_path / f"{NASTY[0]}\n{name}" for name in ("frames", "labels", "out"))
    for number in (9, 10, 11):
        write_pair(frames / f"{NASTY[0]}\n{number}.png", None, size=(48, 64))
    write_image(labels / f"{NASTY[0]}\n10.png", np.zeros((48, 64), np.uint8))
    write_classes(labels, ROAD, VOID)
    ended = propagate("--video", frames, "--labels", labels, "--out", out, "--propagate", 1)
    assert ended.code == 0, ended.err
    assert "2 pairs of 1 labelled frame: " in ended.out
    assert len(ended.out.splitlines()) == 2
    assert (out / "propagated/sheet.png").is_file()


# Unicode


@pytest.mark.parametrize(("of_images", "of_others"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_look_the_same_are_the_same(tmp_path, verified, of_images, of_others):
    folder_tree(tmp_path, 2)
    name, other = (unicodedata.normalize(form, "Köln/übung") for form in (of_images, of_others))
    write_pair(tmp_path / f"images/{name}.jpg", tmp_path / f"labels/{other}.png", HALVES)
    (tmp_path / "train.txt").write_text(f"{other}.jpg\n00")
    (tmp_path / "val.txt").write_text("01")
    spec = read_spec(tmp_path)
    (_, sample) = find_samples(spec, tmp_path, "train")
    assert (sample.name, sample.label_path) == (name, tmp_path / f"labels/{other}.png")
    assert verified(tmp_path)[1]["findings"] == []
    assert match_labels(tmp_path / "images", tmp_path / "labels")[1] == []


def test_one_label_file_is_not_used_for_two_images(tmp_path):
    folder_tree(tmp_path, 2)
    write_pair(tmp_path / f"images/{unicodedata.normalize('NFD', 'ü')}.jpg", None, HALVES)
    write_pair(tmp_path / "images/ü.jpg", tmp_path / "labels/ü.png", HALVES)
    with pytest.raises(ValueError, match=r"share the label file .*ü\.png in one split; rename one"):
        find_samples(read_spec(tmp_path), tmp_path, "trainval")


def test_class_names_that_look_the_same_are_equal():
    assert SegClass("Fuß\tweg é", (0, 0, 0)) == SegClass("Fuß weg e\u0301", (0, 0, 0))
    assert SegClass("a\nb\x1b\ud800", (0, 0, 0)).name == "a b\\x1b\\ud800"


def test_a_class_table_with_half_a_character_is_copied(tmp_path, propagate):
    frames, labels = tmp_path / "frames", tmp_path / "labels"
    for number in (1, 2):
        write_pair(frames / f"{number}.png", None, size=(48, 64))
    write_image(labels / "1.png", np.zeros((48, 64), np.uint8))
    write_classes(labels, ROAD | {"name": "\ud800"}, VOID)
    assert propagate("--video", frames, "--labels", labels, "--out", tmp_path / "out", "--propagate", 1).code == 0
    assert class_table(read_spec(tmp_path / "out"))["classes"][0]["name"] == "\\ud800"


# Lists of classes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('"building, edifice"', {0}),
        ('edifice, "Building, Edifice"', {0, 2}),
        ("Building,edifice", {1, 2}),
        ("edifice, a 5\" $pipe_%", {2, 3}),
        ('"a 5"" $pipe_%"', {3}),
        ("road", {4}),
        ("ROAD", {4}),
        (" , ", None),
    ],
)
def test_classes_are_named_whatever_their_names_hold(text, wanted):
    names = ("building, edifice", "building", "edifice", 'a 5" $pipe_%', "road")
    assert wanted_classes(text, [SegClass(name, (0, 0, 0)) for name in names]) == wanted


def test_an_unknown_class_is_told_with_the_others():
    classes = [SegClass("wall, old", (0, 0, 0)), SegClass("sky", (0, 0, 1))]
    with pytest.raises(ValueError, match=r"no class 'wall'. Choose from: \"wall, old\", sky"):
        wanted_classes("sky, wall, new", classes)


# Order


def test_numbers_in_names_are_in_order_of_value():
    in_order = ["9", "12", "a1/b3", "a1/b20", "b", "frame", "frame02", "frame2", "frame10"]
    assert sorted(sorted(in_order), key=natural_order) == in_order


def test_images_are_in_order_of_their_numbers_but_folds_are_as_before(tmp_path):
    write_classes(tmp_path, ROAD)
    for number in range(1, 12):
        write_pair(tmp_path / f"images/f{number}.jpg", tmp_path / f"labels/f{number}.png", 0)
    spec = read_spec(tmp_path)
    names = {split: [sample.name for sample in find_samples(spec, tmp_path, split)] for split in ("trainval", "val")}
    assert names["trainval"] == [f"f{number}" for number in range(1, 12)]
    assert names["val"] == ["f1", "f4", "f9"]  # positions 0, 5 and 10 of f1, f10, f11, f2, f3, f4, …


def test_frames_without_a_number_at_the_end_are_in_order_of_the_numbers_inside():
    names = ["f10 left.png", "f2 right.png", "f1 left.png"]
    assert in_sequences(names) == [[Path("f1 left.png"), Path("f2 right.png"), Path("f10 left.png")]]


# Tables and lines


def test_every_name_is_one_field_of_a_table(tmp_path):
    write_csv(tmp_path / "names.csv", ("name", "number"), [(name, None) for name in NASTY])
    assert first_fields(tmp_path / "names.csv") == set(map(as_text, NASTY))


def test_text_for_one_line_keeps_what_can_be_shown():
    assert escape("Straße, e\u0301, 道路 \\n") == "Straße, e\u0301, 道路 \\n"
    assert escape("a\nb\u2028\x85\x00") == "a\\nb\\u2028\\x85\\x00"
    assert normalize_unicode("e\u0301") == "é"
