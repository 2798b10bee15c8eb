"""Class-uniform sampling: which pixels are chosen, how an epoch is made of them, how the index is kept."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasets.class_positions import (
    ClassIndex,
    IndexPlan,
    Scan,
    class_index,
    draw_epoch,
    index_of_classes,
    scan_labels,
    with_places,
)
from datasets.files import find_samples
from datasets.specs.registry import dataset_spec
from utils.images import write_image

IGNORE = 255
SPEC = dataset_spec("camvid")
NOTHING = np.empty((0, 3), np.int32)


def scan(labels, tile, num_classes=3, seed=0):
    return scan_labels(labels, num_classes, tile, np.random.default_rng(seed))


def places(*rows):
    return np.array(rows, np.int32).reshape(-1, 3)


# Which pixels


def test_one_real_pixel_per_tile_and_class_partial_tiles_included():
    labels = np.zeros((5, 7), np.uint8)
    labels[4, 6] = 2
    found = scan(labels, tile=4).places.tolist()
    assert [(c, r // 4, k // 4) for c, r, k in found] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (2, 1, 1)]
    assert found[-1] == [2, 4, 6]
    assert all(labels[row, column] == train_id for train_id, row, column in found)


def test_an_image_smaller_than_a_tile_is_sampled_and_ignored_pixels_are_not():
    labels = np.full((2, 3), IGNORE, np.uint8)
    labels[1, 2] = 1
    assert scan(labels, tile=1024).places.tolist() == [[1, 1, 2]]
    assert scan(labels, tile=1024).pixels.tolist() == [0, 1, 0]


def test_the_only_pixel_of_a_class_in_a_large_map_is_found():
    labels = np.zeros((700, 900), np.uint8)
    labels[123, 456] = 2
    assert [2, 123, 456] in scan(labels, tile=1024).places.tolist()


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.sampled_from([0, 1, 2, IGNORE])),
    st.integers(1, 50),
    st.integers(0, 99),
)
@settings(deadline=None)
def test_there_is_exactly_one_place_for_every_class_of_every_tile(labels, tile, seed):
    found = scan(labels, tile, seed=seed)
    chosen = [(int(r) // tile, int(k) // tile, int(c)) for c, r, k in found.places]
    rows, columns = np.indices(labels.shape) // tile
    present = {(int(r), int(k), int(c)) for r, k, c in zip(rows.flat, columns.flat, labels.flat, strict=True)}
    assert sorted(chosen) == sorted(place for place in present if place[2] != IGNORE)
    assert all(labels[row, column] == train_id for train_id, row, column in found.places)
    assert found.pixels.tolist() == [int((labels == c).sum()) for c in range(3)]


@pytest.mark.parametrize("size", [(2, 4), (60, 60)], ids=["found by looking", "found by searching"])
def test_each_pixel_of_a_class_is_as_likely_as_the_others(size):
    labels = np.zeros(size, np.uint8)
    labels[0, 0] = labels[1, 1] = labels[1, 2] = labels[0, 3] = 1
    drawn = [tuple(scan(labels, 64, seed=seed).places[1, 1:].tolist()) for seed in range(800)]
    counts = [drawn.count(place) for place in ((0, 0), (1, 1), (1, 2), (0, 3))]
    assert sum(counts) == 800
    assert all(140 < count < 260 for count in counts)  # 200 expected, 12 the standard deviation


def test_the_index_sorts_places_by_class_and_counts_pixels():
    index = class_index([Scan(places([0, 5, 6], [2, 7, 8]), np.array([3, 0, 1])), Scan(NOTHING, np.zeros(3, int)),
                         Scan(places([2, 1, 1]), np.array([0, 0, 4]))], 3)  # fmt: skip
    assert [rows.tolist() for rows in index.places] == [[[0, 5, 6]], [], [[0, 7, 8], [2, 1, 1]]]
    assert index.pixels == (3, 0, 5)


def test_coarse_images_join_for_the_boosted_classes_alone():
    fine = ClassIndex((places([0, 1, 1]), places([1, 2, 2])), (1, 1))
    coarse = ClassIndex((places([0, 3, 3]), places([0, 4, 4])), (9, 9))
    joined = with_places(fine, coarse, classes=[1], first_pair=10)
    assert [rows.tolist() for rows in joined.places] == [[[0, 1, 1]], [[1, 2, 2], [10, 4, 4]]]


# An epoch


def test_an_epoch_keeps_its_length_and_share_though_a_class_is_absent():
    index = ClassIndex((places([0, 1, 1]), NOTHING, places([2, 3, 3])), (1, 0, 1))
    draws = draw_epoch(seed=0, epoch=0, num_images=10, length=10, share=0.5, class_index=index)
    centred = [d for d in draws if d.center is not None]
    assert (len(draws), len(centred)) == (10, 5)
    assert {d.pair_index for d in centred} == {0, 2}
    assert len({d.pair_index for d in draws if d.center is None}) == 5


def test_an_epoch_keeps_its_length_though_all_classes_are_absent():
    draws = draw_epoch(seed=0, epoch=0, num_images=4, length=4, share=0.5, class_index=ClassIndex((NOTHING,), (0,)))
    assert sorted(d.pair_index for d in draws) == [0, 1, 2, 3]


def test_classes_are_drawn_equally_often_however_rare():
    index = ClassIndex((places(*[[0, i, i] for i in range(500)]), places([1, 0, 0])), (500, 1))
    draws = draw_epoch(seed=0, epoch=0, num_images=2, length=200, share=1.0, class_index=index)
    assert [d.pair_index for d in draws].count(1) == 100


def test_without_class_uniform_sampling_each_image_is_drawn_once():
    draws = draw_epoch(seed=0, epoch=3, num_images=7, length=7, share=0.0, class_index=None)
    assert sorted(d.pair_index for d in draws) == list(range(7))
    assert [d.place for d in draws] == list(range(7))


def test_epochs_differ_and_can_be_drawn_again():
    arguments = {"seed": 1, "num_images": 20, "length": 20, "share": 0.0, "class_index": None}
    assert draw_epoch(epoch=0, **arguments) == draw_epoch(epoch=0, **arguments)
    assert draw_epoch(epoch=0, **arguments) != draw_epoch(epoch=1, **arguments)


# The index on disk


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
    return replace(IndexPlan(find_samples(SPEC, root, "train"), SPEC, root, tile=8, seed=0), **changes)


def same(one, other):
    return one.pixels == other.pixels and all(map(np.array_equal, one.places, other.places))


def make(plan, folder, **options):
    return index_of_classes(plan, folder, num_workers=0, show=False, **options)


def test_the_index_holds_real_pixels_of_all_files(root, tmp_path):
    plan = plan_of(root)
    index = make(plan, tmp_path / "index")
    assert {int(row[0]) for rows in index.places for row in rows} == set(range(40))
    assert sum(index.pixels) + _void_pixels(root) == 40 * 9 * 12


def _void_pixels(root):
    from utils.images import read_label_ids

    return sum(int((read_label_ids(path) == 11).sum()) for path in (root / "trainannot").iterdir())


def test_two_processes_make_the_same_index_as_one(root, tmp_path):
    both = index_of_classes(plan_of(root), tmp_path / "both", num_workers=2, show=False)
    assert same(both, make(plan_of(root), tmp_path / "one"))


def test_a_kept_index_is_read_without_looking_into_label_files(root, tmp_path, request):
    made = make(plan_of(root), tmp_path / "index")
    request.getfixturevalue("no_label_file_may_be_read")
    assert same(make(plan_of(root), tmp_path / "index"), made)


def test_a_set_that_moved_needs_no_new_index(root, tmp_path, request):
    made = make(plan_of(root), tmp_path / "index")
    shutil.move(root, tmp_path / "elsewhere")
    request.getfixturevalue("no_label_file_may_be_read")
    assert same(make(plan_of(tmp_path / "elsewhere"), tmp_path / "index"), made)


def test_the_file_holds_relative_paths(root, tmp_path):
    make(plan_of(root), tmp_path / "index")
    (path,) = (tmp_path / "index").iterdir()
    with np.load(path) as content:
        assert content["label_files"][0] == "trainannot/00.png"
    assert str(tmp_path).encode() not in path.read_bytes()


def _touch(root):
    os.utime(root / "trainannot" / "00.png", ns=(1, 1))


def _rewrite(root):
    write_image(root / "trainannot" / "00.png", np.zeros((9, 12), np.uint8))


def _add(root):
    for folder in ("train", "trainannot"):
        shutil.copy(root / folder / "00.png", root / folder / "99.png")


@pytest.mark.parametrize("change", [_touch, _rewrite, _add])
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


def test_a_changed_label_file_changes_the_index(root, tmp_path):
    before = make(plan_of(root), tmp_path / "index")
    _rewrite(root)
    after = make(plan_of(root), tmp_path / "index")
    assert after.pixels[0] > before.pixels[0]
    assert not any((rows[:, 0] == 0).any() for rows in after.places[1:])


@pytest.mark.parametrize("damage", [b"", b"nothing", None], ids=["empty", "no archive", "cut off"])
def test_a_damaged_index_is_made_anew(root, tmp_path, damage):
    made = make(plan_of(root), tmp_path / "index")
    (path,) = (tmp_path / "index").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    assert same(make(plan_of(root), tmp_path / "index"), made)
    assert path.read_bytes() == content


def test_a_process_that_must_not_write_does_not(root, tmp_path):
    made = make(plan_of(root), tmp_path / "index", write=False)
    assert not (tmp_path / "index").exists()
    assert same(make(plan_of(root), tmp_path / "index"), made)


def test_a_folder_that_cannot_be_written_is_named_with_its_flag(root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="--index_dir"):
        make(plan_of(root), tmp_path / "file")


def test_a_bad_label_file_is_named(root, tmp_path):
    (root / "trainannot" / "07.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"07\.png"):
        make(plan_of(root), tmp_path / "index")
    assert not list((tmp_path / "index").iterdir())


def test_a_bad_label_file_is_left_out_on_request_and_such_an_index_is_not_kept(root, tmp_path, capsys):
    (root / "trainannot" / "07.png").write_bytes(b"no picture")
    index = index_of_classes(plan_of(root), tmp_path / "index", num_workers=0, skip_bad=1)
    assert {int(row[0]) for rows in index.places for row in rows} == set(range(40)) - {7}
    assert "warning: skipped while indexing classes" in capsys.readouterr().err
    assert not list((tmp_path / "index").iterdir())
    (root / "trainannot" / "08.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"08\.png"):
        make(plan_of(root), tmp_path / "index", skip_bad=1)
