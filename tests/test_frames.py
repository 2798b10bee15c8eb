"""Frames around labelled ones: true ones of the video, and propagated ones that join the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import AugmentConfig, DataConfig
from datasets.files import Sample, find_samples
from datasets.frames import (
    PAIR_NOTE,
    find_frame,
    find_labelled_frames,
    frames_by_name,
    without_frames_of,
)
from datasets.loaders import LoaderOptions, train_data
from datasets.segmentation import load_labels
from datasets.specs.registry import dataset_spec
from datasets.specs.spec import Frames
from tests.trees import cityscapes_tree, folder_tree, kitti_tree, write_pair
from utils.distributed import Processes
from utils.images import read_label_ids, write_png

CITYSCAPES = dataset_spec("cityscapes")
KITTI = dataset_spec("kitti")


def names(samples) -> list[str]:
    return [sample.name for sample in samples]


def propagated(spec, root, samples, max_skip):
    steps = [(-step, step) for step in range(1, max_skip + 1)]
    return find_labelled_frames(spec, spec.propagated, root, samples, steps, f"--maxSkip {max_skip}")


def scene_flow(spec, root, samples):
    steps = [step for step in range(-10, 11) if step]
    return find_labelled_frames(spec, spec.scene_flow, root, samples, [steps], "--scf")


def test_a_frame_is_named_by_its_number_or_by_its_step():
    by_number, by_step = Frames(()), Frames((), by_number=False)
    assert by_number.name_of("aachen/aachen_000000_000019", 2) == "aachen/aachen_000000_000021"
    assert by_number.name_of("000007_10", -3) == "000007_07"
    assert by_step.name_of("drive/photo", -3) == "drive/photo_-3"
    assert by_step.name_of("0007", 2) == "0007_+2"
    with pytest.raises(ValueError, match="photo: no frame number at the end of the name"):
        by_number.name_of("photo", 1)


def test_propagated_frames_of_a_folder_of_ones_own(tmp_path):
    folder_tree(tmp_path, 6)
    write_pair(tmp_path / "propagated/images/02_+1.png", tmp_path / "propagated/labels/02_+1.png", [[0, 1]])
    spec = dataset_spec("folder", tmp_path)
    samples = find_samples(spec, tmp_path, "train")
    (found,) = propagated(spec, tmp_path, samples, max_skip=1)
    assert (found.name, load_labels(found, spec).tolist()) == ("02_+1", [[0, 1]])


def around(spec, root, name, steps):
    """The files of the frames around the one of this name, but for the frame itself."""
    there = frames_by_name(spec, spec.video, root)
    found = {step: find_frame(spec.video, there, name, step) for step in steps if step}
    return {step: frame.image_path.name for step, frame in found.items() if frame}


def test_the_frames_of_a_sequence_are_found_around_its_labelled_frame_and_as_a_split(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen",))
    for frame in (0, 18, 20, 29):
        write_pair(
            tmp_path / f"leftImg8bit_sequence/train/aachen/aachen_000000_{frame:06d}_leftImg8bit.png", None
        )
    (sample,) = find_samples(CITYSCAPES, tmp_path, "train")
    assert around(CITYSCAPES, tmp_path, sample.name, range(-19, 11)) == {
        -19: "aachen_000000_000000_leftImg8bit.png",
        -1: "aachen_000000_000018_leftImg8bit.png",
        1: "aachen_000000_000020_leftImg8bit.png",
        10: "aachen_000000_000029_leftImg8bit.png",
    }
    sequence = find_samples(CITYSCAPES, tmp_path, "train_sequence")
    assert len(sequence) == 4
    assert all(frame.label_path is None for frame in sequence)


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
    samples = find_samples(CITYSCAPES, tmp_path, "train")
    for skip, frames in ((1, [18, 20]), (2, [17, 18, 20, 21]), (3, [16, 17, 18, 20, 21, 22])):
        found = propagated(CITYSCAPES, tmp_path, samples, max_skip=skip)
        wanted = [f"{city}/{city}_000000_{frame:06d}" for city in ("aachen", "zurich") for frame in frames]
        assert names(found) == wanted
        assert (load_labels(found[0], CITYSCAPES) == 11).all()  # person


def test_propagated_frames_are_those_of_the_training_images_alone(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen", "darmstadt"))
    propagate(tmp_path, 1, cities=("aachen", "darmstadt"))
    # Fold 1 holds darmstadt out, and trains on the official val.
    samples = find_samples(CITYSCAPES, tmp_path, "train", 1)
    found = propagated(CITYSCAPES, tmp_path, samples, max_skip=1)
    assert names(found) == ["aachen/aachen_000000_000020"]


def test_finding_no_propagated_frames_for_a_step_says_where_it_looked(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen",))
    propagate(tmp_path, 1, cities=("aachen",))
    samples = find_samples(CITYSCAPES, tmp_path, "train")
    with pytest.raises(FileNotFoundError) as told:
        propagated(CITYSCAPES, tmp_path, samples, max_skip=2)
    for part in ("--maxSkip 2: no propagated frames", "aachen_000000_000017 or aachen/aachen_000000_000021",
                 str(tmp_path / "propagated/leftImg8bit/train")):  # fmt: skip
        assert part in str(told.value)


def test_a_propagated_image_without_its_label_is_an_error(tmp_path):
    cityscapes_tree(tmp_path, cities=("aachen",))
    propagate(tmp_path, 1, cities=("aachen",))
    next(tmp_path.glob("propagated/gtFine/train/aachen/*")).unlink()
    samples = find_samples(CITYSCAPES, tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"aachen_000000_000020_leftImg8bit.png is a propagated frame without"):
        propagated(CITYSCAPES, tmp_path, samples, max_skip=1)


def test_sets_without_video_refuse_the_flags():
    with pytest.raises(ValueError, match="--maxSkip 1: mapillary declares no such frames"):
        propagated(dataset_spec("mapillary"), Path(), [], max_skip=1)
    with pytest.raises(ValueError, match="--scf: cityscapes declares no such frames"):
        scene_flow(CITYSCAPES, Path(), [])


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
        config = DataConfig(
            dataset_dir=str(tmp_path), index_dir=str(tmp_path / "index"), bs_mult=1, repeat=20, maxSkip=1, **flags
        )
        data = train_data(
            config, AugmentConfig(crop_size=4), CITYSCAPES, LoaderOptions(Processes(0, 1, 0), 0), seed=0
        )
        samples = data.loader.dataset.samples
        return samples, [(samples[draw.sample_index].name, draw.center) for draw in data.crops]

    samples, draws = drawn(coarse_boost_classes="16", class_uniform_pct=0.5)
    plain = {name for name, center in draws if center is None}
    uniform = {name for name, center in draws if center is not None}
    assert len(samples) == 2 + 4 + 1
    assert plain == {"aachen/aachen_000000_000019", "zurich/zurich_000000_000019"}
    assert {"aachen/aachen_000000_000018", "zurich/zurich_000000_000020"} <= uniform
    assert {center[1] for name, center in draws if name.startswith("augsburg")} == {0}
    with pytest.raises(ValueError, match="--maxSkip and --scf need class-uniform sampling"):
        drawn(class_uniform_pct=0.0)


def trained_and_left_out(root: Path, capsys: pytest.CaptureFixture[str], **flags: Any) -> tuple[list[str], str]:
    """Names of the images of a folder that are trained on with --maxSkip 3, and what was told."""
    config = DataConfig(dataset_dir=str(root), index_dir=str(root / "index"), bs_mult=1, maxSkip=3, **flags)
    options = LoaderOptions(Processes(0, 1, 0), 0)
    data = train_data(config, AugmentConfig(crop_size=4), dataset_spec("folder", root), options, seed=0)
    return names(data.loader.dataset.samples), capsys.readouterr().err


def labelled_frames_10_and_12(root: Path) -> None:
    """Frame 10, which fold 0 holds out, and 12, with propagated frames up to three steps around both."""
    folder_tree(root, 0)
    for number in (10, 12):
        write_pair(root / f"images/a_{number:03d}.png", root / f"labels/a_{number:03d}.png")
        for step in (-3, -2, -1, 1, 2, 3):
            stem = f"a_{number:03d}_{step:+d}.png"
            write_pair(root / f"propagated/images/{stem}", root / f"propagated/labels/{stem}")


def test_propagated_frames_that_are_validation_images_are_not_trained_on(tmp_path, capsys):
    labelled_frames_10_and_12(tmp_path)
    trained, told = trained_and_left_out(tmp_path, capsys)
    assert sorted(trained) == ["a_012", "a_012_+1", "a_012_+2", "a_012_+3", "a_012_-1", "a_012_-3"]
    assert "; 1 skipped: validation images show the same moments" in told
    trained, told = trained_and_left_out(tmp_path, capsys, train_split="trainval")
    assert {"a_010", "a_012_-2"} <= set(trained), "who trains on all labelled frames holds none out"
    assert "skipped" not in told


def test_where_a_propagated_frame_stands_follows_from_its_stride(tmp_path, capsys):
    labelled_frames_10_and_12(tmp_path)
    labels = tmp_path / "propagated/labels/a_012_-1.png"
    write_png(labels, read_label_ids(labels), {PAIR_NOTE: json.dumps({"image": "a.png", "stride": 2})})
    trained, _ = trained_and_left_out(tmp_path, capsys)
    assert "a_012_-1" not in trained


def test_only_frames_of_the_same_video_are_held_out():
    def samples(*found: str) -> list[Sample]:
        return [Sample(name, Path("none.png"), None) for name in found]

    kept = without_frames_of(samples("b_012_-2", "a_012_-2", "drive/9_+1", "a_010", "photo_+1"), ["a_10", "drive/0010"])
    assert names(kept) == ["b_012_-2", "photo_+1"]


def test_training_says_how_many_propagated_frames_there_are(tmp_path, capsys):
    cityscapes_tree(tmp_path, cities=("aachen", "zurich"))
    propagate(tmp_path, -1, 1, cities=("aachen",))
    where = {"dataset_dir": str(tmp_path), "index_dir": str(tmp_path / "index"), "bs_mult": 1}

    def prepare(rank=0, **flags):
        options = LoaderOptions(Processes(rank, 2, rank), 0)
        train_data(DataConfig(**where, **flags), AugmentConfig(crop_size=4), CITYSCAPES, options, seed=0)
        return capsys.readouterr().err

    assert "2 propagated frames for 2 training images" in prepare(maxSkip=1)
    with pytest.raises(ValueError, match="--propagated_dir needs --maxSkip, the steps to use"):
        prepare(propagated_dir=str(tmp_path))


def test_scene_flow_frames_join_kitti_on_request(tmp_path):
    kitti_tree(tmp_path)
    samples = find_samples(KITTI, tmp_path, "train", 1)  # fold 1 holds out the first of these four images
    with pytest.raises(FileNotFoundError, match=r"--scf: no propagated frames like 000001_00 or 000001_20 in "):
        scene_flow(KITTI, tmp_path, samples)
    for name in ("000000_11", "000002_11", "000002_09", "000003_00"):
        folder = tmp_path / "scene_flow/training"
        write_pair(folder / f"image_2/{name}.png", folder / f"semantic/{name}.png", 26)
    found = scene_flow(KITTI, tmp_path, samples)
    assert names(found) == ["000002_09", "000002_11", "000003_00"]
    assert (load_labels(found[0], KITTI) == 13).all()


def test_frames_with_suffixes_in_capitals_and_numbers_without_zeros_are_found(tmp_path):
    folder_tree(tmp_path, 1)
    for number in (8, 9, 10, 11):
        write_pair(tmp_path / f"images/night/a{number}.JPG", None)
    write_pair(tmp_path / "images/night/a009.JPG", None)
    spec = dataset_spec("folder", tmp_path)

    steps = (-2, -1, 1, 2)
    assert around(spec, tmp_path, "night/a10", steps) == {-2: "a8.JPG", -1: "a9.JPG", 1: "a11.JPG"}
    assert around(spec, tmp_path, "night/a9", steps) == {-1: "a8.JPG", 1: "a10.JPG", 2: "a11.JPG"}
    assert around(spec, tmp_path, "night/a010", steps) == {-1: "a009.JPG"}
