"""What a caller may name: images that were shown, data URIs, files below certain folders, URLs."""

import math
import os
from base64 import b64decode
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from visreplay.tools.clip_sandbox import clip_frames
from visreplay.tools.image import MAX_PIXELS, TokenGrid, load_image, zoom
from visreplay.tools.media_budget import Budget
from visreplay.tools.store import ImageStore
from visreplay.tools.types import ToolError, shown
from visreplay.tools.video import MAX_FRAMES

if TYPE_CHECKING:  # its extra is needed by none who fetch nothing
    from visreplay.tools.fetch import Fetcher

REFERENCE = "visreplay:"
"""What a URL begins with where a reference into the image store follows."""

MAX_NAME = 4096
"""Characters of a file's name: the system allows no more, and realpath takes their square."""

CLIP_RATE = 2
"""Frames that a clip is shown with, a second, unless they become too many."""


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """Frames of a clip, evenly over it and of one size.

    Attributes:
        frames: Their references.
        times: Of each, in seconds from the clip's start.
    """

    frames: tuple[str, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class Media:
    """Images, clips and files by the names that an untrusted caller gives them.

    Attributes:
        store: Images by reference.
        roots: The only folders whose files may be opened, by name or `file:` URL. A relative name
            is looked for in each.
        max_pixels: Of an image or a frame that is decoded.
        max_uri: Characters of a data URI, and of base64 alone; at 0 none is read.
        fetch: Reads http and https URLs; None reads none.
        max_frames: That a clip is shown with.
        max_seconds: Of a clip; longer ones are refused.
        max_video_bytes: Of a clip that is sent or fetched.
        max_side: Larger frames of a clip are shrunk, in pixels.
        max_decoding: Seconds that a clip may take to decode.
        budget: Of all that is read through this; None sets no bounds.
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
        """The image of a reference, a data URI, a file's name or a URL.

        Raises:
            ToolError: If there is none, or none that may be read.
        """
        reference = name.removeprefix(REFERENCE)
        if reference == name and reference not in self.store:
            fetch = self._fetcher(self._one_more())
            return self._loaded(self._content(name, "image", fetch), shown(name))
        try:
            return self.store.get(reference)
        except (KeyError, ValueError) as error:
            raise ToolError(f"there is no image {shown(reference)} in the image store") from error

    def reference(self, name: str = "", *, base64: str | None = None) -> str:
        """The reference of an image, which is put in the store if it is not there.

        Args:
            name: Whatever `image` takes.
            base64: Or the image's file.

        Raises:
            ToolError: If there is none, or none that may be read.
        """
        if base64 is not None:
            self._one_more()
            return self.store.put(self._loaded(self._decoded(base64, "base64"), "the image"))
        reference = name.removeprefix(REFERENCE)
        return reference if reference in self.store else self.store.put(self.image(name))

    def clip(
        self, name: str = "", *, base64: str | None = None, grid: TokenGrid | None = None
    ) -> DecodedVideo:
        """Frames of a clip, which are put in the store: two a second, or as many as are allowed.

        Args:
            name: A data URI, a file's name, or a URL.
            base64: Or the clip's file.
            grid: To which the frames are fitted, if the model is to see them as they are.

        Raises:
            ToolError: If there is none, none that may be read, or one that is too large or long.
        """
        left = self._one_more()
        if base64 is None:
            fetch = self._fetcher(left, max_bytes=self.max_video_bytes)
            content = self._content(name, "clip", fetch)
        else:
            content = self._decoded(base64, "base64")
        if isinstance(content, Path):
            return self._sampled(content, grid, left)
        if len(content) > self.max_video_bytes:
            raise ToolError(
                f"the clip has {len(content)} bytes; at most {self.max_video_bytes} are read"
            )
        # A folder of its own: a clip has no neighbours that it could name.
        with TemporaryDirectory(prefix="visreplay-") as folder:
            path = Path(folder) / "what was sent"
            path.write_bytes(content)
            return self._sampled(path, grid, left)

    def file(self, name: str, what: str) -> Path:
        """The file of a name or a `file:` URL below one of the folders, links followed.

        Raises:
            ToolError: If there is none, or it lies elsewhere; `what` names what was looked for.
        """
        if not self.roots:
            raise ToolError(
                f"there is no {what} {shown(name)}: it was not shown, and no files may be read"
            )
        if len(name) > MAX_NAME:
            raise ToolError(f"there is no {what} {shown(name)}: no name is so long")
        local = _file_url(name) if name[:7].lower() == "file://" else name
        if "://" in local:
            raise ToolError(f"{shown(name)} is a URL; only files are read")
        below = [path for root in self.roots if (path := _below(root, local))]
        if not below:
            raise ToolError(f"{shown(name)} is outside the folders that may be read")
        for path in below:
            if os.path.isfile(path):
                return path
        raise ToolError(f"there is no {what} {shown(name)}")

    def _content(self, name: str, what: str, fetch: "Fetcher | None") -> bytes | Path:
        """What a data URI or a URL has, or the file that is named."""
        scheme = name.partition(":")[0].lower()
        if scheme == "data" and self.max_uri:
            head, _, data = name.partition(",")
            if not head.endswith(";base64"):
                raise ToolError(f"{shown(name)} is no base64 data URI: data:image/png;base64,...")
            return self._decoded(data, "data URI", len(name))
        if scheme in ("http", "https"):
            if fetch is None:
                raise ToolError(
                    f"{shown(name)} is a URL, which is not fetched here: send the {what} itself"
                )
            return fetch.get(name)
        return self.file(name, what)

    def _decoded(self, data: str, form: str, length: int | None = None) -> bytes:
        length = len(data) if length is None else length
        if length > self.max_uri:
            raise ToolError(f"the {form} has {length} characters; at most {self.max_uri} are read")
        return decoded(data)

    def _one_more(self) -> float:
        """For how many seconds the next image or clip may be read."""
        return self.budget.one_more() if self.budget else math.inf

    def _fetcher(self, left: float, **changes: Any) -> "Fetcher | None":
        """Fetches within so many seconds, if anything does."""
        return self.fetch and replace(self.fetch, timeout=min(self.fetch.timeout, left), **changes)

    def _loaded(self, content: bytes | Path, name: str) -> Image.Image:
        image = load_image(content, max_pixels=self.max_pixels, name=name)
        if self.budget:
            self.budget.spend(image.width * image.height)
        return image

    def _sampled(self, path: Path, grid: TokenGrid | None, left: float) -> DecodedVideo:
        frames = clip_frames(
            path,
            rate=CLIP_RATE,
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


def decoded(data: str) -> bytes:
    """What base64 says, in which there may be spaces and line breaks.

    Raises:
        ToolError: If it is none.
    """
    try:
        return b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        raise ToolError(f"the base64 cannot be decoded: {error}") from error


def _file_url(url: str) -> str:
    """The path that a `file:` URL names."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ToolError(f"{shown(url)} is no URL that can be read") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ToolError(f"{shown(url)} is no file of this machine: file:///folder/name.png")
    return unquote(parts.path)


def _below(root: Path, name: str) -> Path | None:
    """Where a name leads from a root, unless it leads out of it."""
    try:
        path = Path(os.path.realpath(root / name))
    except ValueError:  # no name that a file can have
        return None
    return path if path.is_relative_to(os.path.realpath(root)) else None
