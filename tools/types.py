"""Types that all tools share: boxes, frames, and the error that the model reads."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

Picture = Image.Image | str | Path | bytes
"""An image, its file's path, or its file's bytes."""

Size = tuple[int, int]
"""(width, height) in pixels, everywhere in this package."""


class ToolError(ValueError):
    """An error for the model to read: what was wrong, the rule, and what is allowed.

    Every other exception that leaves a tool is a bug.
    """


@dataclass(frozen=True, slots=True)
class Box:
    """A region in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Length of the side in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Length of the side in pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def as_tuple(self) -> tuple[int, int, int, int]:
        """Convert to (left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a video.

    Attributes:
        image: The picture, RGB.
        time: Time in seconds from the start.
        index: Number of the frame in the video, from 0.
    """

    image: Image.Image
    time: float
    index: int


def preview(value: object) -> str:
    """Print a value for a message: short, and without the errors that a huge one can raise."""
    if isinstance(value, str):
        value = value[:80]  # callers send megabytes
    try:
        return f"{value!r:.80}"
    except ValueError:
        return "a number of thousands of digits"
