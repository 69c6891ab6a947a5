"""What the media of one caller may take together."""

import time
from dataclasses import dataclass, field

from visreplay.tools.types import ToolError


@dataclass
class Budget:
    """Pixels, number and seconds of a caller's images and clips; asked before each.

    Attributes:
        pixels: Of all images and frames that are decoded, the same ones again included.
        count: Of images and clips.
        seconds: For reading all of them, from now on.
        gone: Whether the caller is; nothing more is read for him then.
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
        """Count an image or a clip.

        Returns:
            For how many seconds it may be read.

        Raises:
            ToolError: It is one too many, or too late.
        """
        self._count += 1
        if self._count > self.count:
            raise ToolError(f"there are more than {self.count} images and clips: send fewer")
        left = self._until - time.monotonic()
        if self.gone or left <= 0:
            raise ToolError(
                f"the images and clips take longer to read than {self.seconds:g} s: send fewer"
            )
        return left

    def spend(self, pixels: int) -> None:
        """Count pixels that were decoded.

        Raises:
            ToolError: They are too many.
        """
        self._pixels += pixels
        if self._pixels > self.pixels:
            raise ToolError(
                f"the images have more than {self.pixels:,} pixels together: send fewer or "
                "smaller ones"
            )
