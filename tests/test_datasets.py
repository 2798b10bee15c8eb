"""The declared data sets, each against a small tree of its layout, and where there are some against real pictures."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config import DATASET_ROOTS
from datasets.files import dataset_root, find_samples, load_spec
from datasets.segmentation import load_labels, load_sample
from datasets.specs.registry import DATASETS, NAMES, READERS, dataset_spec
from datasets.specs.spec import IGNORE_LABEL, SegClass, written_ids
from datasets.verify import VerifyConfig
from tests.conftest import ROOT
from tests.trees import cityscapes_tree, kitti_tree, write_pair
from utils.flags import parse_command_line

CITYSCAPES = dataset_spec("cityscapes")
KITTI = dataset_spec("kitti")


def names(samples) -> list[str]:
    return [sample.name for sample in samples]


# Declarations


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_a_declaration_is_consistent(spec):
    assert len(set(spec.class_names)) == spec.num_classes
    assert all(0 <= value <= 255 for color in spec.palette for value in color)
    values = [v for i, c in enumerate(spec.classes) for v in c.label_ids or (i,)]
    assert len(values) == len(set(values))
    assert not set(values) & set(spec.ignored_ids)
    table = spec.train_id_of_label_id()
    assert [table[v] for v in written_ids(spec.classes)] == list(range(spec.num_classes))
    assert table[IGNORE_LABEL] == IGNORE_LABEL


def test_the_class_counts_are_the_benchmarks_own():
    counts = {name: spec.num_classes for name, spec in DATASETS.items()}
    assert counts == {"camvid": 11, "camvid32": 31, "cityscapes": 19, "kitti": 19, "mapillary": 65, "streets": 11}


def test_train_ids_stay_below_the_marker_of_unknown_values():
    assert all(spec.num_classes < 254 for spec in DATASETS.values())
    assert replace(dataset_spec("camvid"), name="x").ignore_label == IGNORE_LABEL


def test_an_unknown_data_set_is_answered_with_the_names():
    with pytest.raises(ValueError, match=r"'cityscape' is unknown\. Choose one of: camvid, camvid32, cityscapes"):
        dataset_spec("cityscape")


# Roots


def test_every_data_set_has_a_place_in_the_config():
    assert set(DATASET_ROOTS) == set(NAMES) == {*DATASETS, *READERS}


def test_every_data_set_is_prepared_with_a_verify_command_that_parses():
    lines = (ROOT / "PREPARE_DATASETS.md").read_text().splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("python -m datasets.verify ")]
    parsed = [parse_command_line(VerifyConfig, command[3:]) for command in commands]
    assert {config.data.dataset for config in parsed} == set(NAMES)


def test_a_root_is_named_by_flag_environment_or_config_in_this_order(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for folder in ("flag", "environment", "data/camvid"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("KERBLINE_CAMVID", "environment")
    assert dataset_root("camvid", "flag") == Path("flag")
    assert dataset_root("camvid", None) == Path("environment")
    monkeypatch.delenv("KERBLINE_CAMVID")
    assert dataset_root("camvid", None) == Path("data/camvid")


def test_the_error_for_a_missing_root_names_all_three(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        with pytest.raises(FileNotFoundError) as told:
            load_spec(name, None)
        for way in ("--dataset_dir", f"KERBLINE_{name.upper()}", DATASET_ROOTS[name], "config.py"):
            assert way in str(told.value)


def test_an_unknown_fold_or_split_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="has the folds 0, 1, 2"):
        find_samples(dataset_spec("cityscapes"), tmp_path, "val", 3)
    with pytest.raises(ValueError, match="camvid has no folds; leave it out"):
        find_samples(dataset_spec("camvid"), tmp_path, "val", 1)
    with pytest.raises(ValueError, match="Choose one of: train, val, trainval, test"):
        find_samples(dataset_spec("camvid"), tmp_path, "vla")


# Cityscapes


@pytest.mark.parametrize("prefix", [("", ""), ("leftImg8bit_trainvaltest/", "gtFine_trainvaltest/")])
def test_cityscapes_is_found_in_both_layouts_in_use(tmp_path, prefix):
    cityscapes_tree(tmp_path, prefix)
    samples = find_samples(CITYSCAPES, tmp_path, "train")
    assert names(samples) == [f"{city}/{city}_000000_000019" for city in ("aachen", "monchengladbach", "zurich")]
    assert (load_labels(samples[0], CITYSCAPES) == 13).all()  # label id 26 is car, train id 13


@pytest.mark.parametrize("prefix", [("", ""), ("leftImg8bit_trainvaltest/", "gtFine_trainvaltest/")])
@pytest.mark.parametrize("fold", [None, 0, 1, 2])
def test_the_folds_of_cityscapes_are_the_same_in_both_layouts(tmp_path, prefix, fold):
    cities = ("stuttgart", "darmstadt", "aachen", "strasbourg", "monchengladbach")
    cityscapes_tree(tmp_path, prefix, cities)
    held_out = {1: ["darmstadt"], 2: ["monchengladbach", "strasbourg", "stuttgart"]}
    val = [name.split("/")[0] for name in names(find_samples(CITYSCAPES, tmp_path, "val", fold))]
    train = [name.split("/")[0] for name in names(find_samples(CITYSCAPES, tmp_path, "train", fold))]
    assert val == held_out.get(fold, ["frankfurt", "lindau", "munster"])
    assert sorted(train + val) == sorted([*cities, "frankfurt", "lindau", "munster"])


def test_files_of_train_ids_serve_where_those_of_label_ids_are_missing(tmp_path):
    cityscapes_tree(tmp_path, suffix="_gtFine_labelTrainIds.png", label_id=13)
    sample = find_samples(CITYSCAPES, tmp_path, "train")[0]
    assert (load_labels(sample, CITYSCAPES) == 13).all()  # car; as a label id 13 is fence
    cityscapes_tree(tmp_path, label_id=7)
    sample = find_samples(CITYSCAPES, tmp_path, "train")[0]
    assert (load_labels(sample, CITYSCAPES) == 0).all()  # label id 7 is road


def test_a_train_id_of_no_class_is_an_error_in_a_file_of_train_ids(tmp_path):
    cityscapes_tree(tmp_path, suffix="_gtFine_labelTrainIds.png", label_id=19)
    with pytest.raises(ValueError, match=r"labelTrainIds.png: label values 19 are not among cityscapes's"):
        load_labels(find_samples(CITYSCAPES, tmp_path, "train")[0], CITYSCAPES)


def test_files_of_nothing_beside_the_test_images_are_no_labels(tmp_path):
    stem = "test/berlin/berlin_000000_000019"
    write_pair(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", 0)
    (sample,) = find_samples(CITYSCAPES, tmp_path, "test")
    assert sample.label_path is None


@pytest.mark.parametrize("prefixes", [("", ""), ("leftImg8bit_trainextra/", "gtCoarse/")])
def test_coarse_images_are_found_in_both_layouts(tmp_path, prefixes):
    stem = "train_extra/augsburg/augsburg_000000_000001"
    write_pair(
        tmp_path / f"{prefixes[0]}leftImg8bit/{stem}_leftImg8bit.png",
        tmp_path / f"{prefixes[1]}gtCoarse/{stem}_gtCoarse_labelIds.png",
        31,
    )
    (sample,) = find_samples(CITYSCAPES, tmp_path, "train_extra")
    assert (load_labels(sample, CITYSCAPES) == 16).all()  # train
    assert find_samples(CITYSCAPES, tmp_path, "train_extra") == [sample]


def test_coarse_labels_of_the_fine_images_are_splits_of_their_own(tmp_path):
    cityscapes_tree(tmp_path)
    for image in (tmp_path / "leftImg8bit/train").rglob("*.png"):
        name = image.relative_to(tmp_path / "leftImg8bit").as_posix().removesuffix("_leftImg8bit.png")
        write_pair(image, tmp_path / f"gtCoarse/{name}_gtCoarse_labelIds.png", 23)
    samples = find_samples(CITYSCAPES, tmp_path, "train_coarse")
    assert names(samples) == names(find_samples(CITYSCAPES, tmp_path, "train"))
    assert (load_labels(samples[0], CITYSCAPES) == 10).all()  # sky


# KITTI


def test_kitti_never_validates_on_training_images(tmp_path):
    kitti_tree(tmp_path, 200)
    for fold in (None, 0, 1, 2):
        train, val = (find_samples(KITTI, tmp_path, split, fold) for split in ("train", "val"))
        assert (len(train), len(val)) == (179, 21)
        assert not {p.name for p in train} & {p.name for p in val}
    assert find_samples(KITTI, tmp_path, "val", 2)[0].name == "000003_10"


def test_test_images_of_kitti_keep_their_sizes(tmp_path):
    for name, size in (("000000_10", (5, 16)), ("000001_10", (6, 15))):
        write_pair(tmp_path / f"testing/image_2/{name}.png", None, size=size)
    samples = find_samples(KITTI, tmp_path, "test")
    assert names(samples) == ["000000_10", "000001_10"]
    assert all(sample.label_path is None for sample in samples)


# Mapillary


def mapillary_tree(root: Path, labels: str, size=(8, 4)) -> None:
    for split in ("training", "validation"):
        write_pair(root / split / f"images/{split}.jpg", root / split / labels / f"{split}.png", np.full(size, 13))
    write_pair(root / "testing/images/b.jpg", None)


def vistas_config(path: Path, readable, **changes) -> None:
    labels = [
        {"readable": name, "evaluate": name != "Unlabeled", "color": [i // 16, i % 16, 7], "instances": False}
        for i, name in enumerate(readable)
    ]
    path.write_text(json.dumps({"labels": labels, "version": "2.0", **changes}))


@pytest.mark.parametrize("labels", ["labels", "v1.2/labels"])
def test_mapillary_1_is_found_as_either_release_unpacks_portrait_images_included(tmp_path, labels):
    mapillary_tree(tmp_path, labels)
    spec = dataset_spec("mapillary", tmp_path)
    image, ids = load_sample(find_samples(spec, tmp_path, "train")[0], spec)
    assert image.shape == (8, 4, 3)
    assert (ids == spec.class_names.index("Road")).all()
    assert len(find_samples(spec, tmp_path, "trainval")) == 2


def test_the_classes_of_mapillary_1_are_the_published_ones(shared):
    table = shared / "facts" / "mapillary_v1.json"
    if not table.is_file():
        pytest.skip(f"the published table is needed in {table.relative_to(shared.parent)} beside the project")
    labels = json.loads(table.read_text())["labels"]
    spec = dataset_spec("mapillary")
    assert [c.name for c in spec.classes] == [label["readable"] for label in labels if label["evaluate"]]
    assert [list(c.color) for c in spec.classes] == [label["color"] for label in labels if label["evaluate"]]
    assert list(spec.ignored_ids) == [label["train_id"] for label in labels if not label["evaluate"]]
    assert [list(color) for color in spec.ignored_colors] == [lb["color"] for lb in labels if not lb["evaluate"]]


def test_the_classes_of_mapillary_2_are_those_of_its_config(tmp_path):
    vistas_config(tmp_path / "config_v2.0.json", ["Unlabeled", *(f"c{i}" for i in range(123))])
    for split in ("training", "validation"):
        write_pair(tmp_path / split / "images/a.jpg", tmp_path / split / "v2.0/labels/a.png", np.array([[0, 1, 123]]))
    spec = load_spec("mapillary2", str(tmp_path))
    assert (spec.name, spec.num_classes) == ("mapillary2", 123)
    assert spec.classes[0] == SegClass("c0", (0, 1, 7), (1,))
    assert (spec.ignored_ids, spec.ignored_colors) == ((0,), ((0, 0, 7),))
    labels = load_labels(find_samples(spec, tmp_path, "val")[0], spec)
    assert labels.tolist() == [[IGNORE_LABEL, 0, 122]]


def test_a_config_of_mapillary_2_that_is_missing_or_wrong_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config_v2.0.json, which defines the labels of Mapillary"):
        dataset_spec("mapillary2", tmp_path)
    (tmp_path / "config_v2.0.json").write_text('{"labels": [{"name": "a"}]}')
    with pytest.raises(ValueError, match=r"label 0: needs \"readable\""):
        dataset_spec("mapillary2", tmp_path)


# CamVid

ORIGINAL_FRAMES = ("0001TP_006690", "0016E5_08159", "0016E5_08190", "0001TP_008550", "Seq05VD_f05100")


def original_camvid(root: Path, colors) -> None:
    for frame in ORIGINAL_FRAMES:
        write_pair(root / f"701_StillsRaw_full/{frame}.png", root / f"LabeledApproved_full/{frame}_L.png", colors)


def all_colors() -> np.ndarray:
    """[1, 32, 3]: the colours of the original 31 classes, and black for Void."""
    return np.array([[*dataset_spec("camvid32").palette, (0, 0, 0)]])


@pytest.mark.parametrize("name", ["camvid", "camvid32"])
def test_the_frames_of_the_original_camvid_fall_into_the_splits_of_the_segnet_authors(tmp_path, name):
    original_camvid(tmp_path, all_colors())
    spec = dataset_spec(name)
    assert names(find_samples(spec, tmp_path, "train")) == ["0001TP_006690", "0016E5_08190"]
    assert names(find_samples(spec, tmp_path, "val")) == ["0016E5_08159"]
    assert names(find_samples(spec, tmp_path, "test")) == ["0001TP_008550", "Seq05VD_f05100"]
    assert len(find_samples(spec, tmp_path, "trainval")) == 3


def test_the_32_colors_are_31_classes_and_void(tmp_path):
    original_camvid(tmp_path, all_colors())
    spec = dataset_spec("camvid32")
    assert load_labels(find_samples(spec, tmp_path, "val")[0], spec).tolist() == [[*range(31), IGNORE_LABEL]]


def test_the_32_classes_are_gathered_into_the_11(tmp_path):
    original_camvid(tmp_path, all_colors())
    spec = dataset_spec("camvid")
    found = load_labels(find_samples(spec, tmp_path, "val")[0], spec)[0]
    gathered = {}
    for original, train_id in zip(dataset_spec("camvid32").class_names, found, strict=False):
        gathered.setdefault(spec.class_names[train_id], set()).add(original)
    assert found[-1] == IGNORE_LABEL
    assert gathered == {
        "Sky": {"Sky"},
        "Building": {"Building", "Archway", "Bridge", "Tunnel", "Wall"},
        "Pole": {"Column_Pole", "TrafficCone"},
        "Road": {"Road", "LaneMkgsDriv", "LaneMkgsNonDriv"},
        "Sidewalk": {"Sidewalk", "ParkingBlock", "RoadShoulder"},
        "Tree": {"Tree", "VegetationMisc"},
        "SignSymbol": {"SignSymbol", "Misc_Text", "TrafficLight"},
        "Fence": {"Fence"},
        "Car": {"Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"},
        "Pedestrian": {"Pedestrian", "Child", "CartLuggagePram", "Animal"},
        "Bicyclist": {"Bicyclist", "MotorcycleScooter"},
    }


def test_camvid_splits_have_their_published_sizes(shared):
    root = shared / "camvid"
    sizes = {split: len(find_samples(dataset_spec("camvid"), root, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 367, "val": 101, "test": 233}


def test_real_camvid_labels_are_train_ids_and_void_is_ignored(shared):
    spec = dataset_spec("camvid")
    sample = find_samples(spec, shared / "camvid", "val")[0]
    image, labels = load_sample(sample, spec)
    assert image.shape == (360, 480, 3)
    assert labels.shape == (360, 480)
    assert set(np.unique(labels)) <= {*range(11), IGNORE_LABEL}


def test_camvid_labels_end_in_png_beside_jpg_images_and_test_is_its_own_split(shared):
    spec = dataset_spec("camvid")
    val = find_samples(spec, shared / "camvid", "val")
    assert {sample.image_path.suffix for sample in val} == {".jpg"}
    assert {sample.label_path.suffix for sample in val} == {".png"}
    test = find_samples(spec, shared / "camvid", "test")
    assert not {*names(val)} & {*names(test)}


def test_the_splits_of_the_real_frames_are_those_that_the_name_ranges_say(shared):
    ranges = dataset_spec("camvid").name_ranges
    for split in ("train", "val", "test"):
        for name in names(find_samples(dataset_spec("camvid"), shared / "camvid", split)):
            owners = [s for s, runs in ranges.items() if any(low <= name <= high for low, high in runs)]
            assert owners == [split]


# What lies around


def test_stray_files_do_no_harm(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen",))
    folder = tmp_path / "leftImg8bit/train"
    (folder / "notes.txt").write_text("a stray file")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "aachen/._aachen_000000_000019_leftImg8bit.png").write_bytes(b"\0")
    (folder / "aachen/thumb.png").write_bytes(b"\0")
    (folder / "aachen/empty_leftImg8bit.png").mkdir()
    (folder / ".trash").mkdir()
    write_pair(folder / ".trash/bochum_000000_000019_leftImg8bit.png", None)
    assert names(find_samples(CITYSCAPES, tmp_path, "train")) == ["aachen/aachen_000000_000019"]


def test_a_linked_folder_of_images_is_followed(tmp_path):
    cityscapes_tree(tmp_path / "elsewhere", cities=("aachen",))
    (tmp_path / "root/leftImg8bit/train").mkdir(parents=True)
    (tmp_path / "root/gtFine").mkdir()
    (tmp_path / "root/leftImg8bit/train/aachen").symlink_to(tmp_path / "elsewhere/leftImg8bit/train/aachen")
    (tmp_path / "root/gtFine/train").symlink_to(tmp_path / "elsewhere/gtFine/train")
    assert names(find_samples(CITYSCAPES, tmp_path / "root", "train")) == ["aachen/aachen_000000_000019"]


def test_a_missing_label_is_an_error_that_says_where_it_was_looked_for_whatever_the_fold(tmp_path):
    cityscapes_tree(tmp_path)
    (tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").unlink()
    for split, fold in (("val", None), ("train", 1)):
        with pytest.raises(FileNotFoundError) as told:
            find_samples(CITYSCAPES, tmp_path, split, fold)
        assert "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png or " in str(told.value)
    samples = find_samples(CITYSCAPES, tmp_path, "val", need_labels=False)
    assert [sample.name for sample in samples if sample.label_path is None] == ["lindau/lindau_000000_000019"]


def test_two_images_of_one_name_are_an_error(tmp_path):
    kitti_tree(tmp_path)
    write_pair(tmp_path / "training/image_2/000002_10.jpg", None)
    with pytest.raises(ValueError, match=r"000002_10.* and .*000002_10.* share the name"):
        find_samples(KITTI, tmp_path, "trainval")
