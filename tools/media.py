"""Media by the names that a caller gives: references, data URIs, files below some folders, URLs."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from visreplay.tools.data_uri import decode_base64, is_data_uri, read_data_uri
from visreplay.tools.files import OpenFile, open_beneath, open_bytes
from visreplay.tools.image import MAX_PIXELS, TokenGrid, decode_image, zoom
from visreplay.tools.media_budget import Budget
from visreplay.tools.store import ImageStore
from visreplay.tools.types import Frame, ToolError, preview
from visreplay.tools.video import MAX_FRAMES, VideoInfo, VideoReader
from visreplay.tools.video_choice import FrameChoice

if TYPE_CHECKING:  # only callers that fetch need its extra
    from visreplay.tools.fetch import Fetcher

REFERENCE = "visreplay:"
"""Scheme of a URL that names an image in the store by its reference."""

MAX_NAME = 4096
"""Longest name of a file: the system allows no more, and realpath takes quadratic time."""

FRAME_RATE = 2
"""Frames a second that are taken from a video, unless they become too many."""


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """Frames of a video, evenly over it and of one size.

    Attributes:
        frames: References of the frames.
        times: Their times, in seconds from the video's start.
    """

    frames: tuple[str, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class Media:
    """Images, videos and files by the names that an untrusted caller gives them.

    Attributes:
        store: Images by reference.
        roots: The only folders whose files may be opened, by name or `file:` URL. A relative name
            is searched in each.
        max_pixels: Largest number of pixels of an image or a frame.
        max_uri: Largest number of characters of a data URI, and of base64 alone; 0 refuses both.
        fetch: Reads http and https URLs; None refuses them.
        max_frames: Largest number of frames that are taken from a video.
        max_seconds: Longest video, in seconds.
        max_video_bytes: Largest size in bytes of a video that is sent or fetched.
        max_side: Longest side of a video's frame in pixels; larger frames are shrunk.
        max_decoding: Longest time for decoding an image or a video, in seconds.
        budget: Limits on everything that is read together; None sets none.
    """

    store: ImageStore
    roots: tuple[Path, ...] = ()
    max_pixels: int = MAX_PIXELS
    max_uri: int = 0
    fetch: "Fetcher | None" = None
    max_frames: int = MAX_FRAMES
    max_seconds: float = 600.0
    max_video_bytes: int = 64 * 2**20
    max_side: int = 768
    max_decoding: float = 60.0
    budget: Budget | None = None

    def image(self, name: str) -> Image.Image:
        """Get the image of a reference, a data URI, a file's name or a URL.

        Raises:
            ToolError: There is no such image, or it may not be read.
        """
        reference = name.removeprefix(REFERENCE)
        if reference == name and reference not in self.store:
            left = self._one_more()
            with self._opened(name, "image", self._fetcher(left)) as file:
                return self._decoded(file, left)
        try:
            return self.store.get(reference)
        except (KeyError, ValueError) as error:
            raise ToolError(f"there is no image {preview(reference)} in the image store") from error

    def reference(self, name: str = "", *, base64: str | None = None) -> str:
        """Get the reference of an image, which is put in the store if it is not there.

        Args:
            name: The image's name, as in `image`.
            base64: The base64 of the image's file, instead of a name.

        Raises:
            ToolError: There is no such image, or it may not be read.
        """
        if base64 is not None:
            left = self._one_more()
            with open_bytes(self._decode(base64), "the image") as file:
                return self.store.put(self._decoded(file, left))
        reference = name.removeprefix(REFERENCE)
        return reference if reference in self.store else self.store.put(self.image(name))

    def video(
        self, name: str = "", *, base64: str | None = None, grid: TokenGrid | None = None
    ) -> DecodedVideo:
        """Put frames of a video in the store: two a second, or as many as are allowed.

        Args:
            name: A data URI, a file's name, or a URL.
            base64: The base64 of the video's file, instead of a name.
            grid: The token grid that the frames are resized to; None leaves them as they are.

        Raises:
            ToolError: There is no such video, it may not be read, or it is too large or too long.
        """
        left = self._one_more()
        if base64 is None:
            fetch = self._fetcher(left, max_bytes=self.max_video_bytes)
            file = self._opened(name, "video", fetch)
        else:
            file = open_bytes(self._decode(base64), "the video")
        with file:
            size = os.fstat(file.descriptor).st_size
            if file.in_memory and size > self.max_video_bytes:
                raise ToolError(
                    f"the video has {size} bytes; at most {self.max_video_bytes} are read"
                )
            frames = self._frames(
                file,
                FrameChoice(rate=FRAME_RATE, max_frames=self.max_frames, max_side=self.max_side),
                left,
                self.max_seconds,
            )
        images = [zoom(frame.image, grid=grid) if grid else frame.image for frame in frames]
        return DecodedVideo(
            tuple(map(self.store.put, images)), tuple(frame.time for frame in frames)
        )

    def video_info(self, name: str) -> VideoInfo:
        """Describe the video of a file's name.

        Raises:
            ToolError: There is no such video, or it may not be read.
        """
        left = self._one_more()
        with self.file(name, "video") as file:
            return VideoInfo(path=Path(name), **self._reader(file, left).probe())

    def check_video(self, file: OpenFile) -> None:
        """Check that an open file is a video within the limits.

        Raises:
            ToolError: It is not.
        """
        self._reader(file, self._one_more()).probe()

    def frames(self, name: str, choice: FrameChoice) -> tuple[Frame, ...]:
        """Decode chosen frames of the video of a file's name.

        Raises:
            ToolError: There is no such video, it may not be read, or the choice makes no sense.
        """
        left = self._one_more()
        with self.file(name, "video") as file:
            return self._frames(file, choice, left)

    def file(self, name: str, what: str) -> OpenFile:
        """Open the file of a name or a `file:` URL below one of the folders, links followed.

        Args:
            name: The name or URL.
            what: Name of the file's kind, for the error.

        Raises:
            ToolError: There is no such file, or it lies elsewhere.
        """
        if not self.roots:
            raise ToolError(
                f"there is no {what} {preview(name)}: it is not in the store, and no files may be "
                "read"
            )
        if len(name) > MAX_NAME:
            raise ToolError(f"there is no {what} {preview(name)}: no name is so long")
        local = _file_url(name) if name[:7].lower() == "file://" else name
        if "://" in local:
            raise ToolError(f"{preview(name)} is a URL; only files are read")
        outside = []
        for root in self.roots:
            try:
                if file := open_beneath(root, local):
                    return file
            except ToolError as error:
                outside.append(error)
        if len(outside) == len(self.roots):
            raise outside[0]
        raise ToolError(f"there is no {what} {preview(name)}")

    def _opened(self, name: str, what: str, fetch: "Fetcher | None") -> OpenFile:
        """Open the content of a data URI or a URL, or a file."""
        if self.max_uri and is_data_uri(name):
            self._check_length(name, "data URI")
            return open_bytes(read_data_uri(name), preview(name))
        if name.partition(":")[0].lower() in ("http", "https"):
            if fetch is None:
                raise ToolError(
                    f"{preview(name)} is a URL, which is not fetched here: send the {what} itself"
                )
            return open_bytes(fetch.get(name), preview(name))
        return self.file(name, what)

    def _decode(self, data: str) -> bytes:
        self._check_length(data, "base64")
        return decode_base64(data)

    def _check_length(self, text: str, form: str) -> None:
        if len(text) > self.max_uri:
            raise ToolError(
                f"the {form} has {len(text)} characters; at most {self.max_uri} are read"
            )

    def _one_more(self) -> float:
        """Count an image or a video, and give the seconds that are left for reading it."""
        return self.budget.one_more() if self.budget else math.inf

    def _fetcher(self, left: float, **changes: Any) -> "Fetcher | None":
        """Limit the fetcher, if there is one, to so many seconds."""
        return self.fetch and replace(self.fetch, timeout=min(self.fetch.timeout, left), **changes)

    def _decoded(self, file: OpenFile, left: float) -> Image.Image:
        image = decode_image(
            file,
            max_pixels=self.max_pixels,
            seconds=min(self.max_decoding, left),
            budget=self.budget,
        )
        if self.budget:
            self.budget.spend(image.width * image.height)
        return image

    def _reader(self, file: OpenFile, left: float, max_seconds: float | None = None) -> VideoReader:
        seconds = min(self.max_decoding, left)
        return VideoReader(file, self.max_pixels, max_seconds, seconds, self.budget)

    def _frames(
        self, file: OpenFile, choice: FrameChoice, left: float, max_seconds: float | None = None
    ) -> tuple[Frame, ...]:
        frames = self._reader(file, left, max_seconds).frames(choice)
        if self.budget:
            self.budget.spend(sum(math.prod(frame.image.size) for frame in frames))
        return frames


def _file_url(url: str) -> str:
    """Convert a `file:` URL to a path."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ToolError(f"{preview(url)} is no URL that can be read") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ToolError(f"{preview(url)} is no file of this machine: file:///folder/name.png")
    return unquote(parts.path)
