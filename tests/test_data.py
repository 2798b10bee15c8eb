"""From files to samples: declarations, pairs, labels, augmentation, sampling."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from config import AugmentConfig, DataConfig
from datasets.index import Pair, dataset_root, find_pairs
from datasets.loaders import LoaderOptions, train_data, val_loader
from datasets.registry import DATASETS, dataset_spec
from datasets.sampler import EpochSampler, part_of
from datasets.segmentation import Draw, TrainingSet, load_labels, load_pair
from datasets.spec import written_ids
from inference.submission import image_size
from transforms.joint import RandomScaleCrop, Window, draw_window, flip, resample
from transforms.presets import train_transform
from utils.distributed import Processes
from utils.images import read_image, read_label_ids, write_image

IGNORE = 255
ALONE = Processes(0, 1, 0)


@pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)
def test_a_declaration_is_consistent(spec):
    assert len(set(spec.class_names)) == spec.num_classes
    assert all(0 <= value <= 255 for color in spec.palette for value in color)
    values = [v for i, c in enumerate(spec.classes) for v in c.label_ids or (i,)]
    assert len(values) == len(set(values))
    assert not set(values) & set(spec.ignored_ids)
    table = spec.train_id_of_label_id()
    assert [table[v] for v in written_ids(spec.classes)] == list(range(spec.num_classes))
    assert table[IGNORE] == IGNORE


def test_the_class_counts_are_the_benchmarks_own():
    counts = {name: spec.num_classes for name, spec in DATASETS.items()}
    assert counts == {"camvid": 11, "camvid32": 31, "cityscapes": 19, "kitti": 19, "mapillary": 65, "streets": 11}


def test_an_unknown_data_set_is_answered_with_the_names():
    with pytest.raises(ValueError, match=r"'cityscape' is unknown\. Choose one of: camvid, camvid32, cityscapes"):
        dataset_spec("cityscape")


def test_a_missing_root_names_all_three_ways_to_give_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"--dataset_dir.*KERBLINE_CAMVID.*data/camvid"):
        dataset_root(dataset_spec("camvid"), None)


def test_the_environment_names_a_root_and_the_flag_wins_over_it(monkeypatch, tmp_path):
    (tmp_path / "flag").mkdir()
    monkeypatch.setenv("KERBLINE_CAMVID", str(tmp_path))
    assert dataset_root(dataset_spec("camvid"), None) == tmp_path
    assert dataset_root(dataset_spec("camvid"), str(tmp_path / "flag")) == tmp_path / "flag"


def test_camvid_splits_have_their_published_sizes(shared):
    root = shared / "camvid"
    sizes = {split: len(find_pairs(dataset_spec("camvid"), root, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 367, "val": 101, "test": 233}


def test_real_camvid_labels_are_train_ids_and_void_is_ignored(shared):
    spec = dataset_spec("camvid")
    pair = find_pairs(spec, shared / "camvid", "val")[0]
    image, labels = load_pair(pair, spec)
    assert image.shape == (360, 480, 3)
    assert labels.shape == (360, 480)
    assert set(np.unique(labels)) <= {*range(11), IGNORE}


def cityscapes_tree(root, prefix=("", ""), cities=("aachen", "zurich", "monchengladbach")):
    for split, names in (("train", cities), ("val", ("frankfurt", "lindau", "munster"))):
        for city in names:
            write_image(
                root / f"{prefix[0]}leftImg8bit/{split}/{city}/{city}_000_leftImg8bit.png",
                np.zeros((4, 8, 3), np.uint8),
            )
            write_image(
                root / f"{prefix[1]}gtFine/{split}/{city}/{city}_000_gtFine_labelIds.png", np.full((4, 8), 26, np.uint8)
            )


@pytest.mark.parametrize("prefix", [("", ""), ("leftImg8bit_trainvaltest/", "gtFine_trainvaltest/")])
def test_cityscapes_is_found_in_both_layouts_in_use(tmp_path, prefix):
    cityscapes_tree(tmp_path, prefix)
    spec = dataset_spec("cityscapes")
    pairs = find_pairs(spec, tmp_path, "train")
    assert [p.name for p in pairs] == ["aachen/aachen_000", "monchengladbach/monchengladbach_000", "zurich/zurich_000"]
    assert (load_labels(pairs[0], spec) == 13).all()  # label id 26 is car, train id 13


def test_a_fold_moves_its_cities_from_training_to_validation(tmp_path):
    cityscapes_tree(tmp_path)
    spec = dataset_spec("cityscapes")
    assert [p.name.split("/")[0] for p in find_pairs(spec, tmp_path, "val", 0)] == ["frankfurt", "lindau", "munster"]
    assert [p.name.split("/")[0] for p in find_pairs(spec, tmp_path, "val", 2)] == ["monchengladbach"]
    train = {p.name for p in find_pairs(spec, tmp_path, "train", 2)}
    assert not train & {p.name for p in find_pairs(spec, tmp_path, "val", 2)}
    assert len(train) == 5


def test_kitti_never_validates_on_training_images(tmp_path):
    for number in range(200):
        write_image(tmp_path / f"training/image_2/{number:06d}_10.png", np.zeros((2, 2, 3), np.uint8))
        write_image(tmp_path / f"training/semantic/{number:06d}_10.png", np.full((2, 2), 7, np.uint8))
    spec = dataset_spec("kitti")
    for fold in (None, 0, 1, 2):
        train, val = (find_pairs(spec, tmp_path, split, fold) for split in ("train", "val"))
        assert (len(train), len(val)) == (179, 21)
        assert not {p.name for p in train} & {p.name for p in val}
    assert find_pairs(spec, tmp_path, "val", 2)[0].name == "000003_10"


def test_an_unknown_fold_or_split_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="has these folds: 0, 1, 2"):
        find_pairs(dataset_spec("cityscapes"), tmp_path, "val", 3)
    with pytest.raises(ValueError, match="Choose one of: train, val, trainval, test"):
        find_pairs(dataset_spec("camvid"), tmp_path, "vla")


def test_a_label_value_that_no_class_claims_is_an_error_with_file_value_and_place(tmp_path):
    ids = np.zeros((3, 4), np.uint8)
    ids[1, 2] = 77
    write_image(tmp_path / "a.png", ids)
    pair = Pair("a", tmp_path / "a.png", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png: label values 77 are not among camvid's \(first at row 1, column 2\)"):
        load_labels(pair, dataset_spec("camvid"))


def test_a_sixteen_bit_label_file_is_read_and_a_large_value_in_it_named(tmp_path):
    write_image(tmp_path / "a.png", np.full((2, 2), 3, np.uint16))
    write_image(tmp_path / "b.png", np.full((2, 2), 3000, np.uint16))
    spec = dataset_spec("camvid")
    assert (load_labels(Pair("a", tmp_path / "a.png", tmp_path / "a.png"), spec) == 3).all()
    with pytest.raises(ValueError, match="label values 3000 are not among camvid's"):
        load_labels(Pair("b", tmp_path / "b.png", tmp_path / "b.png"), spec)


def test_a_picture_larger_than_pillow_allows_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"a camera's note")  # behind the end marker, so that Pillow is asked whether the picture is whole
    Image.new("P", (8, 4)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.jpg").shape == (4, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_label_ids(tmp_path / "a.png").shape == (4, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert image_size(tmp_path / "a.jpg") == (8, 4)


def test_image_and_labels_of_different_sizes_are_an_error_that_names_both(tmp_path):
    write_image(tmp_path / "image.png", np.zeros((4, 6, 3), np.uint8))
    write_image(tmp_path / "labels.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"image.png is 6x4, its labels .*labels.png are 5x4"):
        load_pair(Pair("x", tmp_path / "image.png", tmp_path / "labels.png"), dataset_spec("camvid"))


# Augmentation


def test_flip_moves_image_and_labels_together():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image, flipped = flip(np.repeat(labels[..., None], 3, 2), labels)
    assert flipped.tolist() == [[2, 1, 0], [5, 4, 3]]
    assert (image[..., 0] == flipped).all()


def test_padding_is_always_ignore_and_the_mean_colour():
    crop = RandomScaleCrop(size=(8, 8), scale=(1.0, 1.0), fill_label=IGNORE, fill_color=(1, 2, 3))
    image, labels = crop(np.full((4, 4, 3), 200, np.uint8), np.zeros((4, 4), np.uint8), None, np.random.default_rng(0))
    assert (labels == 0).sum() == 16
    assert (labels == IGNORE).sum() == 48
    assert (image[labels == IGNORE] == (1, 2, 3)).all()
    assert (image[labels == 0] == 200).all()


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    side=st.integers(1, 40),
    scale=st.floats(0.3, 3.0),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_a_window_lies_in_the_image_or_contains_it_and_shows_its_centre(height, width, side, scale, seed, data):
    center = data.draw(st.none() | st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)))
    window = draw_window((height, width), (side, side), scale, center, np.random.default_rng(seed))
    for start, length, size in ((window.top, window.height, height), (window.left, window.width, width)):
        inside = start >= 0 and start + length <= size
        contains = start <= 0 and start + length >= size
        assert inside or contains
    if center is not None:
        assert window.top <= center[0] < window.top + window.height
        assert window.left <= center[1] < window.left + window.width


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    side=st.integers(1, 40),
    scale=st.floats(0.3, 3.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_padding_is_never_mixed_with_the_image(height, width, side, scale, seed):
    crop = RandomScaleCrop(size=(side, side), scale=(scale, scale), fill_label=IGNORE, fill_color=(1, 2, 3))
    whole = np.full((height, width, 3), 200, np.uint8), np.zeros((height, width), np.uint8)
    image, labels = crop(*whole, None, np.random.default_rng(seed))
    assert image.shape == (side, side, 3)
    assert labels.shape == (side, side)
    assert (image[labels == 0] == 200).all()
    assert (image[labels == IGNORE] == (1, 2, 3)).all()
    shown = [min(side, max(1, round(length * scale))) for length in (height, width)]
    assert abs((labels == 0).any(1).sum() - shown[0]) <= 1 + scale
    assert abs((labels == 0).any(0).sum() - shown[1]) <= 1 + scale


def test_resampling_keeps_image_and_labels_aligned():
    # A checkerboard of 8-pixel squares, whose grey level is its label: after resizing they must still agree.
    labels = (np.indices((64, 64)) // 8).sum(0).astype(np.uint8) % 2
    image = np.repeat(labels[..., None] * 255, 3, 2).astype(np.uint8)
    window = Window(3, 5, 41, 47)
    small = resample(image, window, (60, 70), (0, 0, 0), labels=False)
    ids = resample(labels, window, (60, 70), 0, labels=True)
    assert ((small[..., 0] > 127) == (ids == 1)).mean() > 0.97


def test_a_crop_of_the_whole_image_at_scale_one_is_the_image():
    image = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    assert (resample(image, Window(0, 0, 12, 16), (12, 16), (0, 0, 0), labels=False) == image).all()


def test_a_scale_range_the_wrong_way_round_is_an_error():
    with pytest.raises(ValueError, match=r"--scale_min 2.0 is larger than --scale_max 1.0"):
        train_transform(AugmentConfig(scale_min=2.0, scale_max=1.0), IGNORE)


# Sampling


def test_processes_partition_an_epoch_in_whole_batches():
    draws = [Draw(0, i, i) for i in range(23)]
    parts = [list(EpochSampler(lambda _: draws, rank=r, num_processes=2, batch=5)) for r in range(2)]
    assert [len(part) for part in parts] == [10, 10]
    assert len({d.place for part in parts for d in part}) == 20


def test_validation_visits_each_image_on_exactly_one_process():
    assert sorted(x for rank in range(3) for x in part_of(range(10), rank, 3)) == list(range(10))


# Loaders on a small tree


@pytest.fixture
def small_camvid(tmp_path):
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for number in range(count):
            write_image(tmp_path / split / f"{number}.png", generator.integers(0, 255, (20, 30, 3), dtype=np.uint8))
            ids = generator.integers(0, 12, (20, 30)).astype(np.uint8)
            write_image(tmp_path / f"{split}annot" / f"{number}.png", ids)
    (tmp_path / "train" / "notes.txt").write_text("a stray file")
    return tmp_path


def batches(root, num_workers, **data):
    config = DataConfig(dataset="camvid", dataset_dir=str(root), index_dir=str(root / "index"), bs_mult=2, **data)
    loader = train_data(
        config,
        AugmentConfig(crop_size=16),
        dataset_spec("camvid"),
        LoaderOptions(ALONE, num_workers),
        seed=7,
    )
    return [(images.numpy(), labels.numpy()) for epoch in range(2) for images, labels in loader.epoch(epoch)]


def test_samples_are_uint8_batches_of_the_stated_shape(small_camvid):
    found = batches(small_camvid, 0)
    assert len(found) == 2 * 3
    assert all(images.shape == (2, 3, 16, 16) and images.dtype == np.uint8 for images, _ in found)
    assert all(labels.shape == (2, 16, 16) and labels.dtype == np.uint8 for _, labels in found)


def test_a_sample_does_not_depend_on_the_number_of_workers(small_camvid):
    for (images, labels), (others, other_labels) in zip(
        batches(small_camvid, 0), batches(small_camvid, 2), strict=True
    ):
        assert (images == others).all()
        assert (labels == other_labels).all()


def test_max_cu_epoch_really_cuts_to_the_plain_images(small_camvid):
    def pairs_seen(epoch):
        folders = {"dataset_dir": str(small_camvid), "index_dir": str(small_camvid / "index")}
        config = DataConfig(**folders, bs_mult=2, class_uniform_pct=1.0, max_cu_epoch=1)
        data = train_data(
            config,
            AugmentConfig(crop_size=16),
            dataset_spec("camvid"),
            LoaderOptions(ALONE, 0),
            seed=0,
        )
        data.sampler.set_epoch(epoch)
        return list(data.sampler)

    assert all(draw.center is not None for draw in pairs_seen(0))
    assert sorted(draw.pair_index for draw in pairs_seen(1)) == list(range(6))


def test_the_validation_set_is_whole_and_unchanged(small_camvid):
    spec = dataset_spec("camvid")
    config = DataConfig(dataset_dir=str(small_camvid))
    found = list(val_loader(config, spec, LoaderOptions(ALONE, 0)))
    assert len(found) == 3
    expected = load_pair(find_pairs(spec, small_camvid, "val")[0], spec)
    assert (found[0][0][0].permute(1, 2, 0).numpy() == expected[0]).all()


def test_a_crop_centred_on_a_class_shows_it(small_camvid):
    spec = dataset_spec("camvid")
    pairs = find_pairs(spec, small_camvid, "train")
    labels = np.zeros((20, 30), np.uint8)
    labels[17, 28] = 9
    write_image(pairs[0].labels, labels)
    dataset = TrainingSet(pairs, spec, train_transform(AugmentConfig(crop_size=8, scale_min=1.0), IGNORE), seed=0)
    for place in range(20):
        _, crop = dataset[Draw(0, place, 0, (17, 28))]
        # Shrinking by nearest neighbour may skip the one pixel, enlarging never does.
        assert crop.shape == (8, 8)
        assert (crop == 9).any()


def test_propagated_frames_that_do_not_exist_are_an_error(small_camvid):
    with pytest.raises(FileNotFoundError, match=r"--maxSkip 1: no propagated frames .* in .*propagated/train"):
        batches(small_camvid, 0, maxSkip=1)


def test_train_ids_stay_below_the_marker_of_unknown_values():
    assert all(spec.num_classes < 254 for spec in DATASETS.values())
    assert replace(dataset_spec("camvid"), name="x").ignore_label == IGNORE
