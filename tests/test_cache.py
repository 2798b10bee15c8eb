"""The decode-once cache: gives what the files hold, and notices when it does not any more."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import datasets.loaders
from config import AugmentConfig
from datasets.files import find_samples
from datasets.loaders import DecodedCache
from datasets.segmentation import CropRequest, TrainingSet, load_sample
from datasets.specs.registry import dataset_spec
from transforms.augmentation import TrainTransform
from utils.images import write_image

SPEC = dataset_spec("camvid")


@pytest.fixture
def samples(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(4):
        size = (20 + number, 31)  # sizes differ
        write_image(tmp_path / "set/train" / f"{number}.png", generator.integers(0, 256, (*size, 3), np.uint8))
        write_image(tmp_path / "set/trainannot" / f"{number}.png", generator.integers(0, 12, size).astype(np.uint8))
    return find_samples(SPEC, tmp_path / "set", "train")


@pytest.fixture
def cache(tmp_path):
    return DecodedCache(tmp_path / "cache", SPEC)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the samples whose files were decoded."""
    names = []

    def load(sample, spec):
        names.append(sample.name)
        return load_sample(sample, spec)

    monkeypatch.setattr(datasets.loaders, "load_sample", load)
    return names


def fill(cache, samples, **options):
    cache.fill(samples, num_workers=0, **options)


def assert_equal(cache, samples):
    for sample in samples:
        for kept, plain in zip(cache.load(sample), load_sample(sample, SPEC), strict=True):
            assert kept.dtype == plain.dtype
            assert np.array_equal(kept, plain)


def test_what_is_kept_is_what_the_files_hold(cache, samples, decoded):
    fill(cache, samples)
    assert decoded == ["0", "1", "2", "3"]
    assert_equal(cache, samples)
    assert len(decoded) == 4


def test_two_processes_fill_it_as_one_does(tmp_path, decoded):
    for number in range(33):
        write_image(tmp_path / "set/train" / f"{number}.png", np.full((4, 5, 3), number, np.uint8))
        write_image(tmp_path / "set/trainannot" / f"{number}.png", np.full((4, 5), number % 11, np.uint8))
    samples = find_samples(SPEC, tmp_path / "set", "train")
    cache = DecodedCache(tmp_path / "cache", SPEC)
    cache.fill(samples, num_workers=2)
    assert decoded == []  # not in this process
    assert_equal(cache, samples)
    assert decoded == []


def test_arrays_are_mapped_from_the_file_and_cannot_be_changed(cache, samples):
    fill(cache, samples)
    image, labels = cache.load(samples[0])
    assert not image.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        labels[0, 0] = 1


def test_a_second_run_decodes_nothing(cache, samples, decoded):
    fill(cache, samples)
    decoded.clear()
    fill(cache, samples)
    assert decoded == []


def test_a_file_that_changed_is_decoded_again(cache, samples, decoded):
    fill(cache, samples)
    write_image(samples[1].label_path, np.full((21, 31), 5, np.uint8))
    decoded.clear()
    fill(cache, samples)
    assert decoded == ["1"]
    assert (cache.load(samples[1])[1] == 5).all()


def test_an_entry_that_is_missing_or_cut_off_is_read_from_its_files(cache, samples, decoded):
    fill(cache, samples)
    decoded.clear()
    cache.paths_of(samples[0])[1].unlink()
    for number, content in ((1, lambda kept: kept[:-1]), (2, lambda kept: kept[:10]), (3, lambda kept: b"")):
        path = cache.paths_of(samples[number])[0]
        path.write_bytes(content(path.read_bytes()))
    assert_equal(cache, samples)
    assert decoded == ["0", "1", "2", "3"]


def test_an_interrupted_run_goes_on_where_it_stopped(cache, samples, monkeypatch):
    names = []

    def load(sample, spec):
        if sample.name == "2" and "2" not in names:
            names.append("2")
            raise KeyboardInterrupt
        names.append(sample.name)
        return load_sample(sample, spec)

    monkeypatch.setattr(datasets.loaders, "load_sample", load)
    with pytest.raises(KeyboardInterrupt):
        fill(cache, samples)
    fill(cache, samples)
    assert names == ["0", "1", "2", "2", "3"]
    assert_equal(cache, samples)


def test_an_interruption_while_writing_leaves_nothing_that_looks_finished(cache, samples, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("utils.files.os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fill(cache, samples)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_another_mapping_of_label_values_is_another_entry(cache, samples):
    fill(cache, samples)
    other = DecodedCache(cache.folder, replace(SPEC, classes=SPEC.classes[::-1], ignored_ids=(11,)))
    assert other.paths_of(samples[0]) != cache.paths_of(samples[0])


def test_two_sets_with_equal_names_do_not_share_entries(cache, samples, tmp_path):
    shutil.copy2(samples[0].image_path, tmp_path / "0.png")
    assert cache.paths_of(replace(samples[0], image_path=tmp_path / "0.png")) != cache.paths_of(samples[0])


def test_a_bad_file_is_named_or_left_out_on_request(cache, samples, capsys):
    samples[1].image_path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"train/1\.png"):
        fill(cache, samples)
    cache.fill(samples, num_workers=0, skip_bad=1)
    assert "warning: skipped while decoding images" in capsys.readouterr().err
    assert_equal(cache, [samples[0], samples[2], samples[3]])
    with pytest.raises(ValueError, match=r"train/1\.png"):
        cache.load(samples[1])


def test_a_file_that_went_bad_is_not_read_from_the_cache_any_more(cache, samples):
    fill(cache, samples)
    samples[1].image_path.write_bytes(b"no picture")
    fill(cache, samples, skip_bad=1)
    with pytest.raises(ValueError, match=r"train/1\.png"):
        cache.load(samples[1])


def test_a_folder_that_cannot_be_written_is_named_with_the_flag(samples, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="--cache_dir"):
        fill(DecodedCache(tmp_path / "file", SPEC), samples)


def test_samples_from_the_cache_are_those_from_the_files(cache, samples):
    fill(cache, samples)
    transform = TrainTransform(AugmentConfig(crop_size=16), SPEC.ignore_label)
    loads = (cache.load, partial(load_sample, spec=SPEC))
    sets = [TrainingSet(samples, load, transform, 3, num_images=4) for load in loads]
    for position in range(12):
        draw = CropRequest(0, position, position % 4, center=(3, 5) if position % 2 else None)
        assert all((one == other).all() for one, other in zip(*(made.crop(draw) for made in sets), strict=True))
