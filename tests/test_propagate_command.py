"""propagate.py from the command line to the pairs that train.py reads, and what it says of bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.files import Sample, find_samples
from datasets.frames import find_labelled_frames
from datasets.labels import label_pixels, train_ids
from datasets.segmentation import load_labels, load_sample
from datasets.specs.registry import dataset_spec
from datasets.specs.spec import COLORS, IDS, PROPAGATED
from datasets.streets.write import write_streets
from network.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import Outcome
from tests.moving import frame, ids
from tests.trees import files_of
from utils.images import read_image, read_label_ids, write_image
from video.sdc import SDCNet

CITYSCAPES = dataset_spec("cityscapes")
STREETS = dataset_spec("streets")

Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn streets of three frames to train on, and one to validate on."""
    root = tmp_path_factory.mktemp("streets") / "streets"
    write_streets(root, num_train=6, num_val=2, num_test=0, height=96, width=128, num_workers=1)
    return root


@pytest.fixture
def streets(drawn: Path, tmp_path: Path) -> Path:
    """A copy of them, to be written into."""
    return Path(shutil.copytree(drawn, tmp_path / "streets"))


def sequence_name(city: str, number: int) -> str:
    return f"{city}/{city}_000000_{number:06d}_leftImg8bit.png"


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Two cities of one labelled frame, number 000005, in a video of the frames 000000 to 000009."""
    root = tmp_path / "cityscapes"
    for city in ("aachen", "zurich"):
        write_image(root / "leftImg8bit/train" / sequence_name(city, 5), frame(5))
        write_image(root / f"gtFine/train/{city}/{city}_000000_000005_gtFine_labelIds.png", ids(5, 7, 26))
        for number in range(10):
            write_image(root / "leftImg8bit_sequence/train" / sequence_name(city, number), frame(number))
    return root


def manifest_of(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / PROPAGATED / "manifest.jsonl").read_text().splitlines()]


# From labelled frames to pairs to train on.


def test_cityscapes_frames_are_written_where_training_looks_for_them_and_moved_as_the_video_moves(
    propagate, cityscapes
):
    ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 2)
    assert ended.code == 0, ended.err
    assert f"8 pairs of 2 labelled frames: {cityscapes / PROPAGATED}" in ended.out
    pairs = find_samples(CITYSCAPES, cityscapes, "train")
    around = [(-1, 1), (-2, 2)]
    found = find_labelled_frames(CITYSCAPES, CITYSCAPES.propagated, cityscapes, pairs, around, "--maxSkip")
    assert [pair.name[-6:] for pair in found] == ["000003", "000004", "000006", "000007"] * 2
    for pair in found:
        number = int(pair.name[-6:])
        image, labels = load_sample(pair, CITYSCAPES)
        known = labels != 255
        assert known[8:-8, 8:-8].mean() > 0.9
        assert (labels == train_ids(ids(number, 7, 26), IDS, CITYSCAPES))[known].mean() > 0.99
        assert np.abs(image[8:-8, 8:-8].astype(int) - frame(number)[8:-8, 8:-8]).mean() < 4
        assert set(np.unique(read_label_ids(pair.label_path))) <= {0, 7, 26}  # 0: unlabeled
    told = f"train.py --dataset cityscapes --dataset_dir {cityscapes} --propagated_dir {cityscapes} --maxSkip 2"
    assert told in ended.out


@pytest.fixture
def new_sdc(tmp_path: Path) -> Path:
    """A network for reconstruction that gives back the motion of dis."""
    save_checkpoint(tmp_path / "sdc.pth", Checkpoint(state_dict=SDCNet(width=4).state_dict()))
    return tmp_path / "sdc.pth"


@pytest.mark.parametrize("steps", [1, 5])
def test_flow_sdc_propagates_to_both_ends_of_a_video(propagate, cityscapes, new_sdc, tmp_path, steps):
    flags = ("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", steps)
    assert propagate(*flags, "--out", tmp_path / "dis").code == 0
    ended = propagate(*flags, "--out", tmp_path / "sdc", "--flow", "sdc", "--flow_weights", new_sdc)
    assert ended.code == 0, ended.err
    by_dis, by_sdc = (sorted((tmp_path / flow).rglob("*_labelIds.png")) for flow in ("dis", "sdc"))
    assert len(by_sdc) == len(by_dis) == (4 if steps == 1 else 18)  # 5 before, 4 after
    for one, other in zip(by_dis, by_sdc, strict=True):
        assert (read_label_ids(one) == read_label_ids(other)).mean() > 0.99


@pytest.mark.parametrize("flow", ["dis", "exact"])
def test_streets_are_propagated_and_trained_on(propagate, command, streets, tmp_path, flow):
    ended = propagate("--dataset", "streets", "--dataset_dir", streets, "--propagate", 1, "--flow", flow)
    assert ended.code == 0, ended.err
    assert len(list((streets / "propagated/train").glob("*.jpg"))) == 8  # each of two streets: 0 > 1 < > 2 and back
    made = Sample(
        "", streets / "propagated/train/street0000_000000_+1.jpg",
        streets / "propagated/trainannot/street0000_000000_+1.png",
    )  # fmt: skip
    labels, true = (
        load_labels(made, STREETS), read_label_ids(streets / "trainannot/street0000_000001.png")
    )  # fmt: skip
    known = labels != 255
    assert known.mean() > 0.8
    assert (labels == true)[known & (true != 11)].mean() > (0.99 if flow == "exact" else 0.9)
    if flow == "dis":
        trained = command(
            "train", "--dataset", "streets", "--dataset_dir", streets, "--maxSkip", 1, "--test_mode",
            "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", 64, "--num_workers", 0, "--class_uniform_tile", 64,
            "--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb", "--index_dir", tmp_path / "index",
        )  # fmt: skip
        assert trained.code == 0, trained.err


def test_results_elsewhere_are_found_by_propagated_dir(propagate, command, drawn, tmp_path):
    before = files_of(drawn)
    propagate("--dataset", "streets", "--dataset_dir", drawn, "--propagate", 1, "--out", tmp_path / "out")
    assert files_of(drawn) == before
    flags = (
        "train", "--dataset", "streets", "--dataset_dir", drawn, "--maxSkip", 1, "--test_mode",
        "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", 64, "--num_workers", 0,
        "--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb", "--index_dir", tmp_path / "index",
    )  # fmt: skip
    without = command(*flags)
    assert without.code == 1
    assert "--maxSkip 1: no propagated frames like" in without.err
    assert command(*flags, "--propagated_dir", tmp_path / "out").code == 0


def test_the_manifest_says_of_each_pair_how_it_was_made_and_how_good_it_is(propagate, cityscapes):
    ended = propagate(
        "--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 2, "--keep", "residual,hidden",
        "--mode", "label",
    )  # fmt: skip
    assert ended.code == 0
    records = manifest_of(cityscapes)
    assert len(records) == 8
    for record in records:
        labels = load_labels(Sample("", Path(), cityscapes / record["labels"]), CITYSCAPES)
        assert record["no_class"] == pytest.approx((labels == 255).mean(), abs=1e-4)
        assert record["no_class"] == pytest.approx(sum(record["void"].values()), abs=2e-4)
        assert (record["flow"], record["mode"], record["keep"]) == ("dis", "label", ["hidden", "residual"])
        assert record["void"]["hidden"] == record["void"]["residual"] == 0
        assert record["difference"] >= 0
    last = records[3]
    assert (last["from"], last["step"]) == ("aachen/aachen_000000_000005", 2)
    image = read_image(cityscapes / last["image"])
    assert (image == frame(7)).all()  # mode label keeps the true frame
    summary = json.loads((cityscapes / PROPAGATED / "summary.json").read_text())
    assert summary["parameters"]["propagation"]["propagate"] == 2
    assert summary["pairs"] == 8
    assert summary["left_out"] == []


def test_a_later_run_of_another_split_keeps_the_lines_of_the_first(propagate, streets):
    for split in ("train", "val"):
        propagate("--dataset", "streets", "--dataset_dir", streets, "--propagate", 1, "--split", split)
    assert {record["image"].split("/")[1] for record in manifest_of(streets)} == {"train", "val"}
    shutil.rmtree(streets / "propagated/train")
    propagate("--dataset", "streets", "--dataset_dir", streets, "--propagate", 1, "--split", "val")
    assert {record["image"].split("/")[1] for record in manifest_of(streets)} == {"val"}


def test_two_processes_write_what_one_writes(command, drawn, tmp_path):
    for workers in (0, 2):
        command(
            "propagate", "--dataset", "streets", "--dataset_dir", drawn, "--propagate", 1,
            "--num_workers", workers, "--out", tmp_path / f"by{workers}",
        )  # fmt: skip
    one, two = (files_of(tmp_path / f"by{workers}" / PROPAGATED) for workers in (0, 2))
    assert len(one) == 2 * 8 + 3
    assert {name for name in one if one[name] != two[name]} == {"summary.json"}  # names its folder


def test_resume_makes_what_is_missing_or_made_otherwise_and_leaves_the_rest(propagate, cityscapes):
    flags = ("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 2)
    propagate(*flags)
    first, times = files_of(cityscapes), {path: path.stat().st_mtime_ns for path in cityscapes.rglob("*.png")}
    images = sorted((cityscapes / "propagated/leftImg8bit").rglob("*.png"))
    labels = sorted((cityscapes / "propagated/gtFine").rglob("*.png"))
    images[0].unlink()
    labels[5].unlink()
    labels[6].write_bytes(labels[6].read_bytes()[:20])  # as no interruption would leave it
    assert "would write 3 pairs" in propagate(*flags, "--resume", "--dry_run").out
    ended = propagate(*flags, "--resume")
    assert ended.code == 0
    assert "8 pairs of 2 labelled frames" in ended.out
    assert {name: content for name, content in files_of(cityscapes).items() if first[name] != content}.keys() <= {
        "propagated/summary.json"
    }
    kept = [path for path in (*images, *labels) if path.stat().st_mtime_ns == times[path]]
    assert len(kept) == 2 * 8 - 2 * 3
    assert "would write 8 pairs" in propagate(*flags, "--resume", "--dry_run", "--mode", "label").out
    source = cityscapes / "leftImg8bit_sequence/train" / sequence_name("aachen", 7)
    write_image(source, frame(6))
    assert "would write 1 pair of" in propagate(*flags, "--resume", "--dry_run").out  # the one that this frame is of


def test_a_dry_run_writes_nothing_and_says_what_a_run_would(propagate, cityscapes):
    (cityscapes / "leftImg8bit_sequence/train" / sequence_name("zurich", 6)).unlink()
    before = files_of(cityscapes)
    ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 3, "--dry_run")
    assert ended.code == 1
    assert f"would write 9 pairs of 2 labelled frames to {cityscapes / PROPAGATED}" in ended.out
    assert "its video lacks zurich/zurich_000000_000006" in ended.err
    assert files_of(cityscapes) == before


def test_masks_of_colours_are_written_in_colours(propagate, tmp_path):
    spec = dataset_spec("camvid32")
    car, road = spec.palette[spec.class_names.index("Car")], spec.palette[spec.class_names.index("Road")]
    for number in range(3):
        write_image(tmp_path / f"701_StillsRaw_full/0001TP_{6690 + number:06d}.png", frame(number))
        colors = np.where(ids(number, 0, 1)[..., None] == 0, np.array(car), np.array(road)).astype(np.uint8)
        write_image(tmp_path / f"LabeledApproved_full/0001TP_{6690 + number:06d}_L.png", colors)
    ended = propagate("--dataset", "camvid32", "--dataset_dir", tmp_path, "--propagate", 1)
    assert ended.code == 0, ended.err
    made = read_image(tmp_path / "propagated/labels/0001TP_006691_+1_L.png")
    assert {tuple(color) for color in np.unique(made.reshape(-1, 3), axis=0)} <= {car, road, (0, 0, 0)}
    assert (made[20:28, 8:30] == car).all()


@pytest.mark.parametrize("name", ["cityscapes", "camvid", "camvid32", "kitti", "mapillary"])
@pytest.mark.parametrize("masks", [IDS, COLORS])
def test_written_label_values_are_read_as_the_same_train_ids(name, masks):
    spec = dataset_spec(name)
    labels = np.array([[*range(spec.num_classes), spec.ignore_label]], np.uint8)
    if masks == COLORS and not spec.ignored_colors:
        with pytest.raises(ValueError, match='no value in its label files means "no class"'):
            label_pixels(labels, masks, spec)
    else:
        assert (train_ids(label_pixels(labels, masks, spec), masks, spec) == labels).all()


@pytest.mark.parametrize("name", ["cityscapes", "camvid", "camvid32", "kitti", "streets"])
def test_every_set_with_video_keeps_its_propagated_frames_in_one_folder(name):
    spec = dataset_spec(name)
    assert spec.video
    assert spec.propagated
    for layout in spec.propagated.layouts:
        assert layout.image_dir.startswith(f"{PROPAGATED}/")
        assert layout.label_dir.startswith(f"{PROPAGATED}/")


# CamVid's frames are not neighbours in time.


def test_frames_that_are_no_neighbours_are_taken_only_when_told_how_far_they_are_apart(propagate, tmp_path):
    for number in (30, 60, 90):
        write_image(tmp_path / f"train/0016E5_{number:05d}.png", frame(0))
        write_image(tmp_path / f"trainannot/0016E5_{number:05d}.png", ids(0, 3, 8))
    flags = ("--dataset", "camvid", "--dataset_dir", tmp_path, "--propagate", 1)
    refused = propagate(*flags)
    assert refused.code == 1
    assert "further apart, but the frames close enough in time, use --stride" in refused.err
    assert not (tmp_path / PROPAGATED).exists()
    assert propagate(*flags, "--stride", 30).code == 0
    names = sorted(path.name for path in (tmp_path / "propagated/train").iterdir())
    assert names == ["0016E5_00030_+1.png", "0016E5_00060_+1.png", "0016E5_00060_-1.png", "0016E5_00090_-1.png"]


def test_real_frames_from_camvids_dense_piece(propagate, shared, tmp_path):
    root = shared / "camvid"
    if not root.is_dir():
        pytest.skip("camvid is not there")
    for number in range(8001, 8012, 2):
        for folder, suffix in (("val", "jpg"), ("valannot", "png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(root / folder / f"0016E5_{number:05d}.{suffix}", tmp_path / folder)
    flags = ("--dataset", "camvid", "--dataset_dir", tmp_path, "--split", "val")
    assert propagate(*flags, "--stride", 2, "--propagate", 2).code == 0
    path = tmp_path / "propagated/valannot/0016E5_08005_+1.png"
    labels = load_labels(Sample("", Path(), path), dataset_spec("camvid"))
    true = read_label_ids(tmp_path / "valannot/0016E5_08007.png")
    known = (labels != 255) & (true != 11)
    assert (labels == true)[known].mean() > 0.95
    copied = read_label_ids(tmp_path / "valannot/0016E5_08005.png")
    assert (labels == true)[known].mean() > (copied == true)[known].mean()


# Bad input names the sequence, and the rest is made.


def spoil(root: Path, what: str) -> str:
    """Spoil something of aachen's; returns what must be told."""
    near = root / "leftImg8bit_sequence/train" / sequence_name("aachen", 6)
    labels = root / "gtFine/train/aachen/aachen_000000_000005_gtFine_labelIds.png"
    if what == "frame missing":
        near.unlink()
        return "its video lacks aachen/aachen_000000_000006, so no pairs are made beyond"
    if what == "no video":
        shutil.rmtree(near.parent)
        return "its video has no frame 1 step before or after it"
    if what == "frame unreadable":
        near.write_bytes(near.read_bytes()[:300])
        return f"{near}: the image is truncated"
    if what == "frame of another size":
        write_image(near, frame(6)[:40])
        return f"{near} is 64x40, but the labelled frame is 64x48"
    if what == "tiny":
        for path in root.rglob("aachen_*.png"):
            write_image(path, np.zeros((12, 40) if "gtFine" in path.parts else (12, 40, 3), np.uint8))
        return "images of 40x12 pixels are too small for optical flow"
    if what == "labels of another size":
        write_image(labels, ids(5, 7, 26)[:40])
        return "must have the same size"
    assert what == "label value"
    write_image(labels, ids(5, 7, 77))
    return f"{labels}: label values 77 are not among cityscapes's"


@pytest.mark.parametrize(
    ("what", "num_pairs"),
    [
        ("frame missing", 4 + 2),
        ("no video", 4),
        ("frame unreadable", 4),
        ("frame of another size", 4),
        ("tiny", 4),
        ("labels of another size", 4),
        ("label value", 4),
    ],
)
def test_what_is_wrong_is_named_with_its_sequence_and_the_rest_is_made(propagate, cityscapes, what, num_pairs):
    told = spoil(cityscapes, what)
    ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 2)
    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if line.startswith("skipped")]
    assert line.startswith("skipped: aachen/aachen_000000_000005: ")
    assert told in line
    assert f"{num_pairs} pairs of" in ended.out
    assert len(list((cityscapes / "propagated/leftImg8bit").rglob("*.png"))) == num_pairs
    assert len(list((cityscapes / "propagated/gtFine").rglob("*.png"))) == num_pairs
    summary = json.loads((cityscapes / PROPAGATED / "summary.json").read_text())
    assert summary["left_out"] == [line.removeprefix("skipped: ")]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "name a data set with --dataset, or your own video with --video and --labels"),
        (("--dataset", "cityscape"), "--dataset 'cityscape' is unknown"),
        (("--dataset", "cityscapes", "--keep", "seen"), "--keep 'seen' is unknown. Choose from: outside, hidden"),
        (("--dataset", "cityscapes", "--flow", "sdc"), "--flow sdc needs a checkpoint: give its file with"),
        (("--dataset", "cityscapes", "--flow", "raft", "--flow_weights", "none.pth"), "none.pth"),
        (("--dataset", "cityscapes", "--flow", "exact"), "--flow exact only works for drawn streets"),
        (("--dataset", "cityscapes", "--stride", "2"), "names propagated frames by number; leave --stride out"),
        (("--dataset", "cityscapes", "--labels", "x"), "--labels and --classes are only for --video"),
    ],
)
def test_flags_that_cannot_be_done_are_one_line_and_nothing_is_written(propagate, cityscapes, flags, told):
    before = files_of(cityscapes)
    ended = propagate("--dataset_dir", cityscapes, *flags)
    assert ended.code == 1
    assert told in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert files_of(cityscapes) == before


def test_a_set_without_any_of_its_video_says_where_it_should_lie(propagate, cityscapes):
    shutil.rmtree(cityscapes / "leftImg8bit_sequence")
    ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes)
    assert ended.code == 1
    assert f"{cityscapes / 'leftImg8bit_sequence'}" in ended.err
    assert not (cityscapes / PROPAGATED).exists()
