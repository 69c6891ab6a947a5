"""Read videos: their properties, and frames of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from PIL import Image

from visreplay.tools.files import OpenFile, open_file
from visreplay.tools.image import MAX_PIXELS
from visreplay.tools.media_budget import Budget
from visreplay.tools.media_pool import MAX_SECONDS, POOL, Decoded
from visreplay.tools.types import Frame, Size
from visreplay.tools.video_choice import MAX_FRAMES, FrameChoice

__all__ = ["MAX_FRAMES", "VideoInfo", "VideoReader", "frames_line", "probe", "sample_frames"]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The properties of a video.

    Attributes:
        path: The video's file.
        duration: Duration in seconds: the end of the last frame.
        fps: Frames a second, on average.
        frame_count: Number of frames.
        size: Width and height in pixels, as it is shown: upright, with square pixels.
    """

    path: Path
    duration: float
    fps: float
    frame_count: int
    size: Size


@dataclass(frozen=True)
class VideoReader:
    """Reads an open video in a process of its own.

    Attributes:
        file: The video.
        max_pixels: Largest number of pixels of a frame; videos with larger frames are refused.
        max_seconds: Longest video, in seconds; None sets no bound.
        seconds: Time that reading may take.
        budget: The limits of the caller, who may leave meanwhile.
    """

    file: OpenFile
    max_pixels: int = MAX_PIXELS
    max_seconds: float | None = None
    seconds: float = MAX_SECONDS
    budget: Budget | None = None

    def probe(self) -> dict[str, Any]:
        """Read the fields of `VideoInfo`, without the path.

        Raises:
            ToolError: The file is not a readable video with at least one frame, or too large.
        """
        values = self._read("probe").values
        return {**values, "size": tuple(values["size"])}

    def frames(self, choice: FrameChoice) -> tuple[Frame, ...]:
        """Decode chosen frames.

        Raises:
            ToolError: The video cannot be read, or the choice makes no sense for it.
        """
        decoded = self._read("frames", choice=asdict(choice))
        frames, start = [], 0
        for time, index, size in decoded.values["frames"]:
            end = start + 3 * prod(size)
            image = Image.frombytes("RGB", tuple(size), decoded.pixels[start:end])
            frames.append(Frame(image, time, index))
            start = end
        return tuple(frames)

    def _read(self, operation: str, **arguments: Any) -> Decoded:
        request = {
            "op": operation,
            "max_pixels": self.max_pixels,
            "max_seconds": self.max_seconds,
            **arguments,
        }
        return POOL.decode(request, self.file, seconds=self.seconds, budget=self.budget)


def probe(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Read the properties of a video.

    Args:
        path: The video's file.
        max_pixels: Largest number of pixels of a frame; videos with larger frames are refused.

    Raises:
        ToolError: The file is not a readable video with at least one frame, or too large.
    """
    with open_file(path, "video") as file:
        return VideoInfo(path=Path(path), **VideoReader(file, max_pixels).probe())


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
        count: Number of frames, at the middles of equal parts of the video (or of the window). A
            video with fewer frames gives each of them once.
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
    choice = FrameChoice(
        count=count,
        ends=ends,
        times=times,
        around=around,
        window=window,
        scenes=scenes,
        max_frames=max_frames,
        max_side=max_side,
    )
    with open_file(path, "video") as file:
        return VideoReader(file, max_pixels).frames(choice)


def frames_line(times: Sequence[float]) -> str:
    """Describe frames in a line, by their times in seconds."""
    return "frames at " + ", ".join(f"{time:.2f} s" for time in times)
