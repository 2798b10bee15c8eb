"""The decode-once cache: gives what the files hold, and notices when it does not any more."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

import datasets.cache
from config import AugmentConfig
from datasets.cache import DecodedCache
from datasets.files import find_samples
from datasets.segmentation import CropRequest, TrainingSet, ValidationSet, load_sample
from datasets.specs.registry import dataset_spec
from transforms.presets import train_transform
from utils.images import write_image

SPEC = dataset_spec("camvid")


@pytest.fixture
def pairs(tmp_path):
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
    """The names of the pairs whose files were decoded."""
    names = []

    def load(pair, spec):
        names.append(pair.name)
        return load_sample(pair, spec)

    monkeypatch.setattr(datasets.cache, "load_sample", load)
    return names


def fill(cache, pairs, **options):
    cache.fill(pairs, num_workers=0, show=False, **options)


def assert_equal(cache, pairs):
    for pair in pairs:
        for kept, plain in zip(cache.load(pair), load_sample(pair, SPEC), strict=True):
            assert kept.dtype == plain.dtype
            assert np.array_equal(kept, plain)


def test_what_is_kept_is_what_the_files_hold(cache, pairs, decoded):
    fill(cache, pairs)
    assert decoded == ["0", "1", "2", "3"]
    assert_equal(cache, pairs)
    assert len(decoded) == 4


def test_two_processes_fill_it_as_one_does(tmp_path, decoded):
    for number in range(33):
        write_image(tmp_path / "set/train" / f"{number}.png", np.full((4, 5, 3), number, np.uint8))
        write_image(tmp_path / "set/trainannot" / f"{number}.png", np.full((4, 5), number % 11, np.uint8))
    pairs = find_samples(SPEC, tmp_path / "set", "train")
    cache = DecodedCache(tmp_path / "cache", SPEC)
    cache.fill(pairs, num_workers=2, show=False)
    assert decoded == []  # not in this process
    assert_equal(cache, pairs)
    assert decoded == []


def test_arrays_are_mapped_from_the_file_and_cannot_be_changed(cache, pairs):
    fill(cache, pairs)
    image, labels = cache.load(pairs[0])
    assert not image.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        labels[0, 0] = 1


def test_a_second_run_decodes_nothing(cache, pairs, decoded):
    fill(cache, pairs)
    decoded.clear()
    fill(cache, pairs)
    assert decoded == []


def test_a_file_with_new_content_is_decoded_again_even_with_the_old_size_and_time(cache, pairs, decoded):
    path, uncompressed = pairs[1].label_path, [cv2.IMWRITE_PNG_COMPRESSION, 0]
    cv2.imwrite(str(path), np.zeros((21, 31), np.uint8), uncompressed)
    fill(cache, pairs)
    before = path.stat()
    cv2.imwrite(str(path), np.full((21, 31), 5, np.uint8), uncompressed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    decoded.clear()
    fill(cache, pairs)
    assert decoded == ["1"]
    assert (cache.load(pairs[1])[1] == 5).all()


def test_a_file_that_was_only_touched_is_not_decoded_again(cache, pairs, decoded):
    fill(cache, pairs)
    os.utime(pairs[0].image_path, ns=(1, 1))
    decoded.clear()
    fill(cache, pairs)
    assert decoded == []


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1],
    lambda content: content[:10],
    lambda content: b"",
    lambda content: content + b"x",
    lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
], ids=["last byte missing", "cut off in its head", "empty", "too long", "one bit changed"])  # fmt: skip
def test_a_damaged_entry_is_noticed_and_made_anew(cache, pairs, decoded, damage):
    fill(cache, pairs)
    path = cache.path_of(pairs[2])
    path.write_bytes(damage(path.read_bytes()))
    decoded.clear()
    fill(cache, pairs)
    assert decoded == ["2"]
    assert_equal(cache, pairs)


def test_an_entry_that_is_missing_or_cut_off_is_read_from_its_files(cache, pairs, decoded):
    fill(cache, pairs)
    decoded.clear()
    cache.path_of(pairs[0]).unlink()
    path = cache.path_of(pairs[1])
    path.write_bytes(path.read_bytes()[:-1])
    assert_equal(cache, pairs)
    assert decoded == ["0", "1"]


def test_an_interrupted_run_goes_on_where_it_stopped(cache, pairs, monkeypatch):
    names = []

    def load(pair, spec):
        if pair.name == "2" and "2" not in names:
            names.append("2")
            raise KeyboardInterrupt
        names.append(pair.name)
        return load_sample(pair, spec)

    monkeypatch.setattr(datasets.cache, "load_sample", load)
    with pytest.raises(KeyboardInterrupt):
        fill(cache, pairs)
    fill(cache, pairs)
    assert names == ["0", "1", "2", "2", "3"]
    assert_equal(cache, pairs)


def test_an_interruption_while_writing_leaves_nothing_that_looks_finished(cache, pairs, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("utils.files.os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fill(cache, pairs)
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_another_mapping_of_label_values_is_another_entry(cache, pairs):
    fill(cache, pairs)
    other = DecodedCache(cache.folder, replace(SPEC, classes=SPEC.classes[::-1], ignored_ids=(11,)))
    assert other.path_of(pairs[0]) != cache.path_of(pairs[0])


def test_two_sets_with_equal_names_do_not_share_entries(cache, pairs, tmp_path):
    moved = replace(pairs[0], image_path=tmp_path / "other" / "0.png")
    assert cache.path_of(moved) != cache.path_of(pairs[0])


def test_a_bad_file_is_named_or_left_out_on_request(cache, pairs, capsys):
    pairs[1].image_path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"train/1\.png"):
        fill(cache, pairs)
    cache.fill(pairs, num_workers=0, skip_bad=1)
    assert "warning: skipped while decoding images" in capsys.readouterr().err
    assert_equal(cache, [pairs[0], pairs[2], pairs[3]])
    with pytest.raises(ValueError, match=r"train/1\.png"):
        cache.load(pairs[1])


def test_a_file_that_went_bad_is_not_read_from_the_cache_any_more(cache, pairs):
    fill(cache, pairs)
    pairs[1].image_path.write_bytes(b"no picture")
    fill(cache, pairs, skip_bad=1)
    with pytest.raises(ValueError, match=r"train/1\.png"):
        cache.load(pairs[1])


def test_a_folder_that_cannot_be_written_and_a_full_disk_name_the_flag(pairs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="--cache_dir"):
        fill(DecodedCache(tmp_path / "file", SPEC), pairs)

    def on_a_full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.cache, "atomic_path", on_a_full_disk)
    with pytest.raises(OSError, match=r"--cache_dir .*cache: No space left on device"):
        fill(DecodedCache(tmp_path / "cache", SPEC), pairs)


def test_samples_from_the_cache_are_those_from_the_files(cache, pairs):
    fill(cache, pairs)
    transform = train_transform(AugmentConfig(crop_size=16), SPEC.ignore_label)
    for place in range(12):
        draw = CropRequest(0, place, place % 4, center=(3, 5) if place % 2 else None)
        kept, plain = (TrainingSet(pairs, SPEC, transform, 3, load)[draw] for load in (cache.load, None))
        assert all((one == other).all() for one, other in zip(kept, plain, strict=True))


def test_validation_images_from_the_cache_may_be_changed(cache, pairs):
    fill(cache, pairs)
    image, labels = ValidationSet(pairs, SPEC, cache.load)[0]
    image += 1
    labels += 1
    assert_equal(cache, pairs)
