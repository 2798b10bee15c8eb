"""demo.py on videos and cameras: as many frames, their times and speed, a legend, and what cannot be played."""

from __future__ import annotations

import csv
import resource
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.registry import dataset_spec
from tests.moving import frames_of
from utils.films import Video, _Reader, new_video, opened_video

CAMVID = dataset_spec("camvid")
VIDEO_SIZE = (33, 25)  # odd, which H.264 has no room for


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Seven frames, ten a second."""
    path = tmp_path / "in" / "drive.avi"
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, VIDEO_SIZE)
    assert writer.isOpened()
    for i in range(7):
        writer.write(np.full((VIDEO_SIZE[1], VIDEO_SIZE[0], 3), 30 * i, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("with_av", [True, False])
def test_a_video_comes_out_with_all_its_frames_its_speed_and_a_legend(
    video, light_checkpoint, tmp_path, command, monkeypatch, with_av
):
    if with_av:
        pytest.importorskip("av", reason="H.264 needs PyAV")
    else:
        monkeypatch.setattr("utils.films.has_h264", lambda: False)
    ended = command("demo", "--demo-video", video, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert ended.code == 0
    assert "7 frames" in ended.out
    frames, rate = frames_of(tmp_path / "out" / "drive_overlay.mp4")
    assert (len(frames), rate) == (7, 10.0)
    height, width = frames[0].shape[:2]
    assert height > 25, "the legend stands below"
    assert height % 2 == width % 2 == 0
    lines = list(csv.DictReader((tmp_path / "out" / "drive_class_shares.csv").open()))
    assert [float(line["seconds"]) for line in lines] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for line in lines:
        assert sum(float(line[name]) for name in CAMVID.class_names) == pytest.approx(100)


UNEVEN = [0, 33, 66, 566, 1066, 1566, 1600, 1633]  # milliseconds: fast, slow and fast again


@pytest.fixture
def uneven_video(tmp_path: Path) -> Path:
    """A video whose frames are not equally far apart, as telephones make them."""
    av = pytest.importorskip("av", reason="PyAV writes it")
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, milliseconds in enumerate(UNEVEN):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def times_of(path: Path) -> list[float]:
    """When the frames of a film are shown, in seconds."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_frames_that_are_not_equally_far_apart_keep_their_times(uneven_video, light_checkpoint, tmp_path, command):
    out = tmp_path / "out"
    ended = command("demo", "--demo-video", uneven_video, "--snapshot", light_checkpoint, "--save-dir", out)
    assert ended.code == 0, ended.err
    seconds = [milliseconds / 1000 for milliseconds in UNEVEN]
    lines = list(csv.DictReader((out / "phone_class_shares.csv").open()))
    assert [float(line["seconds"]) for line in lines] == seconds
    assert times_of(out / "phone_overlay.mp4") == pytest.approx(seconds, abs=0.0005)


def test_a_film_has_the_rate_that_is_asked_for_where_no_times_are_told(tmp_path):
    with new_video(tmp_path / "film.mp4", 25.0, (64, 48)) as write_frame:
        for _ in range(5):
            write_frame(np.zeros((48, 64, 3), np.uint8))
    assert times_of(tmp_path / "film.mp4") == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_a_reader_that_is_told_no_times_counts_by_the_rate():
    class Timeless:
        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((2, 2, 3), np.uint8)

        def get(self, _: int) -> float:
            return 0.0

    reader = _Reader(Timeless(), 4.0, is_camera=False)
    assert [(reader.read(), reader.seconds)[1] for _ in range(3)] == [0, 0.25, 0.5]


def test_frames_of_a_camera_have_the_times_at_which_they_came(monkeypatch):
    class Camera:
        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((2, 2, 3), np.uint8)

    came = iter([100.0, 100.7, 101.0])
    monkeypatch.setattr("utils.films.time.monotonic", lambda: next(came))
    reader = _Reader(Camera(), 30.0, is_camera=True)
    assert [(reader.read(), reader.seconds)[1] for _ in range(3)] == pytest.approx([0, 0.7, 1.0])


def test_opencv_repeats_a_frame_that_is_shown_for_longer(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.films.has_h264", lambda: False)
    with new_video(tmp_path / "film.mp4", 10.0, (64, 48)) as write_frame:
        for value, seconds in ((0, 0.0), (120, 0.1), (240, 0.5)):
            write_frame(np.full((48, 64, 3), value, np.uint8), seconds)
    frames, _ = frames_of(tmp_path / "film.mp4")
    assert [round(float(frame.mean()) / 120) for frame in frames] == [0, 1, 1, 1, 1, 2]


def test_a_film_for_which_the_disk_has_no_room_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.films.has_h264", lambda: False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with (
            pytest.raises(OSError, match="could not be written in full"),
            new_video(tmp_path / "film.mp4", 10.0, (64, 48)) as write_frame,
        ):
            for _ in range(20):
                write_frame(noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("color", [(128, 64, 128), (220, 20, 60), (0, 0, 142), (0, 255, 102)])
def test_a_film_says_which_colour_matrix_it_has_and_shows_the_colours_of_the_pictures(tmp_path, color):
    av = pytest.importorskip("av", reason="H.264 needs PyAV")
    with new_video(tmp_path / "film.mp4", 10, (64, 48)) as write_frame:
        for _ in range(3):
            write_frame(np.full((48, 64, 3), color, np.uint8))
    with av.open(str(tmp_path / "film.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        planes = [np.array(plane)[0].astype(float) for plane in next(container.decode(video=0)).planes]
    assert [int(tag) for tag in tags] == [1, 1, 1, 1]  # BT.709, in the range from 16 to 235
    y, blue, red = (planes[0] - 16) * 255 / 219, (planes[1] - 128) * 255 / 224, (planes[2] - 128) * 255 / 224
    shown = (y + 1.5748 * red, y - 0.1873 * blue - 0.4681 * red, y + 1.8556 * blue)
    assert shown == pytest.approx(color, abs=3)


@pytest.mark.parametrize("rate", [119.9273, 29.97002997, 1000, 0.4])
def test_opencv_writes_films_of_every_rate(tmp_path, monkeypatch, rate):
    monkeypatch.setattr("utils.films.has_h264", lambda: False)
    with new_video(tmp_path / "film.mp4", rate, (64, 48)) as write_frame:
        for _ in range(3):
            write_frame(np.zeros((48, 64, 3), np.uint8))
    frames, written = frames_of(tmp_path / "film.mp4")
    assert len(frames) == 3
    assert written == pytest.approx(rate, rel=0.001)


def test_a_name_may_hold_a_colon(tmp_path, monkeypatch):
    with new_video(tmp_path / "12:30:00.mp4", 10, (64, 48)) as write_frame:
        write_frame(np.zeros((48, 64, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    with opened_video("12:30:00.mp4") as opened:
        assert opened.read() is not None


def test_a_video_can_be_smoothed_and_a_picture_not(video, light_checkpoint, tmp_path, command):
    flags = ("--snapshot", light_checkpoint, "--save-dir", tmp_path / "out", "--temporal")
    assert "7 frames" in command("demo", "--demo-video", video, *flags).out
    assert "--temporal works only with --demo-video" in command("demo", "--demo-image", "photo.png", *flags).err


def test_a_second_run_leaves_the_video_of_the_first_alone(video, light_checkpoint, tmp_path, command):
    flags = ("--demo-video", video, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    command("demo", *flags)
    command("demo", *flags, "--max_frames", 2)
    assert [len(frames_of(tmp_path / "out" / f"{n}_overlay.mp4")[0]) for n in ("drive", "drive-2")] == [7, 2]


def test_a_video_that_fails_on_the_way_leaves_no_half(video, light_checkpoint, tmp_path, command, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("inference.frame_painter.FramePainter.__call__", fail)
    ended = command("demo", "--demo-video", video, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert (ended.code, ended.err.splitlines()[-1]) == (1, "error: disk full")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_video_is_closed_only_when_nobody_reads_it_any_more(
    video, light_checkpoint, tmp_path, command, monkeypatch, failure
):
    frame, reading, closed_while_reading = np.zeros((25, 33, 3), np.uint8), threading.Event(), []

    def read() -> np.ndarray:
        reading.set()
        time.sleep(0.05)
        reading.clear()
        return frame

    @contextmanager
    def endless_video(source: str):
        try:
            yield Video("drive", is_camera=False, num_frames=0, rate=10.0, read=read, seconds=float)
        finally:
            closed_while_reading.append(reading.is_set())

    def fail(*_: object) -> None:
        reading.wait(1)
        raise failure

    monkeypatch.setattr("demo.opened_video", endless_video)
    monkeypatch.setattr("inference.predictor.Predictor.labels", fail)
    monkeypatch.setattr("os._exit", sys.exit)
    ended = command("demo", "--demo-video", video, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert ended.code != 0
    assert closed_while_reading == [False]


def test_what_is_no_video_and_a_camera_that_is_not_there_are_told(tmp_path, light_checkpoint, command):
    (tmp_path / "fake.mp4").write_text("text")
    flags = ("--snapshot", light_checkpoint)
    assert "not a video" in command("demo", "--demo-video", tmp_path / "fake.mp4", *flags).err
    assert "no such file" in command("demo", "--demo-video", tmp_path / "none.mp4", *flags).err
    assert "no camera 97" in command("demo", "--demo-video", "97", *flags).err
    assert "give --demo-image or" in command("demo", "--demo-video", "97", "--demo-image", "x.jpg", *flags).err
    assert "give --demo-image or --demo-video, and not both" in command("demo", *flags).err


def test_the_dash_cam_video_comes_out_playable_with_as_many_frames(shared, light_checkpoint, tmp_path, command):
    source = shared / "samples" / "dashcam" / "test_video.mp4"
    if not source.is_file():
        pytest.skip("samples/dashcam is not there")
    flags = ("--snapshot", light_checkpoint, "--save-dir", tmp_path / "out", "--scales", 0.2)
    assert command("demo", "--demo-video", source, *flags).code == 0
    frames, rate = frames_of(tmp_path / "out" / "test_video_overlay.mp4")
    assert (len(frames), rate) == (len(frames_of(source)[0]), 25.0)
