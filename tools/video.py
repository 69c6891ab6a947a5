"""Read videos: their properties, and frames of them."""

import math
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visreplay.tools.image import MAX_PIXELS
from visreplay.tools.types import Frame, Size, ToolError, preview, regular_file

MAX_FRAMES = 64
"""Default limit of the frames in one observation."""
_CHUNK_PIXELS = 2**26
"""Pixels of the frames that are decoded at a time: eight of 4K."""
_CONTAINER = re.compile(
    rb"....(ftyp|moov|mdat|wide|free|skip|styp)|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|OggS|GIF8"
    rb"|\0\0\x01[\xba\xb3]|0&\xb2u|G.{187}G|.{4}G.{191}G",
    re.DOTALL,
)
"""First bytes of a video's file: MP4, Matroska, AVI, FLV, Ogg, GIF, MPEG, ASF, transport streams.
FFmpeg would also open playlists: texts that name other files and addresses."""
_SCENE_PROBES = 512
_CUT = 0.4
"""Bhattacharyya distance of two frames' histograms: above it there is a cut, not motion."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The properties of a video.

    Attributes:
        path: The video's file.
        duration: Duration in seconds.
        fps: Frames a second, on average.
        frame_count: Number of frames.
        size: Width and height in pixels, as stored: rotation metadata is not applied.
        starts: Start of each frame, in seconds from the first.
    """

    path: Path
    duration: float
    fps: float
    frame_count: int
    size: Size
    starts: NDArray[np.float64] = field(repr=False, compare=False)


def video_file(path: str | Path) -> Path:
    """Check that a path is a file that begins as a video does.

    Raises:
        ToolError: There is no such file.
    """
    file = regular_file(path, "video")
    try:
        with file.open("rb") as stream:
            start = stream.read(256)
    except OSError as error:
        raise ToolError(f"the video {file.name} cannot be opened: {error.strerror}") from error
    if not _CONTAINER.match(start):
        raise ToolError(f"{file.name} is not a video that can be read")
    return file


def probe(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Read the properties of a video.

    Args:
        path: The video's file.
        max_pixels: Largest number of pixels of a frame; videos with larger frames are refused.

    Raises:
        ToolError: The file is not a readable video with at least one frame, or too large.
    """
    return _open(path, max_pixels)[1]


def sample_frames(
    path: str | Path,
    *,
    count: int | None = None,
    ends: bool = False,
    times: Sequence[float] | None = None,
    around: float | None = None,
    window: float = 1.0,
    scenes: int | None = None,
    max_frames: int = MAX_FRAMES,
    max_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Frame, ...]:
    """Decode frames of a video, chosen in one of four ways.

    Args:
        path: The video's file.
        count: Number of frames, at the middles of equal parts of the video (or of the window).
        ends: Take `count` frames from the first to the last one instead, at equal distances.
        times: Times of the frames, in seconds.
        around: Middle of a window, in seconds: `count` frames (4 by default) at the middles of
            equal parts of it. The window is cut at the ends of the video.
        window: Length of that window in seconds.
        scenes: Largest number of scenes: the first frame, and those after the strongest scene
            changes. Changes are distances between colour histograms of at most 512 frames.
        max_frames: Largest number of frames; a choice of more is refused.
        max_side: Longest side of a frame in pixels; larger frames are shrunk.
        max_pixels: Largest number of pixels of a frame; videos with larger frames are refused.

    Raises:
        ToolError: The video cannot be read, or the choice makes no sense for it.
    """
    ways = {"times": times, "around": around, "scenes": scenes}
    chosen = [name for name, value in ways.items() if value is not None]
    if count is not None and around is None:
        chosen.append("count")
    if len(chosen) != 1:
        raise ToolError("choose frames by exactly one of count, times, around (with count), scenes")
    if ends and chosen != ["count"]:
        raise ToolError("frames from the first to the last one are chosen by count alone")
    if max_side is not None:
        _whole("max_side", max_side, 100_000)
    reader, info = _open(path, max_pixels)
    if scenes is not None:
        indices = _scene_starts(reader, info, _whole("scenes", scenes, max_frames))
    elif ends:
        indices = _from_end_to_end(info.frame_count, _whole("count", count, max_frames))
    else:
        if times is not None:
            moments = _moments(times, info, max_frames)
        elif around is not None:
            start, end = _window(around, window, info)
            moments = _middles(
                start, end, _whole("count", 4 if count is None else count, max_frames)
            )
        else:
            moments = _middles(0, info.duration, _whole("count", count, max_frames))
        # The frame on screen at a time is the last that has begun.
        indices = [int(np.searchsorted(info.starts, t + 1e-4, "right")) - 1 for t in moments]
    return tuple(_decode(reader, info, indices, max_side))


_importing = threading.Lock()


@cache
def _decord() -> Any:
    """Import decord, without the CUDA libraries that it loads for the whole process.

    It searches all of the `nvidia` packages and makes their symbols global. libnvblas is among
    them: it replaces the BLAS of a torch that is imported later, and ends the process.
    """
    with _importing:
        known = sys.modules.get("nvidia")
        sys.modules["nvidia"] = None  # type: ignore[assignment]
        try:
            import decord
        finally:
            del sys.modules["nvidia"]
            if known is not None:
                sys.modules["nvidia"] = known
    return decord


def _open(path: str | Path, max_pixels: int) -> tuple[Any, VideoInfo]:
    file = video_file(path)
    try:
        _check_size(file, max_pixels)
        reader = _decord().VideoReader(str(file), num_threads=1)
        count = len(reader)
        if not count:
            raise ToolError(f"the video {file.name} has no frames")
        fps = float(reader.get_avg_fps())
        spans = np.asarray(reader.get_frame_timestamp(np.arange(count)), dtype=np.float64)
        height, width = reader[0].shape[:2]
    except (_decord().base.DECORDError, RuntimeError, IndexError) as error:
        raise ToolError(f"{file.name} is not a video that can be read") from error
    # decord gives float32: its noise is below a tenth of a millisecond.
    starts = np.maximum.accumulate(spans[:, 0] - spans[0, 0]).round(4)
    duration = round(float(spans[-1, 1] - spans[0, 0]), 4)
    if not (math.isfinite(fps) and fps > 0 and math.isfinite(duration) and duration > 0):
        raise ToolError(f"the video {file.name} has no valid frame rate or duration")
    return reader, VideoInfo(file, duration, fps, count, (width, height), starts)


def _check_size(file: Path, max_pixels: int) -> None:
    """Refuse large frames by the file's header: decord gives the size of decoded frames only.

    Raises:
        ToolError: The frames have more pixels.
    """
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    try:
        width, height = (
            int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
    finally:
        capture.release()
    if width * height > max_pixels:
        raise ToolError(
            f"the frames of {file.name} have {width} x {height} = {width * height} pixels; at most "
            f"{max_pixels} are allowed"
        )


def _decode(
    reader: Any, info: VideoInfo, indices: Sequence[int], max_side: int | None
) -> list[Frame]:
    """Decode a few frames at a time and shrink each batch before the next."""
    frames = []
    step = min(8, max(1, _CHUNK_PIXELS // (info.size[0] * info.size[1])))
    for start in range(0, len(indices), step):
        chunk = list(indices[start : start + step])
        try:
            pixels = reader.get_batch(chunk).asnumpy()
        except (_decord().base.DECORDError, RuntimeError, IndexError) as error:
            raise ToolError(f"{info.path.name} breaks off: no frames {chunk}") from error
        for index, picture in zip(chunk, pixels, strict=True):
            image = Image.fromarray(picture)
            if max_side is not None:
                image.thumbnail((max_side, max_side))
            frames.append(Frame(image, float(info.starts[index]), index))
    return frames


def _scene_starts(reader: Any, info: VideoInfo, scenes: int) -> list[int]:
    step = max(1, math.ceil(info.frame_count / _SCENE_PROBES))
    probes = list(range(0, info.frame_count, step))
    histograms: list[NDArray[np.float32]] = []
    for frame in _decode(reader, info, probes, 64):
        hsv = cv2.cvtColor(np.asarray(frame.image), cv2.COLOR_RGB2HSV)
        histogram = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])
        histograms.append((histogram / histogram.sum()).astype(np.float32))
    distances = [
        cv2.compareHist(before, after, cv2.HISTCMP_BHATTACHARYYA)
        for before, after in pairwise(histograms)
    ]
    ranked = sorted(range(len(distances)), key=distances.__getitem__, reverse=True)
    changes = [probes[i + 1] for i in ranked[: scenes - 1] if distances[i] > _CUT]
    return [0, *sorted(changes)]


def _middles(start: float, end: float, count: int) -> list[float]:
    return [start + (end - start) * (i + 0.5) / count for i in range(count)]


def _from_end_to_end(frames: int, count: int) -> list[int]:
    """Choose frames from the first to the last one, by number; halves are rounded to even ones."""
    return np.rint(np.linspace(0, frames - 1, count)).astype(int).tolist()  # type: ignore[no-any-return]


def _window(around: object, window: object, info: VideoInfo) -> tuple[float, float]:
    """Compute a window around a moment, cut at the ends of the video: start and end in seconds."""
    moment, length = _moment("around", around, info), _number("window", window)
    if length <= 0:
        raise ToolError(f"window is {length:g} s; it must be positive")
    return max(moment - length / 2, 0), min(moment + length / 2, info.duration)


def _moments(times: object, info: VideoInfo, most: int) -> list[float]:
    if not isinstance(times, list | tuple):
        raise ToolError(f"times is a list of seconds, not {preview(times)}")
    _whole("the number of times", len(times), most)
    return [_moment("time", time, info) for time in times]


def _moment(name: str, value: object, info: VideoInfo) -> float:
    time = _number(name, value)
    if not 0 <= time <= info.duration:
        raise ToolError(f"{name} {time:g} s is outside the clip (0 to {info.duration:.2f} s)")
    return time


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ToolError(f"{name} is a number of seconds, not {preview(value)}")
    return float(value)


def _whole(name: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ToolError(f"{name} is {preview(value)}; a whole number from 1 to {most} is allowed")
    return value


def frames_line(times: Sequence[float]) -> str:
    """Describe frames in a line, by their times in seconds."""
    return "frames at " + ", ".join(f"{time:.2f} s" for time in times)
