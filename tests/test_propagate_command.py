"""propagate.py from the command line to the pairs that train.py reads, and what it says of bad input."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.frames import find_propagated_pairs
from datasets.index import Pair, find_pairs
from datasets.label_files import label_pixels, train_ids
from datasets.registry import dataset_spec
from datasets.segmentation import load_labels, load_pair
from datasets.spec import COLORS, IDS, PROPAGATED
from datasets.synthetic import write_streets
from tests.conftest import Outcome
from tests.trees import CAR, ROAD, write_classes
from utils.images import read_colors_or_ids, read_image, read_label_ids, write_image
from video.sheet import VOID_COLOR, Cell, sheet

CITYSCAPES = dataset_spec("cityscapes")
STREETS = dataset_spec("streets")

Command = Callable[..., Outcome]


@pytest.fixture
def propagate(command: Command) -> Command:
    """Run propagate.py in this one process."""
    return lambda *flags: command("propagate", "--num_workers", 0, *flags)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn streets of three frames to train on, and one to validate on."""
    root = tmp_path_factory.mktemp("streets") / "streets"
    write_streets(root, num_train=6, num_val=2, num_test=0, height=96, width=128, num_workers=1, progress=False)
    return root


@pytest.fixture
def streets(drawn: Path, tmp_path: Path) -> Path:
    """A copy of them, to be written into."""
    return Path(shutil.copytree(drawn, tmp_path / "streets"))


TEXTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8), (0, 0), 2.0)


def frame(number: int) -> np.ndarray:
    """A texture that moves two pixels to the left from each frame to the next, [48, 64, 3]."""
    return np.ascontiguousarray(cv2.normalize(TEXTURE, None, 0, 255, cv2.NORM_MINMAX)[:, 2 * number : 2 * number + 64])


def ids(number: int, left: int, right: int) -> np.ndarray:
    """What is left and right of the column that stands at 40 in frame 0, [48, 64]."""
    return np.where(np.arange(64) < 40 - 2 * number, left, right)[None].repeat(48, 0).astype(np.uint8)


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


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def manifest_of(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / PROPAGATED / "manifest.jsonl").read_text().splitlines()]


# From labelled frames to pairs to train on.


def test_cityscapes_frames_are_written_where_training_looks_for_them_and_moved_as_the_video_moves(
    propagate, cityscapes
):
    ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 2)
    assert ended.code == 0, ended.err
    assert f"8 pairs of 2 labelled frames are in {cityscapes / PROPAGATED}" in ended.out
    pairs = find_pairs(CITYSCAPES, cityscapes, "train")
    found = find_propagated_pairs(CITYSCAPES, cityscapes, pairs, max_skip=2, scene_flow=False)
    assert [pair.name[-6:] for pair in found] == ["000003", "000004", "000006", "000007"] * 2
    for pair in found:
        number = int(pair.name[-6:])
        image, labels = load_pair(pair, CITYSCAPES)
        known = labels != 255
        assert known[8:-8, 8:-8].mean() > 0.9
        assert (labels == train_ids(ids(number, 7, 26), IDS, CITYSCAPES))[known].mean() > 0.99
        assert np.abs(image[8:-8, 8:-8].astype(int) - frame(number)[8:-8, 8:-8]).mean() < 4
        assert set(np.unique(read_label_ids(pair.labels))) <= {0, 7, 26}  # 0: unlabeled
    assert f"train.py --dataset cityscapes --dataset_dir {cityscapes} --arch" in ended.out
    assert "--maxSkip 2" in ended.out
    assert "pairs/s on 1 process\n" in ended.err


@pytest.mark.parametrize("flow", ["dis", "exact"])
def test_streets_are_propagated_and_trained_on(propagate, command, streets, tmp_path, flow):
    ended = propagate("--dataset", "streets", "--dataset_dir", streets, "--propagate", 1, "--flow", flow)
    assert ended.code == 0, ended.err
    assert len(list((streets / "propagated/train").glob("*.jpg"))) == 8  # each of two streets: 0 > 1 < > 2 and back
    made = Pair(
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
        labels = load_labels(Pair("", Path(), cityscapes / record["labels"]), CITYSCAPES)
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
    assert [step["pairs"] for step in summary["steps"]] == [2, 2, 2, 2]
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
    assert "would write 1 pairs" in propagate(*flags, "--resume", "--dry_run").out  # the one that this frame is of


def test_a_dry_run_writes_nothing_and_says_what_a_run_would(propagate, cityscapes):
    (cityscapes / "leftImg8bit_sequence/train" / sequence_name("zurich", 6)).unlink()
    before = files_of(cityscapes)
    ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 3, "--dry_run")
    assert ended.code == 1
    assert f"would write 9 pairs of 2 labelled frames to {cityscapes / PROPAGATED}" in ended.out
    assert "are free" in ended.out
    assert "its video lacks zurich/zurich_000000_000006" in ended.err
    assert files_of(cityscapes) == before


def test_a_dry_run_names_all_that_is_left_out_since_it_writes_no_summary(propagate, video, few_labels, tmp_path):
    for number in range(100, 130):
        write_image(few_labels / f"{number:06d}.png", ids(0, 0, 1))
    flags = ("--video", video, "--labels", few_labels, "--propagate", 1, "--out", tmp_path / "own")
    assert propagate(*flags, "--dry_run").err.count("left out: ") == 30
    ended = propagate(*flags)
    assert ended.err.count("left out: ") == 21
    assert "left out: 10 more; summary.json names them all" in ended.err


def test_a_dry_run_goes_on_in_a_write_protected_set_and_says_that_a_run_wants_out(propagate, cityscapes):
    cityscapes.chmod(0o555)
    try:
        ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 1, "--dry_run")
    finally:
        cityscapes.chmod(0o755)
    assert ended.code == 1
    assert "would write 4 pairs" in ended.out
    assert ended.err.strip() == f"but {cityscapes} is write-protected; name a folder of your own with --out."


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
        with pytest.raises(ValueError, match='nothing in its label files means "no class"'):
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
    assert "Its frames are 30 numbers apart; --stride 30 takes them, if they are near enough in time." in refused.err
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
    labels = load_labels(Pair("", Path(), tmp_path / "propagated/valannot/0016E5_08005_+1.png"), dataset_spec("camvid"))
    true = read_label_ids(tmp_path / "valannot/0016E5_08007.png")
    known = (labels != 255) & (true != 11)
    assert (labels == true)[known].mean() > 0.95
    copied = read_label_ids(tmp_path / "valannot/0016E5_08005.png")
    assert (labels == true)[known].mean() > (copied == true)[known].mean()


# A video, or a folder of frames, with a few labels.


@pytest.fixture
def few_labels(tmp_path: Path) -> Path:
    """Labels for the frames 3 and 9, and what they mean."""
    for number in (3, 9):
        write_image(tmp_path / f"labels/{number:06d}.png", ids(number, 0, 1))
    write_classes(tmp_path, ROAD, CAR)
    return tmp_path / "labels"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Frames 0 to 11 as a video file."""
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(12):
        writer.write(cv2.cvtColor(frame(number), cv2.COLOR_RGB2BGR))
    writer.release()
    return tmp_path / "drive.avi"


def labels_agree(out: Path, source: int, step: int) -> bool:
    labels = read_colors_or_ids(out / f"propagated/labels/{source:06d}_{step:+d}.png")
    known = labels != 255
    return (labels == ids(source + step, 0, 1))[known].mean() > 0.97 and known.mean() > 0.8


def test_a_video_and_a_few_labels_become_a_data_set_to_train_on(propagate, command, video, few_labels, tmp_path):
    out = tmp_path / "own"
    flags = ("--video", video, "--labels", few_labels, "--propagate", 3, "--out", out)
    assert "would make a data set of 2 labelled frames" in propagate(*flags, "--dry_run").out
    assert not out.exists()
    ended = propagate(*flags)
    assert ended.code == 0, ended.err
    assert "11 pairs of 2 labelled frames" in ended.out  # the video ends with frame 11, two after frame 9
    assert labels_agree(out, 3, -2)
    assert labels_agree(out, 9, 2)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert propagate(*flags, "--resume").code == 0
    assert [path for path, time in times.items() if path.stat().st_mtime_ns != time] == [out / "propagated/sheet.png"]
    trained = command(
        "train", "--dataset", "folder", "--dataset_dir", out, "--maxSkip", 2, "--test_mode", "--bs_mult", 1,
        "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", 32, "--num_workers", 0, "--index_dir", tmp_path / "index",
        "--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb",
    )  # fmt: skip
    assert trained.code == 0, trained.err


def trained_as_told(command, told: str, tmp_path: Path) -> Outcome:
    """How the command ended that propagate.py printed, run for two small steps."""
    words = shlex.split(told.partition("train on them, say: python ")[2].splitlines()[0])
    assert words[0] == "train.py"
    return command(
        "train", *words[1:], "--crop_size", 32, "--test_mode", "--num_workers", 0, "--index_dir", tmp_path / "index",
        "--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb",
    )  # fmt: skip


def test_the_command_that_is_told_trains_on_the_pairs_of_one_labelled_frame_too(
    propagate, command, video, few_labels, tmp_path
):
    (few_labels / "000009.png").unlink()
    ended = propagate("--video", video, "--labels", few_labels, "--propagate", 2, "--out", tmp_path / "my own")
    assert "--maxSkip 2 --train_split trainval" in ended.out
    trained = trained_as_told(command, ended.out, tmp_path)
    assert trained.code == 0, trained.err
    assert "holds validation images" in trained.out + trained.err


def test_the_command_that_is_told_names_the_fold_and_no_more_steps_than_its_frames_have(
    propagate, command, video, few_labels, tmp_path
):
    (few_labels / "000003.png").rename(few_labels / "000011.png")  # the last: it has frames before it alone
    write_image(few_labels / "000000.png", ids(0, 0, 1))
    for fold, split, told in (
        ((), (), "--maxSkip 2"),
        (("--cv", 1), (), "--maxSkip 2 --cv 1"),
        ((), ("--split", "trainval"), "--maxSkip 2 --train_split trainval"),
        (("--cv", 1), ("--split", "val"), None),
    ):
        flags = ("--video", video, "--labels", few_labels, "--propagate", 2, "--out", tmp_path / "own", *fold, *split)
        ended = propagate(*flags, "--resume")
        assert ended.code == 0, ended.err
        if told is None:
            assert "train on them" not in ended.out
        else:
            assert next(line for line in ended.out.splitlines() if "train on them" in line).endswith(told)


def test_a_folder_of_frames_with_labels_of_another_sets_values(propagate, tmp_path):
    for number in range(6):
        write_image(tmp_path / f"frames/night/a{number:03d}.jpg", frame(number))
    write_image(tmp_path / "few/night/a002.png", ids(2, 7, 26))
    out = tmp_path / "own"
    flags = ("--frames", tmp_path / "frames", "--labels", tmp_path / "few", "--out", out, "--propagate", 1)
    refused = propagate(*flags)
    assert refused.code == 1
    assert "classes.json, which says what the labels mean. Name it with --classes, or with --dataset" in refused.err
    assert propagate(*flags, "--dataset", "cityscapes").code == 0
    spec = dataset_spec("folder", out)
    assert [(c.name, c.color, c.label_ids) for c in spec.classes] == [
        (c.name, c.color, c.label_ids) for c in CITYSCAPES.classes
    ]
    pairs = find_pairs(spec, out, "trainval")
    assert [pair.name for pair in find_propagated_pairs(spec, out, pairs, max_skip=1, scene_flow=False)] == [
        "night/a002_+1", "night/a002_-1"
    ]  # fmt: skip
    assert not (out / "video").exists()  # its frames stay where they are
    other = propagate(*flags, "--dataset", "camvid")
    assert "holds a set with other classes" in other.err


def test_videos_and_labels_that_cannot_be_used_are_one_line_and_nothing_is_written(
    propagate, video, few_labels, tmp_path
):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    write_image(tmp_path / "others/labels/000500.png", ids(0, 0, 1))
    before, out = files_of(tmp_path), tmp_path / "own"
    for flags, told in (
        (("--video", video), "--video wants --labels"),
        (("--video", tmp_path / "none.mp4", "--labels", few_labels, "--out", out), "--video: no such file or folder"),
        (("--video", tmp_path / "text.mp4", "--labels", few_labels, "--out", out), "text.mp4: not a video, or damaged"),
        (("--video", video, "--labels", tmp_path / "empty", "--out", out), "no label files (*.png) there"),
        (("--video", tmp_path / "empty", "--labels", few_labels, "--out", out), "no pictures"),
        (("--video", video, "--labels", few_labels, "--out", tmp_path / "file"), "--out"),
        (("--video", video, "--labels", few_labels, "--out", out, "--dataset_dir", out), "--dataset_dir belongs to"),
        (("--video", video, "--labels", few_labels, "--out", out, "--flow", "exact"), "--flow exact knows drawn"),
        (("--video", video, "--labels", few_labels, "--out", out, "--split", "test"), "--split 'test': labels are"),
        (
            ("--video", video, "--labels", few_labels, "--out", out, "--dataset", "mapillary2"),
            "its own folder tells its classes; name a classes.json",
        ),
    ):
        ended = propagate(*flags)
        assert ended.code == 1
        assert told in ended.err
        assert len(ended.err.strip().splitlines()) == 1
        assert files_of(tmp_path) == before
    write_classes(tmp_path / "wrong", ROAD | {"color": "red"})
    flags = ("--video", video, "--labels", few_labels, "--out", out, "--classes", tmp_path / "wrong/classes.json")
    assert "wrong/classes.json, class 1 (road): a colour is" in propagate(*flags).err
    assert not (out / "classes.json").exists()
    labels = tmp_path / "others/labels"
    ended = propagate("--video", video, "--labels", labels, "--out", out, "--classes", tmp_path / "classes.json")
    assert "no label file belongs to a frame" in ended.err
    assert "drive.avi has frames 0 to 11" in ended.err


def test_labels_that_do_not_belong_to_the_video_are_told_and_the_rest_is_made(propagate, video, few_labels, tmp_path):
    write_image(few_labels / "000040.png", ids(0, 0, 1))
    write_image(few_labels / "street.png", ids(0, 0, 1))
    write_image(few_labels / "000006.png", ids(6, 0, 1)[:40])
    write_image(few_labels / "000005.png", ids(5, 0, 7))
    (few_labels / "000004.png").write_text("no picture")
    ended = propagate("--video", video, "--labels", few_labels, "--propagate", 1, "--out", tmp_path / "own")
    assert ended.code == 1
    assert "4 pairs of 2 labelled frames" in ended.out
    told = sorted(line for line in ended.err.splitlines() if line.startswith("left out"))
    for line, parts in zip(
        told,
        (
            ("000004.png", "not an image"),
            ("000005.png", "label values 7"),
            ("000040.png", "has frames 0 to 11"),
            ("street.png", "no frame number"),
            ("000006", "must be of the same size"),
        ),
        strict=True,
    ):
        assert all(part in line for part in parts), line
    assert sorted(path.name for path in (tmp_path / "own/images").iterdir()) == ["000003.png", "000009.png"]


def test_classes_that_cannot_be_propagated_are_told_before_a_frame_is_decoded_and_can_be_mended(
    propagate, video, few_labels, tmp_path
):
    out = tmp_path / "own"
    flags = ("--video", video, "--labels", few_labels, "--out", out, "--propagate", 1)
    every_value = [ROAD | {"ids": [0]}, CAR | {"ids": list(range(1, 256))}]  # 255 included
    write_classes(tmp_path, *every_value, title="drive")
    for more in ((), ("--dry_run",)):
        ended = propagate(*flags, *more)
        assert ended.code == 1
        assert f'{tmp_path / "classes.json"}: nothing in its label files means "no class"' in ended.err
        assert not out.exists()
    write_classes(tmp_path, ROAD, CAR)
    assert propagate(*flags).code == 0


def test_classes_may_change_until_there_are_labels_of_them(propagate, video, few_labels, tmp_path):
    flags = ("--video", video, "--labels", few_labels, "--out", tmp_path / "own", "--propagate", 1)
    write_classes(tmp_path, ROAD | {"ids": [8]}, CAR | {"ids": [9]})
    assert "no label file belongs to a frame" in propagate(*flags).err
    write_classes(tmp_path, ROAD, CAR)
    assert propagate(*flags).code == 0
    write_classes(tmp_path, ROAD | {"ids": [8]}, CAR | {"ids": [9]})
    assert "holds a set with other classes" in propagate(*flags).err


def test_a_dry_run_of_a_video_wants_to_know_the_classes_too(propagate, video, few_labels, tmp_path):
    (tmp_path / "classes.json").unlink()
    ended = propagate("--video", video, "--labels", few_labels, "--out", tmp_path / "own", "--dry_run")
    assert ended.code == 1
    assert "classes.json, which says what the labels mean" in ended.err


def videos_of_one_name(tmp_path: Path, kind: str) -> list[Path]:
    """Two videos, of frames 0 to 11 and of those upside down: AVI files, or folders of numbered frames."""
    paths = []
    for turn in (1, -1):
        folder = tmp_path / f"turned{turn}"
        for number in range(12):
            write_image(folder / f"frames/{number:06d}.png", np.ascontiguousarray(frame(number)[::turn]))
        if kind == "file":
            writer = cv2.VideoWriter(str(folder / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
            for number in range(12):
                writer.write(cv2.cvtColor(np.ascontiguousarray(frame(number)[::turn]), cv2.COLOR_RGB2BGR))
            writer.release()
        paths.append(folder / ("drive.avi" if kind == "file" else "frames"))
    return paths


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_videos_never_lie_in_one_folder(propagate, few_labels, tmp_path, kind):
    first, second = videos_of_one_name(tmp_path, kind)
    out = tmp_path / "own"
    flags = ("--labels", few_labels, "--propagate", 1, "--out", out)
    assert propagate("--video", first, *flags).code == 0
    before = files_of(out)
    for more in ((), ("--resume",), ("--dry_run",)):
        ended = propagate("--video", second, *flags, *more)
        assert ended.code == 1
        assert f"--out {out} was made of {first}, not of {second}; name a new folder." in ended.err
        assert len(ended.err.strip().splitlines()) == 1
        assert files_of(out) == before
    write_image(few_labels / "000006.png", ids(6, 0, 1))
    ended = propagate("--video", first, *flags, "--resume")
    assert "6 pairs of 3 labelled frames" in ended.out, "more labels of the same video are welcome"


def test_a_video_file_that_has_changed_is_another_one(propagate, few_labels, tmp_path):
    first, second = videos_of_one_name(tmp_path, "file")
    flags = ("--video", first, "--labels", few_labels, "--propagate", 1, "--out", tmp_path / "own")
    assert propagate(*flags).code == 0
    second.replace(first)
    assert f"{first} has changed since --out {tmp_path / 'own'} was made of it" in propagate(*flags, "--resume").err


def test_a_set_that_was_made_otherwise_is_no_place_for_a_video(propagate, video, few_labels, tmp_path):
    out = tmp_path / "own"
    write_image(out / "images/000003.png", frame(0))
    write_image(out / "labels/000003.png", ids(0, 0, 1))
    before = files_of(out)
    ended = propagate("--video", video, "--labels", few_labels, "--out", out)
    assert f"{out / 'images'} holds files, but no {out / 'source.json'} says that they are of {video}" in ended.err
    assert files_of(out) == before


def test_labels_may_lie_where_the_set_is_made(propagate, video, few_labels, tmp_path):
    ended = propagate("--video", video, "--labels", few_labels, "--out", tmp_path, "--propagate", 1)
    assert ended.code == 0, ended.err
    assert "4 pairs of 2 labelled frames" in ended.out


@pytest.mark.parametrize("how", ["deleted", "wrong"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_labels_that_were_withdrawn_are_no_longer_trained_on(propagate, few_labels, tmp_path, how, kind):
    source, out = videos_of_one_name(tmp_path, kind)[0], tmp_path / "own"
    flags = ("--video", source, "--labels", few_labels, "--propagate", 1, "--out", out)
    assert propagate(*flags).code == 0
    write_image(out / "images/mine.png", frame(0))
    write_image(out / "labels/mine.png", ids(0, 0, 1))
    if how == "deleted":
        (few_labels / "000003.png").unlink()
    else:
        write_image(few_labels / "000003.png", ids(3, 0, 7))
    ended = propagate(*flags, "--resume")
    assert f"taken out of {out}, since {few_labels} no longer has usable labels for them: 000003" in ended.err
    pairs = find_pairs(dataset_spec("folder", out), out, "trainval")
    assert [pair.name for pair in pairs] == ["000009", "mine"], "what gather did not put there stays"
    write_image(few_labels / "000003.png", ids(3, 0, 1))
    assert "taken out" not in propagate(*flags, "--resume").err
    assert "000003" in {pair.name for pair in find_pairs(dataset_spec("folder", out), out, "trainval")}


def test_labels_from_another_folder_join_those_that_are_there(propagate, video, few_labels, tmp_path):
    out = tmp_path / "own"
    flags = ("--video", video, "--propagate", 1, "--out", out)
    assert propagate(*flags, "--labels", few_labels).code == 0
    write_image(tmp_path / "more/000006.png", ids(6, 0, 1))
    ended = propagate(*flags, "--labels", tmp_path / "more", "--classes", tmp_path / "classes.json")
    assert ended.code == 0, ended.err
    assert "6 pairs of 3 labelled frames" in ended.out


def test_labels_never_overwrite_those_that_were_not_copied_there(propagate, video, few_labels, tmp_path):
    out = tmp_path / "own"
    flags = ("--video", video, "--labels", few_labels, "--propagate", 1, "--out", out)
    assert propagate(*flags).code == 0
    write_image(out / "images/000006.png", frame(6))
    write_image(out / "labels/000006.png", ids(0, 1, 0))
    own = (out / "labels/000006.png").read_bytes()
    write_image(few_labels / "000006.png", ids(6, 0, 1))
    ended = propagate(*flags)
    assert ended.code == 1
    assert "000006.png is there and no copy of it; take one of them away" in ended.err
    assert (out / "labels/000006.png").read_bytes() == own


# Bad input names the sequence, and the rest is made.


@pytest.mark.parametrize("line", ['{"name": "x"}', '"text"', "[1]", "{", '{"image": 3}'])
def test_a_manifest_that_is_not_ours_is_told_before_anything_is_made(propagate, cityscapes, line):
    (cityscapes / PROPAGATED).mkdir()
    (cityscapes / PROPAGATED / "manifest.jsonl").write_text(line + "\n")
    before = files_of(cityscapes)
    for more in ((), ("--dry_run",)):
        ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 1, *more)
        assert ended.code == 1
        assert "manifest.jsonl: no manifest of ours" in ended.err
        assert len(ended.err.strip().splitlines()) == 1
        assert files_of(cityscapes) == before


def spoil(root: Path, what: str) -> str:
    """Spoil something of aachen's; returns what must be told."""
    near = root / "leftImg8bit_sequence/train" / sequence_name("aachen", 6)
    labels = root / "gtFine/train/aachen/aachen_000000_000005_gtFine_labelIds.png"
    if what == "frame missing":
        near.unlink()
        return "its video lacks aachen/aachen_000000_000006, so nothing is made beyond"
    if what == "no video":
        shutil.rmtree(near.parent)
        return "no frame 1 before or after it in its video"
    if what == "frame unreadable":
        near.write_bytes(near.read_bytes()[:300])
        return f"{near}: the image is truncated"
    if what == "frame of another size":
        write_image(near, frame(6)[:40])
        return f"{near} is 64x40, the labelled frame 64x48"
    if what == "tiny":
        for path in root.rglob("aachen_*.png"):
            write_image(path, np.zeros((12, 40) if "gtFine" in path.parts else (12, 40, 3), np.uint8))
        return "has 40x12 pixels, too few to find motion in"
    if what == "labels of another size":
        write_image(labels, ids(5, 7, 26)[:40])
        return "must be of the same size"
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
    (line,) = [line for line in ended.err.splitlines() if line.startswith("left out")]
    assert line.startswith("left out: aachen/aachen_000000_000005: ")
    assert told in line
    assert f"{num_pairs} pairs of" in ended.out
    assert len(list((cityscapes / "propagated/leftImg8bit").rglob("*.png"))) == num_pairs
    assert len(list((cityscapes / "propagated/gtFine").rglob("*.png"))) == num_pairs
    summary = json.loads((cityscapes / PROPAGATED / "summary.json").read_text())
    assert summary["left_out"] == [line.removeprefix("left out: ")]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "name a data set with --dataset, or a video of yours with --video and --labels"),
        (("--dataset", "cityscape"), "--dataset 'cityscape' is unknown"),
        (("--dataset", "cityscapes", "--split", "test"), "--split 'test': labels are propagated for training"),
        (("--dataset", "cityscapes", "--keep", "seen"), "--keep 'seen' is unknown. Choose from: outside, hidden"),
        (("--dataset", "cityscapes", "--flow", "sdc"), "--flow sdc needs a checkpoint: name its file with"),
        (("--dataset", "cityscapes", "--flow", "raft", "--flow_weights", "none.pth"), "none.pth"),
        (("--dataset", "cityscapes", "--flow", "exact"), "--flow exact knows drawn streets alone"),
        (("--dataset", "cityscapes", "--stride", "2"), "names propagated frames by their number; leave --stride out"),
        (("--dataset", "cityscapes", "--labels", "x"), "--labels and --classes belong to --video"),
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
    assert f"{cityscapes / 'leftImg8bit_sequence/train'}" in ended.err
    assert not (cityscapes / PROPAGATED).exists()


def test_a_write_protected_set_is_left_alone_and_out_is_named(propagate, cityscapes, tmp_path):
    cityscapes.chmod(0o555)
    try:
        ended = propagate("--dataset", "cityscapes", "--dataset_dir", cityscapes)
        assert "is write-protected; name a folder of your own with --out" in ended.err
        assert not (cityscapes / PROPAGATED).exists()
        flags = ("--dataset", "cityscapes", "--dataset_dir", cityscapes, "--propagate", 1)
        assert propagate(*flags, "--out", tmp_path / "out").code == 0
    finally:
        cityscapes.chmod(0o755)


# The sheet.


def test_the_sheet_marks_what_has_no_class_and_colours_the_rest():
    grey = np.full((32, 64, 3), 100, np.uint8)
    labels = np.repeat([[0, 255]], 32, 0).repeat(32, 1).astype(np.uint8)
    page = sheet([[Cell("one", grey, labels)], [Cell("two", grey, labels)] * 2], [(0, 200, 0)])
    void = (page == VOID_COLOR).all(2)
    green = page[..., 1] > page[..., 0].astype(int) + 50
    assert void.any(axis=0).sum() == 3 * 160 - 160  # the right halves of the two columns
    assert green.any(axis=0).sum() == 2 * 160
    assert not (void & green).any()
