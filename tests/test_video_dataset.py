"""propagate.py --video: a video, or a folder of frames, with a few labels becomes a data set of its own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import pytest

from datasets.files import find_samples
from datasets.frames import find_labelled_frames
from datasets.specs.registry import dataset_spec
from tests.moving import frame, ids
from tests.trees import CAR, ROAD, files_of, write_classes
from utils.images import read_label_ids, write_image
from utils.video_io import new_video


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
    labels = read_label_ids(out / f"propagated/labels/{source:06d}_{step:+d}.png")
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


def test_of_a_damaged_video_it_is_told_that_frame_numbers_may_be_wrong(propagate, few_labels, tmp_path):
    film = tmp_path / "drive.mp4"
    with new_video(film, 10, (64, 48)) as write:
        for number in range(12):
            write(frame(number))
    content = bytearray(film.read_bytes())
    fifth = len(content) // 5
    content[3 * fifth : 4 * fifth] = b"\xff" * fifth
    film.write_bytes(content)
    ended = propagate("--video", film, "--labels", few_labels, "--propagate", 1, "--out", tmp_path / "own")
    assert f"warning: {film} is damaged" in ended.err


def test_a_folder_of_frames_with_labels_of_another_sets_values(propagate, tmp_path):
    for number in range(6):
        write_image(tmp_path / f"frames/night/a{number:03d}.jpg", frame(number))
    write_image(tmp_path / "few/night/a002.png", ids(2, 7, 26))
    out = tmp_path / "own"
    flags = ("--frames", tmp_path / "frames", "--labels", tmp_path / "few", "--out", out, "--propagate", 1)
    refused = propagate(*flags)
    assert refused.code == 1
    assert "classes.json, which defines what the labels mean. Give one with --classes, or with --dataset" in refused.err
    assert propagate(*flags, "--dataset", "cityscapes").code == 0
    spec = dataset_spec("folder", out)
    assert [(c.name, c.color, c.label_ids) for c in spec.classes] == [
        (c.name, c.color, c.label_ids) for c in dataset_spec("cityscapes").classes
    ]
    pairs = find_samples(spec, out, "trainval")
    assert [pair.name for pair in find_labelled_frames(spec, spec.propagated, out, pairs, [(-1, 1)], "--maxSkip")] == [
        "night/a002_+1", "night/a002_-1"
    ]  # fmt: skip
    assert (out / "video").is_symlink()  # its frames stay where they are


def test_videos_and_labels_that_cannot_be_used_are_one_line_and_nothing_is_written(
    propagate, video, few_labels, tmp_path
):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    write_image(tmp_path / "others/labels/000500.png", ids(0, 0, 1))
    before, out = files_of(tmp_path), tmp_path / "own"
    for flags, told in (
        (("--video", video), "--video needs --labels"),
        (("--video", tmp_path / "none.mp4", "--labels", few_labels, "--out", out), "none.mp4: No such file"),
        (("--video", tmp_path / "text.mp4", "--labels", few_labels, "--out", out), "text.mp4: not a video, or damaged"),
        (("--video", video, "--labels", tmp_path / "empty", "--out", out), "contains no label files (*.png)"),
        (("--video", tmp_path / "empty", "--labels", few_labels, "--out", out), "no label file matches a frame"),
        (("--video", video, "--labels", few_labels, "--out", tmp_path / "file"), "--out"),
        (("--video", video, "--labels", few_labels, "--out", out, "--dataset_dir", out), "--dataset_dir cannot be"),
        (("--video", video, "--labels", few_labels, "--out", out, "--flow", "exact"), "--flow exact only works"),
        (
            ("--video", video, "--labels", few_labels, "--out", out, "--dataset", "mapillary2"),
            "its classes are defined in its folder",
        ),
    ):
        ended = propagate(*flags)
        assert ended.code == 1
        assert told in ended.err
        assert len(ended.err.strip().splitlines()) == 1
        assert files_of(tmp_path) == before
    write_classes(tmp_path / "wrong", ROAD | {"color": "red"})
    flags = ("--video", video, "--labels", few_labels, "--out", out, "--classes", tmp_path / "wrong/classes.json")
    assert "wrong/classes.json, class 1 (road): a colour must be" in propagate(*flags).err
    assert not (out / "classes.json").exists()
    labels = tmp_path / "others/labels"
    ended = propagate("--video", video, "--labels", labels, "--out", out, "--classes", tmp_path / "classes.json")
    assert "no label file matches a frame" in ended.err
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
    told = sorted(line for line in ended.err.splitlines() if line.startswith("skipped"))
    for line, parts in zip(
        told,
        (
            ("000004.png", "the image is truncated or damaged"),
            ("000005.png", "label values 7"),
            ("000040.png", "has frames 0 to 11"),
            ("street.png", "does not end in a frame number"),
            ("000006", "must have the same size"),
        ),
        strict=True,
    ):
        assert all(part in line for part in parts), line
    assert sorted(path.name for path in (tmp_path / "own/images").iterdir()) == ["000003.png", "000009.png"]


def test_labels_lie_on_the_pixels_as_stored_and_a_late_start_costs_no_frame(propagate, few_labels, tmp_path):
    film, flags = tmp_path / "late.mkv", ("--labels", few_labels, "--propagate", 1, "--out", tmp_path / "own")
    write_image(few_labels / "000012.png", ids(12, 0, 1))
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for number in range(12):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            picture.pts, picture.time_base = number + 14, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    for more in (("--dry_run",), ()):
        ended = propagate("--video", film, *flags, *more)
        assert ended.err.count("000012.png") == ended.err.count("has frames 0 to 11") == 1
    assert "4 pairs of 2 labelled frames" in ended.out


def test_a_set_grows_by_labels_of_the_same_video_with_resume_alone(propagate, video, few_labels, tmp_path):
    out, other = tmp_path / "own", tmp_path / "other.avi"
    other.write_bytes(video.read_bytes())
    flags = ("--labels", few_labels, "--propagate", 1, "--out", out)
    assert propagate("--video", video, *flags).code == 0
    before = files_of(out)
    write_image(few_labels / "000006.png", ids(6, 0, 1))
    for source, more, told in (
        (video, (), f"--out {out} was already made from {video}; add --resume"),
        (video, ("--dry_run",), "add --resume"),
        (other, (), f"--out {out} was made from {video}, not from {other}; choose a new folder."),
        (other, ("--resume",), "choose a new folder"),
    ):
        ended = propagate("--video", source, *flags, *more)
        assert told in ended.err
        assert len(ended.err.strip().splitlines()) == 1
        assert files_of(out) == before
    assert "6 pairs of 3 labelled frames" in propagate("--video", video, *flags, "--resume").out
    ended = propagate("--video", video, "--labels", few_labels, "--out", few_labels)
    assert f"--out {few_labels} is not empty; choose a new folder." in ended.err
