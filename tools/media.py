"""Media by the names that a caller gives: references, data URIs, files below some folders, URLs."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from visreplay.tools.data_uri import decode_base64, is_data_uri, read_data_uri
from visreplay.tools.image import MAX_PIXELS, TokenGrid, load_image, zoom
from visreplay.tools.media_budget import Budget
from visreplay.tools.store import ImageStore
from visreplay.tools.types import ToolError, preview
from visreplay.tools.video import MAX_FRAMES
from visreplay.tools.video_sandbox import frames_in_sandbox

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
        max_decoding: Longest time for decoding a video, in seconds.
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
            fetch = self._fetcher(self._one_more())
            return self._loaded(self._content(name, "image", fetch), preview(name))
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
            self._one_more()
            return self.store.put(self._loaded(self._decode(base64), "the image"))
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
            content = self._content(name, "video", fetch)
        else:
            content = self._decode(base64)
        if isinstance(content, Path):
            return self._sampled(content, grid, left)
        if len(content) > self.max_video_bytes:
            raise ToolError(
                f"the video has {len(content)} bytes; at most {self.max_video_bytes} are read"
            )
        # A folder of its own: a playlist finds no neighbours that it could name.
        with TemporaryDirectory(prefix="visreplay-") as folder:
            path = Path(folder) / "the data"
            path.write_bytes(content)
            return self._sampled(path, grid, left)

    def file(self, name: str, what: str) -> Path:
        """Find the file of a name or a `file:` URL below one of the folders, links followed.

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
        below = [path for root in self.roots if (path := _below(root, local))]
        if not below:
            raise ToolError(f"{preview(name)} is outside the folders that may be read")
        for path in below:
            if os.path.isfile(path):
                return path
        raise ToolError(f"there is no {what} {preview(name)}")

    def _content(self, name: str, what: str, fetch: "Fetcher | None") -> bytes | Path:
        """Get the content of a data URI or a URL, or the path of a file."""
        if self.max_uri and is_data_uri(name):
            self._check_length(name, "data URI")
            return read_data_uri(name)
        if name.partition(":")[0].lower() in ("http", "https"):
            if fetch is None:
                raise ToolError(
                    f"{preview(name)} is a URL, which is not fetched here: send the {what} itself"
                )
            return fetch.get(name)
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

    def _loaded(self, content: bytes | Path, name: str) -> Image.Image:
        image = load_image(content, max_pixels=self.max_pixels, name=name)
        if self.budget:
            self.budget.spend(image.width * image.height)
        return image

    def _sampled(self, path: Path, grid: TokenGrid | None, left: float) -> DecodedVideo:
        frames = frames_in_sandbox(
            path,
            rate=FRAME_RATE,
            max_frames=self.max_frames,
            max_seconds=self.max_seconds,
            max_pixels=self.max_pixels,
            max_side=self.max_side,
            timeout=min(self.max_decoding, left),
        )
        if self.budget:
            self.budget.spend(sum(math.prod(frame.image.size) for frame in frames))
        images = [zoom(frame.image, grid=grid) if grid else frame.image for frame in frames]
        return DecodedVideo(
            tuple(map(self.store.put, images)), tuple(frame.time for frame in frames)
        )


def _file_url(url: str) -> str:
    """Convert a `file:` URL to a path."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ToolError(f"{preview(url)} is no URL that can be read") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ToolError(f"{preview(url)} is no file of this machine: file:///folder/name.png")
    return unquote(parts.path)


def _below(root: Path, name: str) -> Path | None:
    """Resolve a name in a folder, unless it leads out of it."""
    try:
        path = Path(os.path.realpath(root / name))
    except ValueError:  # a name that no file can have
        return None
    return path if path.is_relative_to(os.path.realpath(root)) else None
