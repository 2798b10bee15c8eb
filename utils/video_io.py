"""Video files (PyAV) and cameras (OpenCV) in, H.264 in MP4 out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from utils.files import atomic_path
from utils.images import Uint8Array

DEFAULT_RATE = 25.0  # frames per second, if a file or a camera does not tell
BT709 = 1  # the number of its colour matrix, primaries and transfer in ITU-T H.273
QUALITY = "20"  # x264's constant rate factor: hardly distinguishable from the source
TICKS = 90_000  # per second, the time unit of H.264 videos; a multiple of all common frame rates
MOST_ASPECT = 8  # of a pixel; what says more is damaged


@dataclass(frozen=True)
class Video:
    """An opened file or camera. num_frames: as the file says, perhaps only roughly; 0 if unknown. rate: per second.

    frames: when each is shown, in seconds since the first, and the frame, [H, W, 3] uint8 RGB, upright; they need not
    be equally spaced. is_damaged: whether some of the frames so far could not be decoded.
    """

    name: str
    is_camera: bool
    num_frames: int
    rate: float
    frames: Iterator[tuple[float, Uint8Array]]
    is_damaged: Callable[[], bool] = bool


@contextmanager
def open_video(source: str, *, square_pixels: bool = True) -> Iterator[Video]:
    """Open a video file, or the camera of that number.

    square_pixels: resize frames whose pixels are not square, as they are shown; else they stay as stored.
    Raises FileNotFoundError, or ValueError if there is no such camera or the file is not a video.
    """
    if not source.isdecimal():
        with _open_file(source) as (container, stream):
            rate = _plausible(float(stream.average_rate or stream.guessed_rate or 0))
            length = (container.duration or 0) / av.time_base
            failures: list[av.FFmpegError] = []
            frames = _frames_of_file(container, stream, rate, _pixel_aspect(stream) if square_pixels else 1.0, failures)
            num_frames = stream.frames or round(length * rate)
            yield Video(Path(source).stem, False, num_frames, rate, frames, is_damaged=lambda: bool(failures))
        return
    camera = cv2.VideoCapture(int(source))
    try:
        if not camera.isOpened():
            raise ValueError(f"there is no camera {int(source)}.")
        yield Video(f"camera{source}", True, 0, _plausible(camera.get(cv2.CAP_PROP_FPS)), _frames_of_camera(camera))
    finally:
        camera.release()


def count_frames(path: Path) -> int:
    """The frames of a video file, counted without decoding them. Raises what `open_video` raises."""
    with _open_file(str(path)) as (container, stream):
        return sum(p.stream is stream and p.size > 0 and not p.is_discard for p in _packets(container))


@contextmanager
def new_video(path: Path, rate: float, size: tuple[int, int]) -> Iterator[Callable[..., None]]:
    """Write frames of `size` (width, height, both even) to an MP4 file, which appears when the block has succeeded.

    Gives `write(frame, seconds=None)`: the next frame, [H, W, 3] uint8 RGB, shown from `seconds` on, or one frame
    duration after the last. rate: frames per second, where no times are given.
    """
    assert size[0] % 2 == size[1] % 2 == 0, "H.264 stores colours for blocks of 2x2 pixels"
    if "libx264" not in av.codecs_available:
        raise OSError("this PyAV cannot write H.264; install that of PyPI: pip install --force-reinstall av.")
    # faststart: players can start before they have the whole file.
    kind: Any = {"mode": "w", "format": "mp4", "options": {"movflags": "faststart"}}
    with atomic_path(path) as temporary, av.open(str(temporary), **kind) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        # Without B frames packets are stored in the order of their times: else the file would say that it ends several
        # frames early, and players would stop there.
        stream.options = {"crf": QUALITY, "bf": "0"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        # Without the tags players guess the colour matrix from the size of the image, and class colours change.
        for tag in ("colorspace", "color_primaries", "color_trc"):
            setattr(stream.codec_context, tag, BT709)
        stream.codec_context.color_range = ColorRange.MPEG
        try:
            stream.codec_context.open()
        except av.FFmpegError as error:
            raise OSError(f"{path}: H.264 cannot hold frames of {size[0]}x{size[1]} pixels.") from error
        last = -TICKS / rate

        def write(frame: Uint8Array, seconds: float | None = None) -> None:
            nonlocal last
            last = last + TICKS / rate if seconds is None else max(round(seconds * TICKS), last + 1)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            picture.pts, picture.time_base = round(last), stream.codec_context.time_base
            container.mux(stream.encode(picture))

        yield write
        container.mux(stream.encode(None))


def _frames_of_file(
    container: InputContainer, stream: VideoStream, rate: float, aspect: float, failures: list[av.FFmpegError]
) -> Iterator[tuple[float, Uint8Array]]:
    """(seconds since the first frame, frame); what cannot be decoded is left out, and its error added to `failures`.

    aspect: width of a pixel, by its height.
    """
    seconds, begin, size = 0.0, None, None
    for frame in _decode_packets(container, stream, failures):
        # All frames get the size of the first, also if the size changes on the way.
        size = size or (round(frame.width * max(aspect, 1)), round(frame.height / min(aspect, 1)))
        stated = frame.time or 0.0  # some formats have no times
        if begin is None:
            begin = stated
        elif stated - begin <= seconds:
            begin = stated - seconds - 1 / rate
        seconds = stated - begin
        picture = frame.to_ndarray(width=size[0], height=size[1], format="rgb24", interpolation="BICUBIC")
        yield seconds, _turn_upright(picture, frame)  # type: ignore[arg-type]


def _decode_packets(
    container: InputContainer, stream: VideoStream, failures: list[av.FFmpegError]
) -> Iterator[av.VideoFrame]:  # fmt: skip
    has_begun = False
    for packet in _packets(container):
        if packet.stream is stream:
            try:
                for frame in packet.decode():
                    has_begun = True
                    yield frame
            except av.FFmpegError as error:
                failures += [error] if has_begun else []  # what is recorded from anywhere begins with half a picture
    with suppress(av.FFmpegError):
        yield from stream.decode(None)


def _packets(container: InputContainer) -> Iterator[av.Packet]:
    """The packets of all streams, up to where the file is damaged."""
    with suppress(av.FFmpegError):
        yield from container.demux()


def _pixel_aspect(stream: VideoStream) -> float:
    """How many times as wide as high a pixel is shown; 1 if the file does not tell."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / MOST_ASPECT <= aspect <= MOST_ASPECT else 1.0


def _turn_upright(picture: Uint8Array, frame: av.VideoFrame) -> Uint8Array:
    """`picture` [H, W, 3] turned and mirrored as the frame's display matrix says; telephones rely on it."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    entries = np.frombuffer(bytes(matrix), np.int32)  # type: ignore[call-overload]
    (a, b, _), (c, d, _), _ = entries.reshape(3, 3).tolist()
    if abs(b) > abs(a):  # x is shown as y
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _plausible(rate: float) -> float:
    return rate if math.isfinite(rate) and 0 < rate <= 1000 else DEFAULT_RATE


@contextmanager
def _open_file(source: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        # FFmpeg takes the part before a colon in a relative name for a protocol, as in 12:30:00.mp4.
        container = av.open(str(Path(source).absolute()), metadata_errors="replace")
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{source}: not a video, or damaged; if a player shows it, convert it to MP4.") from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None:
            raise ValueError(f"{source}: contains no video that can be decoded.")
        stream.thread_type = "AUTO"
        yield container, stream


def _frames_of_camera(capture: cv2.VideoCapture) -> Iterator[tuple[float, Uint8Array]]:
    """Frames, and when they arrived, in seconds since the first."""
    begin: float | None = None
    while (frame := capture.read()[1]) is not None:
        now = time.monotonic()
        begin = now if begin is None else begin
        yield now - begin, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[misc]
