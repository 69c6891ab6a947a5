"""Limits on all media of one caller together."""

import time
from dataclasses import dataclass, field

from visreplay.tools.types import ToolError


@dataclass
class Budget:
    """Limits on the pixels, number and reading time of a caller's images and videos.

    Attributes:
        pixels: Largest number of pixels of all images and frames that are decoded; an image that
            is decoded twice counts twice.
        count: Largest number of images and videos.
        seconds: Time for reading all of them, from now on.
        gone: Whether the caller has disconnected; then nothing more is read.
    """

    pixels: int
    count: int
    seconds: float
    gone: bool = False
    _until: float = field(init=False)
    _pixels: int = field(default=0, init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._until = time.monotonic() + self.seconds

    def one_more(self) -> float:
        """Count an image or a video before it is read.

        Returns:
            The seconds that are left for reading it.

        Raises:
            ToolError: There are too many of them, or no time is left.
        """
        self._count += 1
        if self._count > self.count:
            raise ToolError(f"there are more than {self.count} images and videos: send fewer")
        left = self._until - time.monotonic()
        if self.gone or left <= 0:
            raise ToolError(
                f"the images and videos take longer to read than {self.seconds:g} s: send fewer"
            )
        return left

    def leave(self) -> None:
        """Read nothing more: the caller has left."""
        self.gone = True

    def spend(self, pixels: int) -> None:
        """Count pixels that were decoded.

        Raises:
            ToolError: There are too many of them.
        """
        self._pixels += pixels
        if self._pixels > self.pixels:
            raise ToolError(
                f"the images have more than {self.pixels:,} pixels together: send fewer or "
                "smaller ones"
            )
