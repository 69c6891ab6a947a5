"""What a caller may name: images that were shown, data URIs, and files below certain folders."""

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visreplay.tools.image import MAX_PIXELS, load_image
from visreplay.tools.store import ImageStore
from visreplay.tools.types import ToolError, shown


@dataclass(frozen=True)
class Media:
    """Images and files by the names that an untrusted caller gives them.

    Attributes:
        store: Images by reference.
        roots: The only folders whose files may be opened. A relative name is looked for in each.
        max_pixels: Of an image that is decoded.
        max_uri: Characters of a data URI; at 0 none is read.
    """

    store: ImageStore
    roots: tuple[Path, ...] = ()
    max_pixels: int = MAX_PIXELS
    max_uri: int = 0

    def image(self, name: str) -> Image.Image:
        """The image of a reference, a data URI or a file's name.

        Raises:
            ToolError: If there is none, or none that may be read.
        """
        if self.max_uri and name.startswith("data:"):
            return load_image(self._decoded(name), max_pixels=self.max_pixels)
        try:
            return self.store.get(name)
        except (KeyError, ValueError):
            return load_image(self.file(name, "image"), max_pixels=self.max_pixels)

    def file(self, name: str, what: str) -> Path:
        """The file of a name below one of the folders, links followed.

        Raises:
            ToolError: If there is none, or it lies elsewhere; `what` names what was looked for.
        """
        if not self.roots:
            raise ToolError(
                f"there is no {what} {shown(name)}: it was not shown, and no files may be read"
            )
        if "://" in name:
            raise ToolError(f"{shown(name)} is a URL; only files are read")
        below = [path for root in self.roots if (path := _below(root, name))]
        if not below:
            raise ToolError(f"{shown(name)} is outside the folders that may be read")
        for path in below:
            if os.path.isfile(path):
                return path
        raise ToolError(f"there is no {what} {shown(name)}")

    def _decoded(self, uri: str) -> bytes:
        if len(uri) > self.max_uri:
            raise ToolError(
                f"the data URI has {len(uri)} characters; at most {self.max_uri} are read"
            )
        head, _, data = uri.partition(",")
        if not head.endswith(";base64"):
            raise ToolError(f"{shown(uri)} is no base64 data URI: data:image/png;base64,...")
        try:
            return base64.b64decode(data, validate=True)
        except ValueError as error:
            raise ToolError(f"the base64 of the data URI cannot be decoded: {error}") from error


def _below(root: Path, name: str) -> Path | None:
    """Where a name leads from a root, unless it leads out of it."""
    try:
        path = Path(os.path.realpath(root / name))
    except ValueError:  # no name that a file can have
        return None
    return path if path.is_relative_to(os.path.realpath(root)) else None
