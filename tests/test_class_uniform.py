"""Class-uniform sampling: which pixels are chosen, how an epoch is made of them, how the positions are stored."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasets.class_positions import ClassPositions, PositionsPlan, draw_epoch, find_positions, scan_labels
from datasets.files import find_samples
from datasets.specs.registry import dataset_spec
from utils.images import read_label_ids, write_image

IGNORE = 255
SPEC = dataset_spec("camvid")


def scan(labels, tile, num_classes=3, seed=0):
    return scan_labels(labels, num_classes, tile, np.random.default_rng(seed))


def positions(*rows):
    """Class positions from rows of train id, sample index, row, column."""
    return ClassPositions(np.array(rows, np.int32).reshape(-1, 4), np.zeros((1, 3), np.int64))


# Which pixels


def test_one_real_pixel_per_tile_and_class_partial_tiles_included():
    labels = np.zeros((5, 7), np.uint8)
    labels[4, 6] = 2
    found = scan(labels, tile=4)[0].tolist()
    assert [(c, r // 4, k // 4) for c, r, k in found] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (2, 1, 1)]
    assert found[-1] == [2, 4, 6]


def test_an_image_smaller_than_a_tile_is_sampled_and_ignored_pixels_are_not():
    labels = np.full((2, 3), IGNORE, np.uint8)
    labels[1, 2] = 1
    found, pixels = scan(labels, tile=1024)
    assert found.tolist() == [[1, 1, 2]]
    assert pixels.tolist() == [0, 1, 0]


def test_the_only_pixel_of_a_class_in_a_large_map_is_found():
    labels = np.zeros((700, 900), np.uint8)
    labels[123, 456] = 2
    assert [2, 123, 456] in scan(labels, tile=1024)[0].tolist()


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 1, 2, IGNORE])),
    st.integers(1, 50),
    st.integers(0, 99),
)
@settings(deadline=None)
def test_there_is_exactly_one_position_for_every_class_of_every_tile(labels, tile, seed):
    found, pixels = scan(labels, tile, seed=seed)
    chosen = [(int(r) // tile, int(k) // tile, int(c)) for c, r, k in found]
    rows, columns = np.indices(labels.shape) // tile
    present = {(int(r), int(k), int(c)) for r, k, c in zip(rows.flat, columns.flat, labels.flat, strict=True)}
    assert sorted(chosen) == sorted(place for place in present if place[2] != IGNORE)
    assert all(labels[row, column] == train_id for train_id, row, column in found)
    assert pixels.tolist() == [int((labels == c).sum()) for c in range(3)]


@pytest.mark.parametrize("size", [(2, 4), (60, 60)], ids=["found by looking", "found by searching"])
def test_each_pixel_of_a_class_is_as_likely_as_the_others(size):
    labels = np.zeros(size, np.uint8)
    labels[0, 0] = labels[1, 1] = labels[1, 2] = labels[0, 3] = 1
    drawn = [tuple(scan(labels, 64, seed=seed)[0][1, 1:].tolist()) for seed in range(800)]
    counts = [drawn.count(place) for place in ((0, 0), (1, 1), (1, 2), (0, 3))]
    assert sum(counts) == 800
    assert all(140 < count < 260 for count in counts)  # 200 expected, 12 the standard deviation


def test_positions_are_grouped_by_class_and_coarse_images_join_for_the_boosted_classes_alone():
    found = positions([1, 0, 2, 2], [0, 0, 1, 1], [0, 10, 3, 3], [1, 10, 4, 4])
    assert [rows.tolist() for rows in found.by_class] == [[[0, 1, 1], [10, 3, 3]], [[0, 2, 2], [10, 4, 4]]]
    boosted = found.restrict(10, [1])
    assert [rows.tolist() for rows in boosted.by_class] == [[[0, 1, 1]], [[0, 2, 2], [10, 4, 4]]]


# An epoch


def test_an_epoch_keeps_its_length_and_share_though_a_class_is_absent():
    found = positions([0, 0, 1, 1], [2, 2, 3, 3])
    requests = draw_epoch(seed=0, epoch=0, num_images=10, length=10, share=0.5, positions=found)
    centred = [d for d in requests if d.center is not None]
    assert (len(requests), len(centred)) == (10, 5)
    assert {d.sample_index for d in centred} == {0, 2}
    assert len({d.sample_index for d in requests if d.center is None}) == 5


def test_classes_are_drawn_equally_often_however_rare():
    found = positions(*[[0, 0, i, i] for i in range(500)], [1, 1, 0, 0])
    requests = draw_epoch(seed=0, epoch=0, num_images=2, length=200, share=1.0, positions=found)
    assert [d.sample_index for d in requests].count(1) == 100


@pytest.mark.parametrize("found", [None, positions()], ids=["no sampling", "no class occurs"])
def test_without_class_positions_each_image_is_drawn_once(found):
    requests = draw_epoch(seed=0, epoch=3, num_images=7, length=7, share=0.5, positions=found)
    assert sorted(d.sample_index for d in requests) == list(range(7))
    assert [d.position for d in requests] == list(range(7))


def test_epochs_differ_and_can_be_drawn_again():
    arguments = {"seed": 1, "num_images": 20, "length": 20, "share": 0.0, "positions": None}
    assert draw_epoch(epoch=0, **arguments) == draw_epoch(epoch=0, **arguments)
    assert draw_epoch(epoch=0, **arguments) != draw_epoch(epoch=1, **arguments)


# On disk


@pytest.fixture
def root(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(40):
        write_image(tmp_path / "set" / "train" / f"{number:02}.png", np.zeros((9, 12, 3), np.uint8))
        ids = generator.integers(0, 12, (9, 12)).astype(np.uint8)
        write_image(tmp_path / "set" / "trainannot" / f"{number:02}.png", ids)
    return tmp_path / "set"


@pytest.fixture
def no_label_file_may_be_read(monkeypatch):
    monkeypatch.setattr("datasets.class_positions.load_labels", lambda *_: pytest.fail("a label file was read"))


def plan_of(root, **changes):
    return replace(PositionsPlan(find_samples(SPEC, root, "train"), SPEC, root, tile=8, seed=0), **changes)


def same(one, other):
    return np.array_equal(one.pixels, other.pixels) and np.array_equal(one.table, other.table)


def find(plan, folder, **options):
    return find_positions(plan, folder, **({"num_workers": 0} | options))


def test_real_pixels_of_all_files_are_found_whatever_the_number_of_processes(root, tmp_path):
    found = find(plan_of(root), tmp_path / "index")
    assert set(found.table[:, 1].tolist()) == set(range(40))
    void = sum(int((read_label_ids(path) == 11).sum()) for path in (root / "trainannot").iterdir())
    assert found.pixels.sum() + void == 40 * 9 * 12
    assert same(find(plan_of(root), tmp_path / "other", num_workers=2), found)


def test_a_set_that_moved_is_read_without_looking_into_label_files(root, tmp_path, request):
    found = find(plan_of(root), tmp_path / "index")
    shutil.move(root, tmp_path / "elsewhere")
    request.getfixturevalue("no_label_file_may_be_read")
    assert same(find(plan_of(tmp_path / "elsewhere"), tmp_path / "index"), found)


def touch(root):
    os.utime(root / "trainannot" / "00.png", ns=(1, 1))


def rewrite(root):
    write_image(root / "trainannot" / "00.png", np.zeros((9, 12), np.uint8))


def add(root):
    for folder in ("train", "trainannot"):
        shutil.copy(root / folder / "00.png", root / folder / "99.png")


@pytest.mark.parametrize("change", [touch, rewrite, add])
def test_changed_files_change_the_key(root, change):
    before = plan_of(root).key()
    assert plan_of(root).key() == before
    change(root)
    assert plan_of(root).key() != before


@pytest.mark.parametrize("changes", [
    {"tile": 9}, {"seed": 1}, {"spec": replace(SPEC, ignored_ids=(11, 12))}, {"spec": replace(SPEC, name="other")},
], ids=str)  # fmt: skip
def test_another_tile_seed_or_mapping_changes_the_key(root, changes):
    assert plan_of(root, **changes).key() != plan_of(root).key()


@pytest.mark.parametrize("damage", [b"", b"nothing", None], ids=["empty", "no archive", "cut off"])
def test_a_damaged_file_is_made_anew(root, tmp_path, damage):
    found = find(plan_of(root), tmp_path / "index")
    (path,) = (tmp_path / "index").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    assert same(find(plan_of(root), tmp_path / "index"), found)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_named_with_its_flag(root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="--index_dir"):
        find(plan_of(root), tmp_path / "file")


def test_a_bad_label_file_is_named_or_skipped_on_request_and_then_nothing_is_stored(root, tmp_path, capsys):
    (root / "trainannot" / "07.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"07\.png"):
        find(plan_of(root), tmp_path / "index")
    found = find(plan_of(root), tmp_path / "index", skip_bad=1)
    assert set(found.table[:, 1].tolist()) == set(range(40)) - {7}
    assert "warning: skipped while finding class positions" in capsys.readouterr().err
    assert not list((tmp_path / "index").iterdir())
    (root / "trainannot" / "08.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"08\.png"):
        find(plan_of(root), tmp_path / "index", skip_bad=1)
