"""A folder of one's own as a data set, and label files of every form."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from config import AugmentConfig, DataConfig
from datasets.files import find_samples, load_spec
from datasets.labels import UNKNOWN_ID, train_ids, unknown_values
from datasets.loaders import LoaderOptions, train_data
from datasets.segmentation import load_labels, load_sample
from datasets.specs.class_table import read_spec
from datasets.specs.registry import dataset_spec
from datasets.specs.spec import COLORS, EITHER, IDS, IGNORE_LABEL, SegClass
from tests.trees import CAR, ROAD, VOID, folder_tree, write_classes, write_gray_png, write_pair
from utils.distributed import Processes
from utils.images import colorize, read_image, read_label_ids, write_image

HALVES = [[0, 0, 1, 1]] * 6  # the labels of `folder_tree`


def split_names(root: Path) -> dict[str, list[str]]:
    spec = read_spec(root)
    return {split: [sample.name for sample in find_samples(spec, root, split)] for split in spec.split_names}


def labels_of(root: Path, name: str) -> list[list[int]]:
    spec = read_spec(root)
    (sample,) = [sample for sample in find_samples(spec, root, "trainval") if sample.name == name]
    return load_labels(sample, spec).tolist()


# Classes


def test_classes_come_in_the_order_of_the_file_with_their_values(tmp_path):
    void = {"name": "void", "color": [0, 0, 0], "id": 9, "ignored": True}
    write_classes(tmp_path, void, ROAD | {"ids": [3, 4]}, CAR | {"id": 700}, title="Home")
    spec = read_spec(tmp_path)
    assert spec.classes == (SegClass("road", (64, 32, 32), (3, 4)), SegClass("car", (0, 255, 102), (700,)))
    assert (spec.title, spec.ignored_ids, spec.ignored_colors) == ("Home", (9,), ((0, 0, 0),))


def test_the_name_of_a_class_is_one_line(tmp_path):
    write_classes(tmp_path, ROAD | {"name": " bus\n  lane\t"}, CAR)
    assert read_spec(tmp_path).class_names == ("bus lane", "car")


def test_without_a_value_a_class_has_that_of_its_place(tmp_path):
    write_classes(tmp_path, ROAD, CAR)
    assert [c.label_ids for c in read_spec(tmp_path).classes] == [(0,), (1,)]
    assert read_spec(tmp_path).title == tmp_path.name


@pytest.mark.parametrize(
    ("classes", "further", "told"),
    [
        ([], {}, "a list of classes"),
        ([{"color": [1, 2, 3]}], {}, 'class 1: needs a "name"'),
        ([{"name": "road"}], {}, r'class 1 \(road\): needs a "color"'),
        ([ROAD | {"color": [1, 2]}], {}, r"from 0 to 255, or .#rrggbb.; got \[1, 2\]"),
        ([ROAD | {"color": "#12345x"}], {}, "got '#12345x'"),
        ([ROAD | {"color": [1, 2, 256]}], {}, r"got \[1, 2, 256\]"),
        ([ROAD | {"ids": [1.5]}], {}, r"whole numbers from 0 to 65535.*got \[1.5\]"),
        ([ROAD | {"ids": []}], {}, r"got \[\]"),
        ([ROAD | {"id": 1}, CAR], {}, "the id 1 belongs to two classes"),
        ([ROAD, ROAD | {"color": [9, 9, 9]}], {}, "the name 'road' belongs to two classes"),
        ([ROAD, CAR | {"color": ROAD["color"]}], {}, r"colour.* \(64, 32, 32\) belongs to two classes"),
        ([ROAD, CAR], {"masks": "rgb"}, 'must be "ids" or "colors", got \'rgb\''),
        ([ROAD, CAR], {"ignore_label": 1}, '"ignore_label" 1 is also an id of class car'),
        ([ROAD | {"ignored": True}], {}, "0 classes"),
        ([ROAD | {"ignored": 1}], {}, r'class 1 \(road\): "ignored" must be true or false, got 1'),
        ([ROAD | {"ignored": "true"}], {}, "must be true or false, got 'true'"),
        ([ROAD, CAR | {"label_colors": ["#402020"]}], {}, r"colour in masks \(64, 32, 32\) belongs to two classes"),
        ([ROAD, VOID | {"color": ROAD["color"]}], {}, r"colour in masks \(64, 32, 32\) belongs to two classes"),
    ],
)
def test_a_wrong_classes_file_is_told_with_its_name_and_the_place(tmp_path, classes, further, told):
    write_classes(tmp_path, *classes, **further)
    with pytest.raises(ValueError, match=told) as error:
        read_spec(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "classes.json"))


def test_what_leads_to_the_same_label_may_have_one_color(tmp_path):
    write_classes(tmp_path, ROAD | {"label_colors": ["#000001", [0, 0, 1]]}, VOID, VOID | {"name": "hole", "ids": [8]})
    spec = read_spec(tmp_path)
    assert spec.train_id_of_color() == {(0, 0, 1): 0, (0, 0, 0): IGNORE_LABEL}
    assert spec.ignored_ids == (9, 8)


def test_masks_of_ids_may_show_a_class_in_the_color_of_no_class(tmp_path):
    write_classes(tmp_path, ROAD | {"color": [0, 0, 0]}, VOID, masks="ids")
    assert read_spec(tmp_path).class_names == ("road",)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[]", b'{"classes": {}}', b'{"classes": [1]}'])
def test_a_classes_file_of_another_form_is_told(tmp_path, content):
    (tmp_path / "classes.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"classes\.json"):
        read_spec(tmp_path)


def test_a_missing_classes_file_and_a_missing_folder_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"classes.json, which defines what the labels mean"):
        load_spec("folder", str(tmp_path))
    with pytest.raises(ValueError, match="--dataset folder: its classes are defined in its folder"):
        dataset_spec("folder")


# Splits


def test_without_lists_every_fifth_image_is_held_out_and_folds_cover_all(tmp_path):
    folder_tree(tmp_path, 11)
    splits = split_names(tmp_path)
    assert splits["val"] == ["00", "05", "10"]
    assert sorted(splits["train"] + splits["val"]) == splits["trainval"]
    spec = read_spec(tmp_path)
    held_out = [sample.name for fold in range(5) for sample in find_samples(spec, tmp_path, "val", fold)]
    assert sorted(held_out) == splits["trainval"]


def test_lists_say_what_the_splits_are_in_whatever_way_a_name_is_written(tmp_path):
    folder_tree(tmp_path, 6)
    write_pair(tmp_path / "images/night/one.JPG", tmp_path / "labels/night/one.png", HALVES)
    (tmp_path / "train.txt").write_text("# the first\n00\n./images/01.jpg\r\n\nnight/one.JPG\n")
    (tmp_path / "val.txt").write_text("02.jpg\n")
    (tmp_path / "notes.txt").write_text("not a list")
    splits = split_names(tmp_path)
    assert splits == {"train": ["00", "01", "night/one"], "val": ["02"], "trainval": ["00", "01", "02", "night/one"]}


@pytest.mark.parametrize(("labelled", "ending"), [(True, "png"), (True, "PNG"), (False, "png")])
def test_a_listed_test_split_is_scored_only_if_it_has_labels(tmp_path, labelled, ending):
    folder_tree(tmp_path, 3)
    for split, name in (("train", "00"), ("val", "01"), ("test", "02")):
        (tmp_path / f"{split}.txt").write_text(name)
    (tmp_path / "labels/02.png").rename(tmp_path / f"labels/02.{ending}")
    if not labelled:
        (tmp_path / "labels/02.png").unlink()
    spec = load_spec("folder", str(tmp_path))
    (sample,) = find_samples(spec, tmp_path, "test")
    assert (sample.label_path is not None) == labelled
    assert ("test" in spec.unlabelled) != labelled


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({"train": "00"}, r"there is train.txt; add train.txt and val.txt"),
        ({"train": "00\n77\n", "val": "01"}, r"train.txt, line 2: no image 77 in .*images"),
        ({"train": "00", "val": "# none\n"}, r"val.txt: the list is empty"),
    ],
)
def test_a_wrong_list_is_told_with_its_line(tmp_path, lists, told):
    folder_tree(tmp_path, 3)
    for split, content in lists.items():
        (tmp_path / f"{split}.txt").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        split_names(tmp_path)


NAMED = ("a.jpg", "#a.jpg", "# b.jpg", "a.png.png", "a.jpg.png", "n/a b.jpg", "images/d.jpg")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("#a.jpg", "#a"),
        ("# b", "# b"),
        ("a.jpg", "a"),
        ("a.png", "a.png"),
        ("a.png.png", "a.png"),
        ("images/a.jpg.png", "a.jpg"),
        ("  n//./a b.jpg ", "n/a b"),
        ("./images/n/../a.jpg", "a"),
        ("images/d.jpg", "images/d"),
        ("images/images/d", "images/d"),
        ("d.jpg", None),
        ("images\\images\\d.jpg", "images/d"),
        ("{root}/images/a.jpg", "a"),
        ("{link}/images/#a.jpg", "#a"),
        ("/elsewhere/images/a.jpg", None),
        ("images/n/", None),
        ("\udcff.jpg", None),
        ("#c.jpg", None),
    ],
)
def test_a_line_of_a_list_is_looked_up_as_it_is_written_first(tmp_path, line, name):
    root, link = tmp_path / "set", tmp_path / "link"
    folder_tree(root, 2)
    link.symlink_to(root)
    for path in NAMED:
        image = root / "images" / path
        write_pair(image, root / f"labels/{path[:-4]}.png", HALVES)
    line = line.format(root=root, link=link)
    (root / "train.txt").write_bytes(b"# the first drive\n#\n" + os.fsencode(line) + b"\n")
    (root / "val.txt").write_text("00")
    if name is None:
        with pytest.raises(FileNotFoundError, match=r"train.txt, line 3: no image ") as told:
            split_names(root)
        assert line.strip() in str(told.value)
    else:
        assert split_names(root)["train"] == [name]


@pytest.mark.parametrize(("text", "encoding"), [("00", "utf-16"), ("/x/00\n", "utf-16-le")])
def test_a_list_that_is_no_text_is_told(tmp_path, text, encoding):
    folder_tree(tmp_path, 2)
    (tmp_path / "train.txt").write_text(text, encoding=encoding)
    (tmp_path / "val.txt").write_text("01")
    with pytest.raises(ValueError, match=r"train\.txt is not UTF-8 text, but maybe UTF-16; save it as UTF-8"):
        split_names(tmp_path)


def test_a_test_split_with_some_labels_needs_all(tmp_path):
    folder_tree(tmp_path, 4)
    (tmp_path / "labels/02.png").unlink()  # of the first image in the list
    for split, names in (("train", "00"), ("val", "01"), ("test", "02\n03")):
        (tmp_path / f"{split}.txt").write_text(names)
    with pytest.raises(FileNotFoundError, match=r"no label file for .*02.jpg"):
        split_names(tmp_path)


def test_stray_files_beside_images_and_labels_do_no_harm(tmp_path):
    folder_tree(tmp_path, 5)
    (tmp_path / "images/Thumbs.db").write_bytes(b"\0")
    (tmp_path / "images/._00.jpg").write_bytes(b"\0")
    (tmp_path / "labels/labels.cache").write_bytes(b"\0")
    assert split_names(tmp_path)["trainval"] == ["00", "01", "02", "03", "04"]


# Label files


def test_masks_may_be_ids_or_colors_file_by_file(tmp_path):
    folder_tree(tmp_path, 5)
    palette = read_spec(tmp_path).palette
    write_image(tmp_path / "labels/03.png", colorize(np.array(HALVES, np.uint8), palette))
    assert labels_of(tmp_path, "03") == labels_of(tmp_path, "02") == HALVES


def test_a_paletted_file_holds_ids_unless_the_masks_are_said_to_be_colors(tmp_path):
    folder_tree(tmp_path, 5, ROAD | {"ids": [4]}, CAR | {"ids": [2]})
    picture = Image.fromarray(np.where(HALVES, 2, 4).astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0] * 2 + [64, 32, 32] + [9, 9, 9] + [0, 255, 102])  # the colours tell the opposite
    picture.save(tmp_path / "labels/01.png")
    assert labels_of(tmp_path, "01") == HALVES
    classes = json.loads((tmp_path / "classes.json").read_text())
    (tmp_path / "classes.json").write_text(json.dumps(classes | {"masks": "colors"}))
    assert labels_of(tmp_path, "01") == [[1, 1, 0, 0]] * 6


def test_ids_beyond_a_byte_are_read_from_16_bit_files(tmp_path):
    folder_tree(tmp_path, 5, ROAD | {"ids": [7]}, CAR | {"ids": [40000]}, ignore_label=65535)
    write_image(tmp_path / "labels/01.png", np.array([[7, 40000, 65535, 255]] * 6, np.uint16))
    assert labels_of(tmp_path, "01") == [[0, 1, IGNORE_LABEL, IGNORE_LABEL]] * 6


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_files_of_few_bits_are_not_stretched(tmp_path, bits):
    folder_tree(tmp_path, 5)
    write_gray_png(tmp_path / "labels/01.png", bits, HALVES)
    assert labels_of(tmp_path, "01") == HALVES


def test_value_255_is_no_class_unless_a_class_claims_it(tmp_path):
    folder_tree(tmp_path, 5)
    write_image(tmp_path / "labels/01.png", np.array([[0, 255, 255, 1]] * 6, np.uint8))
    assert labels_of(tmp_path, "01") == [[0, IGNORE_LABEL, IGNORE_LABEL, 1]] * 6
    write_classes(tmp_path, ROAD, CAR | {"ids": [1, 255]})
    assert labels_of(tmp_path, "01") == [[0, 1, 1, 1]] * 6


def test_a_color_of_no_class_is_an_error_with_file_color_and_place(tmp_path):
    folder_tree(tmp_path, 5)
    mask = colorize(np.array(HALVES, np.uint8), read_spec(tmp_path).palette)
    mask[4, 2] = (1, 2, 3)
    write_image(tmp_path / "labels/01.png", mask)
    with pytest.raises(ValueError, match=r"01.png: label values \(1, 2, 3\) .* \(first at row 4, column 2\)"):
        labels_of(tmp_path, "01")


def test_masks_said_to_be_ids_refuse_colors(tmp_path):
    folder_tree(tmp_path, 5, masks="ids")
    write_image(tmp_path / "labels/01.png", np.zeros((6, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"01.png: a label file must have one channel of ids"):
        labels_of(tmp_path, "01")


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (70, 3)])
def test_tiny_and_portrait_images_are_read_whole(tmp_path, size):
    folder_tree(tmp_path, 4)
    write_pair(tmp_path / "images/odd.png", tmp_path / "labels/odd.png", np.ones(size))
    spec = read_spec(tmp_path)
    (sample,) = [sample for sample in find_samples(spec, tmp_path, "trainval") if sample.name == "odd"]
    image, labels = load_sample(sample, spec)
    assert image.shape == (*size, 3)
    assert labels.shape == size
    assert (labels == 1).all()


def test_small_images_are_padded_with_no_class_and_a_class_that_never_occurs_costs_no_crop(tmp_path):
    folder_tree(tmp_path, 5, ROAD, CAR, {"name": "moon", "color": [1, 1, 1]})
    config = DataConfig(dataset_dir=str(tmp_path), bs_mult=2, class_uniform_pct=1.0, index_dir=str(tmp_path / "index"))
    spec = read_spec(tmp_path)
    data = train_data(config, AugmentConfig(crop_size=16), spec, LoaderOptions(Processes(0, 1, 0), 0), seed=0)
    crops = [labels for _, labels in data]
    assert len(crops) == 2  # four images train, one is held out
    for labels in crops:
        assert labels.shape == (2, 16, 16)
        assert set(labels.unique().tolist()) == {0, 1, IGNORE_LABEL}


def test_an_image_that_two_lists_of_a_split_name_is_told_as_that(tmp_path):
    folder_tree(tmp_path, 3)
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("00\n")
    with pytest.raises(ValueError, match=r"share the name 00 in one split; rename one, or remove it from a list"):
        find_samples(read_spec(tmp_path), tmp_path, "trainval")


def test_a_fold_that_leaves_nothing_to_train_on_says_what_does(tmp_path):
    folder_tree(tmp_path, 1)
    told = "fold 0 has no train images below .* give --train_split trainval without --cv, or list the images"
    with pytest.raises(FileNotFoundError, match=told):
        find_samples(read_spec(tmp_path), tmp_path, "train")


@pytest.mark.parametrize(("cv", "num_images"), [(0, 4), (None, 5)])
def test_a_fold_trains_on_its_own_images_whichever_split_is_named(tmp_path, cv, num_images):
    folder_tree(tmp_path, 5, ROAD, CAR)
    config = DataConfig(dataset_dir=str(tmp_path), bs_mult=1, class_uniform_pct=0.0, train_split="trainval", cv=cv)
    options = LoaderOptions(Processes(0, 1, 0), 0)
    data = train_data(config, AugmentConfig(crop_size=16), read_spec(tmp_path), options, seed=0)
    assert len(data.loader) == num_images


SPEC = dataset_spec("camvid32")


@given(ids=st.lists(st.integers(0, SPEC.num_classes), min_size=1, max_size=40), data=st.data())
@settings(max_examples=100, deadline=None)
def test_colors_and_ids_of_the_same_classes_give_the_same_labels(ids, data):
    labels = np.array([[IGNORE_LABEL if i == SPEC.num_classes else i for i in ids]], np.uint8)
    colors = colorize(labels, SPEC.palette)  # no class is black
    assert (train_ids(colors, COLORS, SPEC) == labels).all()
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    assert (train_ids(labels.astype(dtype), IDS, SPEC) == labels).all()


@given(
    pixels=st.lists(st.integers(0, 300), min_size=6, max_size=6),
    claimed=st.sets(st.integers(0, 254), min_size=1, max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_every_unknown_is_found_counted_and_placed(pixels, claimed):
    ids = np.array(pixels, np.uint16).reshape(2, 3)
    spec = SPEC.__class__("x", "X", (SegClass("all", (1, 2, 3), tuple(claimed)),), (), {})
    labels = train_ids(ids, IDS, spec)
    expected = [
        (value, pixels.count(value), *divmod(pixels.index(value), 3))
        for value in sorted(set(pixels) - claimed - {IGNORE_LABEL})
    ]
    assert unknown_values(ids, labels) == expected
    assert ((labels == UNKNOWN_ID) == np.isin(ids, [value for value, *_ in expected])).all()


# Real pictures


@pytest.fixture
def comma(shared, tmp_path) -> tuple[Path, Path]:
    """The real sample as it is, and a copy with masks of colours."""
    original, copy = shared / "samples/comma10k", tmp_path / "colors"
    shutil.copytree(original / "images", copy / "images", copy_function=lambda a, b: Path(b).symlink_to(a))
    shutil.copy(original / "classes.json", copy / "classes.json")
    spec = read_spec(original)
    for sample in find_samples(spec, original, "trainval"):
        write_image(copy / "labels" / f"{sample.name}.png", colorize(load_labels(sample, spec), spec.palette))
    return original, copy


def test_real_masks_of_ids_and_of_colors_give_identical_labels(comma):
    (original, copy), spec = comma, read_spec(comma[0])
    assert read_spec(copy).classes == spec.classes
    assert spec.class_names == ("road", "lane marking", "undrivable", "movable", "my car")
    samples, copies = (find_samples(spec, root, "trainval") for root in (original, copy))
    assert len(samples) == 11
    for ours, theirs in zip(samples, copies, strict=True):
        assert read_image(theirs.label_path).shape[2] == 3
        assert (load_labels(ours, spec) == load_labels(theirs, spec)).all()
        assert {ours.masks, theirs.masks} == {EITHER}


FAST = ("--arch", "DeepMNV3V3PlusD_m1", "--crop_size", 64, "--max_epoch", 1, "--bs_mult", 4, "--num_workers", 0)


def test_a_folder_is_trained_evaluated_and_demonstrated_without_a_line_of_code(tmp_path, command):
    root = tmp_path / "data"
    folder_tree(root, 10, ROAD | {"ids": [3]}, CAR | {"ids": [500]})  # 500 needs 16 bits
    for labels in (root / "labels").iterdir():
        write_image(labels, np.where(np.kron(HALVES, np.ones((11, 16))), 500, 3).astype(np.uint16))
    for image in (root / "images").iterdir():
        write_image(image, np.random.default_rng(0).integers(0, 256, (66, 64, 3), np.uint8))
    where = ("--ckpt", tmp_path / "runs", "--tb_path", tmp_path / "tb", "--exp", "own")
    where += ("--index_dir", tmp_path / "index")
    assert command("train", "--dataset", "folder", "--dataset_dir", root, *FAST, *where).code == 0
    checkpoint = tmp_path / "runs/own/best.pth"

    fast = ("--inference_mode", "pooling", "--single_scale", "--no_flip", "--device", "cpu")
    ended = command("eval", "--snapshot", checkpoint, "--dataset_dir", root, "--dump_images", *fast)
    assert ended.code == 0, ended.err
    assert "road" in ended.out
    scores = json.loads((tmp_path / "runs/own/eval/folder_val/metrics.json").read_text())
    assert sum(map(sum, scores["confusion"])) == 2 * 66 * 64  # two images of ten are held out
    named = command("eval", "--snapshot", checkpoint, "--dataset", "folder", "--dataset_dir", root, *fast)
    assert named.code == 0, named.err

    image = root / "images/00.jpg"
    shown = command("demo", "--demo-image", image, "--snapshot", checkpoint, "--save-dir", tmp_path / "demo")
    assert shown.code == 0, shown.err
    assert set(np.unique(read_label_ids(tmp_path / "demo/00_ids.png"))) <= {3, 500}

    write_classes(root, ROAD, {"name": "lorry", "color": [1, 1, 1]})
    other = command("eval", "--snapshot", checkpoint, "--dataset_dir", root, *fast)
    assert other.code == 1
    assert "was trained on other classes than data has: class 2 was 'car', is 'lorry'" in other.err
    assert "class 2 was 'car', is 'lorry'" in other.err


def test_pixels_of_a_folder_are_counted(tmp_path, command):
    folder_tree(tmp_path, 3)
    ended = command("Pixel_percentage", tmp_path / "labels", "--dataset", "folder", "--dataset_dir", tmp_path)
    assert ended.out.count("50.00") == 2
    assert command("Pixel_percentage", tmp_path / "labels", "--dataset", "folder").code == 1
