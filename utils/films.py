"""Video files and cameras in, MP4 out: H.264 if PyAV is installed, else OpenCV's MPEG-4."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from utils.files import atomic_path
from utils.images import Uint8Array

DEFAULT_RATE = 25.0  # frames per second, if a file or a camera does not tell
BT709 = 1  # the number of its colour matrix, primaries and transfer in ITU-T H.273
QUALITY = "20"  # x264's constant rate factor: hardly distinguishable from the source
TICKS = 90_000  # per second, the time unit of H.264 videos; a multiple of all common frame rates
MOST_TICKS = 65_535  # per second, in MPEG-4


class WriteFrame(Protocol):
    """Writes the next frame, shown from `seconds` on; without `seconds` one frame duration after the last."""

    def __call__(self, frame: Uint8Array, seconds: float | None = None) -> None:
        """Write it."""


@dataclass(frozen=True)
class Video:
    """An opened file or camera. num_frames: as stored in the file, 0 if unknown. rate: frames per second.

    read: the next frame, [H, W, 3] uint8 RGB and upright; None after the last. seconds: when the last frame read is
    shown, from the beginning; frames need not be equally spaced.
    """

    name: str
    is_camera: bool
    num_frames: int
    rate: float
    read: Callable[[], Uint8Array | None]
    seconds: Callable[[], float]


@contextmanager
def opened_video(source: str) -> Iterator[Video]:
    """Open a video file, or the camera of that number.

    Raises FileNotFoundError, or ValueError if there is no such camera or the file is not a video.
    """
    path, is_camera = Path(source), source.isdecimal()
    if not is_camera and not path.exists():
        raise FileNotFoundError(f"no such file: {source}")
    with _quiet():
        # FFmpeg takes the part before a colon in a relative name for a protocol, as in 12:30:00.mp4.
        capture = cv2.VideoCapture(int(source)) if is_camera else cv2.VideoCapture(str(path.absolute()))
    try:
        if not capture.isOpened() or path.is_dir():
            raise ValueError(f"there is no camera {source}." if is_camera else f"{source}: not a video, or damaged.")
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else DEFAULT_RATE
        reader = _Reader(capture, rate, is_camera=is_camera)
        yield Video(
            name=f"camera{source}" if is_camera else path.stem,
            is_camera=is_camera,
            num_frames=max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))),
            rate=rate,
            read=reader.read,
            seconds=lambda: reader.seconds,
        )
    finally:
        capture.release()


@contextmanager
def new_video(path: Path, rate: float, size: tuple[int, int]) -> Iterator[WriteFrame]:
    """Write frames of `size` (width, height, both even) to an MP4 file, which appears when the block has succeeded.

    rate: frames per second. OpenCV writes them equally spaced, and repeats one that is shown for longer.
    """
    assert size[0] % 2 == size[1] % 2 == 0, "H.264 stores colours for blocks of 2x2 pixels"
    with atomic_path(path) as temporary, (_h264 if has_h264() else _mpeg4)(temporary, rate, size) as write_frame:
        yield write_frame


def has_h264() -> bool:
    """Whether PyAV, which writes H.264, is installed."""
    try:
        import av
    except ImportError:
        return False
    return "libx264" in av.codecs_available


def mpeg4_rate(rate: float) -> float:
    """The nearest frame rate that OpenCV's MPEG-4 can store: a two-byte number over a power of ten."""
    parts = next(parts for parts in (1000, 100, 10, 1) if rate * parts <= MOST_TICKS)
    return max(round(rate * parts), 1) / parts


@contextmanager
def _h264(path: Path, rate: float, size: tuple[int, int]) -> Iterator[WriteFrame]:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    # Without the tags players guess the colour matrix from the size of the image, and class colours change.
    # faststart: players can start before they have the whole file.
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": QUALITY}
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        for tag in ("colorspace", "color_primaries", "color_trc"):
            setattr(stream.codec_context, tag, BT709)
        stream.codec_context.color_range = ColorRange.MPEG
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


@contextmanager
def _mpeg4(path: Path, rate: float, size: tuple[int, int]) -> Iterator[WriteFrame]:
    rate = mpeg4_rate(rate)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    try:
        if not writer.isOpened():
            raise OSError(f"{path.parent}: OpenCV cannot write MP4 on this machine; pip install av.")

        last, num_written = np.empty(0, np.uint8), 0

        def write(frame: Uint8Array, seconds: float | None = None) -> None:
            nonlocal last, num_written
            for _ in range(num_written, 0 if seconds is None or not num_written else round(seconds * rate)):
                writer.write(last)
                num_written += 1
            last = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)  # type: ignore[assignment]
            writer.write(last)
            num_written += 1

        yield write
        writer.release()
        if not _is_film(path):  # OpenCV does not report it
            raise OSError(errno.ENOSPC, "the video could not be written in full; is the disk full?", str(path.parent))
    finally:
        writer.release()


def _is_film(path: Path) -> bool:
    """Whether a frame can be read from it; MP4 files get their index last."""
    with _quiet():
        capture = cv2.VideoCapture(str(path.absolute()))
    try:
        return capture.read()[0]
    finally:
        capture.release()


class _Reader:
    """Reads frames, and knows when the last one is shown; for a camera, when it arrived."""

    def __init__(self, capture: cv2.VideoCapture, rate: float, *, is_camera: bool) -> None:
        self.seconds = 0.0
        self._capture = capture
        self._rate = rate
        self._is_camera = is_camera
        self._begun: float | None = None

    def read(self) -> Uint8Array | None:
        """The next frame; None after the last."""
        success, frame = self._capture.read()
        if not success:
            return None
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        else:
            stated = now - self._begun if self._is_camera else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Some formats have no times, and then it is always 0.
            self.seconds = stated if self.seconds < stated < math.inf else self.seconds + 1 / self._rate
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


@contextmanager
def _quiet() -> Iterator[None]:
    # What OpenCV and FFmpeg print about a file that cannot be opened does not help; our own error follows.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
