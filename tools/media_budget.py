"""Limits on the media of one caller, and of all callers together."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field

from visreplay.tools.types import ToolError


class BusyMediaError(ToolError):
    """The media of all callers have too many pixels together: the same request may pass later."""


_TRIM_PIXELS = 10_000_000
"""Pixels after which memory is given back."""


class PixelAllowance:
    """The decoded pixels that all callers may hold together.

    Args:
        pixels: Largest number.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._held = self._freed = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """The number of pixels that are held."""
        return self._held

    def take(self, pixels: int) -> None:
        """Hold more pixels.

        Raises:
            BusyMediaError: There are too many.
        """
        with self._lock:
            if self._held + pixels > self.pixels:
                raise BusyMediaError(
                    "the images of all requests have more than "
                    f"{self.pixels:,} pixels together: try again later"
                )
            self._held += pixels

    def give(self, pixels: int) -> None:
        """Give pixels back, and their memory to the system when none are held."""
        with self._lock:
            self._held -= pixels
            self._freed += pixels
            trim = self._freed > _TRIM_PIXELS and not self._held
            if trim:
                self._freed = 0
        if trim:
            _trim()


def _trim() -> None:
    """Give free memory back to the system; glibc keeps what several threads have used."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


CALLER: ContextVar["Budget | None"] = ContextVar("caller", default=None)
"""The limits of the caller for whom this thread works; when they leave, decoding ends for them."""


@dataclass(eq=False)
class Budget:
    """Limits on the pixels, number and reading time of a caller's images and videos.

    Attributes:
        pixels: Largest number of pixels of all images and frames that are decoded; an image that
            is decoded twice counts twice.
        count: Largest number of images and videos.
        seconds: Time for reading all of them, from now on.
        shared: The limit on the pixels of all callers; None sets none.
    """

    pixels: int
    count: int
    seconds: float
    shared: PixelAllowance | None = None
    _until: float = field(init=False)
    _pixels: int = field(default=0, init=False)
    _count: int = field(default=0, init=False)
    _gone: bool = field(default=False, init=False)
    _ends: list[Callable[[], None]] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.start()

    def start(self) -> None:
        """Start the clock anew."""
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
        if self._gone or left <= 0:
            raise ToolError(
                f"the images and videos take longer to read than {self.seconds:g} s: send fewer"
            )
        return left

    def spend(self, pixels: int) -> None:
        """Count pixels that were decoded.

        Raises:
            ToolError: There are too many of them.
        """
        if self._pixels + pixels > self.pixels:
            raise ToolError(
                f"the images have more than {self.pixels:,} pixels together: send fewer or "
                "smaller ones"
            )
        with self._lock:
            if self.shared is not None and not self._gone:
                self.shared.take(pixels)
            self._pixels += pixels

    def leave(self) -> None:
        """End what is decoded for the caller, who has left, and give all pixels back.

        It is also the end of a caller who is done: their images are let go of then.
        """
        with self._lock:
            ends, self._ends = self._ends, []
            if self.shared is not None and not self._gone:
                self.shared.give(self._pixels)
            self._gone = True
        for end in ends:
            end()

    @contextmanager
    def ended_by(self, end: Callable[[], None]) -> Iterator[None]:
        """Call something when the caller leaves, if that is within the context."""
        with self._lock:
            gone = self._gone
            if not gone:
                self._ends.append(end)
        if gone:
            end()
        try:
            yield
        finally:
            with self._lock:
                if end in self._ends:
                    self._ends.remove(end)
