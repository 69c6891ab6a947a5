"""The words that all tools share: boxes, frames, and the error that the model is told."""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

Picture = Image.Image | str | Path | bytes

Size = tuple[int, int]
"""(width, height) in pixels, everywhere in this package."""


class ToolError(ValueError):
    """What the model is told: what was wrong, the rule, and what is allowed.

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
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> int:
        """In square pixels."""
        return self.width * self.height

    def padded(self, fraction: float, size: Size) -> "Box":
        """The box with a margin on each side, a fraction of its own side, within the image."""
        x, y = round(self.width * fraction), round(self.height * fraction)
        return Box(
            max(self.left - x, 0),
            max(self.top - y, 0),
            min(self.right + x, size[0]),
            min(self.bottom + y, size[1]),
        )

    def as_tuple(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a clip.

    Attributes:
        image: RGB.
        time: In seconds from the start.
        index: Of the frame in the clip, from 0.
    """

    image: Image.Image
    time: float
    index: int


def shown(value: object) -> str:
    """A value for a message: short, and without the errors that printing a huge one can raise."""
    if isinstance(value, str):
        value = value[:80]  # callers send megabytes
    try:
        return f"{value!r:.80}"
    except ValueError:
        return "a number of thousands of digits"


def regular_file(path: str | Path, what: str) -> Path:
    """The path of a regular file: no URL, no folder, no pipe that would never end.

    Raises:
        ToolError: If there is none; `what` names what was looked for.
    """
    if "://" in str(path):
        raise ToolError(f"{shown(str(path))} is a URL; only files are read")
    try:
        found = os.path.isfile(path)
    except (OSError, ValueError):
        found = False
    if not found:
        raise ToolError(f"there is no {what} {shown(str(path))}")
    return Path(path)
