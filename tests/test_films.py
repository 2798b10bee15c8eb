"""demo.py on videos and cameras: as many frames, their times and speed, a legend, and what cannot be played."""

from __future__ import annotations

import csv
import resource
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from datasets.specs.registry import dataset_spec
from tests.moving import frames_of
from utils.images import read_image
from utils.video_io import Video, _frames_of_camera, count_frames, new_video, open_video

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


def write_film(
    path: Path, times: list[float], *, aspect: str = "1", rotation: int = 0, mirrored: bool = False, sound: float = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Frames of noise, 64x48, the left upper quarter dark, at these times; with `sound` seconds of silence."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        silence = container.add_stream("aac", rate=48000) if sound else None
        for i in range(int(sound * 50)):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48000, 960 * i, Fraction(1, 48000)
            container.mux(silence.encode(samples))
        for seconds in times:
            picture = noise.integers(128, 256, (48, 64, 3), np.uint8)
            picture[:24, :32] = 0
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        for one in (stream, silence):
            container.mux(one.encode(None) if one else [])
    return path


def read_film(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """When the frames of a film are shown, and the frames."""
    with open_video(str(path)) as opened:
        times, frames = zip(*opened.frames, strict=True)
        return list(times), list(frames)


def test_a_video_comes_out_with_all_its_frames_its_speed_and_a_legend(video, light_checkpoint, tmp_path, command):
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
    assert read_image(tmp_path / "out" / "drive_class_shares.png").std() > 10


UNEVEN = [0, 0.033, 0.066, 0.566, 1.066, 1.566, 1.6, 1.633]  # fast, slow and fast again, as telephones make them


def test_frames_that_are_not_equally_far_apart_keep_their_times(light_checkpoint, tmp_path, command):
    film, out = write_film(tmp_path / "phone.mp4", UNEVEN), tmp_path / "out"
    ended = command("demo", "--demo-video", film, "--snapshot", light_checkpoint, "--save-dir", out)
    assert ended.code == 0, ended.err
    lines = list(csv.DictReader((out / "phone_class_shares.csv").open()))
    assert [float(line["seconds"]) for line in lines] == UNEVEN
    assert read_film(out / "phone_overlay.mp4")[0] == pytest.approx(UNEVEN, abs=0.0005)
    with av.open(str(out / "phone_overlay.mp4")) as container:  # else players stop before the last frame
        assert container.duration / av.time_base > UNEVEN[-1]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts", "flv"])
@pytest.mark.parametrize("start", [0, 1.4, -0.4])
@pytest.mark.parametrize("sound", [0, 3])
def test_times_begin_with_the_first_frame_however_late_or_early_it_is(tmp_path, ending, start, sound):
    film = write_film(tmp_path / f"film.{ending}", [start + 0.1 * i for i in range(8)], sound=sound)
    times, frames = read_film(film)
    # MP4 leaves out what is before 0, by an edit list.
    assert len(frames) == count_frames(film) == (4 if start < 0 and ending in ("mp4", "mov") else 8)
    assert times == pytest.approx([0.1 * i for i in range(len(times))], abs=0.002)


def test_the_film_of_a_video_that_starts_late_begins_at_once(light_checkpoint, tmp_path, command):
    film, out = write_film(tmp_path / "late.mkv", [1.4, 1.5, 1.6]), tmp_path / "out"
    flags = ("--snapshot", light_checkpoint, "--save-dir", out, "--temporal")
    ended = command("demo", "--demo-video", film, *flags)
    assert ended.code == 0
    assert read_film(out / "late_overlay.mp4")[0] == pytest.approx([0, 0.1, 0.2], abs=0.001)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "flv"])
def test_of_a_video_that_is_cut_off_what_is_there_is_segmented(
    tmp_path, ending, light_checkpoint, command
):
    whole = write_film(tmp_path / f"film.{ending}", [0.1 * i for i in range(20)], options={"movflags": "faststart"})
    film, out = tmp_path / f"cut.{ending}", tmp_path / "out"
    film.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    ended = command("demo", "--demo-video", film, "--snapshot", light_checkpoint, "--save-dir", out)
    assert ended.code == 0
    assert 8 < len(read_film(out / "cut_overlay.mp4")[0]) < 17


def test_of_a_video_that_is_damaged_on_the_way_it_is_told_that_frames_are_left_out(tmp_path, light_checkpoint, command):
    film = write_film(tmp_path / "film.mp4", [0.1 * i for i in range(20)])
    content = bytearray(film.read_bytes())
    quarter = len(content) // 4
    content[quarter : 2 * quarter] = bytes([255]) * quarter
    film.write_bytes(content)
    ended = command("demo", "--demo-video", film, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert ended.code == 0
    assert "frames that could not be decoded are left out" in ended.err


@pytest.mark.parametrize(
    ("aspect", "size"), [("2", (128, 48)), ("1/2", (64, 96)), ("64/45", (91, 48)), ("1", (64, 48)), ("500", (64, 48))]
)
def test_frames_are_seen_with_square_pixels(tmp_path, aspect, size):
    film = write_film(tmp_path / "film.mkv", [0, 0.1], aspect=aspect)
    height, width = read_film(film)[1][0].shape[:2]
    assert (width, height) == size
    with open_video(str(film), square_pixels=False) as opened:
        assert next(opened.frames)[1].shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("rotation", "mirrored", "dark"),
    [
        (0, True, "top right"), (90, False, "bottom left"), (180, False, "bottom right"), (-90, False, "top right"),
        (90, True, "bottom right"),
    ],
)  # fmt: skip
def test_frames_are_upright_as_telephones_mean_them(tmp_path, rotation, mirrored, dark):
    [frame] = read_film(write_film(tmp_path / "film.mp4", [0], rotation=rotation, mirrored=mirrored, aspect="2"))[1]
    assert frame.shape == ((128, 48, 3) if rotation in (90, -90) else (48, 128, 3))
    rows, columns = np.array_split(np.arange(frame.shape[0]), 2), np.array_split(np.arange(frame.shape[1]), 2)
    light = {
        f"{row} {column}": frame[np.ix_(rows[i], columns[j])].mean()
        for i, row in enumerate(("top", "bottom"))
        for j, column in enumerate(("left", "right"))
    }
    assert min(light, key=light.get) == dark


def test_a_name_that_is_not_text_and_one_with_a_colon_are_opened(tmp_path, monkeypatch, light_checkpoint, command):
    film = write_film(tmp_path / "stra\udcdfe.mp4", [0, 0.1])
    ended = command("demo", "--demo-video", film, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "\udcdf")
    assert ended.code == 0, ended.err
    assert len(read_film(tmp_path / "\udcdf" / "stra\udcdfe_overlay.mp4")[0]) == 2
    film.rename(tmp_path / "12:30:00.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_film(Path("12:30:00.mp4"))[0]) == 2


def test_a_film_has_the_rate_that_is_asked_for_where_no_times_are_told(tmp_path):
    with new_video(tmp_path / "film.mp4", 25.0, (64, 48)) as write_frame:
        for _ in range(5):
            write_frame(np.zeros((48, 64, 3), np.uint8))
    assert read_film(tmp_path / "film.mp4")[0] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_frames_of_a_file_without_times_are_counted_by_the_rate(tmp_path):
    film = write_film(tmp_path / "film.h264", [0, 0.1, 0.2, 0.3])
    times, _ = read_film(film)
    assert times == pytest.approx([0, 0.04, 0.08, 0.12])


def test_frames_of_a_camera_have_the_times_at_which_they_came(monkeypatch):
    class Camera:
        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((2, 2, 3), np.uint8)

    came = iter([100.0, 100.7, 101.0])
    monkeypatch.setattr("utils.video_io.time.monotonic", lambda: next(came))
    frames = _frames_of_camera(Camera())
    assert [next(frames)[0] for _ in range(3)] == pytest.approx([0, 0.7, 1.0])


@pytest.mark.parametrize("room", [1000, 4096, 40_000])
def test_a_film_for_which_the_disk_has_no_room_is_an_error(tmp_path, room):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with (
            pytest.raises(OSError, match="File too large") as failure,
            new_video(tmp_path / "film.mp4", 10.0, (64, 48)) as write_frame,
        ):
            for _ in range(40):
                write_frame(noise.integers(0, 256, (48, 64, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failure.value.filename == str(tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_frames_larger_than_a_video_can_be_are_told(tmp_path):
    with (
        pytest.raises(OSError, match=r"film\.mp4: H\.264 cannot hold frames of 65536x4 pixels"),
        new_video(tmp_path / "film.mp4", 10, (65536, 4)),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("color", [(128, 64, 128), (220, 20, 60), (0, 0, 142), (0, 255, 102)])
def test_a_film_says_which_colour_matrix_it_has_and_shows_the_colours_of_the_pictures(tmp_path, color):
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
    assert read_film(tmp_path / "film.mp4")[1][0][24, 32] == pytest.approx(color, abs=4)


def test_a_video_can_be_smoothed_and_a_picture_not(video, light_checkpoint, tmp_path, command):
    flags = ("--snapshot", light_checkpoint, "--save-dir", tmp_path / "out", "--temporal")
    assert "7 frames" in command("demo", "--demo-video", video, *flags).out
    assert "--temporal works only with --demo-video" in command("demo", "--demo-image", "photo.png", *flags).err


def test_a_video_too_large_for_the_memory_allowed_is_named(video, light_checkpoint, tmp_path, command):
    flags = ("--snapshot", light_checkpoint, "--save-dir", tmp_path / "out", "--max_memory", "1e-7")
    ended = command("demo", "--demo-video", video, *flags)
    assert ended.code == 1
    assert f"error: {video}: --max_memory" in ended.err


def test_a_second_run_leaves_the_video_of_the_first_alone(video, light_checkpoint, tmp_path, command):
    flags = ("--demo-video", video, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    command("demo", *flags)
    assert "drive-2_overlay.mp4: 1 frame\n" in command("demo", *flags, "--max_frames", 1).out
    assert [len(frames_of(tmp_path / "out" / f"{n}_overlay.mp4")[0]) for n in ("drive", "drive-2")] == [7, 1]


def test_a_video_that_fails_on_the_way_leaves_no_half(video, light_checkpoint, tmp_path, command, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("inference.visualize.overlay", fail)
    ended = command("demo", "--demo-video", video, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert (ended.code, ended.err.splitlines()[-1].rpartition("/")[2]) == (1, "drive_overlay.mp4: disk full")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_video_is_closed_only_when_nobody_reads_it_any_more(
    video, light_checkpoint, tmp_path, command, monkeypatch, failure
):
    frame, reading, closed_while_reading = np.zeros((25, 33, 3), np.uint8), threading.Event(), []

    def frames():
        while True:
            reading.set()
            time.sleep(0.05)
            reading.clear()
            yield 0.0, frame

    @contextmanager
    def endless_video(source: str):
        try:
            yield Video("drive", is_camera=False, num_frames=0, rate=10.0, frames=frames())
        finally:
            closed_while_reading.append(reading.is_set())

    def fail(*_: object) -> None:
        reading.wait(1)
        raise failure

    monkeypatch.setattr("demo.open_video", endless_video)
    monkeypatch.setattr("inference.predictor.Predictor.predict", fail)
    monkeypatch.setattr("os._exit", sys.exit)
    ended = command("demo", "--demo-video", video, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert ended.code != 0
    assert closed_while_reading == [False]


@pytest.mark.parametrize("num_done", [0, 1, 2])
def test_ctrl_c_ends_a_camera_whose_frames_so_far_are_kept(
    light_checkpoint, tmp_path, command, monkeypatch, num_done
):
    from inference.predictor import Predictor

    @contextmanager
    def camera(source: str):
        frames = repeat((0.0, np.zeros((9, 9, 3), np.uint8)))
        yield Video("camera0", is_camera=True, num_frames=0, rate=10.0, frames=frames)

    def labels(self, image):
        done.append(1)
        if len(done) > num_done:
            raise KeyboardInterrupt
        return original(self, image)

    done, original = [], Predictor.predict
    monkeypatch.setattr("demo.open_video", camera)
    monkeypatch.setattr(Predictor, "predict", labels)
    monkeypatch.setattr("os._exit", sys.exit)
    out = tmp_path / "out"
    ended = command("demo", "--demo-video", 0, "--snapshot", light_checkpoint, "--save-dir", out)
    if num_done:
        assert ended.code == 0
        assert len(read_film(out / "camera0_overlay.mp4")[0]) == num_done
    else:
        assert (ended.code, ended.err.splitlines()[-1], list(out.iterdir())) == (130, "interrupted", [])


def test_what_is_no_video_and_a_camera_that_is_not_there_are_told(tmp_path, light_checkpoint, command):
    (tmp_path / "fake.mp4").write_text("text")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        silence = container.add_stream("aac", rate=48000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
        samples.sample_rate = 48000
        for packets in (silence.encode(samples), silence.encode(None)):
            container.mux(packets)
    flags = ("--snapshot", light_checkpoint)
    assert "not a video" in command("demo", "--demo-video", tmp_path / "fake.mp4", *flags).err
    assert "contains no video" in command("demo", "--demo-video", tmp_path / "sound.mp4", *flags).err
    assert "none.mp4: No such file" in command("demo", "--demo-video", tmp_path / "none.mp4", *flags).err
    assert f"error: {tmp_path}: Is a directory" in command("demo", "--demo-video", tmp_path, *flags).err
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
