"""Loaders: the same samples whoever makes them, every sample once, and what happens to files that cannot be read."""

import os
import subprocess
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

import train as train_command
from config import AugmentConfig, DataConfig, TrainConfig
from datasets.files import find_samples
from datasets.loaders import LoaderOptions, part_of_process, train_data, val_loader
from datasets.segmentation import CropRequest, TrainingSet, as_tensors, load_sample
from datasets.specs.registry import dataset_spec
from tests.conftest import ROOT, needs_kept_memory
from transforms.augmentation import TrainTransform
from utils.distributed import Processes, find_processes
from utils.flags import parse_command_line
from utils.images import read_image, write_image
from utils.parallel import default_num_workers

SPEC = dataset_spec("camvid")
ALONE = Processes(0, 1, 0)
UNCHANGED = AugmentConfig(crop_size=24, scale_min=1.0, scale_max=1.0, color_aug=0.0, gblur=False)


@pytest.fixture
def root(tmp_path):
    """12 training and 5 validation images; the red channel of an image is its number."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for number in range(count):
            image = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            image[..., 0] = number
            write_image(tmp_path / split / f"{number:02}.png", image)
            ids = np.kron(generator.integers(0, 12, (4, 6)), np.ones((10, 10))).astype(np.uint8)
            write_image(tmp_path / f"{split}annot" / f"{number:02}.png", ids)
    return tmp_path


def data_config(root, **settings):
    folders = {"dataset_dir": str(root), "index_dir": str(root / "index")}
    return DataConfig(dataset="camvid", **folders, **({"bs_mult": 2} | settings))


def training_data(root, options=None, augment=None, **settings):
    augment = augment or AugmentConfig(crop_size=24)
    return train_data(data_config(root, **settings), augment, SPEC, options or LoaderOptions(ALONE, 0), seed=5)


def batches(root, options=None, epochs=2, **settings):
    data = training_data(root, options, **settings)
    return [(images.clone(), labels.clone()) for epoch in range(epochs) for images, labels in data.epoch(epoch)]


def assert_same(one, other):
    assert len(one) == len(other)
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_samples_are_uint8_batches_of_the_stated_shape(root):
    (root / "train" / "notes.txt").write_text("a stray file")
    found = batches(root)
    assert len(found) == 2 * 6
    assert all(images.shape == (2, 3, 24, 24) and images.dtype == torch.uint8 for images, _ in found)
    assert all(labels.shape == (2, 24, 24) and labels.dtype == torch.uint8 for _, labels in found)


def test_a_crop_centred_on_a_class_shows_it(root):
    samples = find_samples(SPEC, root, "train")
    labels = np.zeros((40, 60), np.uint8)
    labels[37, 58] = 9
    write_image(samples[0].label_path, labels)
    augment = AugmentConfig(crop_size=8, scale_min=1.0)
    transform = TrainTransform(augment, SPEC.ignore_label)
    crops = TrainingSet(samples, partial(load_sample, spec=SPEC), transform, seed=0, num_images=len(samples))
    for place in range(20):
        _, crop = crops.crop(CropRequest(0, place, 0, (37, 58)))
        # Shrinking by nearest neighbour may skip the one pixel, enlarging never does.
        assert crop.shape == (8, 8)
        assert (crop == 9).any()


def test_pasted_pixels_are_a_rare_class_with_the_image_below_it(root):
    for number in range(12):
        labels = np.full((40, 60), number % 2, np.uint8)
        labels[10:30, 20:40] = 9 if number == 11 else number % 2
        write_image(root / "trainannot" / f"{number:02}.png", labels)
    crops = training_data(root, augment=UNCHANGED, paste=1.0, class_uniform_pct=0.0).loader.dataset
    assert crops.paste_classes.tolist() == [9]
    pasted = 0
    for position in range(60):
        image, labels = crops.crop(CropRequest(0, position, 4))
        assert ((image[0] == 11) == (labels == 9)).all()
        assert ((image[0] == 4) == (labels == 0)).all()
        pasted += bool((labels == 9).any())
    assert 0 < pasted < 20  # one image in twelve shows the class


# The same samples


@pytest.mark.parametrize(("num_workers", "start_method"), [(1, "fork"), (4, "fork"), (2, "spawn")])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_samples_do_not_depend_on_the_loader_processes(root, num_workers, start_method):
    usual = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method(start_method, force=True)
    try:
        found = batches(root, LoaderOptions(ALONE, num_workers))
    finally:
        torch.multiprocessing.set_start_method(usual, force=True)
    assert_same(found, batches(root))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_three_ranks_together_see_the_samples_of_one(root):
    alone = [sample for batch in batches(root) for sample in zip(*batch, strict=True)]
    for rank in range(3):
        found = batches(root, LoaderOptions(Processes(rank, 3, rank), num_workers=rank))
        mine = [sample for batch in found for sample in zip(*batch, strict=True)]
        assert_same(mine, [sample for epoch in (alone[:12], alone[12:]) for sample in epoch[rank::3]])


def test_samples_do_not_depend_on_the_cache(root):
    assert_same(batches(root, cache_dir=str(root / "cache")), batches(root))
    assert len(list((root / "cache").rglob("*.image.npy"))) == 12


def test_a_sample_differs_from_epoch_to_epoch_and_from_place_to_place(root):
    samples = training_data(root).loader.dataset
    (first, _), (later, _), (elsewhere, _), (again, _) = (
        samples.crop(CropRequest(epoch, place, sample_index=0)) for epoch, place in ((0, 0), (1, 0), (0, 1), (0, 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, elsewhere)


# Every sample once


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_ranks_partition_an_epoch(root, num_ranks):
    numbers = []
    for rank in range(num_ranks):
        options = LoaderOptions(Processes(rank, num_ranks, rank), 0)
        data = training_data(root, options, UNCHANGED, class_uniform_pct=0.0)
        for images, _ in data.epoch(0):
            assert len(images) == 2
            numbers += [int(image[0, 0, 0]) for image in images]
    assert sorted(numbers) == list(range(12))


def test_processes_partition_an_epoch_in_whole_batches():
    draws = [CropRequest(0, i, i) for i in range(23)]
    parts = [part_of_process(draws, Processes(r, 2, r), 5) for r in range(2)]
    assert [len(part) for part in parts] == [10, 10]
    assert len({d.position for part in parts for d in part}) == 20


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_draw_nothing_from_the_generator_of_dropout(root, num_workers):
    data = training_data(root, LoaderOptions(ALONE, num_workers))
    state = torch.get_rng_state()
    for epoch in range(2):
        assert len(list(data.epoch(epoch))) == 6
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 0), (1, 1), (3, 0)])
def test_validation_visits_each_image_exactly_once(root, num_ranks, num_workers):
    numbers = Counter()
    for rank in range(num_ranks):
        options = LoaderOptions(Processes(rank, num_ranks, rank), num_workers)
        numbers.update(int(images[0, 0, 0, 0]) for images, _ in val_loader(data_config(root), SPEC, options))
    assert numbers == Counter(range(5))


def test_validation_comes_unchanged_from_the_cache_too(root):
    expected = read_image(root / "val" / "00.png")
    for settings in ({}, {"cache_dir": str(root / "cache")}):
        images, _ = next(iter(val_loader(data_config(root, **settings), SPEC, LoaderOptions(ALONE, 0))))
        assert (images[0].permute(1, 2, 0).numpy() == expected).all()


def test_an_epoch_is_cut_to_the_plain_images_from_max_cu_epoch_on(root):
    data = training_data(root, class_uniform_pct=1.0, max_cu_epoch=1)
    data.epoch(0)
    assert all(draw.center is not None for draw in data.crops)
    data.epoch(1)
    assert sorted(draw.sample_index for draw in data.crops) == list(range(12))


def test_coarse_images_are_drawn_for_the_boosted_classes(tmp_path):
    def write(images, labels, stem, label_id):
        write_image(tmp_path / images / f"{stem}_leftImg8bit.png", np.zeros((8, 8, 3), np.uint8))
        write_image(tmp_path / labels, np.full((8, 8), label_id, np.uint8))

    for city in ("aachen", "zurich"):
        write(f"leftImg8bit/train/{city}", f"gtFine/train/{city}/{city}_0_gtFine_labelIds.png", f"{city}_0", 7)
    coarse_labels = "gtCoarse/train_extra/ulm/ulm_0_gtCoarse_labelIds.png"
    write("leftImg8bit/train_extra/ulm", coarse_labels, "ulm_0", 31)
    config = DataConfig(
        dataset_dir=str(tmp_path), index_dir=str(tmp_path / "index"), bs_mult=1, class_uniform_pct=1.0,
        coarse_boost_classes="16",
    )  # fmt: skip
    spec = dataset_spec("cityscapes")
    data = train_data(config, AugmentConfig(crop_size=8), spec, LoaderOptions(ALONE, 0), seed=0)
    shown = {int(value) for _, labels in data.epoch(0) for value in labels.unique()}
    assert {0, 16} <= shown  # road, only in fine images, and train, only in the coarse one
    assert len(find_samples(spec, tmp_path, "train")) == len(data.loader) == 2


# Tensors, processes, memory


def test_tensors_are_the_arrays_channels_first_and_own_their_memory():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    labels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    image.flags.writeable = labels.flags.writeable = False
    planes, train_ids = as_tensors(image[:, ::2], labels[:, ::2])
    assert planes.tolist() == image[:, ::2].transpose(2, 0, 1).tolist()
    assert train_ids.tolist() == labels[:, ::2].tolist()
    planes += 1
    train_ids += 1
    assert labels[0].tolist() == [0, 1, 2, 3]


def test_there_is_one_loader_process_per_core_of_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert default_num_workers() == 12
    assert LoaderOptions(ALONE).for_loader()["num_workers"] == 12
    assert LoaderOptions(ALONE, 3).for_loader()["num_workers"] == 3
    for local_world_size, share in ((4, 3), (99, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_world_size))
        assert default_num_workers() == share


def test_how_many_processes_share_the_machine_comes_from_torchrun(monkeypatch):
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert find_processes() == Processes(rank=9, world_size=16, local_rank=1, local_world_size=8)


def test_memory_is_pinned_where_it_is_asked_for():
    assert LoaderOptions(ALONE, 0, pin_memory=True).for_loader()["pin_memory"] is True
    assert LoaderOptions(ALONE, 0).for_loader()["pin_memory"] is False


@needs_kept_memory
def test_freed_memory_is_kept_and_given_back_on_request_where_it_is_much():
    script = """
import mmap
import os
import numpy as np
from utils.device import give_back_freed_memory, keep_freed_memory
keep_freed_memory()

def held():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE >> 20

for mib, gives_back in ((16, False), (200, False), (200, True), (1300, True)):
    if not os.fork():
        before = held()
        np.ones(mib << 20, np.uint8)
        if gives_back:
            give_back_freed_memory()
        print(held() - before, flush=True)
        os._exit(0)
    os.wait()
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [int(line) for line in result.stdout.split()] == pytest.approx([16, 200, 200, 0], abs=8)


# Files that cannot be read


def spoil(root, *numbers):
    for number in numbers:
        (root / "train" / f"{number:02}.png").write_bytes(b"no picture")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_file_in_the_middle_of_training_stops_it_and_is_named(root, num_workers):
    data = training_data(root, LoaderOptions(ALONE, num_workers))
    spoil(root, 3)
    with pytest.raises(ValueError, match=r"train/03\.png"):
        for epoch in range(3):
            list(data.epoch(epoch))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_skip_bad_puts_another_image_in_its_place_and_warns(root, num_workers, capsys):
    spoil(root, 3)
    options = LoaderOptions(ALONE, num_workers)
    data = training_data(root, options, UNCHANGED, class_uniform_pct=0.0, skip_bad=2)
    for epoch in range(4):
        shown = [int(image[0, 0, 0]) for images, _ in data.epoch(epoch) for image in images]
        assert len(shown) == 12
        assert set(shown) == set(range(12)) - {3}
    told = capsys.readouterr().err
    assert f"warning: skipped in training, 1 of at most 2: {root / 'train' / '03.png'}" in told
    assert told.count("warning") == 1  # one file, though every epoch drew it


def test_skip_bad_stops_at_one_file_too_many(root):
    spoil(root, 3, 5, 7)
    data = training_data(root, class_uniform_pct=0.0, skip_bad=2)
    with pytest.raises(ValueError, match=r"0[357]\.png.*\(--skip_bad 2 is exhausted\)"):
        list(data.epoch(0))


def test_skip_bad_stops_where_nothing_can_be_read(root):
    spoil(root, *range(12))
    data = training_data(root, class_uniform_pct=0.0, skip_bad=3)
    with pytest.raises(ValueError, match=r"\d\d\.png"):
        list(data.epoch(0))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_image_in_place_of_a_bad_one_does_not_depend_on_the_loader_processes(root, capsys):
    spoil(root, 3, 7)
    options = LoaderOptions(ALONE, 2)
    assert_same(batches(root, options, skip_bad=9), batches(root, skip_bad=9))


def test_a_bad_file_is_replaced_by_many_images_not_always_by_one(root):
    spoil(root, 3)
    samples = training_data(root, augment=UNCHANGED, class_uniform_pct=0.0, skip_bad=9).loader.dataset
    by_position = {int(samples[CropRequest(0, position, 3)][0][0, 0, 0]) for position in range(9)}
    by_epoch = {int(samples[CropRequest(epoch, 0, 3)][0][0, 0, 0]) for epoch in range(9)}
    assert len(by_position) > 3
    assert len(by_epoch) > 3


def test_good_files_give_the_same_samples_with_and_without_skip_bad(root):
    assert_same(batches(root, skip_bad=9), batches(root))


def test_a_bad_file_that_the_cache_left_out_is_left_out_in_training(root, capsys):
    spoil(root, 3)
    found = batches(root, epochs=1, cache_dir=str(root / "cache"), skip_bad=2, class_uniform_pct=0.0)
    assert sum(len(images) for images, _ in found) == 12
    told = capsys.readouterr().err
    assert "skipped while decoding images" in told
    assert "skipped in training, 1 of at most 2" in told


# The command


def test_training_takes_cache_and_skip_bad(root, tmp_path, capsys):
    spoil(root, 3)
    arguments = [
        "--dataset", "camvid", "--dataset_dir", root, "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", "32",
        "--bs_mult", "2", "--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb", "--index_dir", tmp_path / "index",
        "--cache_dir", tmp_path / "cache", "--skip_bad", "2", "--max_epoch", "1", "--num_workers", "1",
        "--device", "cpu",
    ]  # fmt: skip
    assert train_command.main(parse_command_line(TrainConfig, [str(word) for word in arguments])) == 0
    assert "03.png" in capsys.readouterr().err
    assert len(list((tmp_path / "cache").rglob("*.image.npy"))) == 11 + 5
    assert len(list((tmp_path / "index").glob("camvid_*.npz"))) == 1


def test_a_full_training_without_skip_bad_ends_with_the_name_of_the_file(command, root, tmp_path):
    spoil(root, 3)
    ended = command(
        "train", "--dataset", "camvid", "--dataset_dir", root, "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", 32,
        "--bs_mult", 2, "--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb", "--index_dir", tmp_path / "index",
        "--max_epoch", 3, "--num_workers", 1, "--device", "cpu",
    )  # fmt: skip
    assert ended.code == 1
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "03.png" in last
