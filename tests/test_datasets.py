"""The declared data sets, each against a small tree of its layout, and where there are some against real pictures."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from config import DATASET_ROOTS, AugmentConfig, DataConfig, VerifyConfig
from datasets.frames import find_propagated_pairs, frames_around
from datasets.index import dataset_root, find_coarse_pairs, find_images, find_pairs, load_spec
from datasets.loaders import LoaderOptions, train_data
from datasets.mapillary import NUM_CLASSES_2
from datasets.registry import DATASETS, NAMES, READERS, dataset_spec
from datasets.segmentation import load_labels, load_pair
from datasets.spec import IGNORE_LABEL, SegClass
from tests.conftest import ROOT
from tests.trees import cityscapes_tree, write_pair
from utils.distributed import Processes
from utils.flags import parse_command_line

CITYSCAPES = dataset_spec("cityscapes")
KITTI = dataset_spec("kitti")


def names(pairs) -> list[str]:
    return [pair.name for pair in pairs]


# Roots


def test_every_data_set_has_a_place_in_the_config():
    assert set(DATASET_ROOTS) == set(NAMES) == {*DATASETS, *READERS}


def test_every_data_set_is_prepared_with_a_verify_command_that_parses():
    lines = (ROOT / "PREPARE_DATASETS.md").read_text().splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("python -m datasets.verify ")]
    parsed = [parse_command_line(VerifyConfig, command[3:]) for command in commands]
    assert {config.data.dataset for config in parsed} == set(NAMES)


def test_a_root_is_named_by_flag_environment_or_config_in_this_order(monkeypatch, tmp_path):
    spec = dataset_spec("camvid")
    monkeypatch.chdir(tmp_path)
    for folder in ("flag", "environment", "data/camvid"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("KERBLINE_CAMVID", "environment")
    assert dataset_root(spec, "flag") == Path("flag")
    assert dataset_root(spec, None) == Path("environment")
    monkeypatch.delenv("KERBLINE_CAMVID")
    assert dataset_root(spec, None) == Path("data/camvid")


def test_the_error_for_a_missing_root_names_all_three(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        with pytest.raises(FileNotFoundError) as told:
            load_spec(name, None)
        for way in ("--dataset_dir", f"KERBLINE_{name.upper()}", "config.py"):
            assert way in str(told.value)


# Cityscapes


@pytest.mark.parametrize("prefix", [("", ""), ("leftImg8bit_trainvaltest/", "gtFine_trainvaltest/")])
@pytest.mark.parametrize("fold", [None, 0, 1, 2])
def test_the_folds_of_cityscapes_are_the_same_in_both_layouts(tmp_path, prefix, fold):
    cities = ("stuttgart", "darmstadt", "aachen", "strasbourg", "monchengladbach")
    cityscapes_tree(tmp_path, prefix, cities)
    held_out = {1: ["darmstadt"], 2: ["monchengladbach", "strasbourg", "stuttgart"]}
    val = [name.split("/")[0] for name in names(find_pairs(CITYSCAPES, tmp_path, "val", fold))]
    train = [name.split("/")[0] for name in names(find_pairs(CITYSCAPES, tmp_path, "train", fold))]
    assert val == held_out.get(fold, ["frankfurt", "lindau", "munster"])
    assert sorted(train + val) == sorted([*cities, "frankfurt", "lindau", "munster"])


def test_files_of_train_ids_serve_where_those_of_label_ids_are_missing(tmp_path):
    cityscapes_tree(tmp_path, suffix="_gtFine_labelTrainIds.png", label_id=13)
    pair = find_pairs(CITYSCAPES, tmp_path, "train")[0]
    assert (load_labels(pair, CITYSCAPES) == 13).all()  # car; as a label id 13 is fence
    cityscapes_tree(tmp_path, label_id=7)
    pair = find_pairs(CITYSCAPES, tmp_path, "train")[0]
    assert (load_labels(pair, CITYSCAPES) == 0).all()  # label id 7 is road


def test_a_train_id_of_no_class_is_an_error_in_a_file_of_train_ids(tmp_path):
    cityscapes_tree(tmp_path, suffix="_gtFine_labelTrainIds.png", label_id=19)
    with pytest.raises(ValueError, match=r"labelTrainIds.png: label values 19 are not among cityscapes's"):
        load_labels(find_pairs(CITYSCAPES, tmp_path, "train")[0], CITYSCAPES)


def test_files_of_nothing_beside_the_test_images_are_no_labels(tmp_path):
    stem = "test/berlin/berlin_000000_000019"
    write_pair(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", 0)
    (pair,) = find_pairs(CITYSCAPES, tmp_path, "test")
    assert pair.labels is None


@pytest.mark.parametrize("prefixes", [("", ""), ("leftImg8bit_trainextra/", "gtCoarse/")])
def test_coarse_images_are_found_in_both_layouts(tmp_path, prefixes):
    stem = "train_extra/augsburg/augsburg_000000_000001"
    write_pair(
        tmp_path / f"{prefixes[0]}leftImg8bit/{stem}_leftImg8bit.png",
        tmp_path / f"{prefixes[1]}gtCoarse/{stem}_gtCoarse_labelIds.png",
        31,
    )
    (pair,) = find_coarse_pairs(CITYSCAPES, tmp_path)
    assert (load_labels(pair, CITYSCAPES) == 16).all()  # train
    assert find_pairs(CITYSCAPES, tmp_path, "train_extra") == [pair]


def test_coarse_labels_of_the_fine_images_are_splits_of_their_own(tmp_path):
    cityscapes_tree(tmp_path)
    for image in (tmp_path / "leftImg8bit/train").rglob("*.png"):
        name = image.relative_to(tmp_path / "leftImg8bit").as_posix().removesuffix("_leftImg8bit.png")
        write_pair(image, tmp_path / f"gtCoarse/{name}_gtCoarse_labelIds.png", 23)
    pairs = find_pairs(CITYSCAPES, tmp_path, "train_coarse")
    assert names(pairs) == names(find_pairs(CITYSCAPES, tmp_path, "train"))
    assert (load_labels(pairs[0], CITYSCAPES) == 10).all()  # sky


def test_the_frames_of_a_sequence_are_found_around_its_labelled_frame_and_as_a_split(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen",))
    for frame in (0, 18, 20, 29):
        write_pair(
            tmp_path / f"leftImg8bit_sequence/train/aachen/aachen_000000_{frame:06d}_leftImg8bit.png", None
        )
    (pair,) = find_pairs(CITYSCAPES, tmp_path, "train")
    found = frames_around(CITYSCAPES, tmp_path, pair, range(-19, 11))
    assert {step: path.name for step, path in found.items()} == {
        -19: "aachen_000000_000000_leftImg8bit.png",
        -1: "aachen_000000_000018_leftImg8bit.png",
        1: "aachen_000000_000020_leftImg8bit.png",
        10: "aachen_000000_000029_leftImg8bit.png",
    }
    sequence = find_pairs(CITYSCAPES, tmp_path, "train_sequence")
    assert len(sequence) == 4
    assert all(frame.labels is None for frame in sequence)


# Propagated frames


def propagate(root: Path, *steps: int, cities=("aachen", "zurich")) -> None:
    for city in cities:
        for step in steps:
            stem = f"train/{city}/{city}_000000_{19 + step:06d}"
            write_pair(
                root / f"propagated/leftImg8bit/{stem}_leftImg8bit.png",
                root / f"propagated/gtFine/{stem}_gtFine_labelIds.png",
                24,
            )


def test_max_skip_takes_every_step_up_to_it_in_both_directions(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen", "zurich"))
    propagate(tmp_path, -3, -2, -1, 1, 2, 3)
    pairs = find_pairs(CITYSCAPES, tmp_path, "train")
    for skip, frames in ((1, [18, 20]), (2, [17, 18, 20, 21]), (3, [16, 17, 18, 20, 21, 22])):
        found = find_propagated_pairs(CITYSCAPES, tmp_path, pairs, max_skip=skip, scene_flow=False)
        wanted = [f"{city}/{city}_000000_{frame:06d}" for city in ("aachen", "zurich") for frame in frames]
        assert names(found) == wanted
        assert (load_labels(found[0], CITYSCAPES) == 11).all()  # person


def test_propagated_frames_are_those_of_the_training_images_alone(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen", "darmstadt"))
    propagate(tmp_path, 1, cities=("aachen", "darmstadt"))
    pairs = find_pairs(CITYSCAPES, tmp_path, "train", 1)  # fold 1 holds darmstadt out, and trains on the official val
    found = find_propagated_pairs(CITYSCAPES, tmp_path, pairs, max_skip=1, scene_flow=False)
    assert names(found) == ["aachen/aachen_000000_000020"]


def test_finding_no_propagated_frames_for_a_step_says_where_it_looked(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen",))
    propagate(tmp_path, 1, cities=("aachen",))
    pairs = find_pairs(CITYSCAPES, tmp_path, "train")
    with pytest.raises(FileNotFoundError) as told:
        find_propagated_pairs(CITYSCAPES, tmp_path, pairs, max_skip=2, scene_flow=False)
    for part in ("--maxSkip 2", "aachen_000000_000017 or aachen/aachen_000000_000021",
                 str(tmp_path / "propagated/leftImg8bit/train")):  # fmt: skip
        assert part in str(told.value)


def test_a_propagated_image_without_its_label_is_an_error(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen",))
    propagate(tmp_path, 1, cities=("aachen",))
    next(tmp_path.glob("propagated/gtFine/train/aachen/*")).unlink()
    pairs = find_pairs(CITYSCAPES, tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"aachen_000000_000020_leftImg8bit.png is a propagated frame without"):
        find_propagated_pairs(CITYSCAPES, tmp_path, pairs, max_skip=1, scene_flow=False)


def test_sets_without_video_refuse_the_flags():
    with pytest.raises(ValueError, match="--maxSkip: mapillary has no video"):
        find_propagated_pairs(dataset_spec("mapillary"), Path(), [], max_skip=1, scene_flow=False)
    with pytest.raises(ValueError, match="--scf: cityscapes has no scene-flow frames; KITTI has"):
        find_propagated_pairs(CITYSCAPES, Path(), [], max_skip=0, scene_flow=True)


def test_propagated_and_coarse_frames_join_the_class_uniform_choice_and_not_the_plain_one(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen", "zurich"))
    propagate(tmp_path, -1, 1)
    stem = "train_extra/augsburg/augsburg_000000_000001"
    write_pair(
        tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png",
        tmp_path / f"gtCoarse/{stem}_gtCoarse_labelIds.png",
        np.array([[31, 7, 7, 7]] * 4),  # train, which is boosted, and road, which is not
    )

    def drawn(**flags):
        config = DataConfig(dataset_dir=str(tmp_path), bs_mult=1, repeat=20, maxSkip=1, **flags)
        data = train_data(
            config, AugmentConfig(crop_size=4), CITYSCAPES, LoaderOptions(Processes(0, 1, 0), 0), seed=0
        )
        pairs = data.loader.dataset.pairs
        return pairs, [(pairs[draw.pair_index].name, draw.center) for draw in data.sampler]

    pairs, draws = drawn(coarse_boost_classes="16", class_uniform_pct=0.5)
    plain = {name for name, center in draws if center is None}
    uniform = {name for name, center in draws if center is not None}
    assert len(pairs) == 2 + 4 + 1
    assert plain == {"aachen/aachen_000000_000019", "zurich/zurich_000000_000019"}
    assert {"aachen/aachen_000000_000018", "zurich/zurich_000000_000020"} <= uniform
    assert {center[1] for name, center in draws if name.startswith("augsburg")} == {0}
    with pytest.raises(ValueError, match="--maxSkip and --scf add to the class-uniform choice, which is off"):
        drawn(class_uniform_pct=0.0)


# KITTI


def kitti_tree(root: Path, count: int = 4) -> None:
    for number in range(count):
        write_pair(
            root / f"training/image_2/{number:06d}_10.png", root / f"training/semantic/{number:06d}_10.png", 7
        )


def test_scene_flow_frames_join_kitti_on_request(tmp_path):
    kitti_tree(tmp_path)
    pairs = find_pairs(KITTI, tmp_path, "train", 1)  # fold 1 holds out the first of these four images
    with pytest.raises(FileNotFoundError, match=r"--scf: no propagated frames like 000001_00 or 000001_20 in "):
        find_propagated_pairs(KITTI, tmp_path, pairs, max_skip=0, scene_flow=True)
    for name in ("000000_11", "000002_11", "000002_09", "000003_00"):
        folder = tmp_path / "scene_flow/training"
        write_pair(folder / f"image_2/{name}.png", folder / f"semantic/{name}.png", 26)
    found = find_propagated_pairs(KITTI, tmp_path, pairs, max_skip=0, scene_flow=True)
    assert names(found) == ["000002_09", "000002_11", "000003_00"]
    assert (load_labels(found[0], KITTI) == 13).all()


def test_test_images_of_kitti_keep_their_sizes(tmp_path):
    for name, size in (("000000_10", (5, 16)), ("000001_10", (6, 15))):
        write_pair(tmp_path / f"testing/image_2/{name}.png", None, size=size)
    pairs = find_pairs(KITTI, tmp_path, "test")
    assert names(pairs) == ["000000_10", "000001_10"]
    assert all(pair.labels is None for pair in pairs)


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
    image, ids = load_pair(find_pairs(spec, tmp_path, "train")[0], spec)
    assert image.shape == (8, 4, 3)
    assert (ids == spec.class_names.index("Road")).all()
    assert len(find_pairs(spec, tmp_path, "trainval")) == 2


def test_the_classes_of_mapillary_1_are_the_published_ones(shared):
    labels = json.loads((shared / "facts/mapillary_v1.json").read_text())["labels"]
    spec = dataset_spec("mapillary")
    assert [c.name for c in spec.classes] == [label["readable"] for label in labels if label["evaluate"]]
    assert [list(c.color) for c in spec.classes] == [label["color"] for label in labels if label["evaluate"]]
    assert list(spec.ignored_ids) == [label["train_id"] for label in labels if not label["evaluate"]]


@pytest.mark.parametrize("name", ["config.json", "config_v1.2.json"])
def test_a_config_of_mapillary_1_that_differs_is_an_error_with_the_first_difference(tmp_path, name):
    readable = [*dataset_spec("mapillary").class_names, "Unlabeled"]
    vistas_config(tmp_path / name, readable)
    assert dataset_spec("mapillary", tmp_path) is DATASETS["mapillary"]
    readable[13], readable[14] = readable[14], readable[13]
    vistas_config(tmp_path / name, readable)
    with pytest.raises(ValueError, match=rf"{name}: label 13 is 'Service Lane' there and 'Road' in"):
        dataset_spec("mapillary", tmp_path)


def test_the_classes_of_mapillary_2_are_those_of_its_config(tmp_path):
    vistas_config(tmp_path / "config_v2.0.json", ["Unlabeled", *(f"c{i}" for i in range(NUM_CLASSES_2))])
    for split in ("training", "validation"):
        write_pair(tmp_path / split / "images/a.jpg", tmp_path / split / "v2.0/labels/a.png", np.array([[0, 1, 123]]))
    spec = load_spec("mapillary2", str(tmp_path))
    assert (spec.name, spec.num_classes) == ("mapillary2", 123)
    assert spec.classes[0] == SegClass("c0", (0, 1, 7), (1,))
    labels = load_labels(find_pairs(spec, tmp_path, "val")[0], spec)
    assert labels.tolist() == [[IGNORE_LABEL, 0, 122]]


def test_a_config_of_mapillary_2_with_too_few_classes_or_none_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config_v2.0.json, which says what the labels of Mapillary"):
        dataset_spec("mapillary2", tmp_path)
    vistas_config(tmp_path / "config_v2.0.json", ["c0", "c1", "Unlabeled"])
    with pytest.raises(ValueError, match=r"2 evaluated classes; Mapillary Vistas 2.0 has 123"):
        dataset_spec("mapillary2", tmp_path)
    (tmp_path / "config_v2.0.json").write_text('{"labels": [{"name": "a"}]}')
    with pytest.raises(ValueError, match=r"label 0: wants \"readable\""):
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
    assert names(find_pairs(spec, tmp_path, "train")) == ["0001TP_006690", "0016E5_08190"]
    assert names(find_pairs(spec, tmp_path, "val")) == ["0016E5_08159"]
    assert names(find_pairs(spec, tmp_path, "test")) == ["0001TP_008550", "Seq05VD_f05100"]
    assert len(find_pairs(spec, tmp_path, "trainval")) == 3


def test_the_32_colors_are_31_classes_and_void(tmp_path):
    original_camvid(tmp_path, all_colors())
    spec = dataset_spec("camvid32")
    assert load_labels(find_pairs(spec, tmp_path, "val")[0], spec).tolist() == [[*range(31), IGNORE_LABEL]]


def test_the_32_classes_are_gathered_into_the_11(tmp_path):
    original_camvid(tmp_path, all_colors())
    spec = dataset_spec("camvid")
    found = load_labels(find_pairs(spec, tmp_path, "val")[0], spec)[0]
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


def test_camvid_labels_end_in_png_beside_jpg_images_and_test_is_its_own_split(shared):
    spec = dataset_spec("camvid")
    val = find_pairs(spec, shared / "camvid", "val")
    assert {pair.image.suffix for pair in val} == {".jpg"}
    assert {pair.labels.suffix for pair in val} == {".png"}
    test = find_pairs(spec, shared / "camvid", "test")
    assert not {*names(val)} & {*names(test)}


def test_the_splits_of_the_real_frames_are_those_that_the_name_ranges_say(shared):
    ranges = dataset_spec("camvid").name_ranges
    for split in ("train", "val", "test"):
        for name in names(find_pairs(dataset_spec("camvid"), shared / "camvid", split)):
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
    assert names(find_pairs(CITYSCAPES, tmp_path, "train")) == ["aachen/aachen_000000_000019"]


def test_a_linked_folder_of_images_is_followed(tmp_path):
    cityscapes_tree(tmp_path / "elsewhere", cities=("aachen",))
    (tmp_path / "root/leftImg8bit/train").mkdir(parents=True)
    (tmp_path / "root/gtFine").mkdir()
    (tmp_path / "root/leftImg8bit/train/aachen").symlink_to(tmp_path / "elsewhere/leftImg8bit/train/aachen")
    (tmp_path / "root/gtFine/train").symlink_to(tmp_path / "elsewhere/gtFine/train")
    assert names(find_pairs(CITYSCAPES, tmp_path / "root", "train")) == ["aachen/aachen_000000_000019"]


def test_a_missing_label_is_an_error_that_says_where_it_was_looked_for_whatever_the_fold(tmp_path):
    cityscapes_tree(tmp_path)
    (tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").unlink()
    for split, fold in (("val", None), ("train", 1)):
        with pytest.raises(FileNotFoundError) as told:
            find_pairs(CITYSCAPES, tmp_path, split, fold)
        for suffix in ("labelIds", "labelTrainIds"):
            assert f"gtFine/val/lindau/lindau_000000_000019_gtFine_{suffix}.png" in str(told.value)
    assert [pair.name for pair in find_images(CITYSCAPES, tmp_path, "val") if pair.labels is None] == [
        "lindau/lindau_000000_000019"
    ]


def test_two_images_of_one_name_are_an_error(tmp_path):
    kitti_tree(tmp_path)
    write_pair(tmp_path / "training/image_2/000002_10.jpg", None)
    with pytest.raises(ValueError, match=r"000002_10.* and .*000002_10.* have one name"):
        find_pairs(KITTI, tmp_path, "trainval")
