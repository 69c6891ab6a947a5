"""The choice of a video's frames: by number, by time, or at scene changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visreplay.tools.types import ToolError, preview

MAX_FRAMES = 64
"""Default limit of the frames in one observation."""
_LATE = 1e-4
"""Seconds before a frame's start at which it counts as begun: times are rounded."""


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """Frames of a video, chosen in one of five ways.

    Attributes:
        count: Number of frames, at the middles of equal parts of the video (or of the window). A
            video with fewer frames gives each of them once.
        ends: Take `count` frames from the first to the last one instead, at equal distances.
        times: Times of the frames, in seconds.
        around: Middle of a window, in seconds: `count` frames (4 by default) at the middles of
            equal parts of it. The window is cut at the ends of the video.
        window: Length of that window in seconds.
        scenes: Largest number of scenes: the first frame, and those after the strongest changes.
        rate: Frames a second, at least one and at most `max_frames` in all.
        max_frames: Largest number of frames; a choice of more is refused.
        max_side: Longest side of a frame in pixels; larger frames are shrunk.
    """

    count: int | None = None
    ends: bool = False
    times: Sequence[float] | None = None
    around: float | None = None
    window: float = 1.0
    scenes: int | None = None
    rate: float | None = None
    max_frames: int = MAX_FRAMES
    max_side: int | None = None

    def __post_init__(self) -> None:
        """Check all that can be checked without the video.

        Raises:
            ToolError: The choice makes no sense.
        """
        ways = {
            "times": self.times,
            "around": self.around,
            "scenes": self.scenes,
            "rate": self.rate,
            "count": self.count if self.around is None else None,
        }
        chosen = [name for name, value in ways.items() if value is not None]
        if len(chosen) != 1:
            raise ToolError(
                "choose frames by exactly one of count, times, around (with count), scenes"
            )
        if self.ends and chosen != ["count"]:
            raise ToolError("frames from the first to the last one are chosen by count alone")
        if self.max_side is not None:
            _whole("max_side", self.max_side, 100_000)
        if self.count is not None:
            _whole("count", self.count, self.max_frames)
        if self.scenes is not None:
            _whole("scenes", self.scenes, self.max_frames)
        if self.times is not None:
            if not isinstance(self.times, list | tuple):
                raise ToolError(f"times is a list of seconds, not {preview(self.times)}")
            _whole("the number of times", len(self.times), self.max_frames)
            for time in self.times:
                _number("time", time)
        if self.around is not None:
            _number("around", self.around)
            if _number("window", self.window) <= 0:
                raise ToolError(f"window is {self.window:g} s; it must be positive")

    @property
    def by_moment(self) -> bool:
        """Whether the caller names the moments, so that no other frame can stand for one."""
        return self.times is not None or self.around is not None

    def indices(self, starts: NDArray[np.float64], duration: float) -> list[int]:
        """Choose the numbers of the frames, unless they are chosen by scenes.

        Args:
            starts: The time at which each frame begins, in seconds from the first.
            duration: The length of the video in seconds.

        Raises:
            ToolError: A moment is outside the video.
        """
        frames = len(starts)
        if self.times is not None:
            return frames_at(starts, [_moment("time", time, duration) for time in self.times])
        if self.around is not None:
            moment = _moment("around", self.around, duration)
            start = max(moment - self.window / 2, 0)
            end = min(moment + self.window / 2, duration)
            moments = _middles(start, end, 4 if self.count is None else self.count)
            return sorted(set(frames_at(starts, moments)))
        if self.rate is not None:
            count = min(max(1, round(self.rate * duration)), self.max_frames)
        else:
            assert self.count is not None, "scenes are not chosen by time"
            count = self.count
        if count >= frames:
            return list(range(frames))
        if self.ends:
            return from_end_to_end(frames, count)
        return sorted(set(frames_at(starts, _middles(0, duration, count))))


def frames_at(starts: NDArray[np.float64], moments: Sequence[float]) -> list[int]:
    """Find the frame on screen at each moment: the last that has begun."""
    return [int(np.searchsorted(starts, moment + _LATE, "right")) - 1 for moment in moments]


def from_end_to_end(frames: int, count: int) -> list[int]:
    """Choose frames from the first to the last one, by number; halves are rounded to even ones."""
    return np.rint(np.linspace(0, frames - 1, count)).astype(int).tolist()  # type: ignore[no-any-return]


def _middles(start: float, end: float, count: int) -> list[float]:
    return [start + (end - start) * (i + 0.5) / count for i in range(count)]


def _moment(name: str, time: float, duration: float) -> float:
    if not 0 <= time <= duration:
        raise ToolError(f"{name} {time:g} s is outside the clip (0 to {duration:.2f} s)")
    return time


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ToolError(f"{name} is a number of seconds, not {preview(value)}")
    return float(value)


def _whole(name: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ToolError(f"{name} is {preview(value)}; a whole number from 1 to {most} is allowed")
    return value
